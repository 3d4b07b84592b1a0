"""Registrations that overlap no other one are judged by themselves: most of a real list. What remains is what the general way is for.

Only between equal policies that match pairs: then what overlaps nothing takes nothing from others, and its traffic follows from
its protocols and ports alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from enforcer.allowlist import Entry
from enforcer.cells import check_prefixes
from enforcer.difference.cover import Cover, Rect
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, read
from enforcer.policy import Policy

Entries = dict[int, Entry]
_LAST = (1,)  # later than any rank here: overlaps() then gives each one by itself


def judge_alike(old: Policy, new: Policy) -> bool:
    """Whether the two can only differ in what no verdict depends on, and match pairs."""
    names = ("mode", "governs", "named_endpoints", "match", "action", "police_bps", "exempt", "recognise_by")
    alike = all(getattr(old, name) == getattr(new, name) for name in names)
    return alike and old.match == "subscriber+endpoint"


def apart(old: Entries, new: Entries, policy: Policy) -> tuple[Entries, Entries, Entries, Entries]:
    """(old, new, lost, gained): lost and gained overlap nothing; old and new are the rest that the difference depends on."""
    changed = {
        number
        for number in old.keys() | new.keys()
        if number not in old or number not in new or not _is_same(old[number], new[number])
    }
    covers = {version: Cover(version) for version in WIDTHS}
    crowded: set[int] = set()
    pairs_of: dict[int, list[tuple[int, tuple[Prefix, Prefix]]]] = {}
    for number in changed:
        pairs_of[number] = pairs = []
        for entries in (old, new):
            if number in entries:
                pairs += _pairs(entries[number])
        for version, pair in pairs:
            covers[version].add(Rect(pair[0], pair[1], 0, (0,), number))
    for number, pairs in pairs_of.items():
        if sum(1 for pair in pairs for _ in _touching(covers, *pair)) > len(pairs):
            crowded.add(number)
    for version, pair in _special(policy):
        crowded |= set(_touching(covers, version, pair))
    near: set[int] = set()
    if changed:
        for number, entry in old.items():
            if number not in changed:
                for version, pair in _pairs(entry):
                    if touched := set(_touching(covers, version, pair)):
                        near.add(number)
                        crowded |= touched
    kept = crowded | near
    lonely = changed - crowded
    return (
        {number: entry for number, entry in old.items() if number in kept},
        {number: entry for number, entry in new.items() if number in kept},
        {number: old[number] for number in lonely if number in old},
        {number: new[number] for number in lonely if number in new},
    )


def each_alone(
    entries: Entries, judged: Callable[[Entry, int], list]
) -> Iterator[tuple[int, Entry, tuple[Prefix, ...], tuple[Prefix, ...], list]]:
    """(family, entry, subscribers, endpoints, what judged says of one like it), asked once for each kind of entry."""
    known: dict[object, list] = {}
    for entry in entries.values():
        lines, others = _by_version(entry.subscriber_prefixes), _by_version(entry.endpoint_prefixes)
        for version in WIDTHS:
            if version not in lines or version not in others:
                continue
            subscribers, endpoints = tuple(lines[version]), tuple(others[version])
            key = (version, entry.protocols, entry.endpoint_ports)
            if key not in known:
                known[key] = judged(_one_like(entry, version), version)
            yield version, entry, subscribers, endpoints, known[key]


def _one_like(entry: Entry, version: int) -> Entry:
    """The entry with one prefix on each side."""
    subscriber = next(each for each in entry.subscriber_prefixes if read(each)[0] == version)
    endpoint = next(each for each in entry.endpoint_prefixes if read(each)[0] == version)
    return replace(entry, subscriber_prefixes=(subscriber,), endpoint_prefixes=(endpoint,))


def _is_same(one: Entry, other: Entry) -> bool:
    return one is other or (
        one.subscriber_prefixes == other.subscriber_prefixes
        and one.endpoint_prefixes == other.endpoint_prefixes
        and one.endpoint_ports == other.endpoint_ports
        and one.protocols == other.protocols
    )


def _pairs(entry: Entry) -> Iterator[tuple[int, tuple[Prefix, Prefix]]]:
    try:
        lines, endpoints = [*map(read, entry.subscriber_prefixes)], [*map(read, entry.endpoint_prefixes)]
    except (OSError, ValueError):
        check_prefixes(entry)
        raise
    for version, line in dict.fromkeys(lines):
        for other, endpoint in dict.fromkeys(endpoints):
            if version == other:
                yield version, (line, endpoint)


def _touching(covers: dict[int, Cover], version: int, pair: tuple[Prefix, Prefix]) -> Iterator[int]:
    """The numbers of those it overlaps, in either direction, itself among them; as often as it does."""
    for one, other in (pair, pair[::-1]):
        for _, _, label in covers[version].overlaps(Rect(one, other, 0, (0,), 0), _LAST):
            assert isinstance(label, int)
            yield label


def _special(policy: Policy) -> Iterator[tuple[int, tuple[Prefix, Prefix]]]:
    """Where the policy itself decides otherwise: exemptions and named endpoints."""
    for item in policy.exempt:
        for version in WIDTHS:
            lines = _of(item.subscriber_prefixes, version) if item.subscriber_prefixes else (WHOLE,)
            endpoints = _of(item.endpoint_prefixes, version) if item.endpoint_prefixes else (WHOLE,)
            yield from ((version, (line, endpoint)) for line in lines for endpoint in endpoints)
    for item in policy.named_endpoints:
        for version in WIDTHS:
            yield from ((version, (WHOLE, endpoint)) for endpoint in _of(item.prefixes, version))


def _by_version(prefixes: tuple[str, ...]) -> dict[int, dict[Prefix, None]]:
    found: dict[int, dict[Prefix, None]] = {}
    for each in prefixes:
        version, prefix = read(each)
        found.setdefault(version, {})[prefix] = None
    return found


def _of(prefixes: Iterable[str], version: int) -> tuple[Prefix, ...]:
    return tuple(dict.fromkeys(prefix for each, prefix in map(read, prefixes) if each == version))
