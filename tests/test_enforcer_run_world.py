"""`enforcer run` as a program: registry, feed, kernel and audit together, with real packets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files

import pytest

from tests import enforcer_packets as make
from tests.dataplane_lab import router, wait_until
from tests.dataplane_traffic import LINE, OTHER_LINE, SERVER, delivered, wireguard

pytestmark = pytest.mark.world
_REGISTRY = "127.0.0.1"


class Site:
    """A router with a registry on its loopback and an enforcer; files in `folder`."""

    def __init__(self, lab, folder, policy="registered-pairs"):
        self.lab, self.folder = lab, folder
        self.audit = folder / "audit.jsonl"
        self._log = (folder / "log").open("w")
        self.processes = {}
        (folder / "registry.json").write_text(
            json.dumps(
                {
                    "database": "ledger.sqlite",
                    "rules": {"accepts_private_addresses": True},
                    "key": "feed.key",
                    "bind": [_REGISTRY],
                    "port": 8080,
                    "tokens": {"isp": "i", "officer": "o"},
                }
            )
        )
        (folder / "enforcer.json").write_text(
            json.dumps(
                {
                    "policy": str(files("enforcer") / "policies" / f"{policy}.policy.yaml"),
                    "dataplane": "nft",
                    "feed": {"url": f"http://{_REGISTRY}:8080/feed", "key": "feed.pub", "poll": "100ms"},
                    "state": "state",
                    "audit": "audit.jsonl",
                    "control": "sock",
                }
            )
        )
        self.run("enforcer.registry", "key", str(folder / "feed.key"))

    def run(self, module, *arguments, check=True):
        argv = [sys.executable, "-m", module, *arguments]
        with self.lab.inside():
            return subprocess.run(argv, check=check, capture_output=True, text=True)

    def start(self, what):
        arguments = {
            "registry": ("enforcer.registry", "serve", "--config", str(self.folder / "registry.json")),
            "enforcer": ("enforcer", "run", "--config", str(self.folder / "enforcer.json")),
        }[what]
        with self.lab.inside():
            self.processes[what] = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=self._log, stderr=self._log
            )

    def end(self, what, number=signal.SIGTERM):
        process = self.processes.pop(what)
        process.send_signal(number)
        return process.wait(10)

    def call(self, path, body, token=""):
        request = urllib.request.Request(
            f"http://{_REGISTRY}:8080{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {token}"},
        )
        with self.lab.inside():
            return json.load(urllib.request.urlopen(request, timeout=5))

    def apply(self, line):
        form = {
            "registrant": "softhouse",
            "subscriber_prefixes": [f"{line[4]}/32", f"{line[6]}/128"],
            "endpoint_prefixes": [f"{SERVER[4]}/32", f"{SERVER[6]}/128"],
        }
        number = self.call("/applications", form)["registration"]
        self.call(f"/applications/{number}/verify", {"verified": True}, "i")
        return number

    def decide(self, number, action):
        return self.call(f"/applications/{number}/{action}", {"reason": "test"}, "o")

    def lines(self, kind):
        if not self.audit.exists():
            return []
        lines = [json.loads(line) for line in self.audit.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["kind"] == kind]

    def wait_for_serial(self, at_least):
        wait_until(lambda: any(line["serial"] >= at_least for line in self.lines("applied")), 10)


@pytest.fixture
def site(tmp_path):
    with router() as lab:
        made = Site(lab, tmp_path)
        try:
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.wait()


def started(site):
    site.start("registry")

    def answers():
        with site.lab.inside():
            try:
                return urllib.request.urlopen(f"http://{_REGISTRY}:8080/feed/key", timeout=1)
            except OSError:
                return None

    wait_until(answers, 15)
    number = site.apply(LINE)
    site.decide(number, "approve")
    site.start("enforcer")
    site.wait_for_serial(1)
    return number


def test_approval_and_revocation_take_effect_through_the_feed(site):
    started(site)
    other = site.apply(OTHER_LINE)
    assert delivered(site.lab, wireguard(4))
    assert not delivered(site.lab, wireguard(4, 7777, line=OTHER_LINE))

    site.decide(other, "approve")
    wait_until(lambda: delivered(site.lab, wireguard(4, 7777, line=OTHER_LINE)))
    live = wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE)
    assert delivered(site.lab, live)

    site.decide(other, "revoke")
    began = time.monotonic()
    wait_until(lambda: not delivered(site.lab, live))
    assert time.monotonic() - began < 1.0
    assert delivered(site.lab, wireguard(4, data=make.WIREGUARD_DATA))  # control: only one was revoked

    wait_until(lambda: any(line["registration"] == other for line in site.lines("block")))
    told = site.run("enforcer", "explain", "--audit", str(site.audit), "--src", OTHER_LINE[4]).stdout
    assert f"Registration {other} covered this flow once; by then it was revoked" in told
    nothing = site.run("enforcer", "explain", "--audit", str(site.audit), "--src", LINE[4]).stdout
    assert "has no block of" in nothing


def test_an_enforcer_without_its_registry_goes_on_with_what_it_kept(site):
    started(site)
    assert site.end("enforcer") == 0
    assert delivered(site.lab, wireguard(4, src_port=40005))  # the rules stay
    site.end("registry", signal.SIGKILL)

    site.start("enforcer")
    wait_until(lambda: any(line["how"] == "state" for line in site.lines("applied")), 10)
    assert delivered(site.lab, wireguard(4, src_port=40006))
    assert not delivered(site.lab, wireguard(4, line=OTHER_LINE))
    wait_until(lambda: site.lines("failure")[-1]["condition"] == "registry-unreachable", 10)

    site.start("registry")
    wait_until(lambda: site.lines("failure")[-1]["state"] == "ended", 15)
    assert [line["leaves"] for line in site.lines("stopped")] == ["the rules as they are loaded"]


def test_reload_puts_right_what_somebody_broke_in_the_kernel(site):
    number = started(site)
    chain = "allow-wireguard"
    site.lab.run("nft", "flush", "chain", "inet", "allowlist", chain)
    assert not delivered(site.lab, wireguard(4))  # the glitch

    site.run("enforcer", "reload", "--config", str(site.folder / "enforcer.json"))
    assert delivered(site.lab, wireguard(4))

    site.lab.run("nft", "flush", "chain", "inet", "allowlist", chain)
    site.processes["enforcer"].send_signal(signal.SIGHUP)
    wait_until(lambda: delivered(site.lab, wireguard(4, src_port=40007)))
    status = json.loads(
        site.run("enforcer", "status", "--json", "--config", str(site.folder / "enforcer.json")).stdout
    )
    assert (status["loaded"], status["fallback"]) == (number, "keep")
    assert [line["why"] for line in site.lines("applied") if line["how"] == "reload"] == ["control", "SIGHUP"]


def test_a_killed_enforcer_leaves_its_rules_and_a_new_one_takes_them_over(site):
    number = started(site)
    live = wireguard(4, 7777)
    assert delivered(site.lab, live)
    site.end("enforcer", signal.SIGKILL)
    assert delivered(site.lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))
    assert not delivered(site.lab, wireguard(4, line=OTHER_LINE))
    site.decide(number, "revoke")  # while nobody enforces

    site.start("enforcer")
    wait_until(lambda: not delivered(site.lab, wireguard(4, 7777, data=make.WIREGUARD_DATA)), 10)
    assert not delivered(site.lab, live)


def test_mistakes_are_told_with_their_place_and_nothing_is_enforced(site):
    path = site.folder / "enforcer.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"dataplane": "ntf", "feed": good["feed"] | {"poll": 1}}))
    done = site.run("enforcer", "run", "--config", str(path), check=False)
    assert done.returncode == 2
    assert "enforcer.json:1:" in done.stderr and "dataplane" in done.stderr and "feed.poll" in done.stderr
    assert "Traceback" not in done.stderr
    with site.lab.inside():
        assert subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout == ""
