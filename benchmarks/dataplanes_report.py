"""The benchmark's table, and what missed its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure. value takes a candidate's figures and gives (value, text) or None; is_reached compares with a target."""

    title: str
    value: Callable[[dict[str, Any], int], tuple[float, str] | None]
    bpf: float | None = None
    nft: float | None = None
    is_at_least: bool = False

    def target(self, name: str) -> float | None:
        return {"bpf": self.bpf, "nft": self.nft}.get(name)

    def is_reached(self, name: str, value: float) -> bool | None:
        target = self.target(name)
        if target is None:
            return None
        return value >= target if self.is_at_least else value <= target


def _spread(key: str, digits: int = 2, scale: float = 1.0, at_size: bool = False) -> Callable[..., Any]:
    def value(figures: dict[str, Any], size: int) -> tuple[float, str] | None:
        found = (figures["by_size"][size] if at_size else figures).get(key)
        if found is None:
            return None
        low, mid, high = (found[each] * scale for each in ("low", "median", "high"))
        return mid, f"{mid:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

    return value


def _number(*keys: str, digits: int = 2, scale: float = 1.0) -> Callable[..., Any]:
    def value(figures: dict[str, Any], size: int) -> tuple[float, str] | None:
        found: Any = figures["by_size"][size] if keys[0] in figures["by_size"][size] else figures
        for key in keys:
            found = found.get(key) if found else None
        if found is None:
            return None
        return found * scale, f"{found * scale:.{digits}f}"

    return value


def _growth(key: str) -> Callable[..., Any]:
    def value(figures: dict[str, Any], size: int) -> tuple[float, str] | None:
        updates = figures.get("updates")
        if not updates:
            return None
        place = {"memory": 1, "descriptors": 2}[key]
        grown = updates[-1][place] - updates[0][place]
        return grown, f"{grown:+.1f}"

    return value


ROWS = (
    Row("TCP ÷ plain, one thread", _spread("tcp_ratio"), 0.97, 0.93, True),
    Row("TCP ÷ plain, iperf3", _spread("iperf3_ratio"), 0.97, 0.93, True),
    Row("TCP, one thread, Gbit/s", _spread("tcp_gbps", 1)),
    Row("64-byte packets ÷ plain", _spread("rate_ratio", at_size=True), 0.90, 0.85, True),
    Row("RTT added, median, µs", _spread("rtt_median_us", 1), 5, 5),
    Row("RTT added, p99.9, µs", _spread("rtt_p999_us", 1), 30, 30),
    Row("one added → passes, median, ms", _number("added_s", "median", scale=1e3, digits=3)),
    Row("one added → passes, p99, ms", _number("added_s", "p99", scale=1e3, digits=3), 1, 5),
    Row("1,000 changes, one delta, ms", _spread("thousand_s", 1, 1e3), 20, 200),
    Row("cold load, s", _number("load_s"), 4, 8),
    Row("peak memory, MB", _number("peak_mb", digits=0), 600, 1000),
    Row("revoked → last packet, median, ms", _number("revoked", "median_s", scale=1e3, digits=3)),
    Row("revoked → last packet, p99, ms", _number("revoked", "p99_s", scale=1e3, digits=3), 20, 50),
    Row("packets after it returned", _number("revoked", "packets_after", digits=0), 0, 0),
    Row("its sweep afterwards, ms", _number("revoked", "sweep_median_s", scale=1e3)),
    Row("known flow, ns a packet", _spread("known_ns", 0, at_size=True)),
    Row("  the same ÷ at 1,000 entries", _spread("growth_known"), 1.1, 1.1),
    Row("first of a flow, ns a packet", _spread("first_ns", 0, at_size=True)),
    Row("  the same ÷ at 1,000 entries", _spread("growth_first"), 1.1, 1.1),
    Row("MB grown over the updates", _growth("memory"), 1, 1),
    Row("descriptors grown", _growth("descriptors"), 0, 0),
)


def table(run: dict[str, Any]) -> str:
    """A Markdown table; ✓ and ✗ stand behind figures that have a target, the target in its column."""
    size, candidates = run["settings"]["entries"], run["candidates"]
    there = [name for name, figures in candidates.items() if size in figures.get("by_size", {})]
    lines = [
        f"| {size:,} entries | target bpf / nft | " + " | ".join(there) + " |",
        "|---" * (len(there) + 2) + "|",
    ]
    for row in ROWS:
        sign = "≥" if row.is_at_least else "≤"
        target = f"{sign} {row.bpf:g} / {row.nft:g}" if row.nft is not None else ""
        cells = []
        for name in there:
            found = row.value(candidates[name], size)
            if found is None:
                cells.append("–")
                continue
            reached = row.is_reached(name, found[0])
            cells.append(found[1] + {None: "", True: " ✓", False: " ✗"}[reached])
        lines.append(f"| {row.title} | {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(run: dict[str, Any]) -> Iterator[str]:
    """One line for each target that was not reached, and for each candidate that is not there."""
    size = run["settings"]["entries"]
    for name, figures in run["candidates"].items():
        if "unavailable" in figures:
            yield f"{name}: not available: {figures['unavailable']}"
            continue
        yield from (f"{name}: failed: {text}" for text in figures.get("failed", ()))
        for row in ROWS if size in figures["by_size"] else ():
            found = row.value(figures, size)
            if found is None:
                if row.target(name) is not None:
                    yield f"{name}: {row.title.strip()}: not measured, target {row.target(name):g}"
            elif row.is_reached(name, found[0]) is False:
                yield f"{name}: {row.title.strip()}: {found[1]}, target {row.target(name):g}{_doubt(found[1], row.target(name))}"


def _doubt(text: str, target: float | None) -> str:
    """Whether an interval leaves it open."""
    _, bracket, interval = text.partition("(")
    if not bracket or target is None:
        return ""
    low, high = map(float, interval.rstrip(")").split("–"))
    return "; the interval holds the target, so this run leaves it open" if low <= target <= high else ""
