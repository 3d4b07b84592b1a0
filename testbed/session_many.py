"""Several runs of one call: those in virtual time side by side, a processor each; those in real time one after another, alone.

Each run is a process of its own, the same command with one scenario and one seed. Its progress comes out line by line with
its name before it; Ctrl-C asks every run to end and keeps what was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from testbed.session_folder import PROJECT

_PROGRAM = [sys.executable, "-m", "testbed.cli", "run"]
_POLL_S = 0.5
NEVER_BEGUN = "interrupted before it began"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run: name is what its lines begin with."""

    name: str
    scenario: Path
    seed: int | None
    clock: str


@dataclass(frozen=True, slots=True)
class Played:
    """told: the JSON object of `run --json`."""

    wanted: Wanted
    told: dict[str, Any]
    took_s: float

    @property
    def exit_code(self) -> int:
        return int(self.told["exit_code"])


def play_all(
    wanted: Sequence[Wanted], arguments: Sequence[str], jobs: int, say: Callable[[str], None]
) -> list[Played]:
    """Plays every run, at most `jobs` at a time, and returns them in the order wanted. To be called in the main thread.

    arguments: options that every run gets. say: takes each line of progress.
    """
    cpus = sorted(os.sched_getaffinity(0))
    side_by_side = min(jobs, len(cpus))
    if jobs > side_by_side and sum(each.clock == "virtual" for each in wanted) > side_by_side:
        say(f"{side_by_side} at a time: a run in virtual time needs a processor of its own")
    alone = [each for each in wanted if each.clock != "virtual"]
    if alone and side_by_side > 1:
        names = ", ".join(each.name for each in alone)
        say(f"{names}: one after another, alone, for real time: side by side runs would make each other late")
    many = _Many(arguments, say)
    with many.interruptible():
        many.play([each for each in wanted if each.clock == "virtual"], side_by_side, cpus)
        many.play(alone, 1, None)
    return [many.played.get(each) or _never(each) for each in wanted]


def worst(played: Sequence[Played]) -> Played:
    """The run with the highest exit code, the first of them."""
    return max(played, key=lambda each: each.exit_code)


@dataclass(slots=True)
class _Child:
    wanted: Wanted
    process: subprocess.Popen[bytes]
    cpu: int | None
    started_s: float
    output: bytearray = field(default_factory=bytearray)
    rest: bytearray = field(default_factory=bytearray)
    last_line: str = ""
    open_streams: int = 2


@dataclass(slots=True)
class _Many:
    arguments: Sequence[str]
    say: Callable[[str], None]
    played: dict[Wanted, Played] = field(default_factory=dict)
    running: list[_Child] = field(default_factory=list)
    is_stopping: bool = False

    def play(self, wanted: Sequence[Wanted], side_by_side: int, cpus: Sequence[int] | None) -> None:
        """cpus: each run stays on one of these; None: wherever it likes."""
        waiting = list(wanted)
        with selectors.DefaultSelector() as selector:
            try:
                while (waiting and not self.is_stopping) or self.running:
                    while waiting and not self.is_stopping and len(self.running) < side_by_side:
                        self._begin(waiting.pop(0), cpus, selector)
                    for key, _ in selector.select(_POLL_S):
                        self._read(key.data, key.fileobj, selector)  # pyright: ignore[reportArgumentType]
                    for child in [each for each in self.running if not each.open_streams]:
                        self._end(child)
            finally:
                for child in self.running:  # only when something unforeseen was raised
                    child.process.terminate()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP ask each run to end, as often as they come; no further run begins."""

        def ask(_number: int, _frame: object) -> None:
            self.is_stopping = True
            for child in self.running:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGINT)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin(self, wanted: Wanted, cpus: Sequence[int] | None, selector: selectors.BaseSelector) -> None:
        from testbed.world.uml.machine import quietest_cpu

        argv = [*_PROGRAM, str(wanted.scenario), "--json", "--progress", *self.arguments]
        argv += ["--seed", str(wanted.seed)] if wanted.seed is not None else []
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        cpu = None
        if cpus:
            taken, quietest = [each.cpu for each in self.running], quietest_cpu()
            cpu = min(cpus, key=lambda each: (taken.count(each), each != quietest, each))
        with _staying_on(cpu):  # what is started there stays there, from its first instruction
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C reaches this process alone, which passes it on once
            )
        child = _Child(wanted, process, cpu, time.monotonic())
        self.running.append(child)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, child)
        if self.is_stopping:  # asked between its beginning and being listed
            process.send_signal(signal.SIGINT)

    def _read(self, child: _Child, stream: IO[bytes], selector: selectors.BaseSelector) -> None:
        data = os.read(stream.fileno(), 65536)
        if stream is child.process.stdout:
            child.output += data
        else:
            *lines, last = (child.rest + data).split(b"\n")
            child.rest = bytearray(last)
            if not data and last:
                lines.append(last)
            for line in lines:
                child.last_line = line.decode(errors="replace").rstrip()
                self.say(f"{child.wanted.name} | {child.last_line}")
        if not data:
            selector.unregister(stream)
            stream.close()
            child.open_streams -= 1

    def _end(self, child: _Child) -> None:
        code = child.process.wait()
        self.running.remove(child)
        took_s = time.monotonic() - child.started_s
        try:
            told = json.loads(child.output)
        except ValueError:
            told = _without_a_word(code, child.last_line)
        self.played[child.wanted] = Played(child.wanted, told, took_s)
        self.say(f"{child.wanted.name} | {told['outcome']} after {took_s:.0f} s")


@contextlib.contextmanager
def _staying_on(cpu: int | None) -> Iterator[None]:
    """This thread on one processor; None: where it is."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _without_a_word(code: int, last_line: str) -> dict[str, Any]:
    """For a run whose process ended without its object."""
    outcome, exit_code = ("interrupted", 130) if code in (130, -signal.SIGINT) else ("broken", 3)
    reason = last_line or f"its process ended by itself (exit code {code})"
    return _nothing(outcome, exit_code, reason)


def _never(wanted: Wanted) -> Played:
    return Played(wanted, _nothing("interrupted", 130, NEVER_BEGUN), 0.0)


def _nothing(outcome: str, exit_code: int, reason: str) -> dict[str, Any]:
    none = {"run": None, "report": None, "headline": None, "expectations": []}
    return {"outcome": outcome, "exit_code": exit_code, "reason": reason, **none}
