"""Which clock a run had, and what that keeps it from saying."""

from __future__ import annotations

from typing import Any

from testbed.score.clock import NEEDS

_VIRTUAL = "virtual (waiting takes no real time, delays are exact, processors are infinitely fast)"
_REAL = "real time"


def clock_words(summary: dict[str, Any]) -> str:
    return _VIRTUAL if summary.get("clock") == "virtual" else _REAL


def missing(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, what it needs) for each figure that this run cannot give; [] for one in real time."""
    return [(words, NEEDS) for words in summary.get("needs_real_time", {}).values()]


def missing_line(summary: dict[str, Any]) -> str:
    """The same in a sentence; "" for a run in real time."""
    figures = [words.partition(":")[0].partition(",")[0].partition(";")[0] for words, _ in missing(summary)]
    if not figures:
        return ""
    return f"Virtual clock. Not reported, for each {NEEDS}: {'; '.join(figures)}."
