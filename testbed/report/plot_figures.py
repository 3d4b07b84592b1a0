"""The single plots: round-trip distribution, goodput, false blocks by group, and one lane a line of people."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from testbed.report.plot_timeline import fault_spans, probes_words
from testbed.report.story import Story
from testbed.report.style import (
    BLOCKED,
    FAINT,
    OUTCOME_LOOKS,
    PASSED,
    class_look,
    drawing,
    svg,
    swatch,
)
from testbed.report.when import when_of
from testbed.report.words import number, plural, rate

_MOST_POINTS = 400
_MOST_LINES = 60
# Of several attempts in one cell the one that hurts most is shown.
_WORST_FIRST = (
    "false_block",
    "not_back",
    "infra_down",
    "false_pass",
    "policy_block",
    "harness_error",
    "straddles_change",
    "passed",
)


def plot_round_trips(story: Story) -> str | None:
    """SVG: the share of all probes answered within a time, by protocol; a curve ends below 100 % where probes were lost.

    None without probes.
    """
    protocols = {stream.name: stream.protocol for stream in story.plan.streams}
    samples: dict[str, list[float]] = defaultdict(list)
    totals: dict[str, int] = defaultdict(int)
    flows: dict[str, set[str]] = defaultdict(set)
    for probe in story.records.probes:
        protocol = protocols.get(probe.flow.rpartition("#")[0])
        if protocol is None:
            continue
        totals[protocol] += 1
        flows[protocol].add(probe.flow)
        if probe.rtt_ns is not None:
            samples[protocol].append(probe.rtt_ns / 1e6)
    if not totals:
        return None
    with drawing(8.4, 4.4) as figure:
        axes = figure.subplots()
        for position, protocol in enumerate(sorted(totals)):
            colour, style = class_look(position)
            values = np.sort(np.array(samples[protocol]))
            without = totals[protocol] - len(values)
            label = f"{protocol} ({probes_words(totals[protocol], len(flows[protocol]))}"
            label += f",\n{number(without)} without an answer)" if without else ")"
            if not len(values):
                axes.plot([], [], style, color=colour, label=label)
                continue
            shares = np.arange(1, len(values) + 1) / totals[protocol] * 100
            kept = np.unique(np.linspace(0, len(values) - 1, min(_MOST_POINTS, len(values))).astype(int))
            axes.step(values[kept], shares[kept], style, where="post", color=colour, lw=1.7, label=label)
            if without:
                axes.plot(values[-1], shares[-1], "x", color=colour, ms=7, mew=1.8)
        everything = [value for values in samples.values() for value in values]
        if everything and max(everything) > 8 * min(everything):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 102)
        axes.set_xlabel("round trip from the scheduled time (ms)")
        axes.set_ylabel("answered within it (%)")
        axes.set_title("Round trips; × in a line's colour: the rest of it got no answer, stopped or lost")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)
        return svg(figure, story.caption, "Distribution of round-trip times by protocol, losses included")


def plot_goodput(story: Story) -> str | None:
    """SVG: goodput of each bulk phase over the scenario. None without bulk phases."""
    phases = [phase for phase in story.summary["goodput"] if phase.get("goodput_bps") is not None]
    if not phases:
        return None
    starts = {bulk.name: bulk.start_ns for bulk in story.plan.bulk}
    spans: list[float] = []
    most_bps = max(float(row["goodput_bps"]) for phase in phases for row in _rows(phase))
    has_enforcer = story.summary["has_enforcer"]
    with drawing(8.4, 3.2 + 0.2 * len(phases)) as figure:
        axes = figure.subplots()
        for label, from_s, until_s in fault_spans(story):
            axes.axvspan(from_s, until_s, color=BLOCKED, alpha=0.1, lw=0, zorder=0.4)
            axes.text(
                (from_s + until_s) / 2,
                0.98,
                label,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=7.5,
                color=FAINT,
                clip_on=True,
            )
        for position, phase in enumerate(phases):
            start_s = int(starts.get(phase["name"]) or phase["t_ns"]) / 1e9
            rows = _rows(phase)
            at_s = [start_s + (int(row["start_ns"]) + int(row["duration_ns"]) / 2) / 1e9 for row in rows]
            spans += [start_s, *at_s, start_s + int(phase.get("duration_ns") or 0) / 1e9]
            colour, style = class_look(position)
            values = [float(row["goodput_bps"]) / 1e6 for row in rows]
            axes.plot(
                at_s,
                values,
                color=colour,
                ls=style,
                marker="os^Dv"[position % 5],
                ms=4,
                lw=1.5,
                label=_phase_label(phase),
            )
        room_s = max(0.5, (max(spans) - min(spans)) * 0.05)
        axes.set_xlim(min(spans) - room_s, max(spans) + room_s)
        axes.set_ylim(0, most_bps / 1e6 * 1.15 + 1e-9)
        axes.set_xlabel("time from the start of the scenario (s)")
        axes.set_ylabel("goodput (Mbit/s)")
        axes.set_title(f"Goodput, enforcer {'on' if has_enforcer else 'off'}", pad=12 + 14 * len(phases))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), handlelength=3.2, borderaxespad=0.2)
        return svg(figure, story.caption, "Goodput of each bulk phase over time")


def plot_groups(story: Story) -> str:
    """SVG: the share of entitled people's attempts blocked by mistake, with its interval, by people and by protocol."""
    summary = story.summary
    tables = [("by kind of people", summary["by_kind"]), ("by protocol", summary["by_protocol"])]
    tables = [
        (title, {name: row["false_block"] for name, row in table.items() if row["false_block"]["n"]})
        for title, table in tables
    ]
    rows = sum(len(table) for _, table in tables)
    with drawing(7.2, 1.5 + 0.27 * max(rows, 2)) as figure:
        ratios = [max(1, len(table)) for _, table in tables]
        panels = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        highest = max((row["high_ratio"] for _, table in tables for row in table.values()), default=1.0)
        for axes, (title, table) in zip(panels, tables, strict=True):
            _group_panel(axes, title, table)
        panels[0].set_xlim(-0.02 * highest * 100, min(100.0, highest * 100 * 1.05) * 1.3)
        panels[1].set_xlabel("attempts of entitled people blocked by mistake (%), 95 % interval")
        return svg(
            figure, story.caption, "False blocks by kind of people and by protocol, with 95 % intervals"
        )


