"""The timeline: what became of the attempts each second, round trips, and beneath both what happened: faults, ledger, links."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from testbed.report.story import Story
from testbed.report.style import (
    BLOCKED,
    DEGRADED,
    ENFORCER_ON,
    FAINT,
    OUTCOME_LOOKS,
    PASSED,
    TEXT,
    class_look,
    drawing,
    svg,
    swatch,
)
from testbed.report.when import When, when_of
from testbed.report.words import number, plural

_MOST_BINS = 150
_PAUSE = 10  # times the usual distance between bins with a probe: nobody asks any more
_MOST_MARKS = 24
_LOG_FROM = 5
_LEDGER_MARKS = {
    "pending": ("o", FAINT),
    "active": ("^", PASSED),
    "suspended": ("s", DEGRADED),
    "expired": ("s", DEGRADED),
    "revoked": ("v", BLOCKED),
    "rejected": ("X", BLOCKED),
    "complaint": ("p", BLOCKED),
    "provider": (".", FAINT),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a moment: a ledger change, a change of address, a link set."""

    at_s: float
    label: str
    state: str


def plot_timeline(story: Story) -> str:
    """SVG. Stacked attempts by outcome; median round trip with its middle 90 % by kind of traffic; lanes of events."""
    faults, marks = fault_spans(story), event_marks(story)
    lanes = len(faults) + (1 if marks else 0)
    with drawing(10.5, 6.2 + 0.28 * lanes + 0.16 * len(marks)) as figure:
        ratios = [2.2, 2.2, max(0.35, 0.22 * len(faults) + 0.17 * len(marks) + 0.25)]
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
        _outcomes(top, story)
        _round_trips(middle, story)
        _lanes(bottom, faults, marks, when_of(story.summary))
        for axes in (top, middle):
            _shade(axes, faults, marks)
        when_of(story.summary).draw(bottom)
        return _finish(figure, story)


def fault_spans(story: Story) -> list[tuple[str, float, float]]:
    """(label, from, until) in seconds of every fault, from the records; one that was never healed lasts to the end."""
    begun: dict[str, tuple[float, str]] = {}
    spans = []
    for event in story.records.events:
        if event.kind != "fault":
            continue
        at = ", ".join(event.data.get("at", ()))
        if event.data["state"] == "begun":
            begun[event.name] = (event.t_ns / 1e9, f"{event.data['kind']} at {at}")
        elif event.name in begun:
            from_s, label = begun.pop(event.name)
            spans.append((label, from_s, event.t_ns / 1e9))
    end_s = story.plan.duration_ns / 1e9
    spans += [(label, from_s, end_s) for from_s, label in begun.values()]
    return sorted(spans, key=lambda span: span[1])


def event_marks(story: Story) -> list[Mark]:
    """Changes of state in the ledger, of addresses and of links during the scenario, by time."""
    marks = []
    for name in story.truth.registrations:
        for t_ns, _, state in story.truth.transitions(name):
            marks.append(Mark(t_ns / 1e9, f"{name} {state}", state or ""))
    for event in story.records.events:
        if event.kind == "address" and event.t_ns >= 0:
            marks.append(Mark(event.t_ns / 1e9, f"{event.name} has a new address", "address"))
        if event.kind == "ledger" and event.data.get("action") == "appeal" and event.t_ns >= 0:
            marks.append(Mark(event.t_ns / 1e9, f"{event.name} complains", "complaint"))
        if event.kind == "ledger" and event.t_ns >= 0 and (told := _of_providers(event.data)):
            marks.append(Mark(event.t_ns / 1e9, f"{event.name} {told}", "provider"))
        if event.kind == "script" and event.data.get("action") == "set-link":
            marks.append(Mark(event.t_ns / 1e9, f"link {event.data['link']} set", "link"))
    marks.sort(key=lambda mark: (mark.at_s, mark.label))
    if len(marks) > _MOST_MARKS:
        rest = marks[_MOST_MARKS - 1 :]
        marks[_MOST_MARKS - 1 :] = [
            Mark(
                rest[0].at_s,
                f"and {len(rest) - 1} more until {_at(when_of(story.summary), rest[-1].at_s)}",
                "",
            )
        ]
    return marks


