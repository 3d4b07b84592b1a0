"""Who was hurt, when and why, as rows of words: what struck several people at once is one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.report.when import When, when_of
from testbed.report.words import CAUSE_WORDS, lasting, number, plural

_MOST_HURT = 60
_MOST_ENDED = 8
_SAME_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Hurt:
    """People who had no service they were entitled to: when, of what, and why. What struck several at once is one row."""

    who: str
    services: str
    when: str
    lasted: str
    attempts: int
    outcome: str
    why: str


def hurt(summary: dict[str, Any]) -> tuple[list[Hurt], str]:
    """Rows by blame and time, and what was left off. A single attempt lost in the network has no row, but is told."""
    single = [row for row in summary["hurt"] if row["outcome"] != "false_block" and row["attempts"] == 1]
    outages = _together(_by_line([row for row in summary["hurt"] if row not in single]))
    outages.sort(key=lambda each: (each["outcome"] != "false_block", each["from_ns"], sorted(each["who"])))
    left = []
    if len(outages) > _MOST_HURT:
        left.append(f"{plural(len(outages) - _MOST_HURT, 'more row')} in summary.json")
    if single:
        lasted_ns = sum(row["until_ns"] - row["from_ns"] for row in single)
        apart = "no two of a service in a row, " if len(single) > 1 else ""
        left.append(
            f"{plural(len(single), 'attempt')} lost elsewhere in the network, {apart}{lasting(lasted_ns / 1e9)} without service"
        )
    return [_hurt(each, when_of(summary)) for each in outages[:_MOST_HURT]], "; ".join(left)


def ended(summary: dict[str, Any]) -> str:
    """Whose registrations ended during the run, and when: what they lost then is no false block. "" when none did."""
    when = when_of(summary)
    told = [
        f"{wait['registration']} since {when.moment(wait['at_ns'])} ({wait['state']})"
        for wait in summary["harm"]["revocations"]
    ]
    more = f" and {number(len(told) - _MOST_ENDED)} more" if len(told) > _MOST_ENDED else ""
    return (
        f"Lost what they were entitled to, as the ledger says, which is no false block: {', '.join(told[:_MOST_ENDED])}{more}"
        if told
        else ""
    )


def _by_line(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line's outages of one kind that overlap, as one."""
    merged: list[dict[str, Any]] = []
    for row in sorted(
        rows, key=lambda each: (each["subscriber"], each["outcome"], str(each["cause"]), each["from_ns"])
    ):
        last = merged[-1] if merged else None
        same = last and all(last[key] == row[key] for key in ("subscriber", "outcome", "cause", "where"))
        service = f"{row['protocol']} to {row['target']}"
        if last and same and row["from_ns"] <= last["until_ns"]:
            last["until_ns"] = max(last["until_ns"], row["until_ns"])
            last["back_ns"] = _later(last["back_ns"], row["back_ns"])
            last["attempts"] += row["attempts"]
            last["services"].add(service)
        else:
            who = {f"{row['subscriber']} ({row['kind']})"}
            merged.append({**row, "services": {service}, "who": who})
    return merged


def _together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines struck by the same thing at the same time (within _SAME_NS, or the time between two attempts, at both ends), as one."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda each: each["from_ns"]):
        row["apart_ns"] = max(_SAME_NS, (row["until_ns"] - row["from_ns"]) // row["attempts"])
        for other in found:
            same = all(other[key] == row[key] for key in ("outcome", "cause", "where", "why"))
            same = same and (other["back_ns"] is None) == (row["back_ns"] is None)
            apart_ns = min(row["apart_ns"], other["apart_ns"])
            near = all(abs(other[key] - row[key]) <= apart_ns for key in ("from_ns", "until_ns"))
            if same and near:
                other["from_ns"] = min(other["from_ns"], row["from_ns"])
                other["until_ns"] = max(other["until_ns"], row["until_ns"])
                other["back_ns"] = _later(other["back_ns"], row["back_ns"])
                other["attempts"] += row["attempts"]
                other["services"] |= row["services"]
                other["who"] |= row["who"]
                break
        else:
            found.append(row)
    return found


def _when_back(row: dict[str, Any], when: When) -> str:
    """Said when the outage did not end with service: it ended with the entitlement, or not at all."""
    if row["back_ns"] is None:
        return ", not back"
    return f", back {when.moment(row['back_ns'])}" if row["back_ns"] > row["until_ns"] else ""


def _later(one_ns: int | None, other_ns: int | None) -> int | None:
    """When both were back; None when one never was."""
    return None if one_ns is None or other_ns is None else max(one_ns, other_ns)


def _hurt(row: dict[str, Any], when: When) -> Hurt:
    cause = CAUSE_WORDS.get(row["cause"] or "", "")
    why = f"{row['cause']}: {cause} ({row['why']})" if cause else row["why"]
    services = sorted(row["services"])
    return Hurt(
        ", ".join(sorted(row["who"])),
        ", ".join(services[:4]) + (f" and {len(services) - 4} more" if len(services) > 4 else ""),
        when.span(row["from_ns"], row["until_ns"]),
        lasting((row["until_ns"] - row["from_ns"]) / 1e9) + _when_back(row, when),
        row["attempts"],
        row["outcome"],
        why,
    )
