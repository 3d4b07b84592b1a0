"""What the inside tells the outside while it works: one JSON object a line on standard output."""

from __future__ import annotations

import json
import sys
import time
from typing import IO


def counted(count: int, one: str) -> str:
    """1 node, 2 nodes."""
    return f"{count} {one}{'s' * (count != 1)}"


class Progress:
    """Writes progress lines: {"phase", "text", "at_s", "of_s"}; at_s/of_s only while a scenario plays.

    A reader that has gone away is no reason to stop a run: such errors are ignored.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._phases_s: dict[str, float] = {}
        self._phase = ""
        self._since = time.monotonic()

    def say(self, phase: str, text: str, at_s: float | None = None, of_s: float | None = None) -> None:
        if phase != self._phase:
            self._close_phase()
            self._phase = phase
        line = {"phase": phase, "text": text}
        if at_s is not None and of_s is not None:
            line |= {"at_s": round(at_s, 1), "of_s": round(of_s, 1)}  # type: ignore[dict-item]
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass

    def durations_s(self) -> dict[str, float]:
        """How long each phase has taken, the current one included."""
        self._close_phase()
        return {phase: round(seconds, 3) for phase, seconds in self._phases_s.items()}

    def _close_phase(self) -> None:
        now = time.monotonic()
        if self._phase:
            self._phases_s[self._phase] = self._phases_s.get(self._phase, 0.0) + now - self._since
        self._since = now
