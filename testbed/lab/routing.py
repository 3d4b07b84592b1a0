"""Runs one BIRD per router and says when the routing is what the plan's policies imply, by asking the kernels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.lab.bird import bird_conf, neighbours
from testbed.lab.bird_control import BirdControl, BirdError, ProtocolState
from testbed.lab.bird_fib import differences, read_fib
from testbed.lab.bird_paths import best_routes
from testbed.lab.daemons import Daemon, end_programs
from testbed.plan.plan import Plan

_POLL_S = 0.02
_VIRTUAL_POLL_S = 0.25  # what is waited for costs real time only when it is looked at
# BIRD opens its control socket before it reads the network; it was there 0.02 s after the start of ten (facts §3).
_SOCKET_DEADLINE_S = 5.0


class NotReady(RuntimeError):
    """The lab did not become ready in time. `problems` has one sentence for each thing that is missing."""

    def __init__(self, what: str, problems: Collection[str]) -> None:
        self.problems = tuple(problems)
        shown = "".join(f"\n  {problem}" for problem in self.problems[:20])
        more = len(self.problems) - 20
        super().__init__(f"{what}:{shown}" + (f"\n  … and {more} more" if more > 0 else ""))


class RoutedLab(Protocol):
    """The part of testbed.lab.build.Lab that routing uses."""

    @property
    def plan(self) -> Plan: ...

    @property
    def log_dir(self) -> Path: ...

    def inside(self, node: str) -> AbstractContextManager[None]: ...

    def spawn(self, node: str, argv: list[str], log: str) -> subprocess.Popen: ...

    def daemons(self) -> list[Daemon]: ...


@dataclass(frozen=True, slots=True)
class SessionState:
    """One end of one BGP session: `state` is BIRD's own word for it."""

    node: str
    neighbour: str
    link: str
    family: int
    is_established: bool
    state: str


def start_routing(lab: RoutedLab) -> Routing:
    """Start BIRD on every router of the plan. Returns at once; `Routing.wait` says when it has converged.

    Raises FileNotFoundError when BIRD is not installed, NotReady when one ends at once or opens no control socket.
    """
    if shutil.which("bird") is None:
        raise FileNotFoundError("bird is not installed; install the package bird2")
    routing = Routing(lab, Path(tempfile.mkdtemp(prefix="routing-")))
    try:
        for node in lab.plan.nodes:
            if node.runs_bgp:
                routing.start(node.name)
    except BaseException:
        routing.close()
        raise
    return routing


def running_routing(lab: RoutedLab) -> Routing:
    """The routing of a lab whose BIRDs are already running. Raises NotReady when start_routing was not called."""
    sockets = {
        daemon.node: (Path(daemon.argv[daemon.argv.index("-s") + 1]), daemon.process)
        for daemon in lab.daemons()
        if daemon.argv[0] == "bird"
    }
    if not sockets and any(node.runs_bgp for node in lab.plan.nodes):
        raise NotReady("routing", ["no bird is running; call start_routing first"])
    run_dir = next((path.parent for path, _process in sockets.values()), Path())
    return Routing(lab, run_dir, {node: process for node, (_path, process) in sockets.items()})


