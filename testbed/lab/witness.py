"""Witnesses: passive taps on both sides of every enforcer, so that "it was stopped here" is known without asking the enforcer.

One process of its own (witness_process.py) with a tap on each inside and outside interface. It takes headers only, never
payload, and cannot change a packet. docs/witnesses.md says what a record means and what a tap cannot see.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from testbed.lab.build import Lab
from testbed.lab.preloaded import popen
from testbed.lab.witness_ring import RETIRE_MS, VIRTUAL_RETIRE_MS, open_tap

_ANSWER_TIMEOUT_S = 15.0


class WitnessDied(RuntimeError):
    """The witness ended or does not answer; nothing is known about where packets stop."""


class Witnesses:
    """path: where the records go (gzip, JSON lines). Without enforcers in the plan there is nothing to watch."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self._lab = lab
        self._path = path
        self._log = lab.log_dir / "witness.log"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._retire_ms = RETIRE_MS if lab.plan.clock == "real" else VIRTUAL_RETIRE_MS

    def start(self) -> None:
        """Open the taps and count from now on. Raises OSError naming the interface, WitnessDied."""
        self._is_stopped = False
        ours, theirs = socket.socketpair()
        taps: list[socket.socket] = []
        rows: list[dict[str, Any]] = []
        try:
            for placement in self._lab.plan.enforcers:
                for side, interfaces in (("inside", placement.inside), ("outside", placement.outside)):
                    for interface in interfaces:
                        taps.append(self._tap(placement.node, interface))
                        rows.append({"fd": taps[-1].fileno(), "node": placement.node, "side": side})
            with self._log.open("ab") as log:
                self._process = popen(
                    [sys.executable, "-m", "testbed.lab.witness_process", str(theirs.fileno())],
                    pass_fds=[theirs.fileno(), *(tap.fileno() for tap in taps)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for tap in taps:
                tap.close()
        self._control = ours
        self._control.settimeout(_ANSWER_TIMEOUT_S)
        self._answers = self._control.makefile("rb")
        self._order({"path": str(self._path.resolve()), "taps": rows, "retire_ms": self._retire_ms})

    def set_start(self, t0_monotonic_ns: int) -> None:
        """When the scenario starts; records' times count from there, what came up to a second before is negative."""
        self._order({"t0_monotonic_ns": t0_monotonic_ns})

    def lost(self) -> dict[str, int]:
        """Packets the witness itself lost so far, by node: an attempt there cannot be judged when it is not 0."""
        return self._order({"lost": True})["lost"]

    def health(self) -> list[str]:
        """A sentence when it died."""
        if self._process is None or self._is_stopped or self._process.poll() is None:
            return []
        return [f"the witness died (exit code {self._process.returncode}); see {self._log}"]

    def stop(self) -> None:
        """Write what is left and end. Does nothing when it was never started or has been stopped; a dead one is no error
        here (health() says so)."""
        if self._process is None or self._is_stopped:
            return
        self._is_stopped = True
        self._answers.close()
        self._control.close()
        try:
            self._process.wait(_ANSWER_TIMEOUT_S + 3 * self._retire_ms / 1000)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def _tap(self, node: str, interface: str) -> socket.socket:
        with self._lab.inside(node):
            try:
                return open_tap(interface, self._retire_ms)
            except OSError as error:
                raise OSError(
                    error.errno, f"witness at {node}, interface {interface}: {error.strerror}"
                ) from error

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.sendall(json.dumps(order).encode() + b"\n")
                line = self._answers.readline()
            except (OSError, ValueError) as error:
                raise WitnessDied(f"the witness does not answer ({error}); see {self._log}") from error
        if not line:
            raise WitnessDied(f"the witness is gone; see {self._log}")
        return json.loads(line)