def plot_people(story: Story) -> str | None:
    """SVG: one lane a line and kind of traffic, coloured by what became of its attempts. None without attempts."""
    lanes = people_lanes(story)
    if not lanes:
        return None
    shown = lanes[:_MOST_LINES]
    with drawing(10.5, 1.5 + 0.24 * len(shown)) as figure:
        axes = figure.subplots()
        for row, (_, spans) in enumerate(shown):
            for outcome, look in OUTCOME_LOOKS.items():
                bars = [(from_s, until_s - from_s) for name, from_s, until_s in spans if name == outcome]
                if bars:
                    axes.broken_barh(
                        bars,
                        (row - 0.38, 0.76),
                        facecolor=look.face,
                        edgecolor=look.edge,
                        hatch=look.hatch,
                        linewidth=0.3,
                        zorder=2,
                    )
        for _, from_s, until_s in fault_spans(story):
            axes.axvspan(from_s, until_s, color=BLOCKED, alpha=0.1, lw=0, zorder=0.4)
        axes.set_yticks(range(len(shown)), [label for label, _ in shown], fontsize=8)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        when_of(story.summary).draw(axes)
        axes.grid(axis="y", visible=False)
        more = f"; {len(lanes) - len(shown)} more lanes in summary.json" if len(lanes) > len(shown) else ""
        axes.set_title(f"Each line over time; of several attempts the worst is shown{more}", pad=40)
        used = {name for _, spans in shown for name, _, _ in spans}
        handles = [swatch(name) for name in OUTCOME_LOOKS if name in used]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, handlelength=2.4)
        return svg(
            figure, story.caption, "One lane for each line of people, coloured by what became of its attempts"
        )


