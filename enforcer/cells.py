"""How the allowlist is looked up: each entry becomes cells, exact keys within a shape; one hash table a shape.

A shape fixes the prefix lengths of both ends, whether a port is compared, and the protocol class. A packet is looked up once
per shape, most specific first. So a lookup costs what the number of *shapes* costs, a change what one cell costs, overlapping
prefixes need no care, and kernel hash tables can hold the same cells. (Interval sets cannot do the second: 102 s an entry.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from enforcer.allowlist import Allowlist, Entry
from enforcer.policy import Match

# The classes a packet is looked up under. Those without ports are compared by address alone, whatever ports an entry names.
_CLASSES = {
    "wireguard": ("wireguard",),
    "openvpn-udp": ("openvpn-udp",),
    "openvpn-tcp": ("openvpn-tcp",),
    "ikev2": ("ikev2", "esp", "ah"),  # RFC 7296 section 1: IKE sets up both
    "esp": ("esp",),
    "ah": ("ah",),
    "l2tp": ("l2tp", "l2tp-ip"),
    "pptp": ("pptp", "gre"),
    "openconnect": ("openconnect",),
}
KINDS = tuple(dict.fromkeys(kind for kinds in _CLASSES.values() for kind in kinds))
PORTLESS = ("esp", "ah", "gre", "l2tp-ip")
ANY, ANY_PORTLESS = "any", "any-portless"


class Shape(NamedTuple):
    """subscriber_bits/endpoint_bits: prefix lengths; 0 is not compared. kind: a class of protocols, ANY or ANY_PORTLESS."""

    version: int
    subscriber_bits: int
    endpoint_bits: int
    has_port: bool
    kind: str

    @property
    def order(self) -> tuple[int, int, bool, bool]:
        """Sorts the most specific first: longest line, longest endpoint, port before any, protocol before any."""
        return (
            -self.subscriber_bits,
            -self.endpoint_bits,
            not self.has_port,
            self.kind in (ANY, ANY_PORTLESS),
        )

    def key(self, subscriber: int, endpoint: int, port: int) -> Key:
        width = 32 if self.version == 4 else 128
        down, up = width - self.subscriber_bits, width - self.endpoint_bits
        return (subscriber >> down << down, endpoint >> up << up, port if self.has_port else 0)


Key = tuple[int, int, int]  # subscriber, endpoint, port; what is not compared is 0


class Change(NamedTuple):
    """A cell that now gives another registration; None: the cell is not there."""

    shape: Shape
    key: Key
    before: int | None
    after: int | None


def kinds_of(kind: str) -> tuple[str, str]:
    """Under which two kinds a packet of this class is looked up."""
    return (kind, ANY_PORTLESS if kind in PORTLESS else ANY)


def cells(entry: Entry, match: Match) -> Iterator[tuple[Shape, Key]]:
    """The cells of one entry under the policy's match key; the same cell may come twice. Raises ValueError for a wrong prefix."""
    if entry.protocols:
        kinds = dict.fromkeys(kind for protocol in entry.protocols for kind in _CLASSES[protocol])
    else:
        kinds = dict.fromkeys((ANY, ANY_PORTLESS))
    subscribers = [_network(prefix) for prefix in entry.subscriber_prefixes]
    endpoints = [_network(prefix) for prefix in entry.endpoint_prefixes]
    ports: tuple[int, ...] = entry.endpoint_ports
    if match == "subscriber":
        endpoints, ports = [(version, 0, 0) for version in (4, 6)], ()
    elif match == "endpoint":
        subscribers = [(version, 0, 0) for version in (4, 6)]
    for version, subscriber, subscriber_bits in subscribers:
        for other, endpoint, endpoint_bits in endpoints:
            if other != version:
                continue
            for kind in kinds:
                has_port = bool(ports) and kind not in PORTLESS and kind != ANY_PORTLESS
                shape = Shape(version, subscriber_bits, endpoint_bits, has_port, kind)
                for port in ports if has_port else (0,):
                    yield shape, (subscriber, endpoint, port)


def check_prefixes(entry: Entry) -> None:
    """Raises ValueError when a prefix is none, or has bits set after its length."""
    try:
        for prefix in (*entry.subscriber_prefixes, *entry.endpoint_prefixes):
            _network(prefix)
    except ValueError as error:
        raise ValueError(f"registration {entry.registration}: {error}") from error


