"""What a reader must know beside the figures: the machine, the links as measured, and what makes the figures doubtful."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from testbed.report.clock import clock_words
from testbed.report.finding import broken_details, noise_notes
from testbed.report.story import Story
from testbed.report.tunnels import disagreement
from testbed.report.words import from_ns, number, percent, plural, rate, seconds, size
from testbed.score.clock import NEEDS


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One figure of one link, over both directions and IP versions: what was asked, what was measured, and the worst miss."""

    link: str
    figure: str
    asked: str
    measured: str
    worst: str
    is_within: bool


def calibration(story: Story) -> list[Calibrated]:
    """What was asked of each link and what was measured, misses first. Loss that was neither asked nor seen has no row."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in story.calibration:
        figure = str(row.get("figure") or row.get("what") or "")
        if "loss" not in figure or row.get("asked") or row.get("measured") or not row.get("is_within"):
            rows[str(row.get("link", "")), figure].append(row)
    found = [_calibrated(link, figure, each) for (link, figure), each in sorted(rows.items())]
    return sorted(found, key=lambda each: each.is_within)


def machine(story: Story) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, [(fact, value)]): about the run, the machine, the links, and the programs under test and around them."""
    run, health = story.run, story.summary["health"]
    plan, flat = story.plan, _flat(story.run)
    of_run = [
        ("run", story.run_id),
        ("seed", str(plan.seed)),
        ("topology", plan.topology_file),
        ("policy", plan.policy_file or "none: no enforcer"),
        ("scenario begins", plan.starts_at),
        ("clock", clock_words(story.summary)),
        *_own_kernel(run.get("kernel")),
        ("duration", seconds(plan.duration_ns / 1e9)),
        *_commit(story),
    ]
    of_machine: list[tuple[str, str]] = []
    for key, value in flat:
        if key.startswith("kernel "):
            continue
        if key in _MACHINE_FACTS or key.startswith("host "):
            of_machine.append((_fact_words(key), value))
        elif not key.startswith(("versions ", "phases_s ", "took_s ", "git ")):
            of_run.append((_fact_words(key), value))
    of_run += [(words, each) for words, key in _DURATIONS if (each := _durations(run.get(key)))]
    for key, words in (
        ("lag_p99_ns", "probe sent late, 99th percentile"),
        ("lag_max_ns", "probe sent late, worst"),
    ):
        if key in health:
            of_machine.append((words, NEEDS if health[key] is None else from_ns(health[key])))
    for key, words in (
        ("cpu_ratio", "CPU of the driver"),
        ("cpu_idle_ratio", "CPU idle"),
        ("cpu_steal_ratio", "CPU taken by the hypervisor"),
    ):
        if key in health:
            of_machine.append((words, NEEDS if health[key] is None else percent(health[key])))
    if health.get("memory_bytes"):
        of_machine.append(("memory of the lab", size(health["memory_bytes"])))
    enforcer = (run.get("options") or {}).get("enforcer") or "this project's own"
    programs = [("enforcer under test", str(enforcer) if plan.enforcers else "none"), *_programs(flat)]
    found = [("Run", of_run), ("Machine", of_machine), ("Links", _links(story)), ("Programs", programs)]
    return [(title, facts) for title, facts in found if facts]


def caveats(story: Story) -> list[str]:
    """What a careful reader must know before believing the figures."""
    summary = story.summary
    records, counts = summary["records"], summary["all"]["outcomes"]
    found = broken_details(summary) + noise_notes(summary)
    if note := disagreement(summary):
        found.append(note)
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
    """ "host load_before" is for programs."""
    for name, words in (("options ", "option: "), ("host ", "")):
        key = words + key.removeprefix(name) if key.startswith(name) else key
    return key.replace("_", " ")


def _were(count: int) -> str:
    return f"{plural(count, 'attempt')} {'was' if count == 1 else 'were'}"


# What the back ends of the links are, in words.
_BACKENDS = {
    "nfqueue": "nfqueue: a program of the test-bed holds the packets",
    "netem": "netem: the kernel's own qdisc delays and loses",
}
_MACHINE_FACTS = ("kernel",)
_DURATIONS = (("phases in the lab", "phases_s"), ("took", "took_s"))


def _durations(took_s: Any) -> str:
    """The parts of the run and how long each took, longest first."""
    parts = [(name, float(each)) for name, each in took_s.items()] if isinstance(took_s, dict) else []
    return ", ".join(
        f"{name} {seconds(each)}" for name, each in sorted(parts, key=lambda part: (-part[1], part[0]))
    )


def _own_kernel(kernel: Any) -> list[tuple[str, str]]:
    """The lab's own kernel, where it was played in one: whoever wants the same bytes again needs the same."""
    if not isinstance(kernel, dict):
        return []
    words = f"{kernel['key']}: Linux {kernel['release']} of {kernel['source']}, {kernel['compiler']}, built {kernel['built']}"
    return [("the lab's own kernel", words)]


def _commit(story: Story) -> list[tuple[str, str]]:
    is_dirty = (story.run.get("git") or {}).get("is_dirty")
    return (
        [("commit", story.commit + (", with changes not committed" if is_dirty else ""))]
        if story.commit
        else []
    )


def _links(story: Story) -> list[tuple[str, str]]:
    """What carried the packets, how many, and what it dropped; [] when the run did not say."""
    told = story.summary["health"].get("links") or {}
    backend = told.get("backend")
    found = [("back end used", _BACKENDS.get(backend, str(backend)))] if backend else []
    counters = list((told.get("links") or {}).values())
    for key, words in (
        ("packets", "packets carried"),
        ("lost", "lost on purpose"),
        ("queue_full", "dropped, the program's queue was full"),
        ("rate_dropped", "dropped by the rate limit"),
    ):
        counts = [int(each[key]) for each in counters if isinstance(each, dict) and key in each]
        if counts:
            found.append((words, number(sum(counts))))
    if story.calibration:
        misses = sum(1 for row in story.calibration if not row.get("is_within"))
        checked = plural(len(story.calibration), "figure")
        found.append(
            (
                "calibration",
                f"{checked} measured before use, {number(misses) if misses else 'none'} out of tolerance",
            )
        )
    return found


def _programs(flat: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(key.rpartition(" ")[2], value) for key, value in flat if key.startswith("versions ")]


def _calibrated(link: str, figure: str, rows: list[dict[str, Any]]) -> Calibrated:
    known = [row for row in rows if row.get("asked") is not None and row.get("measured") is not None]
    asked = sorted({row["asked"] for row in known})
    measured = sorted({row["measured"] for row in known})
    misses = [
        abs(row["measured"] - row["asked"]) / (row["asked"] if row["asked"] and "loss" not in figure else 1)
        for row in known
    ]
    return Calibrated(
        link,
        figure,
        _span(figure, asked),
        _span(figure, measured),
        percent(max(misses)) if misses else "–",
        all(row.get("is_within") for row in rows),
    )


def _span(figure: str, values: list[float]) -> str:
    """One value, or from the least to the greatest where they read differently."""
    words = [_link_words(figure, value) for value in values[:1] + values[1:][-1:]]
    return " to ".join(dict.fromkeys(words)) or "–"


def _link_words(figure: str, value: Any) -> str:
    if value is None:
        return "–"
    if "loss" in figure:
        return percent(float(value))
    if "rate" in figure:
        return rate(float(value))
    return from_ns(int(value))
