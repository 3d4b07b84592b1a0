"""The report's tables as rows of words: what was expected and seen, who was hurt, what waited, what the machine was like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.report.story import Story
from testbed.report.words import (
    CAUSE_WORDS,
    COMPARATOR_WORDS,
    OUTCOME_WORDS,
    clock,
    figure_words,
    from_ns,
    percent,
    plural,
    rate,
    seconds,
    size,
    value_words,
    where_words,
)

VERDICT_MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
_MOST_HURT = 60
_SAME_NS = 1_000_000_000


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


def expected(summary: dict[str, Any]) -> list[Expected]:
    """The table "asked / seen / interval / n / verdict", failed ones first."""
    order = {"failed": 0, "inconclusive": 1, "passed": 2}
    rows = sorted(summary["expectations"], key=lambda each: (order[each["verdict"]], each["line"]))
    return [_expected(each, summary["duration_ns"]) for each in rows]


def hurt(summary: dict[str, Any]) -> tuple[list[Hurt], str]:
    """Rows by blame and time, and what was left off. A single attempt lost in the network is no outage worth a row."""
    single = [row for row in summary["hurt"] if row["outcome"] != "false_block" and row["attempts"] == 1]
    outages = _together(_by_line([row for row in summary["hurt"] if row not in single]))
    outages.sort(key=lambda each: (each["outcome"] != "false_block", each["from_ns"], sorted(each["who"])))
    left = []
    if len(outages) > _MOST_HURT:
        left.append(f"{plural(len(outages) - _MOST_HURT, 'more row')} in summary.json")
    if single:
        left.append(f"{plural(len(single), 'single attempt')} lost in the network")
    return [_hurt(each) for each in outages[:_MOST_HURT]], "; ".join(left)


def tiles(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, what it is, more, kind) of the few numbers at the top; kind "bad", "good" or ""."""
    blocked, passed, harm = summary["all"]["false_block"], summary["all"]["false_pass"], summary["harm"]
    minutes = harm["person_ns_lost_to_false_blocks"] / 60e9
    return [
        (
            percent(blocked["ratio"]),
            "blocked by mistake",
            f"{blocked['k']} of {blocked['n']} attempts of entitled people; {_interval(blocked)}",
            "bad" if blocked["k"] else "good",
        ),
        (
            percent(passed["ratio"]),
            "passed by mistake",
            f"{passed['k']} of {passed['n']} attempts nobody was entitled to; {_interval(passed)}",
            "bad" if passed["k"] else "good",
        ),
        (
            str(harm["people_falsely_blocked"]),
            f"of {plural(harm['people'], 'line')} hurt by false blocks",
            f"{plural(len(harm['sessions_cut']), 'VPN session')} cut",
            "bad" if harm["people_falsely_blocked"] else "good",
        ),
        (
            f"{minutes:.3g} min",
            "without service, summed over lines",
            f"{harm['person_ns_lost'] / 60e9:.3g} min with the network's own failures",
            "bad" if minutes else "good",
        ),
        (
            from_ns(harm["longest_restore_ns"]),
            "longest time until service was back",
            f"{plural(len(harm['not_restored']), 'service')} not back at the end"
            if harm["not_restored"]
            else "",
            "",
        ),
    ]


