"""The registry as a program: its HTTP calls, roles, feed and pages, over real sockets on the loopback."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from enforcer.allowlist import Allowlist
from enforcer.registry import feed
from enforcer.registry.__main__ import main

FORM = {
    "registrant": "softhouse",
    "subscriber_prefixes": ["203.0.113.7/32", "2001:db8::/48"],
    "endpoint_prefixes": ["198.51.100.4/32"],
    "endpoint_ports": [51820],
    "protocols": ["wireguard"],
}
ISP, OFFICER = {"Authorization": "Bearer isp-token"}, {"Authorization": "Bearer officer-token"}


class Registry:
    """A running registry and a client for it."""

    def __init__(self, folder: Path, **changes) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = {
            "database": "ledger.sqlite",
            "key": "feed.key",
            "bind": ["127.0.0.1"],
            "port": self.port,
            "tokens": {"isp": "isp-token", "officer": "officer-token"},
            **changes,
        }
        (folder / "registry.yaml").write_text(json.dumps(config))
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "enforcer.registry", "serve", "--config", str(folder / "registry.yaml")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()
        self.start_s = time.monotonic() - started
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        self.key = feed.load_public_key(folder / "feed.pub")

    def apply(self, **changes) -> tuple[int, dict[str, str]]:
        answer = self.http.post("/applications", json={**FORM, **changes})
        assert answer.status_code == 201, answer.text
        assert answer.json()["state"] == "pending"
        return answer.json()["registration"], {"Authorization": f"Bearer {answer.json()['token']}"}

    def act(self, number: int, action: str, headers=OFFICER, **body) -> httpx.Response:
        return self.http.post(f"/applications/{number}/{action}", json=body, headers=headers)

    def approved(self) -> tuple[int, dict[str, str]]:
        number, mine = self.apply()
        assert self.act(number, "verify", ISP, verified=True).status_code == 200
        assert self.act(number, "approve", reason="papers are in order").json()["state"] == "active"
        return number, mine

    def snapshot(self) -> Allowlist:
        update = feed.verify(self.http.get("/feed/snapshot").content, self.key, allow_empty=True)
        assert isinstance(update, feed.Snapshot)
        return update.allowlist

    def stop(self) -> int:
        self.http.close()
        self.process.terminate()
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def registry(tmp_path) -> Iterator[Registry]:
    running = Registry(tmp_path)
    yield running
    running.stop()


def test_from_application_to_allowlist_and_out_again(registry):
    number, mine = registry.apply()
    assert registry.snapshot().entries == {}
    assert registry.act(number, "verify", ISP, verified=True).json()["is_verified"] is True
    answer = registry.act(number, "approve", reason="ok").json()
    assert (answer["state"], answer["serial"]) == ("active", 1)
    entry = registry.snapshot().entries[number]
    assert entry.subscriber_prefixes == tuple(FORM["subscriber_prefixes"])
    assert entry.endpoint_ports == (51820,)
    assert registry.act(number, "revoke", reason="misconduct").json()["state"] == "revoked"
    assert registry.snapshot() == Allowlist(2)
    history = registry.http.get(f"/applications/{number}", headers=mine).json()["history"]
    assert [each["action"] for each in history] == ["apply", "verify", "approve", "revoke"]
    assert history[-1]["reason"] == "misconduct"


def test_each_act_needs_its_own_role(registry):
    number, mine = registry.apply()
    other, theirs = registry.apply(registrant="bank")
    attempts = [
        ("verify", {"verified": True}, [OFFICER, mine, {}]),
        ("approve", {}, [ISP, mine, {}]),
        ("reject", {}, [ISP, mine, {}]),
        ("change-address", {"subscriber_prefixes": ["203.0.113.8/32"]}, [ISP, OFFICER, theirs, {}]),
    ]
    for action, body, wrong in attempts:
        for headers in wrong:
            answer = registry.act(number, action, headers, **body)
            # Another applicant's registration is not there, as one that nobody has.
            expected = 404 if headers is theirs else 403 if headers else 401
            assert answer.status_code == expected, (action, headers, answer.text)
    for headers, code in ((theirs, 404), ({}, 401), (mine, 200), (OFFICER, 200), (ISP, 200)):
        assert registry.http.get(f"/applications/{number}", headers=headers).status_code == code
    assert registry.http.get("/queue", headers=mine).status_code == 403
    pending = registry.http.get("/queue", headers=OFFICER).json()["pending"]
    assert [each["registration"] for each in pending] == [number, other]


def test_an_illegal_act_is_a_clear_conflict(registry):
    number, _ = registry.apply()
    answer = registry.act(number, "approve")
    assert answer.status_code == 409
    assert "the ISP has not answered yet" in answer.json()["error"]
    answer = registry.act(number, "revoke")
    assert answer.json()["error"] == (
        "registration 1 is pending: cannot revoke it; that needs it to be active or suspended"
    )
    assert registry.act(99, "revoke").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 422),
        (b"x" * 300_000, 413),
        (json.dumps({**FORM, "protocols": ["x"]}).encode(), 422),
    ],
)
def test_bad_input_is_refused_with_a_reason(registry, body, code):
    answer = registry.http.post("/applications", content=body)
    assert answer.status_code == code
    assert answer.json()["error"]


def test_a_waiting_enforcer_hears_of_an_approval_at_once(registry):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx.get, f"http://127.0.0.1:{registry.port}/feed/deltas?since=0&wait=20", timeout=30
        )
        assert registry.http.get("/feed/deltas?since=0").status_code == 204  # control: nothing is there yet
        number, _ = registry.approved()
        update = feed.verify(waiting.result(10).content, registry.key, newest_serial=0)
    assert isinstance(update, feed.SignedDelta)
    assert [entry.registration for entry in update.delta.add] == [number]
    assert registry.http.get("/feed/deltas?since=9").status_code == 410
    assert registry.http.get("/feed/deltas?since=x").status_code == 422
    assert registry.http.get("/feed/deltas").status_code == 422


def test_it_stops_at_once_with_an_enforcer_waiting_and_resumes_where_it_was(tmp_path):
    first = Registry(tmp_path)
    first.approved()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{first.port}/feed/deltas?since=1&wait=60"
        waiting = pool.submit(httpx.get, url, timeout=90)
        started = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - started < 5
        assert waiting.exception(5) is not None or waiting.result().status_code == 204
    second = Registry(tmp_path)
    assert second.snapshot().serial == 1
    second.stop()


def test_seeded_registrations_have_their_history(tmp_path):
    seeds = [
        {
            **FORM,
            "registrant": f"r-{state}",
            "state": state,
            "token": f"t-{state}",
            "at_ns": 1_700_000_000_000_000_000,
        }
        for state in ("pending", "active", "suspended", "expired", "revoked", "rejected")
    ]
    (tmp_path / "seed.json").write_text(json.dumps({"registrations": seeds}))
    registry = Registry(tmp_path, seed="seed.json")
    states = [registry.http.get(f"/applications/{n}", headers=OFFICER).json()["state"] for n in range(1, 7)]
    assert states == [seed["state"] for seed in seeds]
    assert list(registry.snapshot().entries) == [2]
    mine = registry.http.get("/applications/2", headers={"Authorization": "Bearer t-active"}).json()
    assert [each["action"] for each in mine["history"]] == ["apply", "verify", "approve"]
    assert {each["at_ns"] for each in mine["history"]} == {1_700_000_000_000_000_000}
    registry.stop()
    again = Registry(tmp_path, seed="seed.json")
    assert again.http.get("/applications/7", headers=OFFICER).status_code == 404
    again.stop()


def test_a_wrong_configuration_is_told_in_full(tmp_path):
    (tmp_path / "registry.yaml").write_text(
        "database: l\nbind: [nowhere]\nport: 70000\nrules: {validity: 365, requires_verificaton: true}\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "enforcer.registry", "serve", "--config", str(tmp_path / "registry.yaml")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    at = tmp_path / "registry.yaml"
    assert run.stderr.removeprefix("Error: ").splitlines() == [
        f"{at}:1:1: 'key' is missing; add 'key: …'",
        f"{at}:1:1: 'tokens' is missing; add 'tokens: …'",
        f"{at}:2:8: bind[0]: 'nowhere' is not an address; write one such as 127.0.0.1 or ::1",
        f"{at}:3:7: port: 70000 is too large; write at most 65535",
        f"{at}:4:19: rules.validity: '365' is not text; write it in quotes: '365'",
        f"{at}:4:24: rules.requires_verificaton: 'requires_verificaton' is not a key here; did you mean 'requires_verification'?",
    ]
    assert "Traceback" not in run.stderr


def test_the_ledger_can_be_read_while_it_is_served(registry, tmp_path):
    registry.approved()
    for arguments, expected in (
        (["log"], "approve"),
        (["log", "--json"], '"action":"approve"'),
        (["export"], '"serial":1'),
    ):
        command = [
            sys.executable,
            "-m",
            "enforcer.registry",
            arguments[0],
            str(tmp_path / "ledger.sqlite"),
            *arguments[1:],
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert expected in run.stdout
        assert "token" not in run.stdout


def test_only_a_trusted_proxy_is_believed_about_the_address_and_tls(tmp_path):
    for folder, proxies, address in (("a", [], "127.0.0.1"), ("b", ["127.0.0.0/8"], "203.0.113.50")):
        (tmp_path / folder).mkdir()
        running = Registry(tmp_path / folder, portal={"proxies": proxies})
        forwarded = {"X-Forwarded-For": "203.0.113.50", "X-Forwarded-Proto": "https"}
        answer = running.http.get("/", headers=forwarded)
        assert f"You are visiting from {address}." in answer.text
        assert ("Secure" in answer.headers["set-cookie"]) is bool(proxies)
        running.stop()


def test_a_wrong_portal_configuration_is_told(tmp_path):
    config = {"database": "l", "key": "k", "bind": ["127.0.0.1"], "port": 0, "tokens": {"isp": "i", "officer": "o"}}  # fmt: skip
    wrong = {"zone": "Mars", "limits": {"x": {"burst": 1, "per_minute": 1}}, "proxies": ["here"]}
    (tmp_path / "registry.yaml").write_text(json.dumps({**config, "portal": wrong}))
    run = subprocess.run(
        [sys.executable, "-m", "enforcer.registry", "serve", "--config", str(tmp_path / "registry.yaml")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and "Traceback" not in run.stderr
    for part in ("portal.zone: ", "portal.limits: ", "portal.proxies[0]: "):
        assert part in run.stderr


def test_a_wrong_seed_is_told_by_line_and_column(tmp_path):
    config = {"database": "l", "key": "k", "bind": ["127.0.0.1"], "port": 0, "tokens": {"isp": "i", "officer": "o"}, "seed": "seed.yaml"}  # fmt: skip
    (tmp_path / "registry.yaml").write_text(json.dumps(config))
    good = "{registrant: a, state: active, subscriber_prefixes: [203.0.113.7], endpoint_prefixes: [198.51.100.4]}"
    for change, told in (
        (("203.0.113.7", "203.0.113.7/8"), ":3:55: registrations[1].subscriber_prefixes: 203.0.113.7/8 has host bits set; write a prefix"),
        (("active", "activ"), ":3:26: registrations[1].state: 'activ' is not possible here; did you mean 'active'?"),
    ):  # fmt: skip
        (tmp_path / "seed.yaml").write_text(f"registrations:\n- {good}\n- {good.replace(*change)}\n")
        run = CliRunner().invoke(main, ["serve", "--config", str(tmp_path / "registry.yaml")])
        assert run.exit_code == 2 and told in run.output, run.output
