"""How the allowlist is looked up: each entry becomes cells, exact keys within a shape; one hash table a shape.

A shape fixes the prefix lengths of both ends, whether a port is compared, and the protocol class. A packet is looked up once
per shape, most specific first. So a lookup costs what the number of *shapes* costs, a change what one cell costs, overlapping
prefixes need no care, and kernel hash tables can hold the same cells. (Interval sets cannot do the second: 102 s an entry.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
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


Key = tuple[int, int, int]  # subscriber, endpoint, port; what is not compared is 0
# The same in network order, 4 or 16 bytes an address and 4 the port, so that a kernel's key is made of it by cutting: a million
# take 48 MB and are hashed once each, where tuples of numbers would take 150 MB.
PackedKey = bytes


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

    def pack(self, key: Key) -> PackedKey:
        width = 4 if self.version == 4 else 16
        subscriber, endpoint, port = key
        return subscriber.to_bytes(width, "big") + endpoint.to_bytes(width, "big") + _packed_port(port)

    def unpack(self, key: PackedKey) -> Key:
        width = 4 if self.version == 4 else 16
        ends = key[:width], key[width : 2 * width], key[2 * width : 2 * width + 2]
        return int.from_bytes(ends[0], "big"), int.from_bytes(ends[1], "big"), int.from_bytes(ends[2], "big")


class Change(NamedTuple):
    """A cell that now gives another registration; None: the cell is not there."""

    shape: Shape
    key: PackedKey
    before: int | None
    after: int | None


def kinds_of(kind: str) -> tuple[str, str]:
    """Under which two kinds a packet of this class is looked up."""
    return (kind, ANY_PORTLESS if kind in PORTLESS else ANY)


def cells(entry: Entry, match: Match) -> Iterator[tuple[Shape, Key]]:
    """The cells of one entry under the policy's match key; the same cell may come twice. Raises ValueError for a wrong prefix."""
    for shape, key in _cells(entry, match):
        yield shape, shape.unpack(key)


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
        self.tables: dict[Shape, dict[PackedKey, int | tuple[int, ...]]] = {}
        self._shapes: dict[tuple[int, str], list[Shape]] = {}
        self._put_in(entries)

    def add(self, entry: Entry) -> list[Change]:
        """Put an entry in; one of the same number must be removed first. Returns the cells that changed."""
        number = entry.registration
        self.entries[number] = entry
        changes = []
        for shape, key in _cells(entry, self.match):
            table = self.tables.get(shape)
            if table is None:
                table = self._new_table(shape)
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
        for shape, key in _cells(entry, self.match):
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
            if numbers[0] == number:
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
                held = table.get(shape.pack(key))
                if held is None:
                    continue
                for number in _numbers(held):
                    entry = self.entries[number]
                    if now_ns is None or is_valid(entry, now_ns):
                        return entry
        return None

    def count(self) -> int:
        """How many cells there are."""
        return sum(map(len, self.tables.values()))

    def _put_in(self, entries: Iterable[Entry]) -> None:
        """What add() does, for many of which nobody wants to know the changes: 1 µs each, for there may be a million."""
        tables: dict[tuple[object, ...], list[tuple[dict[PackedKey, int | tuple[int, ...]], bytes]]] = {}
        held = self.entries
        is_both = self.match == "subscriber+endpoint"
        for entry in entries:
            subscribers, endpoints = entry.subscriber_prefixes, entry.endpoint_prefixes
            if not is_both or len(subscribers) != 1 or len(endpoints) != 1:
                self.add(entry)
                continue
            number = entry.registration
            held[number] = entry
            version, subscriber, subscriber_bits = _network(subscribers[0])
            other, endpoint, endpoint_bits = _network(endpoints[0])
            if other != version:
                continue
            pattern = (version, subscriber_bits, endpoint_bits, entry.endpoint_ports, entry.protocols)
            places = tables.get(pattern)
            if places is None:
                shapes = _shapes(*pattern)
                places = tables[pattern] = [
                    (self.tables.get(shape) or self._new_table(shape), port) for shape, port in shapes
                ]
            ends = subscriber + endpoint
            for table, port in places:
                there = table.setdefault(ends + port, number)
                if there is not number and number not in _numbers(there):
                    table[ends + port] = tuple(sorted((*_numbers(there), number)))

    def _new_table(self, shape: Shape) -> dict[PackedKey, int | tuple[int, ...]]:
        self._shapes.clear()
        return self.tables.setdefault(shape, {})


