"""The enforcers under test, started as programs in the gateways' namespaces and read through their own files."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from testbed.lab.daemons import end_programs
from testbed.plan.plan import EnforcerPlacement, Plan
from testbed.records import AuditRecord

# In virtual time each look costs real time, and nothing takes an agent's rules away or fills its disk.
_VIRTUAL_LOOK = "60s"
_STATE_ROOT = Path("/run/enforcer")  # in the world's private /run: nothing of it outlives the run


class EnforcerFailed(Exception):
    """An enforcer did not come up, or died; the text names it and shows the end of its log."""


class Spawner(Protocol):
    """The part of the lab that starts programs."""

    log_dir: Path

    def spawn(self, node: str, argv: list[str], log: str, **options: Any) -> subprocess.Popen[bytes]: ...


@dataclass(slots=True)
class RunningEnforcer:
    """One enforcer: `audit` grows while it runs; `process` is None while it is down."""

    placement: EnforcerPlacement
    config: Path
    audit: Path
    control: Path
    process: subprocess.Popen[bytes] | None = None
    audit_read: int = 0


@dataclass(slots=True)
class Enforcers:
    """All enforcers of a plan. command: the program, e.g. [python, "-m", "enforcer"]; "run --config FILE" is added.

    Raises EnforcerFailed from start and wait_applied.
    """

    lab: Spawner
    plan: Plan
    feed_url: str
    key: Path
    policy: Path
    command: list[str] = field(default_factory=lambda: [sys.executable, "-m", "enforcer"])
    running: dict[str, RunningEnforcer] = field(default_factory=dict)

    def start(self) -> None:
        for placement in self.plan.enforcers:
            node = placement.node
            state = _STATE_ROOT / node
            state.mkdir(parents=True, exist_ok=True)
            audit = self.lab.log_dir / f"enforcer-{node}.audit.jsonl"
            config = {
                "policy": str(self.policy),
                "dataplane": "nft",
                "feed": {"url": self.feed_url, "key": str(self.key), "poll": "1s"},
                "state": str(state),
                "audit": str(audit),
                "control": str(state / "control.sock"),
                "inside": list(placement.inside),
                "outside": list(placement.outside),
            }
            if self.plan.clock == "virtual":
                config["look"] = _VIRTUAL_LOOK
            path = state / "enforcer.yaml"
            path.write_text(json.dumps(config, indent=1), encoding="utf-8")
            self.running[node] = RunningEnforcer(placement, path, audit, state / "control.sock")
            self.restart(node)

    def restart(self, node: str) -> None:
        """Start the enforcer of a node again with the same configuration (after `kill`)."""
        enforcer = self.running[node]
        argv = [*self.command, "run", "--config", str(enforcer.config)]
        enforcer.process = self.lab.spawn(node, argv, log=f"enforcer-{node}")

    def kill(self, node: str) -> None:
        """SIGKILL: the crash of an enforcer's agent; what it left in the kernel stays."""
        process = self.running[node].process
        if process is not None:
            process.kill()
            process.wait()
            self.running[node].process = None

    def reload(self, node: str) -> None:
        """Ask the agent to load the whole snapshot into the kernel again (SIGHUP)."""
        process = self.running[node].process
        if process is not None:
            process.send_signal(signal.SIGHUP)

    async def wait_applied(self, serial: int, timeout_s: float) -> None:
        """Until every enforcer has said in its audit that it enforces this serial or a later one."""
        deadline = time.monotonic() + timeout_s
        waiting = set(self.running)
        while waiting:
            for node in sorted(waiting):
                self._check_alive(node)
                if self._applied_serial(node) >= serial:
                    waiting.discard(node)
            if waiting and time.monotonic() > deadline:
                node = sorted(waiting)[0]
                raise EnforcerFailed(
                    f"the enforcer on {node} did not apply serial {serial} within {timeout_s:.0f} s: {self._log_end(node)}"
                )
            await asyncio.sleep(0.02)

    def stop(self, timeout_s: float = 3.0) -> None:
        """End all of them politely, then by force."""
        end_programs((each.process for each in self.running.values()), timeout_s)

    def dead(self) -> list[str]:
        """Nodes whose enforcer has ended although nobody killed it."""
        return [
            node
            for node, each in self.running.items()
            if each.process is not None and each.process.poll() is not None
        ]

    def new_audit(self, node: str, t0_ns: int) -> list[AuditRecord]:
        """The audit lines written since the last call, on the scenario's clock; a last half line waits for its end."""
        enforcer = self.running[node]
        try:
            with enforcer.audit.open("rb") as file:
                file.seek(enforcer.audit_read)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        enforcer.audit_read += len(complete)
        records = []
        for line in complete.splitlines():
            row = json.loads(line)
            kind, at_ns = row.pop("kind"), row.pop("monotonic_ns")
            records.append(AuditRecord(at_ns - t0_ns, node, kind, row))
        return records

    def _applied_serial(self, node: str) -> int:
        serial = -1
        try:
            lines = self.running[node].audit.read_bytes().splitlines()
        except FileNotFoundError:
            return serial
        for line in lines:
            if b'"applied"' in line:
                serial = max(serial, int(json.loads(line).get("serial", -1)))
        return serial

    def _check_alive(self, node: str) -> None:
        process = self.running[node].process
        if process is not None and process.poll() is not None:
            raise EnforcerFailed(
                f"the enforcer on {node} ended with exit code {process.returncode}: {self._log_end(node)}"
            )

    def _log_end(self, node: str) -> str:
        try:
            lines = (
                (self.lab.log_dir / f"enforcer-{node}.log").read_text("utf-8", "replace").strip().splitlines()
            )
        except FileNotFoundError:
            return "it wrote no log"
        return " / ".join(lines[-3:]) or "it wrote nothing to its log"
