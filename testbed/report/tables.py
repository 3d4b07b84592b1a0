"""The report's tables as rows of words: what was expected and seen, who was hurt, what waited, what the machine was like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.report.when import When, when_of
from testbed.report.words import (
    COMPARATOR_WORDS,
    OUTCOME_WORDS,
    figure_words,
    from_ns,
    lasting,
    number,
    percent,
    plural,
    value_words,
    where_words,
)

# Of the outages that ended, by outcome.
_AFTER = {"false_block": "after a false block", "infra_down": "lost elsewhere in the network, not blocked"}
VERDICT_MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation as a row."""

    name: str
    asked: str
    where: str
    seen: str
    interval: str
    n: str
    verdict: str
    reason: str
    place: str


def expected(summary: dict[str, Any]) -> list[Expected]:
    """The table "asked / seen / interval / n / verdict", failed ones first."""
    order = {"failed": 0, "inconclusive": 1, "passed": 2}
    rows = sorted(summary["expectations"], key=lambda each: (order[each["verdict"]], each["line"]))
    return [_expected(each, summary["duration_ns"], when_of(summary)) for each in rows]


def tiles(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, what it is, more, kind) of the few numbers at the top; kind "bad", "good" or ""."""
    blocked, passed, harm = summary["all"]["false_block"], summary["all"]["false_pass"], summary["harm"]
    blocked_ns, lost = harm["person_ns_lost_to_false_blocks"], summary["all"]["outcomes"]["infra_down"]
    late_ns = harm["person_ns_not_back"]
    elsewhere = (
        f"{lasting(late_ns / 1e9)} of it after the block, until tunnels were back; " if late_ns else ""
    )
    if lost:
        elsewhere += f"{lasting(harm['person_ns_lost'] / 1e9)} with {plural(lost, 'attempt')} lost elsewhere in the network"
    else:
        elsewhere += "no attempt was lost elsewhere in the network"
    return [
        (
            percent(blocked["ratio"]),
            "blocked by mistake",
            f"{number(blocked['k'])} of {plural(blocked['n'], 'attempt')} of entitled people; {_interval(blocked)}",
            "bad" if blocked["k"] else "good",
        ),
        (
            percent(passed["ratio"]),
            "passed by mistake",
            f"{number(passed['k'])} of {plural(passed['n'], 'attempt')} nobody was entitled to; {_interval(passed)}",
            "bad" if passed["k"] else "good",
        ),
        (
            number(harm["people_falsely_blocked"]),
            f"of {plural(harm['people'], 'subscriber')} hurt by false blocks",
            f"{plural(len(harm['sessions_cut']), 'VPN session')} cut",
            "bad" if harm["people_falsely_blocked"] else "good",
        ),
        (
            lasting(blocked_ns / 1e9),
            "without service by false blocks, summed over subscribers",
            elsewhere,
            "bad" if blocked_ns else "good",
        ),
        (
            from_ns(harm["longest_restore_ns"]),
            "longest time until service was back",
            _of_what_kind(summary),
            "",
        ),
    ]


def _of_what_kind(summary: dict[str, Any]) -> str:
    """What the longest outage that ended was of, and how many did not end."""
    ended = [row for row in summary["hurt"] if row["back_ns"] is not None]
    told = []
    if ended:
        longest = max(ended, key=lambda row: row["back_ns"] - row["from_ns"])
        told.append(_AFTER.get(longest["outcome"], ""))
    if lost := len(summary["harm"]["not_restored"]):
        told.append(f"{plural(lost, 'service')} not back at the end")
    return "; ".join(each for each in told if each)


def groups(summary: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of outcomes by kind of people, protocol and provider, as a table for reading and copying."""
    found = []
    for title, key in (("Kind of people", "by_kind"), ("Protocol", "by_protocol"), ("Provider", "by_isp")):
        rows = [
            {
                "name": name,
                "attempts": number(table["attempts"]),
                "outcomes": [number(table["outcomes"][outcome]) for outcome in OUTCOME_WORDS],
                "false_block": f"{percent(table['false_block']['ratio'])} ({_interval(table['false_block'])})"
                if table["false_block"]["n"]
                else "–",
            }
            for name, table in summary[key].items()
        ]
        found.append((title, rows))
    return found


def waits(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(registration, what, when, how long) for each approval and revocation."""
    rows, when = [], when_of(summary)
    for key, effect in (("approvals", "first byte"), ("revocations", "last byte")):
        for wait in summary["harm"][key]:
            until = "never" if wait["wait_ns"] is None else f"{effect} after {from_ns(wait['wait_ns'])}"
            if wait["wait_ns"] and wait["at_least_ns"] is not None and wait["at_least_ns"] < wait["wait_ns"]:
                until += f" (not before {from_ns(wait['at_least_ns'])})"
            rows.append((wait["registration"], wait["state"], when.moment(wait["at_ns"]), until))
    return rows


def round_trips(summary: dict[str, Any]) -> list[dict[str, str]]:
    """A row a protocol: n, lost, p50, p95, p99 with their intervals, or why there is none."""
    rows = []
    for protocol, table in summary["rtt"].items():
        # An attempt is one probe, but for a call, which is many packets.
        counted = plural(table["n"], "packet" if table["n"] > table["attempts"] else "attempt")
        row = {"protocol": protocol, "n": counted, "lost": number(table["lost"])}
        for word in ("p50", "p95", "p99"):
            each = table[word]
            none = f"– ({each['reason'].partition(', so ')[0]})"
            row[word] = none if each["ns"] is None else f"{from_ns(each['ns'])} ({_span(each)})"
        rows.append(row)
    return rows


def _expected(each: dict[str, Any], duration_ns: int, when: When) -> Expected:
    unit = each["unit"]
    bound = value_words(each["bound"], unit)
    window = ""
    if each["from_ns"] > 0 or each["until_ns"] < duration_ns:
        window = f"; {when.span(max(0, each['from_ns']), min(duration_ns, each['until_ns']))}"
    interval = "–"
    if each["low"] is not None or each["high"] is not None:
        interval = f"{value_words(each['low'], unit)} to {value_words(each['high'], unit)}"
    k = f"{number(each['k'])} of " if each["k"] is not None else ""
    asked = f"{figure_words(each['figure'])} {COMPARATOR_WORDS[each['comparator']]} {bound}"
    # A scenario's expectations have no names of their own; then what was asked is the name.
    has_name = each["figure"] not in each["name"]
    return Expected(
        each["name"] if has_name else asked,
        asked,
        where_words(each["where"]) + window,
        value_words(each["seen"], unit),
        interval,
        f"{k}{number(each['n'])}",
        each["verdict"],
        each["reason"],
        f"{each['file']}:{each['line']}",
    )


def _interval(table: dict[str, Any]) -> str:
    if not table["n"]:
        return "no attempts"
    return f"{percent(table['low_ratio'])} to {percent(table['high_ratio'])}"


def _span(each: dict[str, Any]) -> str:
    high = "no upper bound" if each["high_ns"] is None else from_ns(each["high_ns"])
    return f"{from_ns(each['low_ns'])} to {high}"