def changed_ends(old: Index, new: Index) -> set[int]:
    """Registrations that are in both, with other entries."""
    changed = set()
    for number, entry in new.entries.items():
        before = old.entries.get(number, entry)
        if before is not entry and before != entry:
            changed.add(number)
    return changed


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


def _cells(entry: Entry, match: Match) -> Iterator[tuple[Shape, PackedKey]]:
    subscribers: Iterable[tuple[int, bytes, int]] = map(_network, entry.subscriber_prefixes)
    endpoints = [_network(prefix) for prefix in entry.endpoint_prefixes]
    ports: tuple[int, ...] = entry.endpoint_ports
    if match == "subscriber":
        endpoints, ports = _EVERYWHERE, ()
    elif match == "endpoint":
        subscribers = _EVERYWHERE
    for version, subscriber, subscriber_bits in subscribers:
        for other, endpoint, endpoint_bits in endpoints:
            if other != version:
                continue
            ends = subscriber + endpoint
            for shape, port in _shapes(version, subscriber_bits, endpoint_bits, ports, entry.protocols):
                yield shape, ends + port


# Entries come in few patterns: what follows from one is worked out once.
@lru_cache(maxsize=4096)
def _shapes(
    version: int, subscriber_bits: int, endpoint_bits: int, ports: tuple[int, ...], protocols: tuple[str, ...]
) -> tuple[tuple[Shape, bytes], ...]:
    """The shapes of an entry's cells, each with a packed port."""
    if protocols:
        kinds = dict.fromkeys(kind for protocol in protocols for kind in _CLASSES[protocol])
    else:
        kinds = dict.fromkeys((ANY, ANY_PORTLESS))
    found = []
    for kind in kinds:
        has_port = bool(ports) and kind not in PORTLESS and kind != ANY_PORTLESS
        shape = Shape(version, subscriber_bits, endpoint_bits, has_port, kind)
        found += [(shape, _packed_port(port)) for port in (ports if has_port else (0,))]
    return tuple(found)


def _packed_port(port: int) -> bytes:
    return port.to_bytes(2, "big") + b"\0\0"


def _numbers(held: int | tuple[int, ...]) -> tuple[int, ...]:
    """One number is stored bare: a million tuples of one would cost 48 MB."""
    return (held,) if isinstance(held, int) else held


_EVERYWHERE = [(4, bytes(4), 0), (6, bytes(16), 0)]


def _network(prefix: str) -> tuple[int, bytes, int]:
    """Version, address, bits. Raises ValueError. (ipaddress.ip_network takes 40 µs: 80 s for a million entries.)"""
    text, _, bits_text = prefix.partition("/")
    try:
        if bits_text == "32" and ":" not in text:  # the usual one, in a third of the time
            return 4, inet_pton(AF_INET, text), 32
        version, width = (6, 128) if ":" in text else (4, 32)
        address = inet_pton(AF_INET6 if version == 6 else AF_INET, text)
        bits = int(bits_text)
    except (OSError, ValueError):
        raise ValueError(f"{prefix!r} is not a prefix") from None
    if not 0 <= bits <= width:
        raise ValueError(f"{prefix!r} is not a prefix")
    if int.from_bytes(address, "big") & ((1 << (width - bits)) - 1):
        raise ValueError(f"{prefix!r} has bits set after its prefix length")
    return version, address, bits
