"""Shows how a run gets on: one moving line on a terminal, plain lines elsewhere, nothing when quiet. All of it on stderr."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import IO, Any, Protocol

# A line every so often where lines cannot be overwritten: a log stays readable, and a CI job is not taken for dead.
_PLAIN_PERIOD_S = 10.0
# A scenario from this length on is told in hours and minutes, with how long it will take.
_LONG_S = 600.0
_PACE_AFTER_S = 5.0
_FAST = 1.5
_PHASES = {
    "plan": "planning",
    "build": "building the lab",
    "routing": "routing",
    "services": "services",
    "calibrate": "measuring links",
    "enforcers": "enforcers",
    "vpn": "VPN sessions",
    "play": "playing",
    "stop": "taking down",
    "score": "scoring",
    "report": "drawing",
}


def _hours(s: float) -> str:
    minutes, seconds = divmod(round(s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Show(Protocol):
    """What a run tells its watcher."""

    def phase(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def show(is_quiet: bool = False, stream: IO[str] | None = None) -> Show:
    output: IO[str] = stream if stream is not None else sys.stderr
    if is_quiet:
        return Quiet(output)
    return Moving(output) if output.isatty() else Plain(output)


def tell(watcher: Show, line: str) -> bool:
    """Passes one JSON line of the inside on; False when it is not one."""
    with suppress(ValueError, TypeError, AttributeError):
        data: dict[str, Any] = json.loads(line)
        watcher.phase(str(data["phase"]), str(data.get("text", "")), data.get("at_s"), data.get("of_s"))
        return True
    return False


class Pace:
    """How far a scenario has got, and for a long one how fast it goes and when it will be over."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def words(self, at_s: float | None, of_s: float | None, now_s: float) -> str:
        """ "" when it is not playing. now_s: of any clock of this machine."""
        if at_s is None or of_s is None:
            return ""
        if of_s < _LONG_S:
            return f"{at_s:.0f} of {of_s:.0f} s"
        where = f"{_hours(at_s)} of {_hours(of_s)}"
        self._first = self._first or (at_s, now_s)
        passed_s, played_s = now_s - self._first[1], at_s - self._first[0]
        if passed_s < _PACE_AFTER_S or played_s <= 0:
            return where
        rate = played_s / passed_s
        fast = f", {rate:.0f} times real time" if rate >= _FAST else ""
        return f"{where}{fast}, about {_hours((of_s - at_s) / rate)} left"


class Quiet:
    """Says only what a user must know (notes)."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def phase(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Plain(Quiet):
    """A line for each phase, and one every ten seconds while a scenario plays."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._started_s = self._said_s = time.monotonic()
        self._last = ""
        self._pace = Pace()

    def phase(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None:
        now_s = time.monotonic()
        if phase == self._last and now_s - self._said_s < _PLAIN_PERIOD_S:
            return
        self._last, self._said_s = phase, now_s
        where = self._pace.words(at_s, of_s, now_s)
        where = f" {where}" if where else ""
        self.note(f"[{now_s - self._started_s:6.1f} s] {_PHASES.get(phase, phase)}{where}: {text}")


class Moving(Quiet):
    """rich: a spinner with the phase, and a bar while a scenario plays."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._pace = Pace()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[where]}"),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, where="")
        self._progress.start()

    def phase(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None:
        where = self._pace.words(at_s, of_s, time.monotonic())
        name = _PHASES.get(phase, phase)
        self._progress.update(
            self._task, description=f"{name}: {text}", total=of_s, completed=at_s or 0, where=where
        )

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()