class Routing:
    """The running BIRDs. Control sockets live in a short private folder: a socket's path has at most 107 bytes."""

    def __init__(
        self, lab: RoutedLab, run_dir: Path, running: dict[str, subprocess.Popen] | None = None
    ) -> None:
        self.lab = lab
        self._run_dir = run_dir
        self._processes: dict[str, subprocess.Popen] = dict(running or {})
        self._controls: dict[str, BirdControl] = {}

    def start(self, node: str) -> None:
        """Start one router's BIRD; its configuration stays beside its log."""
        conf = self.lab.log_dir / f"bird-{node}.conf"
        conf.write_text(bird_conf(self.lab.plan, node), "utf-8")
        argv = [
            "bird",
            "-f",
            "-c",
            str(conf),
            "-s",
            str(self._socket(node)),
            "-P",
            str(self._run_dir / f"{node}.pid"),
        ]
        self._processes[node] = self.lab.spawn(node, argv, log=f"bird-{node}")

    def control(self, node: str) -> BirdControl:
        """The connection to one router's BIRD. Raises NotReady when it ended or does not listen."""
        if node not in self._controls:
            deadline = time.monotonic() + _SOCKET_DEADLINE_S
            while True:
                self._check_alive(node)
                try:
                    self._controls[node] = BirdControl(self._socket(node))
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise NotReady("routing", [f"{node}: bird does not listen ({error})"]) from None
                    time.sleep(_POLL_S)
        return self._controls[node]

    def sessions(self) -> list[SessionState]:
        """Both ends of every session of the plan, as BIRD sees them now."""
        found = []
        for node in self._processes:
            states = self._protocols(node)
            for peer in neighbours(self.lab.plan, node):
                for family in (4, 6):
                    state = states.get(peer.protocol(family))
                    word = (state.info or state.state) if state else "not configured"
                    is_up = bool(state and state.is_established)
                    found.append(SessionState(node, peer.node, peer.session.link, family, is_up, word))
        return found

    def problems(self, cut: Collection[str] = ()) -> list[str]:
        """What is not yet as the policies imply with the links in `cut` down; empty when converged.

        First the sessions; only when all are up the forwarding tables, for these follow from those.
        """
        wrong = [
            f"BGP session {s.node} - {s.neighbour} over {s.link} (IPv{s.family}): {s.state}"
            for s in self.sessions()
            if not s.is_established and s.link not in cut
        ]
        return wrong or self.table_problems(cut)

    def table_problems(self, cut: Collection[str] = ()) -> list[str]:
        """Where a kernel's table differs from what the policies imply."""
        wrong = []
        for node, table in best_routes(self.lab.plan, cut).items():
            if node in self._processes and self._forwards(node):
                wrong += [f"{node}: {text}" for text in differences(table, read_fib(self.lab, node))]
        return wrong

    def wait(self, deadline_s: float, cut: Collection[str] = ()) -> float:
        """Wait until converged; returns the seconds it took. Raises NotReady, with what is missing, after deadline_s."""
        poll_s = _POLL_S if self.lab.plan.clock == "real" else _VIRTUAL_POLL_S
        return await_none("routing did not converge", lambda: self.problems(cut), deadline_s, poll_s)

    def rest(self) -> None:
        """Stop the BIRDs (SIGSTOP) until close(): each wakes every 3 s, whatever its timers are. Their routes stay."""
        self.disconnect()
        self._signal(signal.SIGSTOP)

    def disconnect(self) -> None:
        """Close the control connections; the next question opens them again."""
        for control in self._controls.values():
            control.close()
        self._controls.clear()

    def close(self) -> None:
        """End all BIRDs. They leave their routes in the kernel, which ends with the lab."""
        self.disconnect()
        self._signal(signal.SIGCONT)
        end_programs(self._processes.values())
        self._processes.clear()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def __enter__(self) -> Routing:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def _protocols(self, node: str) -> dict[str, ProtocolState]:
        try:
            return self.control(node).protocols()
        except (OSError, BirdError) as error:
            self._controls.pop(node).close()
            self._check_alive(node)
            raise NotReady("routing", [f"{node}: bird does not answer ({error})"]) from None

    def _check_alive(self, node: str) -> None:
        code = self._processes[node].poll()
        if code is not None:
            log = self.lab.log_dir / f"bird-{node}.log"
            raise NotReady("routing", [f"{node}: bird ended with {code}; see {log.name}{_last_line(log)}"])

    def _forwards(self, node: str) -> bool:
        return not any(peer.is_client for peer in neighbours(self.lab.plan, node))

    def _socket(self, node: str) -> Path:
        return self._run_dir / f"{node}.ctl"


def await_none(
    what: str, problems: Callable[[], list[str]], deadline_s: float, poll_s: float = _POLL_S
) -> float:
    """Wait until problems() is empty; returns the seconds it took. Raises NotReady with the last ones after deadline_s."""
    began = time.monotonic()
    while True:
        found = problems()
        took = time.monotonic() - began
        if not found:
            return took
        if took > deadline_s:
            raise NotReady(f"{what} within {deadline_s:g} s", found)
        time.sleep(poll_s)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1]}" if lines else ""
