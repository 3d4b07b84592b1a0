"""Where a plan is played: in namespaces of this kernel, or in the lab's own kernel, whose clock may be virtual."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from testbed import command
from testbed.plan.plan import Plan
from testbed.session_progress import Show, tell
from testbed.world import WorldError, open_world
from testbed.world.capabilities import Capabilities
from testbed.world.doctor import probe

if TYPE_CHECKING:
    from testbed.world.uml.store import Kernel

# The inside bounds each of its own steps; this ends one that hangs all the same.
_INSIDE_SLACK_S = 300.0
_STOPPING_S = 20.0
_MODULE = "testbed.timeline"
# Inside the lab's kernel the run folder is always here: paths are in records, and reruns must be equal.
_RUN_INSIDE = "/run/allowlab/run"
# Boot comes so long before the scenario's start: by then everything is up, and time 0 is the start exactly.
_BOOT_LEAD_S = 60
# For a request to stop, in a long run: each costs processor time, as all that happens does.
_LOOKS = 2000
# What to do where this kernel does not do.
OTHER_KERNEL = (
    "or play it in the lab's own kernel, which needs nothing of this one: --world uml, or --clock virtual "
    f"(`{command()} kernel build` makes it, once)"
)


class Place(Protocol):
    """clock and world as run.json names them."""

    @property
    def clock(self) -> Literal["real", "virtual"]: ...
    @property
    def world(self) -> str: ...

    def capabilities(self) -> Capabilities:
        """What the kernel there can do. Raises WorldError."""
        ...

    def kernel(self) -> dict[str, str] | None:
        """Which kernel of the lab's own it is, for run.json; None for the host's. Raises WorldError."""
        ...

    def play(self, plan: Plan, run_dir: Path, arguments: Sequence[str], watcher: Show) -> int:
        """Runs testbed.timeline to its end: its exit code, 137 when it had to be killed. Raises WorldError."""
        ...


def choose(clock: str, world: str | None) -> Place:
    """Raises ValueError for a combination that does not exist."""
    if clock == "virtual" and world == "namespaces":
        raise ValueError("--world namespaces has the host's clock; leave --world out, or write --clock real")
    if clock == "virtual" or world == "uml":
        return InKernel("virtual" if clock == "virtual" else "real")
    return InNamespaces()


@dataclass(frozen=True, slots=True)
class InNamespaces:
    clock: Literal["real", "virtual"] = "real"
    world: str = "namespaces"

    def capabilities(self) -> Capabilities:
        try:
            return probe()
        except WorldError as error:
            raise WorldError(f"{error}; {OTHER_KERNEL}") from None

    def kernel(self) -> None:
        return None

    def play(self, plan: Plan, run_dir: Path, arguments: Sequence[str], watcher: Show) -> int:
        bound_s = plan.duration_ns / 1e9 + plan.ready_deadline_ns / 1e9 + _INSIDE_SLACK_S
        with (run_dir / "logs" / "inside.log").open("w", encoding="utf-8") as log:
            argv = [sys.executable, "-B", "-m", _MODULE, str(run_dir), *arguments]
            with open_world(argv, stdout=subprocess.PIPE, stderr=log, keep=[run_dir]) as world:
                with _one_request(world.stop, world.kill, watcher), _killed_after(world.kill, bound_s):
                    assert world.stdout is not None
                    for line in world.stdout:
                        text = line.decode(errors="replace")
                        if not tell(watcher, text):
                            log.write(text)
                            log.flush()
                    return world.wait()


@dataclass(frozen=True, slots=True)
class InKernel:
    """The lab's own kernel. One run has one processor of the host; stalled_after_s of its time without progress end it."""

    clock: Literal["real", "virtual"]
    world: str = "uml"
    cpu: int | None = None
    stalled_after_s: float = 30.0

    def capabilities(self) -> Capabilities:
        return Capabilities(**_current_kernel().capabilities)

    def kernel(self) -> dict[str, str]:
        found = _current_kernel()
        facts = {"key": found.key, "release": found.release, "source": found.source}
        return facts | {"compiler": found.compiler, "built": found.built}

    def play(self, plan: Plan, run_dir: Path, arguments: Sequence[str], watcher: Show) -> int:
        from testbed.world.uml.machine import Stalled, VirtualTime, open_machine, quietest_cpu
        from testbed.world.uml.modules import START
        from testbed.world.uml.store import current

        virtual = None
        if self.clock == "virtual":
            start_ns = round(datetime.fromisoformat(plan.starts_at).timestamp()) * 10**9
            virtual = VirtualTime(
                start_ns, plan.seed, _BOOT_LEAD_S, max(10.0, plan.duration_ns / 1e9 / _LOOKS)
            )
        log = run_dir / "logs" / "inside.log"
        machine = open_machine(
            current().path,
            [*START, _MODULE, _RUN_INSIDE, *arguments],
            folders={_RUN_INSIDE: run_dir},
            log=log,
            virtual=virtual,
            cpu=self.cpu if self.cpu is not None else quietest_cpu(),
            stalled_after_s=self.stalled_after_s,
        )
        with machine as running, _one_request(running.stop, running.kill, watcher):
            told = _Told(watcher)
            try:
                for line in running.lines():
                    tell(told, line)
            except Stalled as error:
                running.kill()
                error.at_s = max(error.at_s, told.at_s)
                raise WorldError(f"{error}; what was measured until then is kept") from None
            return running.wait()


def _current_kernel() -> Kernel:
    from testbed.world.uml.store import NoKernel, current

    try:
        return current()
    except NoKernel as error:
        raise WorldError(str(error)) from None


class _Told:
    """A watcher that remembers how far the script had got."""

    def __init__(self, watcher: Show) -> None:
        self._watcher, self.at_s = watcher, float("-inf")
        self.note, self.close = watcher.note, watcher.close

    def phase(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None:
        self.at_s = self.at_s if at_s is None else at_s
        self._watcher.phase(phase, text, at_s, of_s)


@contextmanager
def _one_request(stop: Callable[[], None], kill: Callable[[], None], watcher: Show) -> Iterator[None]:
    """Ctrl-C (or SIGTERM, SIGHUP) asks the inside once to end; a second one kills the world."""
    asked: list[int] = []
    timers: list[threading.Timer] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            watcher.note("stopping; what was measured is kept (Ctrl-C again to kill)")
            stop()
            timers.append(threading.Timer(_STOPPING_S, kill))
            timers[0].start()
        else:
            kill()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in timers:
            timer.cancel()


@contextmanager
def _killed_after(kill: Callable[[], None], bound_s: float) -> Iterator[None]:
    timer = threading.Timer(bound_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