def _of_providers(data: dict[str, Any]) -> str:
    """What a provider, or the registry in its place, did about an application; "" for any other act."""
    if data.get("action") == "remind":
        return str(data.get("reason") or "is late")
    if data.get("action") != "verify":
        return ""
    said = "verified" if data.get("verified") else "not verified"
    return f"{said} by {'its provider' if data.get('actor') == 'isp' else 'nobody: there was no answer'}"


def probes_words(count: int, attempts: int) -> str:
    """What n counts: attempts, and packets beside them where an attempt (a call) has many."""
    packets = f", {plural(count, 'packet')}" if count > attempts else ""
    return f"n = {plural(attempts, 'attempt')}{packets}"


def _outcomes(axes: Axes, story: Story) -> None:
    table = story.summary["over_time"]
    step = max(1, -(-len(table["outcomes"]["passed"]) // _MOST_BINS))
    width_s = table["bin_ns"] / 1e9 * step
    per_s, unit = (60, "minute") if width_s >= 60 else (1, "second")
    base, handles = None, []
    for outcome, look in OUTCOME_LOOKS.items():
        counts = np.array(table["outcomes"][outcome], dtype=float)
        if not counts.sum():
            continue
        counts = np.add.reduceat(counts, np.arange(0, len(counts), step)) / width_s * per_s
        base = np.zeros(len(counts)) if base is None else base
        some = counts > 0  # a bar of no height would still draw its edge
        axes.bar(
            np.arange(len(counts))[some] * width_s,
            counts[some],
            width_s,
            base[some],
            align="edge",
            color=look.face,
            edgecolor=look.edge,
            hatch=look.hatch,
            linewidth=0.5 if look.face == "white" else 0,
        )
        base = base + counts
        handles.append(swatch(outcome, f"{look.label} (n = {number(sum(table['outcomes'][outcome]))})"))
    if base is not None:
        axes.set_ylim(0, float(base.max()) * 1.12)
    axes.set_ylabel(f"attempts per {unit}")
    axes.set_title("What became of the attempts")
    if handles:
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=3,
            borderaxespad=0.2,
            handlelength=1.8,
        )
        axes.set_title(axes.get_title(loc="left"), pad=40 if len(handles) > 3 else 26)


def _round_trips(axes: Axes, story: Story) -> None:
    groups = {stream.name: "VPN" if stream.registration else "other traffic" for stream in story.plan.streams}
    bin_s = max(1.0, story.plan.duration_ns / 1e9 / _MOST_BINS)
    samples: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    lost: dict[str, list[float]] = defaultdict(list)
    flows: dict[str, set[str]] = defaultdict(set)
    for probe in story.records.probes:
        group = groups.get(probe.flow.rpartition("#")[0])
        if group is None:
            continue
        at_s = probe.scheduled_ns / 1e9
        flows[group].add(probe.flow)
        if probe.rtt_ns is None:
            lost[group].append(at_s)
        else:
            samples[group][int(at_s // bin_s)].append(probe.rtt_ns / 1e6)
    end = int(story.plan.duration_ns / 1e9 // bin_s) + 1
    names = sorted({*samples, *lost}, reverse=True)
    band: list[float] = []
    for position, group in enumerate(names):
        colour, style = class_look(position)
        bins = _asked_bins({*samples[group], *(int(each // bin_s) for each in lost[group])}, end)
        values = [samples[group].get(at, [np.nan]) for at in bins.tolist()]
        at_s = (bins + 0.5) * bin_s
        low, median, high = (np.array([np.percentile(each, q) for each in values]) for q in (5, 50, 95))
        count = sum(len(each) for each in samples[group].values()) + len(lost[group])
        counted = probes_words(count, len(flows[group]))
        band += [*low[~np.isnan(low)], *high[~np.isnan(high)]]
        axes.fill_between(at_s, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            at_s,
            median,
            style,
            color=colour,
            lw=1.4,
            label=f"{group} ({counted}, {number(len(lost[group]))} without an answer)",
        )
    axes.set_title("Round trips from the scheduled time: median and middle 90 %, and what got no answer")
    axes.set_ylabel("round trip (ms)")
    _scale_round_trips(axes, band)
    for position, group in enumerate(name for name in names if lost[name]):
        row = 0.95 - 0.1 * position
        lost_s = np.unique((np.array(lost[group]) // (bin_s / 4)).astype(int)) * (bin_s / 4)
        axes.plot(
            lost_s, np.full(len(lost_s), row), "x", color=BLOCKED, ms=3.5, mew=0.9, transform=axes.get_xaxis_transform()
        )  # fmt: skip
        axes.annotate(
            f"no answer: {group}", (1.0, row), xycoords="axes fraction",
            xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5, color=BLOCKED, annotation_clip=False,
        )  # fmt: skip
    if samples or lost:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
        axes.set_title(axes.get_title(loc="left"), pad=26)


def _asked_bins(asked: set[int], end: int) -> np.ndarray:
    """The bins in which somebody asked: the line runs on over those between two probes, so that a gap in it means "no answer".

    In a pause much longer than between probes (a half bin on either side of it stands for it) the line stops.
    """
    bins = np.array(sorted(each for each in asked if each < end), dtype=float)
    apart = np.diff(bins)
    if not len(apart):
        return bins
    pauses = np.flatnonzero(apart > _PAUSE * np.median(apart))
    return np.insert(bins, pauses + 1, bins[pauses] + 0.5)


def _scale_round_trips(axes: Axes, values_ms: list[float]) -> None:
    """Room at the top for what got no answer; a log axis where some took many times as long as others."""
    low, high = min(values_ms, default=1.0), max(values_ms, default=1.0)
    if low > 0 and high > _LOG_FROM * low:
        axes.set_yscale("log")
        axes.set_ylim(low * 0.8, high * (high / low) ** 0.25)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(0, high * 1.35)


def _lanes(axes: Axes, faults: list[tuple[str, float, float]], marks: list[Mark], when: When) -> None:
    row = 0.0
    for label, from_s, until_s in faults:
        axes.broken_barh(
            [(from_s, until_s - from_s)],
            (row - 0.4, 0.8),
            color=BLOCKED,
            alpha=0.35,
            hatch="//",
            edgecolor=BLOCKED,
        )
        _beside(axes, label, from_s, until_s, row)
        row -= 1
    for mark in marks:
        shape, colour = _LEDGER_MARKS.get(mark.state, ("D", ENFORCER_ON))
        axes.plot([mark.at_s], [row], shape, color=colour, ms=5)
        _beside(axes, f"{_at(when, mark.at_s)}  {mark.label}", mark.at_s, mark.at_s, row)
        row -= 0.75
    axes.set_ylim(min(row, -1) + 0.3, 0.7)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    if row == 0:
        axes.text(0.5, 0.5, "nothing was scripted", transform=axes.transAxes, ha="center", color=FAINT)


def _at(when: When, at_s: float) -> str:
    return f"{at_s:.1f} s" if when.start is None else when.moment(round(at_s * 1e9))


def _beside(axes: Axes, label: str, from_s: float, until_s: float, row: float) -> None:
    """The label where there is room: right of the mark, left of it in the right half of the plot, or in a long span."""
    middle = axes.get_figure().get_axes()[0].get_xlim()[1] / 2  # type: ignore[union-attr]
    is_left = from_s > middle
    if until_s - from_s > middle:  # beside a span over most of the plot is no room, in it there is
        axes.text((from_s + until_s) / 2, row, label, ha="center", va="center", fontsize=8, color=TEXT)
        return
    axes.annotate(
        label,
        (from_s if is_left else until_s, row),
        xytext=(-6 if is_left else 6, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
        fontsize=8,
        color=TEXT,
    )


def _shade(axes: Axes, faults: list[tuple[str, float, float]], marks: list[Mark]) -> None:
    for _, from_s, until_s in faults:
        axes.axvspan(from_s, until_s, color=BLOCKED, alpha=0.1, lw=0, zorder=0.4)
    for mark in marks:
        axes.axvline(mark.at_s, color=FAINT, lw=0.7, ls=":")


def _finish(figure: Figure, story: Story) -> str:
    return svg(
        figure, story.caption, "Timeline: attempts by outcome, round trips, faults and changes of the ledger"
    )