def groups(summary: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of outcomes by kind of people, protocol and provider, as a table for reading and copying."""
    found = []
    for title, key in (("Kind of people", "by_kind"), ("Protocol", "by_protocol"), ("Provider", "by_isp")):
        rows = [
            {
                "name": name,
                "attempts": table["attempts"],
                "outcomes": [table["outcomes"][outcome] for outcome in OUTCOME_WORDS],
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
    rows = []
    for key, effect in (("approvals", "first byte"), ("revocations", "last byte")):
        for wait in summary["harm"][key]:
            until = "never" if wait["wait_ns"] is None else f"{effect} after {from_ns(wait['wait_ns'])}"
            if wait["wait_ns"] and wait["at_least_ns"] is not None and wait["at_least_ns"] < wait["wait_ns"]:
                until += f" (not before {from_ns(wait['at_least_ns'])})"
            rows.append((wait["registration"], wait["state"], clock(wait["at_ns"]), until))
    return rows


def round_trips(summary: dict[str, Any]) -> list[dict[str, str]]:
    """A row a protocol: n, lost, p50, p95, p99 with their intervals, or why there is none."""
    rows = []
    for protocol, table in summary["rtt"].items():
        row = {"protocol": protocol, "n": str(table["n"]), "lost": str(table["lost"])}
        for word in ("p50", "p95", "p99"):
            each = table[word]
            row[word] = each["reason"] if each["ns"] is None else f"{from_ns(each['ns'])} ({_span(each)})"
        rows.append(row)
    return rows


def calibration(story: Story) -> list[dict[str, Any]]:
    """What was asked of each link and what was measured, misses first."""
    rows = []
    for row in story.calibration:
        figure = str(row.get("figure") or row.get("what") or "")
        rows.append(
            {
                "link": f"{row.get('link', '')} {row.get('direction', '')}",
                "figure": figure,
                "asked": _link_words(figure, row.get("asked")),
                "measured": _link_words(figure, row.get("measured")),
                "low": _link_words(figure, row.get("low")),
                "high": _link_words(figure, row.get("high")),
                "is_within": bool(row.get("is_within")),
            }
        )
    return sorted(rows, key=lambda row: (row["is_within"], row["link"], row["figure"]))


def machine(story: Story) -> list[tuple[str, str]]:
    """(fact, value) about the run, the machine and the driver's own health."""
    run, health = story.run, story.summary["health"]
    facts = [
        ("run", story.run_id),
        ("seed", str(story.plan.seed)),
        ("topology", story.plan.topology_file),
        ("policy", story.plan.policy_file or "none: no enforcer"),
        ("scenario begins", story.plan.starts_at),
        ("duration", seconds(story.plan.duration_ns / 1e9)),
    ]
    facts += [(key.replace("_", " "), value) for key, value in _flat(run) if key not in _NOT_FACTS]
    for key, words in (
        ("lag_p99_ns", "probe sent late, 99th percentile"),
        ("lag_max_ns", "probe sent late, worst"),
    ):
        if key in health:
            facts.append((words, from_ns(health[key])))
    for key, words in (
        ("cpu_ratio", "CPU of the driver"),
        ("cpu_idle_ratio", "CPU idle"),
        ("cpu_steal_ratio", "CPU taken by the hypervisor"),
    ):
        if key in health:
            facts.append((words, percent(health[key])))
    if health.get("memory_bytes"):
        facts.append(("memory of the lab", size(health["memory_bytes"])))
    return facts


def caveats(story: Story) -> list[str]:
    """What a careful reader must know before believing the figures."""
    summary = story.summary
    records, counts = summary["records"], summary["all"]["outcomes"]
    found = [
        f"The machine was noisy, so timing claims are not made: {reason}." for reason in summary["noise"]
    ]
    if counts["harness_error"]:
        found.append(
            f"{plural(counts['harness_error'], 'attempt')} could not be judged, by the test-bed's own fault; they count neither way."
        )
    if counts["straddles_change"]:
        found.append(
            f"{plural(counts['straddles_change'], 'attempt')} were under way while the registration changed; they count neither way."
        )
    if records["attempts"] < records["planned_attempts"]:
        found.append(f"{records['attempts']} of {records['planned_attempts']} planned attempts were made.")
    for name in records["truncated_files"]:
        found.append(f"{name} ends before its proper end; what came after is unknown.")
    for name, count in sorted(records["unreadable_lines"].items()):
        found.append(f"{plural(count, 'line')} of {name} could not be read and were left out.")
    for name in records["missing_files"]:
        found.append(f"{name} is missing.")
    for key in ("skipped", "speed_note"):
        value = story.run.get(key)
        found += [str(each) for each in (value if isinstance(value, list) else [value] if value else [])]
    if not story.calibration:
        found.append("No calibration of the links was found in the run folder.")
    return found


_NOT_FACTS = ("schema", "id", "scenario", "seed", "title", "outcome")
_DEEP = (
    "calibration",
    "config",
    "configuration",
    "capabilities",
    "health",
    "phases",
    "files",
    "details",
    "expectations",
)


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, each in sorted(value.items()):
        name = f"{before}{key}"
        if key in _DEEP or each in (None, "", [], {}):
            continue
        if isinstance(each, dict):
            found += _flat(each, f"{name} ")
        elif isinstance(each, (str, int, float)) and len(str(each)) < 200:
            found.append((name, str(each)))
    return found


def _expected(each: dict[str, Any], duration_ns: int) -> Expected:
    unit = each["unit"]
    bound = value_words(each["bound"], unit)
    window = ""
    if each["from_ns"] > 0 or each["until_ns"] < duration_ns:
        window = f"; {clock(max(0, each['from_ns']))} to {clock(min(duration_ns, each['until_ns']))}"
    interval = "–"
    if each["low"] is not None or each["high"] is not None:
        interval = f"{value_words(each['low'], unit)} to {value_words(each['high'], unit)}"
    k = f"{each['k']} of " if each["k"] is not None else ""
    return Expected(
        each["name"],
        f"{figure_words(each['figure'])} {COMPARATOR_WORDS[each['comparator']]} {bound}",
        where_words(each["where"]) + window,
        value_words(each["seen"], unit),
        interval,
        f"{k}{each['n']}",
        each["verdict"],
        each["reason"],
        f"{each['file']}:{each['line']}",
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
            last["has_ended"] &= row["has_ended"]
            last["attempts"] += row["attempts"]
            last["services"].add(service)
        else:
            who = {f"{row['subscriber']} ({row['kind']})"}
            merged.append({**row, "services": {service}, "who": who})
    return merged


def _together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines struck by the same thing at the same time (within _SAME_NS at both ends), as one."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda each: each["from_ns"]):
        for other in found:
            same = all(other[key] == row[key] for key in ("outcome", "cause", "where", "why", "has_ended"))
            near = all(abs(other[key] - row[key]) <= _SAME_NS for key in ("from_ns", "until_ns"))
            if same and near:
                other["from_ns"] = min(other["from_ns"], row["from_ns"])
                other["until_ns"] = max(other["until_ns"], row["until_ns"])
                other["attempts"] += row["attempts"]
                other["services"] |= row["services"]
                other["who"] |= row["who"]
                break
        else:
            found.append(row)
    return found


def _hurt(row: dict[str, Any]) -> Hurt:
    cause = CAUSE_WORDS.get(row["cause"] or "", "")
    why = f"{row['cause']}: {cause} ({row['why']})" if cause else row["why"]
    services = sorted(row["services"])
    return Hurt(
        ", ".join(sorted(row["who"])),
        ", ".join(services[:4]) + (f" and {len(services) - 4} more" if len(services) > 4 else ""),
        f"{clock(row['from_ns'])} to {clock(row['until_ns'])}",
        from_ns(row["until_ns"] - row["from_ns"]) + ("" if row["has_ended"] else ", not back"),
        row["attempts"],
        row["outcome"],
        why,
    )


def _interval(table: dict[str, Any]) -> str:
    if not table["n"]:
        return "no attempts"
    return f"{percent(table['low_ratio'])} to {percent(table['high_ratio'])}"


def _span(each: dict[str, Any]) -> str:
    high = "no upper bound" if each["high_ns"] is None else from_ns(each["high_ns"])
    return f"{from_ns(each['low_ns'])} to {high}"


def _link_words(figure: str, value: Any) -> str:
    if value is None:
        return "–"
    if "loss" in figure:
        return percent(float(value))
    if "rate" in figure:
        return rate(float(value))
    return from_ns(int(value))
