"""Registrations that differ from each other in their number and addresses only: one of them is compared, the others follow. Pure.

On a long list nearly every line is one registration's alone. What becomes of it then depends on its ports, its protocols, the
lengths of its prefixes and on lists that are the same for all (every other line, every endpoint): not on which line it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enforcer.allowlist import Entry
from enforcer.cells import check_prefixes
from enforcer.difference.prefixes import WHOLE, WIDTHS, Nest, Prefix, common, read
from enforcer.difference.sides import Side


class Follower(NamedTuple):
    """A registration whose changes are those of its leader with its own number and prefixes."""

    number: int
    leader: int
    prefixes: dict[Prefix, Prefix]


def followers(old: Side, new: Side, version: int) -> tuple[list[Follower], list[Follower]]:
    """Those of the old side and of the new one; what they may lose or gain need not be compared again.

    None when either policy names endpoints: these cut rectangles apart, and then single lines are taken away, not whole lists.
    """
    if old.policy.named_endpoints or new.policy.named_endpoints:
        return [], []
    ends_of = {number: ends for number, entry in old.entries.items() if (ends := _ends(entry))}
    held = _Held(old, new, version)
    return _of_side(old, new, version, ends_of, held), _of_side(new, old, version, ends_of, held)


def _of_side(
    mine: Side, theirs: Side, version: int, ends_of: dict[int, tuple[int, Prefix, Prefix]], held: _Held
) -> list[Follower]:
    leaders: dict[object, tuple[int, Prefix, Prefix]] = {}
    found = []
    matches = (mine.policy.match, theirs.policy.match)
    for number, entry in mine.entries.items():
        ends = ends_of.get(number)
        other = theirs.entries.get(number)
        # One that ended goes the general way: which others cover it is to be told.
        if ends is None or ends[0] != version or other is None or (other is not entry and other != entry):
            continue
        _, line, endpoint = ends
        if not held.is_free(number, line, endpoint, matches):
            continue
        kind = (entry.protocols, entry.endpoint_ports, line[1], endpoint[1])
        leader = leaders.setdefault(kind, (number, line, endpoint))
        if leader[0] != number:
            found.append(Follower(number, leader[0], {leader[1]: line, leader[2]: endpoint}))
    return found


class _Held:
    """Which registration has which prefix, on which side; and where the policies decide by themselves."""

    def __init__(self, old: Side, new: Side, version: int) -> None:
        self._width = WIDTHS[version]
        lines: dict[Prefix, int] = {}
        endpoints: dict[Prefix, int] = {}
        special = dict(_special(old, version)) | dict(_special(new, version))
        for owners in (lines, endpoints):
            owners.update(special)
        for side in (old, new):
            for number, entry in side.entries.items():
                for owners, prefixes in (
                    (lines, entry.subscriber_prefixes),
                    (endpoints, entry.endpoint_prefixes),
                ):
                    for each, prefix in map(read, prefixes):
                        if each == version and owners.setdefault(prefix, number) != number:
                            owners[prefix] = 0
        self._lines = lines, Nest(lines, self._width)
        self._endpoints = endpoints, Nest(endpoints, self._width)

    def is_free(self, number: int, line: Prefix, endpoint: Prefix, matches: tuple[str, str]) -> bool:
        """Whether nothing but whole lists overlaps what the registration lets pass by the first of the matches.

        By lines: (line, any) is touched by whoever names a part of that line, on either side. A pair is touched only by what
        touches both of its prefixes; against lines alone that is whoever has that line, or a line within that endpoint.
        """
        if common(line, endpoint, self._width) is not None:
            return False
        # A list of one may be another's very prefix: it must not be taken for this one's own and replaced.
        for owners, _ in (self._lines, self._endpoints):
            if owners.get(line, number) != number or owners.get(endpoint, number) != number:
                return False
        by_line = self._is_own(self._lines, line, number) and self._is_own(self._endpoints, line, number)
        if matches[0] == "subscriber":
            return by_line
        if matches[0] == "endpoint" or matches[1] == "endpoint":
            by_endpoint = self._is_own(self._lines, endpoint, number) and self._is_own(
                self._endpoints, endpoint, number
            )
            if matches[0] == "endpoint":
                return by_endpoint
            return by_endpoint and self._is_own(self._endpoints, line, number)
        return by_line and self._is_own(self._lines, endpoint, number)

    @staticmethod
    def _is_own(held: tuple[dict[Prefix, int], Nest], prefix: Prefix, number: int) -> bool:
        owners, nest = held
        return all(owners[each] == number for each in nest.outer(prefix)) and all(
            owners[each] == number for each in nest.inner(prefix)
        )


def _ends(entry: Entry) -> tuple[int, Prefix, Prefix] | None:
    """Family, line and endpoint of an entry with one of each."""
    if len(entry.subscriber_prefixes) != 1 or len(entry.endpoint_prefixes) != 1:
        return None
    try:
        (version, line), (other, endpoint) = (
            read(entry.subscriber_prefixes[0]),
            read(entry.endpoint_prefixes[0]),
        )
    except (OSError, ValueError):
        check_prefixes(entry)
        raise
    return (version, line, endpoint) if version == other else None


def _special(side: Side, version: int) -> Iterator[tuple[Prefix, int]]:
    """The exemptions' prefixes: nobody's. A whole side is the same for everybody."""
    for item in side.policy.exempt:
        for each, prefix in map(read, (*item.subscriber_prefixes, *item.endpoint_prefixes)):
            if each == version and prefix != WHOLE:
                yield prefix, 0
