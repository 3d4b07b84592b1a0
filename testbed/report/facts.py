"""What a reader must know beside the figures: the machine, the links as measured, and what makes the figures doubtful."""

from __future__ import annotations

from typing import Any

from testbed.report.finding import broken_details, noise_notes
from testbed.report.story import Story
from testbed.report.words import from_ns, number, percent, plural, rate, seconds, size


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
    facts += [(_fact_words(key), value) for key, value in _flat(run) if not key.startswith("versions ")]
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


def versions(story: Story) -> list[tuple[str, str]]:
    """(program or package, version)."""
    return [(key.rpartition(" ")[2], value) for key, value in _flat(story.run) if key.startswith("versions ")]


def caveats(story: Story) -> list[str]:
    """What a careful reader must know before believing the figures."""
    summary = story.summary
    records, counts = summary["records"], summary["all"]["outcomes"]
    found = broken_details(summary) + noise_notes(summary)
    if counts["harness_error"]:
        found.append(
            f"{plural(counts['harness_error'], 'attempt')} could not be judged, by the test-bed's own fault; they count neither way."
        )
    if counts["straddles_change"]:
        found.append(
            f"{_were(counts['straddles_change'])} under way while the registration changed; they count neither way."
        )
    if records["attempts"] < records["planned_attempts"]:
        found.append(
            f"{number(records['attempts'])} of {number(records['planned_attempts'])} planned attempts were made."
        )
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


# Said elsewhere on the page, or of no use to a reader.
_NOT_FACTS = (
    "schema",
    "id",
    "scenario",
    "seed",
    "title",
    "outcome",
    "reason",
    "process",
    "calibration",
    "config",
    "capabilities",
) + ("health", "files", "details", "expectations", "skipped", "speed_note")


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, each in sorted(value.items()):
        name = f"{before}{key}"
        if name in _NOT_FACTS or each in (None, "", [], {}):
            continue
        if isinstance(each, dict):
            found += _flat(each, f"{name} ")
        elif key.endswith("_bytes"):
            found.append((name.removesuffix("_bytes"), size(int(each))))
        elif isinstance(each, (str, int, float)) and len(str(each)) < 200:
            in_seconds = before in ("phases_s ", "took_s ")
            found.append((name, seconds(float(each)) if in_seconds else str(each)))
    return found


def _fact_words(key: str) -> str:
    """ "phases_s build" is for programs."""
    for name, words in (
        ("phases_s ", "phase: "),
        ("took_s ", "took: "),
        ("options ", "option: "),
        ("host ", ""),
    ):
        key = words + key.removeprefix(name) if key.startswith(name) else key
    return key.replace("_", " ")


def _were(count: int) -> str:
    return f"{plural(count, 'attempt')} {'was' if count == 1 else 'were'}"


def _link_words(figure: str, value: Any) -> str:
    if value is None:
        return "–"
    if "loss" in figure:
        return percent(float(value))
    if "rate" in figure:
        return rate(float(value))
    return from_ns(int(value))
