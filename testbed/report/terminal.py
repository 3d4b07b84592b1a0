"""A run in at most 15 lines, for the terminal."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from testbed.report.finding import claims, finding
from testbed.report.tables import VERDICT_MARKS, Expected, expected

MOST_LINES = 15
_WIDTH = 110


def terminal_summary(run_dir: Path) -> list[str]:
    """The finding, the expectations (failed ones first) and where the report is. Plain text, at most 15 lines.

    Reads summary.json. Raises FileNotFoundError without it.
    """
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    head = textwrap.wrap(f"{summary['outcome'].upper()}: {finding(summary)} {claims(summary)}", _WIDTH)
    if len(head) > 6:
        head = [*head[:5], textwrap.shorten(" ".join(head[5:]), _WIDTH, placeholder=" …")]
    tail = [f"Report: {run_dir / 'report.html'}"]
    if summary["noise"]:
        tail.insert(0, textwrap.shorten(f"Noisy machine: {summary['noise'][0]}", _WIDTH, placeholder=" …"))
    room = MOST_LINES - len(head) - len(tail)
    rows = expected(summary)
    lines = [_line(row) for row in rows]
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  … and {len(rows) - room + 1} more expectations in the report"]
    return [*head, *lines, *tail]


def _line(row: Expected) -> str:
    text = f"{row.asked} [{row.where}]: {row.seen} (n {row.n})"
    if row.verdict == "inconclusive":
        text = f"{row.asked} [{row.where}]: inconclusive, {row.reason}"
    return f"  {VERDICT_MARKS[row.verdict]} " + textwrap.shorten(text, _WIDTH - 4, placeholder=" …")
