"""A real registry, a real agent and a real kernel in a router, with a proxy between the first two: for breaking each of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from enforcer.control import NobodyListens, ask
from tests.dataplane_lab import Router, router, wait_until
from tests.dataplane_traffic import LINE, SERVER, STRICT
from tests.failure_feed import Proxy

S = 1_000_000_000
REGISTRY_PORT, PROXY_PORT = 8080, 8090
FEED = {"url": f"http://127.0.0.1:{PROXY_PORT}/feed", "key": "feed.pub", "poll": "100ms"}
SEEDED = 20  # registrations; the first is LINE's
# Nothing but what a row breaks: long before anything else counts.
CALM = {
    "registry_unreachable_after_ns": 2 * S,
    "registry_unreachable": "keep",
    "feed_stale_after_ns": 600 * S,
    "agent_dead": "keep",
    "agent_dead_after_ns": 60 * S,
}


class Bench:
    """folder: everything on the disk. on_failure: what the policy says, over CALM; config: keys of enforcer.yaml besides."""

    def __init__(
        self,
        lab: Router,
        folder: Path,
        dataplane: str,
        on_failure: dict[str, Any],
        config: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.lab, self.folder, self.dataplane = lab, folder, dataplane
        self.environment = environment or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = (folder / "log").open("w")
        policy = replace(STRICT, on_failure=replace(STRICT.on_failure, **(CALM | on_failure)))
        (folder / "test.policy.yaml").write_text(json.dumps(policy.to_json()))
        self.config = folder / "enforcer.json"
        # A test's own folder may be longer than the path of a socket can be.
        self.short = Path(tempfile.mkdtemp(prefix="bench-", dir="/run"))
        self.short.chmod(0o777)  # for agents that go on as another user
        self.socket = self.short / "sock"
        self.config.write_text(
            json.dumps(
                {
                    "policy": "test.policy.yaml",
                    "dataplane": dataplane,
                    "feed": FEED,
                    "state": "disk/state",
                    "audit": "disk/audit.jsonl",
                    "control": str(self.socket),
                    "inside": ["gc"],
                }
                | (config or {})
            )
        )
        (folder / "disk").mkdir()
        (folder / "seed.json").write_text(
            json.dumps({"registrations": [_seed(number) for number in range(SEEDED)]})
        )
        (folder / "registry.json").write_text(
            json.dumps(
                {
                    "database": "ledger/ledger.sqlite",
                    "rules": {"accepts_private_addresses": True},
                    "key": "feed.key",
                    "bind": ["127.0.0.1"],
                    "port": REGISTRY_PORT,
                    "tokens": {"isp": "i", "officer": "o"},
                    "seed": "seed.json",
                }
            )
        )
        with lab.inside():
            self.proxy = Proxy(PROXY_PORT, REGISTRY_PORT)
        subprocess.run(
            [sys.executable, "-m", "enforcer.registry", "key", str(folder / "feed.key")],
            check=True,
            capture_output=True,
        )

    def begin(self) -> None:
        """Registry and agent up, the whole list in force."""
        self.start("registry")
        self.start("enforcer")
        self.wait_for(lambda: (self.status() or {}).get("entries") == SEEDED, 30)

    def start(self, what: str) -> subprocess.Popen[bytes]:
        arguments = {
            "registry": ("enforcer.registry", "serve", "--config", str(self.folder / "registry.json")),
            "enforcer": ("enforcer", "run", "--config", str(self.config)),
        }[what]
        environment = os.environ | (self.environment if what == "enforcer" else {})
        with self.lab.inside():
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=self.log, stderr=self.log, env=environment
            )
        self.processes[what] = process
        return process

    def send_signal(self, what: str, number: int) -> None:
        self.processes[what].send_signal(number)

    def end(self, what: str, number: int = signal.SIGTERM) -> None:
        self.send_signal(what, number)
        self.processes.pop(what).wait(15)

    def status(self) -> dict[str, Any] | None:
        """None when no agent answers."""
        try:
            return ask(self.socket, "status", timeout_s=2)
        except (NobodyListens, TimeoutError, OSError, ValueError):
            return None

    def count(self, condition: str) -> int:
        """How often the agent says that it has begun (or: updates refused by this word)."""
        found = self.status() or {"failure_counts": {}, "refused": {}}
        return found["failure_counts"].get(condition, 0) + found["refused"].get(condition, 0)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        found = []
        for line in (self.folder / "disk/audit.jsonl").read_text().splitlines():
            if line.endswith("}") and f'"kind":"{kind}"' in line:
                found.append(json.loads(line))
        return found

    def wait_for(self, condition: Any, within_s: float = 10.0) -> None:
        try:
            wait_until(condition, within_s)
        except AssertionError:
            self.log.flush()
            raise AssertionError(
                f"not in time; {self.status()}\n{(self.folder / 'log').read_text()[-3000:]}"
            ) from None

    def call(self, path: str, body: dict[str, Any], token: str = "o") -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{REGISTRY_PORT}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {token}"},
        )
        with self.lab.inside():
            return json.load(urllib.request.urlopen(request, timeout=10))

    def decide(self, numbers: Any, action: str) -> None:
        for number in numbers:
            self.call(f"/applications/{number}/{action}", {"reason": "test"})

    def register(self, number: int) -> int:
        """A further registration of somebody who sends nothing; returns its number."""
        form = {key: value for key, value in _seed(number).items() if key != "state"}
        made = self.call("/applications", form)["registration"]
        self.call(f"/applications/{made}/verify", {"verified": True}, "i")
        self.decide([made], "approve")
        return made

    def serial_is_newest(self) -> bool:
        found = self.status()
        ledger = self.folder / "ledger/ledger.sqlite"
        done = subprocess.run(
            [sys.executable, "-m", "enforcer.registry", "export", str(ledger)],
            capture_output=True,
            check=True,
        )
        newest = json.loads(done.stdout)
        return bool(found) and (found["serial"], found["entries"]) == (
            newest["serial"],
            len(newest["entries"]),
        )

    def close(self) -> None:
        self.proxy.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.log.close()
        shutil.rmtree(self.short, ignore_errors=True)


@contextmanager
def bench(folder: Path, dataplane: str, on_failure: dict[str, Any], **more: Any) -> Iterator[Bench]:
    """In a router of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with router() as lab:
        made = Bench(lab, folder, dataplane, on_failure, **more)
        try:
            yield made
        finally:
            made.close()


def _seed(number: int) -> dict[str, Any]:
    lines = [f"{LINE[4]}/32", f"{LINE[6]}/128"] if not number else [f"10.7.0.{number}/32"]
    return {
        "registrant": f"r{number}",
        "subscriber_prefixes": lines,
        "endpoint_prefixes": [f"{SERVER[4]}/32", f"{SERVER[6]}/128"],
        "state": "active",
    }


def now_s() -> float:
    return time.monotonic()
