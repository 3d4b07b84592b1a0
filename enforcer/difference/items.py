"""What registrations name, rectangle by rectangle: the items that a comparison is about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from enforcer.allowlist import Entry
from enforcer.cells import cells, check_prefixes
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, read
from enforcer.difference.sides import Region, Side
from enforcer.policy import Match

Traits = tuple[tuple[str, ...], tuple[int, ...]]
"""Protocols and ports of an entry."""
Item = tuple[int, Prefix, Prefix]
"""A registration's number with a subscriber's and an endpoint's prefix; what the policies do not compare is WHOLE."""
Both = tuple[Traits | None, Traits | None]
"""An item's traits on the old side and on the new one; None where it is not."""

NOWHERE: Prefix = (0, -1)
"""Instead of the other side of a pair that an entry does not have in this family."""
_PAIRS: Match = "subscriber+endpoint"


class Crowd(NamedTuple):
    """Items of one side that have the same traits, the prefixes of each at the same place; label: the lowest number."""

    traits: Traits
    subscribers: list[Prefix]
    endpoints: list[Prefix]
    label: int


def items(old: Side, new: Side) -> dict[int, dict[Item, Both]]:
    """By family: every rectangle that registrations name on either side, as the policies compare it.

    Where the one policy compares pairs and the other does not, pairs on both sides: what an entry loses as a pair depends on
    what it gains as a line. A line without any endpoint of its family then has NOWHERE for one.
    Equal traits are one object, and equal pairs of them.
    Raises ValueError for a prefix that is none (enforcer.cells.check_prefixes).
    """
    found: dict[int, dict[Item, Both]] = {version: {} for version in WIDTHS}
    known: dict[str, tuple[int, Prefix]] = {}
    share = _Share()
    shapes = shapes_of(old, new)
    matches: tuple[Match, Match] = (old.policy.match, new.policy.match)
    is_one_shape, is_one_match = shapes[0] == shapes[1], matches[0] == matches[1]
    done: set[int] = set()
    for number, entry in old.entries.items():
        traits = share.traits(entry, matches[0])
        its = new.entries.get(number) if is_one_shape else None
        # Prefixes that are the same on both sides are read once; a single pair is one under every match.
        if its is not None and _are_prefixes_same(entry, its) and (is_one_match or _is_single(entry)):
            both = share.both(traits, share.traits(its, matches[1]))
            done.add(number)
        else:
            both = share.both(traits, None)
        for version, line, endpoint in _rectangles(entry, shapes[0], matches[0], known):
            found[version][number, line, endpoint] = both
    for number, entry in new.entries.items():
        if number in done:
            continue
        traits = share.traits(entry, matches[1])
        alone = share.both(None, traits)
        for version, line, endpoint in _rectangles(entry, shapes[1], matches[1], known):
            here, item = found[version], (number, line, endpoint)
            there = here.get(item)
            here[item] = alone if there is None else share.both(there[0], traits)
    return found


def shapes_of(old: Side, new: Side) -> tuple[Match, Match]:
    """How items are cut on either side."""
    matches = (old.policy.match, new.policy.match)
    if is_joined(old, new):
        return _PAIRS, _PAIRS
    return matches


def is_joined(old: Side, new: Side) -> bool:
    """Whether one side compares pairs and the other does not."""
    return (old.policy.match == _PAIRS) != (new.policy.match == _PAIRS)


def region_of(item: Item, match: Match) -> Region:
    """The rectangle that an item is under a match."""
    return (
        WHOLE if match == "endpoint" else item[1],
        WHOLE if match == "subscriber" else item[2],
    )


@lru_cache(maxsize=4096)
def ports_of(traits: Traits, match: Match) -> tuple[tuple[str, int | None], ...]:
    """Under which kinds of cells an entry with these traits stands, and with which port of each; None where none is compared."""
    one_like = Entry(1, "", ("0.0.0.0/0",), ("0.0.0.0/0",), traits[1], traits[0])
    return tuple(
        dict.fromkeys(
            (shape.kind, port if shape.has_port else None) for shape, (_, _, port) in cells(one_like, match)
        )
    )


class _Share:
    """One object for equal values. By identity first: entries from one file have shared parts, and hashing these takes longer."""

    def __init__(self) -> None:
        self._traits: dict[Traits, Traits] = {}
        self._by_parts: dict[tuple[int, int], Traits] = {}
        self._both: dict[tuple[int, int], Both] = {}

    def traits(self, entry: Entry, match: Match) -> Traits:
        ports = () if match == "subscriber" else entry.endpoint_ports
        key = (id(entry.protocols), id(ports))
        found = self._by_parts.get(key)
        if found is None:
            found = (entry.protocols, ports)
            found = self._by_parts[key] = self._traits.setdefault(found, found)
        return found

    def both(self, old: Traits | None, new: Traits | None) -> Both:
        key = (id(old), id(new))
        found = self._both.get(key)
        if found is None:
            found = self._both[key] = (old, new)
        return found


def _rectangles(
    entry: Entry, shape: Match, match: Match, known: dict[str, tuple[int, Prefix]]
) -> Iterable[tuple[int, Prefix, Prefix]]:
    ones, others = entry.subscriber_prefixes, entry.endpoint_prefixes
    try:
        if len(ones) == len(others) == 1 and shape == _PAIRS:
            one, other = (
                known.get(ones[0]) or _read(ones[0], known),
                known.get(others[0]) or _read(others[0], known),
            )
            if one[0] == other[0]:
                return ((one[0], one[1], other[1]),)
        lines = [known.get(each) or _read(each, known) for each in ones]
        endpoints = [known.get(each) or _read(each, known) for each in others]
    except (OSError, ValueError):
        check_prefixes(entry)
        raise
    if shape == "subscriber":
        return [(version, line, WHOLE) for version, line in lines]
    if shape == "endpoint":
        return [(version, WHOLE, endpoint) for version, endpoint in endpoints]
    found = [
        (version, line, endpoint)
        for version, line in lines
        for other, endpoint in endpoints
        if version == other
    ]
    if match == "subscriber":
        found += [(version, line, NOWHERE) for version, line in _without(lines, endpoints)]
    elif match == "endpoint":
        found += [(version, NOWHERE, endpoint) for version, endpoint in _without(endpoints, lines)]
    return found


def _are_prefixes_same(one: Entry, other: Entry) -> bool:
    return one is other or (
        one.subscriber_prefixes == other.subscriber_prefixes
        and one.endpoint_prefixes == other.endpoint_prefixes
    )


def _is_single(entry: Entry) -> bool:
    """Whether it names one line and one endpoint of one family."""
    return len(entry.subscriber_prefixes) == len(entry.endpoint_prefixes) == 1 and (
        ":" in entry.subscriber_prefixes[0]
    ) == (":" in entry.endpoint_prefixes[0])


def _read(text: str, known: dict[str, tuple[int, Prefix]]) -> tuple[int, Prefix]:
    return known.setdefault(text, read(text))


def _without(
    ones: Iterable[tuple[int, Prefix]], others: Iterable[tuple[int, Prefix]]
) -> Iterator[tuple[int, Prefix]]:
    """Those of a family that the others have none of."""
    versions = {version for version, _ in others}
    return (each for each in ones if each[0] not in versions)