def people_lanes(story: Story) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """(label, [(outcome, from, until) in seconds]) for each line's VPN and other traffic; those hurt most come first."""
    cell_ns = max(1_000_000_000, story.plan.duration_ns // 240)
    cells: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for each in story.judged:
        key = (each.subscriber.name, each.subscriber.kind, "VPN" if each.stream.registration else "other")
        at = max(0, each.flow.scheduled_ns // cell_ns)
        worst = cells[key].get(at, each.outcome)
        cells[key][at] = min(worst, each.outcome, key=_WORST_FIRST.index)
    hurt = {key: sum(1 for outcome in row.values() if outcome == "false_block") for key, row in cells.items()}
    people: dict[str, int] = defaultdict(int)
    for (name, _, _), count in hurt.items():
        people[name] += count
    order = sorted(cells, key=lambda key: (-people[key[0]], key[0], key[2] != "VPN"))
    end_s = story.plan.duration_ns / 1e9
    return [(f"{key[0]} ({key[1]}), {key[2]}", _spans(cells[key], cell_ns / 1e9, end_s)) for key in order]


def _spans(row: dict[int, str], cell_s: float, end_s: float) -> list[tuple[str, float, float]]:
    """Neighbouring cells of one outcome as one span; a cell without attempts continues the one before, up to 5 cells."""
    spans: list[tuple[str, float, float]] = []
    for at in sorted(row):
        from_s, until_s = at * cell_s, min(end_s, (at + 1) * cell_s)
        if spans and from_s - spans[-1][2] <= 5 * cell_s:
            if spans[-1][0] == row[at]:
                spans[-1] = (row[at], spans[-1][1], until_s)
                continue
            spans[-1] = (spans[-1][0], spans[-1][1], from_s)
        spans.append((row[at], from_s, until_s))
    return spans


def _group_panel(axes: Axes, title: str, table: dict[str, Any]) -> None:
    names = sorted(table, key=lambda name: (-table[name]["ratio"], name))
    for row, name in enumerate(names):
        each = table[name]
        colour = BLOCKED if each["k"] else PASSED
        value, low, high = (each[key] * 100 for key in ("ratio", "low_ratio", "high_ratio"))
        axes.plot([low, high], [row, row], color=colour, lw=1.4, solid_capstyle="butt")
        axes.plot([low, high], [row, row], "|", color=colour, ms=7)
        axes.plot([value], [row], "s" if each["k"] else "o", color=colour, ms=5)
        axes.annotate(
            f"{number(each['k'])} of {number(each['n'])}",
            (high, row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_title(f"False blocks {title}")
    if not names:
        axes.text(
            0.5, 0.5, "nobody entitled made an attempt", transform=axes.transAxes, ha="center", color=FAINT
        )


def _rows(phase: dict[str, Any]) -> list[dict[str, Any]]:
    """A phase's intervals; one for the whole of it when it has none."""
    rows = [row for row in phase.get("intervals") or [] if row.get("goodput_bps") is not None]
    whole = {"start_ns": 0, "duration_ns": phase.get("duration_ns") or 0, "goodput_bps": phase["goodput_bps"]}
    return rows or [whole]


def _phase_label(phase: dict[str, Any]) -> str:
    through = f" through {phase['via']}" if phase.get("via") else ""
    count = len(phase.get("intervals") or [])
    failed = f", {phase['failure']}" if phase.get("failure") else ""
    return f"{phase['name']}: {phase.get('subscriber', '')}{through}, {rate(phase['goodput_bps'])} ({plural(count, 'interval')}{failed})"
