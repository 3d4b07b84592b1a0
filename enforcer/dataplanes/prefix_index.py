"""The allowlist looked up by longest prefix, for dataplanes that decide in user space.

Two tries say which registered lines and which registered endpoints cover a packet's ends, a dictionary which entries name both.
"""

from __future__ import annotations

from collections.abc import Iterable

from enforcer.allowlist import Entry
from enforcer.cells import cells, is_valid, kinds_of
from enforcer.policy import Match
from enforcer.prefixes import Prefix, PrefixMap

_Cell = tuple[int, int, str, int]  # a line's number, an endpoint's, the class of protocols, the port or 0


class PrefixIndex:
    """Finds what `cells.find` finds; cells.Index with longest prefixes in the place of shapes."""

    def __init__(self, match: Match, entries: Iterable[Entry] = ()) -> None:
        self.match: Match = match
        self.entries: dict[int, Entry] = {}
        self._lines, self._endpoints = _Numbered(), _Numbered()
        self._cells: dict[_Cell, tuple[int, ...]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Put an entry in; one of the same number must be removed first. Raises ValueError for a wrong prefix."""
        self.entries[entry.registration] = entry
        for shape, (line, endpoint, port) in cells(entry, self.match):
            line_number = self._lines.take(Prefix(shape.version, line, shape.subscriber_bits))
            endpoint_number = self._endpoints.take(Prefix(shape.version, endpoint, shape.endpoint_bits))
            cell = (line_number, endpoint_number, shape.kind, port)
            there = self._cells.get(cell)
            number = entry.registration
            self._cells[cell] = (number,) if there is None else tuple(sorted({*there, number}))

    def remove(self, number: int) -> None:
        """Take an entry out; nothing happens when it is not there."""
        entry = self.entries.pop(number, None)
        if entry is None:
            return
        for shape, (line, endpoint, port) in cells(entry, self.match):
            line_number = self._lines.release(Prefix(shape.version, line, shape.subscriber_bits))
            endpoint_number = self._endpoints.release(Prefix(shape.version, endpoint, shape.endpoint_bits))
            cell = (line_number, endpoint_number, shape.kind, port)
            rest = tuple(other for other in self._cells.pop(cell, ()) if other != number)
            if rest:
                self._cells[cell] = rest

    def find(
        self, version: int, kind: str, src: int, src_port: int, dst: int, dst_port: int, now_ns: int | None
    ) -> Entry | None:
        """The entry that covers a packet between these ends, in either direction; None without one.

        It is valid at now_ns (Unix; None: whatever its validity).
        """
        found = []
        for is_turned, line, endpoint, port in ((False, src, dst, dst_port), (True, dst, src, src_port)):
            endpoints = list(self._endpoints.covering(version, endpoint))
            for line_bits, line_number in self._lines.covering(version, line):
                for endpoint_bits, endpoint_number in endpoints:
                    for its_port in {port, 0}:
                        for its_kind in kinds_of(kind):
                            numbers = self._cells.get((line_number, endpoint_number, its_kind, its_port))
                            if numbers:
                                # The order of Shape.order, then the direction.
                                rank = (
                                    -line_bits,
                                    -endpoint_bits,
                                    its_port == 0,
                                    its_kind != kind,
                                    is_turned,
                                )
                                found.append((rank, numbers))
        for _, numbers in sorted(found):
            for number in numbers:
                entry = self.entries[number]
                if now_ns is None or is_valid(entry, now_ns):
                    return entry
        return None

    def count(self) -> int:
        """How many cells there are."""
        return len(self._cells)


class _Numbered:
    """Prefixes with a number each, for as long as somebody holds them."""

    def __init__(self) -> None:
        self._prefixes: PrefixMap[int] = PrefixMap()
        self._held: dict[
            Prefix, list[int]
        ] = {}  # number, and by how many; the trie is asked about addresses only
        self._next = 0

    def take(self, prefix: Prefix) -> int:
        held = self._held.get(prefix)
        if held is None:
            self._prefixes[prefix] = self._next
            held = self._held[prefix] = [self._next, 0]
            self._next += 1
        held[1] += 1
        return held[0]

    def release(self, prefix: Prefix) -> int:
        held = self._held[prefix]
        held[1] -= 1
        if not held[1]:
            del self._held[prefix], self._prefixes[prefix]
        return held[0]

    def covering(self, version: int, address: int) -> Iterable[tuple[int, int]]:
        """(prefix length, number) of each prefix that covers the address."""
        return ((prefix.bits, number) for prefix, number in self._prefixes.covering(version, address))
