"""What was published about the event a scenario plays, beside what was measured, as a table of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.report.when import When, when_of
from testbed.report.words import from_ns, lasting, number, plural

_NOT_CLAIMED = "not said"
NOTE = (
    "The script did this, so that one account fits says nothing about which is true: it shows what each would have looked like, and "
    "what it would have cost. ✓: agrees with what was measured, ✗: does not; within 5 % of the length said, and never closer than "
    "two attempts of one line."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """mark: "✓", "✗" or "" where there is nothing to compare."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A table: heads (who says so, what they say, where), and rows of (what, measured, a cell for each account)."""

    sentence: str
    heads: list[tuple[str, str, list[str]]]
    rows: list[tuple[str, str, list[Cell]]]


def told(summary: dict[str, Any]) -> Told | None:
    """None when the scenario names no account."""
    accounts = summary.get("accounts")
    if not accounts:
        return None
    measured, claims, when = accounts["measured"], accounts["claims"], when_of(summary)
    heads = [(_by(each), each["says"], each["sources"]) for each in claims]
    rows = [
        ("began", _moment(when, measured["first_block_ns"]), [_time(when, each, "from_ns", "began") for each in claims]),
        ("ended", _moment(when, measured["last_block_ns"]), [_time(when, each, "until_ns", "ended") for each in claims]),
        ("lasted", _length(measured), [_lasted(each) for each in claims]),
        ("who was hit", _who(measured), [Cell(each["hit"] or _NOT_CLAIMED) for each in claims]),
    ]  # fmt: skip
    if measured["registrants"]:
        harm = f"{lasting(measured['person_ns_lost'] / 1e9)} without service, summed over subscribers"
        rows.append(("harm", harm, [Cell(_NOT_CLAIMED) for _ in claims]))
    if measured["complaints"]:
        first = when.moment(measured["complaints"][0]["at_ns"])
        count = plural(len(measured["complaints"]), "report")
        rows.append(
            ("complaints", f"{count} to the portal, first at {first}", [Cell(_NOT_CLAIMED) for _ in claims])
        )
    return Told(_sentence(measured, claims), heads, rows)


def told_line(summary: dict[str, Any]) -> str:
    """The sentence of the comparison; "" without accounts."""
    table = told(summary)
    return f"Against the published accounts: {table.sentence}" if table else ""


def _sentence(measured: dict[str, Any], claims: list[dict[str, Any]]) -> str:
    if measured["first_block_ns"] is None:
        return "No false block was measured."
    fit = [f"{each['by']} ({_claimed_length(each)})" for each in claims if each["lasted"]]
    miss = [f"{each['by']} ({_claimed_length(each)})" for each in claims if each["lasted"] is False]
    seen = f"{lasting(measured['lasted_ns'] / 1e9)} from the first to the last false block."
    fits = f" As long as told by {', '.join(fit)}." if fit else ""
    return seen + fits + (f" Not as long as told by {', '.join(miss)}." if miss else "")


def _by(claim: dict[str, Any]) -> str:
    return claim["by"] + (" (contested)" if claim["is_contested"] else "")


def _moment(when: When, t_ns: int | None) -> str:
    return "no false block" if t_ns is None else f"{when.moment(t_ns)}"


def _time(when: When, claim: dict[str, Any], key: str, verdict: str) -> Cell:
    if claim[key] is None:
        return Cell(_NOT_CLAIMED)
    return Cell(when.claimed(claim[key]), _mark(claim[verdict]))


def _length(measured: dict[str, Any]) -> str:
    if measured["first_block_ns"] is None:
        return "no false block"
    spacing = from_ns(measured["spacing_ns"])
    return (
        f"{lasting(measured['lasted_ns'] / 1e9)}, first to last false block; attempts {spacing} apart at most"
    )


def _lasted(claim: dict[str, Any]) -> Cell:
    return Cell(_claimed_length(claim), _mark(claim["lasted"]))


def _claimed_length(claim: dict[str, Any]) -> str:
    if claim["least_ns"] is None:
        return _NOT_CLAIMED
    least, most = (claim[key] // 10**9 for key in ("least_ns", "most_ns"))
    if least == most:
        return lasting(least).removesuffix(" 00\u00a0min").removesuffix(" 00\u00a0s")
    if most <= 5400 and least % 60 == most % 60 == 0:
        return f"{least // 60} to {most // 60}\u00a0min"
    return f"{lasting(least)} to {lasting(most)}"


def _who(measured: dict[str, Any]) -> str:
    kinds = [f"{kind} {each['hit']} of {each['of']}" for kind, each in measured["by_kind"].items()]
    told = f"{number(measured['registrants_hit'])} of {plural(measured['registrants'], 'registrant')}"
    told += f" ({', '.join(kinds)})" if kinds else ""
    return f"{told}; of other traffic {number(measured['other_blocks'])} of {plural(measured['other_attempts'], 'attempt')} blocked"


def _mark(agrees: bool | None) -> str:
    return "" if agrees is None else "✓" if agrees else "✗"
