"""The benchmark's course: which candidate is measured when, and beside what. Its result is plain data (JSON)."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dataplanes_candidate import OTHERS, OURS, Candidate, Unavailable
from dataplanes_traffic import (
    a_and_b,
    bulk,
    first_packets,
    iperf3,
    known_flow,
    percentile,
    round_trips,
    spread,
)

SMALL = 1000  # what the cost of a packet at more entries is compared with
_PACKETS = {"known": known_flow, "first": first_packets}
_BROKEN = (OSError, AssertionError, Unavailable)  # one candidate's, and then said in the result
_TOO_SLOW_S = 5.0  # an entry that takes longer: a thousand of them are not tried


@dataclass(frozen=True)
class Settings:
    """entries: the largest list. flows: tracked ones while revoking. repeats: A/B pairs of TCP; of packets, twice as many."""

    entries: int
    flows: int
    repeats: int
    added: int
    revoked: int
    updates: int
    round_trips: int = 4000
    only: tuple[str, ...] = ()


def sizes(entries: int) -> list[int]:
    """1,000 and every power of ten up to the largest, and that."""
    found = [size for size in (SMALL, 10_000, 100_000) if size < entries]
    return [*found, entries]


def measure(settings: Settings, say: Callable[[str], None], result: dict[str, Any]) -> None:
    """Everything, by candidate, into result as it is found. Candidates that are not there are said so, with the reason."""
    names = [name for name in (*OURS, *OTHERS) if name != "plain"]
    unknown = set(settings.only) - set(names)
    if unknown:
        raise ValueError(f"no candidate {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    names = [name for name in names if not settings.only or name in settings.only]
    with contextlib.ExitStack() as stack:
        plain = Candidate("plain", max(settings.entries, SMALL))
        stack.callback(plain.close)
        small: dict[str, Candidate] = {}
        for size in dict.fromkeys((SMALL, *sizes(settings.entries))):
            there: list[Candidate] = []
            with contextlib.ExitStack() as at_size:
                for name in names:
                    if "unavailable" in result.get(name, {}):
                        continue
                    if _is_hopeless(name, result, size):
                        continue
                    say(f"{size:,} entries: loading {name}")
                    try:
                        made = Candidate(name, size)
                    except Unavailable as error:
                        result[name] = {"unavailable": str(error)}
                        continue
                    (stack if size == SMALL else at_size).callback(made.close)
                    there.append(made)
                    if size == SMALL:
                        small[name] = made
                    figures = result.setdefault(name, {"by_size": {}})
                    figures["by_size"][size] = {
                        "load_s": made.loaded["seconds"],
                        "peak_mb": made.loaded["peak_mb"],
                    }
                _costs(settings, plain, there, size, result, say)
                if size == settings.entries:
                    _largest(settings, plain, there, small, result, say)


def _is_hopeless(name: str, result: dict[str, Any], size: int) -> bool:
    """Whether one entry more would take so long, judged by the sizes before, that this size is left out; the result says so."""
    for before, figures in result.get(name, {}).get("by_size", {}).items():
        seconds = figures.get("added_s", {}).get("median", 0.0)
        if seconds > 0.1 and seconds * size / before > _TOO_SLOW_S:
            result[name].setdefault("failed", []).append(
                f"not tried at {size:,} entries: one more takes {seconds:.2g} s at {before:,} and at least in proportion beyond"
            )
            return True
    return False


def _costs(settings: Settings, plain: Candidate, there: Sequence[Candidate], size: int, result: dict[str, Any], say: Callable[[str], None]) -> None:  # fmt: skip
    """What is measured at every size: packets, and one entry more."""
    for title, make in _PACKETS.items():
        say(f"{size:,} entries: packets of {title} flows")
        for name, pairs in _pairs(plain, there, 2 * settings.repeats, make, result).items():
            if title == "known":
                pairs = [(1e9 / max(a, 1), 1e9 / max(b, 1)) for a, b in pairs]
                result[name]["by_size"][size]["rate_ratio"] = asdict(spread([a / b for a, b in pairs]))
            result[name]["by_size"][size][f"{title}_ns"] = asdict(spread([b for _, b in pairs]))
            result[name]["by_size"][size][f"{title}_plain_ns"] = asdict(spread([a for a, _ in pairs]))
    for each in there:
        if each.name in OTHERS and not hasattr(OTHERS[each.name], "change"):
            continue
        if each.name == "tracking":
            continue
        say(f"{size:,} entries: one more, {each.name}")
        most = settings.added if each.name in OURS else settings.added // 5
        try:
            times = each.ask("one_added", most, 20.0)
        except _BROKEN as error:
            result[each.name].setdefault("failed", []).append(f"one added at {size:,}: {error}")
            continue
        result[each.name]["by_size"][size]["added_s"] = {
            "median": percentile(times, 0.5),
            "p99": percentile(times, 0.99),
            "n": len(times),
        }


def _pairs(
    plain: Candidate,
    others: Sequence[Candidate],
    repeats: int,
    make: Callable[[Candidate], contextlib.AbstractContextManager[Callable[[], Any]]],
    result: dict[str, Any],
) -> dict[str, list[tuple[Any, Any]]]:
    """a_and_b of a figure; a candidate with which it fails is said so in the result, and the others go on."""

    def give_up(each: Candidate, error: Exception) -> None:
        result[each.name].setdefault("failed", []).append(f"{make.__name__} at {each.size:,}: {error}")

    with contextlib.ExitStack() as stack:
        figures = {plain: stack.enter_context(make(plain))}
        for each in others:
            try:
                figures[each] = stack.enter_context(make(each))
            except _BROKEN as error:
                give_up(each, error)
        there = [each for each in others if each in figures]
        return a_and_b(plain, there, repeats, figures, give_up)


def _largest(settings: Settings, plain: Candidate, there: Sequence[Candidate], small: dict[str, Candidate], result: dict[str, Any], say: Callable[[str], None]) -> None:  # fmt: skip
    say("cost against 1,000 entries")
    for title, make in _PACKETS.items():
        for each in there:
            base = small[each.name]
            if base is each:
                continue
            for name, pairs in _pairs(base, [each], 2 * settings.repeats, make, result).items():
                some = [(a, b) for a, b in pairs if a and b]  # a queue may let none of a go's packets through
                ratios = [a / b if title == "known" else b / a for a, b in some]
                if ratios:
                    result[name][f"growth_{title}"] = asdict(spread(ratios))
    say("round trips")
    trips = functools.partial(round_trips, count=settings.round_trips)
    functools.update_wrapper(trips, round_trips)
    for name, pairs in _pairs(plain, there, 2 * settings.repeats, trips, result).items():
        for title, share in (("median", 0.5), ("p999", 0.999)):
            added = [(percentile(b, share) - percentile(a, share)) / 1000 for a, b in pairs]
            result[name][f"rtt_{title}_us"] = asdict(spread(added))
            result[name][f"rtt_plain_{title}_us"] = asdict(
                spread([percentile(a, share) / 1000 for a, _ in pairs])
            )
    for title, make, repeats in (("tcp", bulk, 4 * settings.repeats), ("iperf3", iperf3, settings.repeats)):
        say(f"TCP, {title}")
        for name, pairs in _pairs(plain, there, repeats, make, result).items():
            result[name][f"{title}_ratio"] = asdict(spread([b / a for a, b in pairs]))
            result[name][f"{title}_gbps"] = asdict(spread([b / 1e9 for _, b in pairs]))
            result[name][f"{title}_plain_gbps"] = asdict(spread([a / 1e9 for a, _ in pairs]))
    for each in there:
        try:
            _changes(settings, each, result[each.name], say)
        except _BROKEN as error:
            result[each.name].setdefault("failed", []).append(str(error))


def _changes(
    settings: Settings, each: Candidate, figures: dict[str, Any], say: Callable[[str], None]
) -> None:
    if each.name == "tracking":
        return
    if figures["by_size"][each.size].get("added_s", {"median": _TOO_SLOW_S})["median"] < _TOO_SLOW_S:
        say(f"1,000 changes at once: {each.name}")
        figures["thousand_s"] = asdict(spread(each.ask("many_changes", 1000, 9, 20.0)))
    if each.name not in OURS:
        return
    say(f"{settings.updates:,} updates: {each.name}")
    figures["updates"] = each.ask("updates", settings.updates, 60.0)
    say(f"revocations at {settings.flows:,} flows: {each.name}")
    each.forget_flows()
    start = time.monotonic()
    found = each.ask("revocations", min(settings.flows, each.size), settings.revoked, 40.0)
    seconds = found["seconds"]
    figures["revoked"] = {
        "flows": found["flows"],
        "tracked": found["tracked"],
        "p99_s": percentile(seconds, 0.99) if seconds else None,
        "median_s": percentile(seconds, 0.5) if seconds else None,
        "call_p99_s": percentile(found["calls"], 0.99) if seconds else None,
        "sweep_median_s": percentile(found["sweeps"], 0.5),
        "n": len(seconds),
        "unusable": found["unusable"],
        "packets_after": found["after"],
        "took_s": time.monotonic() - start,
    }
