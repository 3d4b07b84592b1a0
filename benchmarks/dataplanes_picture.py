"""The benchmark's picture: what an allowlist costs against its length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator  # noqa: E402

# Okabe-Ito; never colour alone. Ours are drawn thick, what they are compared with thin.
_LOOKS = {
    "bpf": ("#009E73", "o", "-"),
    "nft": ("#0072B2", "s", "-"),
    "nfqueue": ("#CC79A7", "^", "-"),
    "plain": ("#000000", "", "--"),
    "tracking": ("#56B4E9", "x", ":"),
    "interval set": ("#D55E00", "D", "--"),
    "ipset": ("#E69F00", "v", "--"),
    "python queue": ("#999999", "P", "--"),
}
_OURS = ("bpf", "nft", "nfqueue")
_NAMES = {"plain": "plain forwarding", "tracking": "connection tracking alone", "interval set": "nft interval set",
          "ipset": "ipset + iptables", "python queue": "every packet to Python"}  # fmt: skip

# Key, scale, title, unit, whether the axis is logarithmic, targets of the largest list (by dataplane).
_PANELS = (
    ("known_ns", 1e-3, "One packet of a known flow", "µs", False, {}),
    ("first_ns", 1e-3, "The first packet of a flow", "µs", False, {}),
    ("added_s", 1e3, "One entry added: call until its packet passes", "ms", True, {"bpf": 1.0, "nft": 5.0}),
    ("load_s", 1.0, "Cold load of the whole list", "s", True, {"bpf": 4.0, "nft": 8.0}),
)  # fmt: skip


def picture(run: dict[str, Any], path: Path) -> None:
    """Four panels over entries: a known flow's packet, a flow's first packet, one entry added, cold load."""
    mpl.rcParams["svg.hashsalt"] = "dataplanes"
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), sharex=True)
    names = [name for name in _LOOKS if name == "plain" or "by_size" in run["candidates"].get(name, {})]
    largest = run["settings"]["entries"]
    for axis, (key, scale, title, unit, is_log, targets) in zip(axes.flat, _PANELS, strict=True):
        for name in names:
            points = dict(_points(run["candidates"], name, key))
            if points and not (name == "tracking" and key == "load_s"):
                _line(axis, name, points, scale)
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axis.set(xscale="log", yscale="log" if is_log else "linear", ylabel=unit)
        _plain_numbers(axis, is_log)
        if not is_log:
            _limit(axis, run["candidates"], key, scale)
        for name, target in targets.items() if largest == 1_000_000 else ():
            axis.plot([largest], [target], color=_LOOKS[name][0], marker="_", ms=14, mew=2, ls="", zorder=5)
            axis.annotate(
                f"{name} ≤ {target:g} {unit}", (largest, target), (8, -3), textcoords="offset points",
                ha="left", fontsize=8, color=_LOOKS[name][0],
            )  # fmt: skip
        axis.grid(True, which="major", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_xlim(750, largest * (4 if largest == 1_000_000 else 1.3))
    for axis in axes[1]:
        axis.set_xlabel("entries in the allowlist")
    handles = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [_NAMES.get(name, name) for name in names if _NAMES.get(name, name) in handles]
    figure.legend([handles[each] for each in order], order, loc="upper left", ncols=4, fontsize=9, frameon=False,
                  bbox_to_anchor=(0.05, 0.945))  # fmt: skip
    figure.suptitle(_finding(run), x=0.06, y=0.985, ha="left", fontsize=13)
    machine, settings = run["machine"], run["settings"]
    caption = (
        f"Medians of n = {2 * settings['repeats']} (packets; bars: interval of at least 93 %) and up to {settings['added']} (entries added); "
        f"loads once. ▬ target.  {machine['processor']}, {machine['processors']} processors, Linux {machine['kernel']}, "
        f"commit {machine['commit']}, load {machine['load_at_start']:.1f}"
    )
    figure.text(0.06, 0.008, caption, fontsize=7.5, color="#444444")
    figure.subplots_adjust(left=0.065, right=0.985, top=0.835, bottom=0.085, hspace=0.2, wspace=0.14)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _points(
    candidates: dict[str, Any], name: str, key: str
) -> Iterator[tuple[int, tuple[float, float, float]]]:
    """Median, low and high by entries. Plain forwarding's are those measured beside the others, middle of all."""
    if name != "plain":
        for size, figures in candidates[name]["by_size"].items():
            found = figures.get(key)
            if isinstance(found, dict):
                yield (
                    int(size),
                    (found["median"], found.get("low", found["median"]), found.get("high", found["median"])),
                )
            elif found is not None:
                yield int(size), (found, found, found)
        return
    beside: dict[int, list[float]] = {}
    for figures in candidates.values():
        for size, at_size in figures.get("by_size", {}).items():
            if key.endswith("_ns") and f"{key.removesuffix('_ns')}_plain_ns" in at_size:
                beside.setdefault(int(size), []).append(
                    at_size[f"{key.removesuffix('_ns')}_plain_ns"]["median"]
                )
    for size, values in sorted(beside.items()):
        middle = sorted(values)[len(values) // 2]
        yield size, (middle, middle, middle)


def _line(axis: Axes, name: str, points: dict[int, tuple[float, float, float]], scale: float) -> None:
    colour, mark, style = _LOOKS[name]
    width = 2.2 if name in _OURS else 1.2
    middles = [middle * scale for middle, _, _ in points.values()]
    label = _NAMES.get(name, name)
    axis.plot(
        list(points),
        middles,
        color=colour,
        marker=mark,
        ms=6 if name in _OURS else 5,
        ls=style,
        lw=width,
        label=label,
    )
    if name in _OURS:
        down = [(middle - low) * scale for middle, low, _ in points.values()]
        up = [(high - middle) * scale for middle, _, high in points.values()]
        axis.errorbar(
            list(points),
            middles,
            yerr=[down, up],
            fmt="none",
            ecolor=colour,
            elinewidth=1,
            capsize=3,
            alpha=0.6,
        )


def _limit(axis: Axes, candidates: dict[str, Any], key: str, scale: float) -> None:
    """From 0 to where the lines are that can be told apart; what lies far above is said so at the edge."""
    shown, beyond = [0.0], {}
    for name in candidates:
        middles = (
            [middle * scale for _, (middle, _, _) in _points(candidates, name, key)]
            if "by_size" in candidates[name]
            else []
        )
        if name in ("python queue", "nfqueue") and middles and max(middles) > 9:
            beyond[name] = middles[-1]
        else:
            shown += middles
    top = 1.25 * max(shown)
    axis.set_ylim(0, top)
    for row, (name, value) in enumerate((name, value) for name, value in beyond.items() if value > top):
        axis.text(0.99, 0.97 - 0.06 * row, f"{_NAMES.get(name, name)}: {value:.0f} ▴", transform=axis.transAxes, ha="right",
                  va="top", fontsize=8, color=_LOOKS[name][0])  # fmt: skip


def _plain_numbers(axis: Axes, is_log: bool) -> None:
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    if is_log:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _finding(run: dict[str, Any]) -> str:
    """What the largest list costs against the smallest, in a sentence."""
    candidates, parts = run["candidates"], []
    for name in ("bpf", "nft", "interval set"):
        points = dict(_points(candidates, name, "added_s")) if "by_size" in candidates.get(name, {}) else {}
        if len(points) > 1:
            first, last = points[min(points)][0] * 1e3, points[max(points)][0] * 1e3
            where = "" if max(points) == run["settings"]["entries"] else f" at {max(points):,}"
            parts.append(f"{_NAMES.get(name, name)} {_short(first)} → {_short(last)} ms{where}")
    grown = [
        f"{name} × {candidates[name]['growth_known']['median']:.2f}"
        for name in ("bpf", "nft")
        if "growth_known" in candidates.get(name, {})
    ]
    sizes = f"From 1,000 to {run['settings']['entries']:,} entries"
    if not parts or not grown:
        return f"What an allowlist costs. {sizes}"
    return (
        f"{sizes}, a known flow's packet costs {', '.join(grown)};\nadding one entry takes {', '.join(parts)}"
    )
