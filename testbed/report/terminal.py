"""A run in at most 15 lines, for the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from testbed.report.accounts import told_line
from testbed.report.clock import missing_line
from testbed.report.finding import broken_details, claims, finding, noise_line
from testbed.report.tables import VERDICT_MARKS, Expected, expected
from testbed.report.words import number

MOST_LINES = 15
_WIDTH = 110
_MOST_DETAILS = 2
_LEAST_WHERE = 12


def terminal_summary(run_dir: Path) -> list[str]:
    """The finding, the expectations (failed ones first) and where the report is, if one was drawn. Plain text, at most 15 lines.

    A run that broke has its first details instead of expectations: nothing of them could be decided. Reads summary.json.
    Raises FileNotFoundError without it.
    """
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    has_report = (run_dir / "report.html").exists()
    head = _wrapped(f"{summary['outcome'].upper()}: {finding(summary)} {claims(summary)}", 6)
    noise = noise_line(summary)
    tail = _wrapped(noise, 2) if noise else []
    for line, most in ((told_line(summary), 3), (missing_line(summary), 2)):
        tail += _wrapped(line, most) if line else []
    tail += [f"Report: {run_dir / 'report.html'}"] if has_report else []
    if summary["outcome"] in ("broken", "interrupted"):
        return [*head, *_details(summary), *tail]
    room = MOST_LINES - len(head) - len(tail)
    rows = expected(summary)
    lines = [_line(row) for row in rows]
    if len(lines) > room:
        where = "the report" if has_report else "summary.json"
        lines = [*lines[: room - 1], f"  … and {number(len(rows) - room + 1)} more expectations in {where}"]
    return [*head, *lines, *tail]


def _line(row: Expected) -> str:
    """What was asked, where, and what was seen: of the three only "where" is cut for want of room, never the figure."""
    told = f": {row.seen} (n {row.n})"
    if row.verdict == "inconclusive":
        told = f": inconclusive, {row.reason}"
    mark = f"  {VERDICT_MARKS[row.verdict]} "
    told = _cut(told, _WIDTH - len(mark) - len(row.asked) - _LEAST_WHERE)
    where = _cut(row.where, _WIDTH - len(mark) - len(row.asked) - len(told) - len(" []"))
    return f"{mark}{row.asked} [{where}]{told}"


def _details(summary: dict[str, Any]) -> list[str]:
    details = broken_details(summary)
    lines = [f"  {_cut(' '.join(each.split()), _WIDTH - 2)}" for each in details[:_MOST_DETAILS]]
    if len(details) > _MOST_DETAILS:
        lines.append(f"  … and {number(len(details) - _MOST_DETAILS)} more in broken.json")
    return lines


def _wrapped(text: str, most: int) -> list[str]:
    """Lines of at most _WIDTH, broken at plain spaces only (a number and its unit stay together), at most `most` of them."""
    lines = [""]
    for word in re.split(r"[ \n]+", text):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    if len(lines) > most:
        lines = [*lines[: most - 1], _cut(" ".join(lines[most - 1 :]), _WIDTH)]
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)].rstrip(" ,;") + "…"