class Index:
    """The cells of many entries. Where several registrations share a cell the lowest number (the oldest) is given."""

    def __init__(self, match: Match, entries: Iterable[Entry] = ()) -> None:
        self.match: Match = match
        self.entries: dict[int, Entry] = {}
        self.tables: dict[Shape, dict[Key, int | tuple[int, ...]]] = {}
        self._shapes: dict[tuple[int, str], list[Shape]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> list[Change]:
        """Put an entry in; one of the same number must be removed first. Returns the cells that changed."""
        number = entry.registration
        self.entries[number] = entry
        changes = []
        for shape, key in cells(entry, self.match):
            table = self.tables.get(shape)
            if table is None:
                table = self.tables[shape] = {}
                self._shapes.clear()
            held = table.get(key)
            if held is None:
                table[key] = number
                changes.append(Change(shape, key, None, number))
                continue
            numbers = _numbers(held)
            if number in numbers:
                continue
            table[key] = merged = tuple(sorted((*numbers, number)))
            if merged[0] == number:
                changes.append(Change(shape, key, numbers[0], number))
        return changes

    def remove(self, number: int) -> list[Change]:
        """Take an entry out; nothing happens when it is not there. Returns the cells that changed."""
        entry = self.entries.pop(number, None)
        if entry is None:
            return []
        changes = []
        for shape, key in cells(entry, self.match):
            table = self.tables.get(shape, {})
            held = table.get(key)
            if held is None:
                continue
            numbers = _numbers(held)
            if number not in numbers:
                continue
            rest: tuple[int, ...] = tuple(other for other in numbers if other != number)
            if not rest:
                del table[key]
                if not table:
                    del self.tables[shape]
                    self._shapes.clear()
                changes.append(Change(shape, key, number, None))
                continue
            table[key] = rest if len(rest) > 1 else min(rest)
            if min(numbers) == number:
                changes.append(Change(shape, key, number, min(rest)))
        return changes

    def shapes(self, version: int, kind: str) -> list[Shape]:
        """The shapes a packet of this class is looked up in, most specific first."""
        found = self._shapes.get((version, kind))
        if found is None:
            kinds = kinds_of(kind)
            found = [shape for shape in self.tables if shape.version == version and shape.kind in kinds]
            found.sort(key=lambda shape: shape.order)
            self._shapes[version, kind] = found
        return found

    def find(
        self, version: int, kind: str, src: int, src_port: int, dst: int, dst_port: int, now_ns: int | None
    ) -> Entry | None:
        """The entry that covers a packet between these ends, in either direction; None without one.

        It is valid at now_ns (Unix; None: whatever its validity).
        """
        for shape in self.shapes(version, kind):
            table = self.tables[shape]
            for key in (shape.key(src, dst, dst_port), shape.key(dst, src, src_port)):
                held = table.get(key)
                if held is None:
                    continue
                for number in _numbers(held):
                    entry = self.entries[number]
                    if now_ns is None or is_valid(entry, now_ns):
                        return entry
        return None


def find(
    allowlist: Allowlist,
    match: Match,
    version: int,
    kind: str,
    src: int,
    src_port: int,
    dst: int,
    dst_port: int,
    now_ns: int,
) -> Entry | None:
    """What Index.find gives, straight from the entries one by one: the specification, for small lists and tests."""
    best: tuple[tuple[object, ...], Entry] | None = None
    for entry in allowlist.entries.values():
        if not is_valid(entry, now_ns):
            continue
        for shape, key in cells(entry, match):
            if shape.version != version or shape.kind not in kinds_of(kind):
                continue
            for turned, found in enumerate((shape.key(src, dst, dst_port), shape.key(dst, src, src_port))):
                rank = (shape.order, turned, entry.registration)
                if found == key and (best is None or rank < best[0]):
                    best = (rank, entry)
    return best[1] if best else None


def is_valid(entry: Entry, now_ns: int) -> bool:
    """Whether now_ns (Unix) lies in the entry's validity; its end does not belong to it."""
    return entry.valid_from_ns <= now_ns and (entry.valid_until_ns is None or now_ns < entry.valid_until_ns)


def _numbers(held: int | tuple[int, ...]) -> tuple[int, ...]:
    """One number is stored bare: a million tuples of one would cost 48 MB."""
    return (held,) if isinstance(held, int) else held


def _network(prefix: str) -> tuple[int, int, int]:
    """Version, address, bits. Raises ValueError. (ipaddress.ip_network takes 40 µs: 80 s for a million entries.)"""
    text, _, bits_text = prefix.partition("/")
    version, width = (6, 128) if ":" in text else (4, 32)
    try:
        address = int.from_bytes(inet_pton(AF_INET6 if version == 6 else AF_INET, text), "big")
        bits = int(bits_text)
    except (OSError, ValueError):
        bits = -1
        address = 0
    if not 0 <= bits <= width:
        raise ValueError(f"{prefix!r} is not a prefix")
    if address & ((1 << (width - bits)) - 1):
        raise ValueError(f"{prefix!r} has bits set after its prefix length")
    return version, address, bits
