"""A run as Markdown, for pull requests and job summaries."""

from __future__ import annotations

from typing import Any

from testbed.report.accounts import NOTE, told
from testbed.report.clock import missing_line
from testbed.report.finding import broken_details, claims, finding, noise_notes
from testbed.report.hurt import ended, hurt
from testbed.report.tables import VERDICT_MARKS, expected
from testbed.report.tunnels import tunnels_down
from testbed.report.words import OUTCOME_WORDS

_MOST_HURT = 10


def markdown(summary: dict[str, Any]) -> str:
    """The finding, the expectations and who was hurt."""
    lines = [
        f"## {_cell(summary['title'])}: {summary['outcome']}",
        "",
        f"{_cell(finding(summary))} {claims(summary)}",
        "",
    ]
    if details := broken_details(summary):
        lines += [*(f"* {_cell(each)}" for each in details), ""]
    if line := missing_line(summary):
        lines += [_cell(line), ""]
    rows = expected(summary)
    if rows:
        lines += ["| | asked | seen | 95 % interval | n | verdict |", "|---|---|---|---|---|---|"]
        for row in rows:
            verdict = row.verdict + (f": {row.reason}" if row.reason else "")
            asked = row.asked if row.name == row.asked else f"{row.name}: {row.asked}"
            cells = (
                VERDICT_MARKS[row.verdict],
                asked,
                row.seen,
                row.interval,
                row.n,
                verdict,
            )
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    lines += _accounts(summary)
    people, left = hurt(summary)
    if people:
        lines += ["| who | when | lasted | what | why |", "|---|---|---|---|---|"]
        for row in people[:_MOST_HURT]:
            cells = (
                row.who,
                row.when,
                row.lasted,
                OUTCOME_WORDS[row.outcome],
                row.why,
            )
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        if len(people) > _MOST_HURT:
            lines.append(f"\n{len(people) - _MOST_HURT} more in report.html.")
        lines.append("")
    lines += _tunnels(summary)
    if left:
        lines += [f"{'Not in the table: ' if people else ''}{_cell(left)}.", ""]
    if over := ended(summary):
        lines += [f"{_cell(over)}.", ""]
    for note in noise_notes(summary):
        lines += [_cell(note), ""]
    return "\n".join(lines)


def _tunnels(summary: dict[str, Any]) -> list[str]:
    """The tunnels that were brought down; [] without any."""
    rows = tunnels_down(summary)
    if not rows:
        return []
    lines = [
        _row(["tunnel", "down", "block over", "back", "stopped", "tunnel down", "not yet back", "rule"]),
        "|" + "---|" * 8,
    ]
    for row in rows[:_MOST_HURT]:
        lines.append(
            _row([row.tunnel, row.down, row.over, row.back, row.stopped, row.through, row.not_back, row.rule])
        )
    if len(rows) > _MOST_HURT:
        lines.append(f"\n{len(rows) - _MOST_HURT} more in report.html.")
    return [*lines, ""]


def _accounts(summary: dict[str, Any]) -> list[str]:
    """The published accounts beside what was measured; [] without any."""
    table = told(summary)
    if table is None:
        return []
    heads = ["", "measured here", *(by for by, _, _ in table.heads)]
    lines = [
        "### Against the published accounts",
        "",
        _cell(table.sentence),
        "",
        _row(heads),
        "|" + "---|" * len(heads),
    ]
    for what, measured, cells in table.rows:
        lines.append(_row([what, measured, *(f"{cell.mark} {cell.text}".strip() for cell in cells)]))
    lines.append("")
    lines += [
        f"* {_cell(by)}: {_cell(says)} ({', '.join(map(_cell, where))})" for by, says, where in table.heads
    ]
    return [*lines, "", NOTE, ""]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
