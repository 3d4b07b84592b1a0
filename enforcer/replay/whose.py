"""Whose flows were stopped, and what kept a registration from covering them: what people ask first after a replay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from enforcer.allowlist import Entry
from enforcer.cells import PORTLESS, Index, cells
from enforcer.packet import address_text
from enforcer.policy import Policy
from enforcer.replay.judge import REASONS, RECOGNISED, STOPPED
from enforcer.replay.orient import Ends, alone, of_anything
from enforcer.replay.tables import Tables

# Why a registration of the line does not cover the flow, nearest first.
MISSES = {
    "not-valid-then": "a registration covers it, but was not valid at the time",
    "category": "a registration covers it, but not one of a category that counts under the policy",
    "other-port": "the line and the endpoint are registered, for other ports",
    "other-protocol": "the line and the endpoint are registered, for other protocols",
    "other-port-and-protocol": "the line and the endpoint are registered, for other ports and protocols",
    "other-endpoint": "the line is registered, for other endpoints",
    "other-line": "the endpoint is registered, from other lines (a changed address looks like this)",
    "nobody": "neither the line nor the endpoint is in any registration",
}
_COLUMNS = ("port", "code", "reason", "other", "registration", "flows", "packets", "bytes", "first", "last")
# How many pairs are looked at one by one; those with the most flows.
MOST_LOOKED_AT = 50_000


@dataclass(slots=True)
class Pair:
    """Two ends, a protocol, and the verdicts on their flows; entry is the nearest registration, miss a word of MISSES."""

    version: int
    subscriber: int
    endpoint: int
    port: int
    protocol: str
    reason: str
    other: str
    flows: int
    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    entry: Entry | None = None
    miss: str = ""
    also: int = 0

    @property
    def subscriber_text(self) -> str:
        return address_text(self.version, self.subscriber)

    @property
    def endpoint_text(self) -> str:
        """With the port, where it has one."""
        address = address_text(self.version, self.endpoint)
        if not self.port:
            return address
        return f"[{address}]:{self.port}" if self.version == 6 else f"{address}:{self.port}"

    @property
    def registrant(self) -> str | None:
        return self.entry.registrant if self.entry else None

    def __iadd__(self, more: Pair) -> Pair:
        self.flows += more.flows
        self.packets += more.packets
        self.bytes += more.bytes
        self.first_ns, self.last_ns = min(self.first_ns, more.first_ns), max(self.last_ns, more.last_ns)
        return self


@dataclass(slots=True)
class Person:
    """A registrant, or None for flows that no registration comes near. changes: (flows, packets, bytes) by "reason → reason"."""

    registrant: str | None
    registrations: set[int] = field(default_factory=set)
    subscribers: set[tuple[int, int]] = field(default_factory=set)
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])
    misses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stops: list[int] = field(default_factory=lambda: [0, 0, 0])
    passes: list[int] = field(default_factory=lambda: [0, 0, 0])


class Sum(NamedTuple):
    """Flows, packets and bytes of several pairs; first is one of them, others counts what they were counted against."""

    first: Pair
    sums: list[int]
    others: int


class Whose:
    """Finds registrations near flows, among those that `ends` knows."""

    def __init__(self, policy: Policy, ends: Ends) -> None:
        self._policy = policy
        self._match = policy.match
        self._numbered = {entry.registration: entry for entry in ends.entries}
        self.entries = ends.entries
        self._by_line = ends.lines
        self._by_endpoint = Tables(Index("endpoint", map(of_anything, self.entries)))

    def pairs(self, tables: dict[int, pa.Table | None], most: int = MOST_LOOKED_AT) -> Iterator[Pair]:
        """Each family's pairs, most flows first, with what is near them."""
        for version, table in tables.items():
            if table is None:
                continue
            yield from self._of(version, table.slice(0, most))

    def _of(self, version: int, table: pa.Table) -> Iterator[Pair]:
        names = ("subscriber", "endpoint")
        if version == 4:
            columns = [table.column(name).to_numpy() for name in names]
        else:
            columns = [
                np.stack([table.column(f"{name}_{half}").to_numpy() for half in ("high", "low")], axis=1)
                for name in names
            ]
        lines = self._by_line.members(alone(version, columns[0]), "any")
        endpoints = self._by_endpoint.members(alone(version, columns[1]), "any")
        ends = [_numbers(version, column) for column in columns]
        rest = [table.column(name).to_pylist() for name in _COLUMNS]
        for place, (subscriber, endpoint, row) in enumerate(zip(*ends, zip(*rest, strict=True), strict=True)):
            port, code, reason, other, registration, flows, packets, octets, first_ns, last_ns = row
            found = RECOGNISED[code]
            pair = Pair(
                version,
                subscriber,
                endpoint,
                port,
                found.protocol if found else "unknown",
                REASONS[reason],
                REASONS[other],
                flows,
                packets,
                octets,
                first_ns,
                last_ns,
            )
            covered = self._numbered.get(registration)
            if covered and (pair.reason == "revoked" or pair.reason not in _STOPPED):
                pair.entry = covered
            else:
                kind = found.kind if found else "any"
                self._place(pair, kind, set(lines[place]), set(endpoints[place]))
            yield pair

    def _place(self, pair: Pair, kind: str, by_line: set[int], by_endpoint: set[int]) -> None:
        """Name the registration that comes nearest, and what is missing."""
        both = by_line & by_endpoint
        if self._match == "subscriber":
            both = by_line
        elif self._match == "endpoint":
            both = by_endpoint
        ranked = [(self._miss(self.entries[row], pair, kind), row) for row in both]
        order = list(MISSES)
        if ranked:
            best = min(order.index(miss) for miss, _ in ranked)
            rows = sorted(row for miss, row in ranked if order.index(miss) == best)
            pair.miss = order[best]
        else:
            pair.miss = "other-endpoint" if by_line else "other-line" if by_endpoint else "nobody"
            rows = sorted(by_line or by_endpoint)
        if rows:
            pair.entry = self.entries[rows[0]]
            people = {self.entries[row].registrant for row in rows}
            pair.also = len(people) - 1

    def _miss(self, entry: Entry, pair: Pair, kind: str) -> str:
        fits_protocol = not entry.protocols or any(kind in _kinds(protocol) for protocol in entry.protocols)
        has_port = bool(entry.endpoint_ports) and self._match != "subscriber" and kind not in PORTLESS
        fits_port = not has_port or pair.port in entry.endpoint_ports
        if fits_protocol and fits_port:
            return "not-valid-then" if self._policy.counts(entry) else "category"
        if fits_protocol:
            return "other-port"
        return "other-protocol" if fits_port else "other-port-and-protocol"


def people(pairs: Iterable[Pair]) -> list[Person]:
    """Sums by registrant over stopped pairs and changes, most flows first; flows near nobody come under None, last."""
    found: dict[str | None, Person] = {}
    for pair in pairs:
        person = found.setdefault(pair.registrant, Person(pair.registrant))
        if pair.entry:
            person.registrations.add(pair.entry.registration)
        person.subscribers.add((pair.version, pair.subscriber))
        sums = (pair.flows, pair.packets, pair.bytes)
        stopped, stopped_other = (word in _STOPPED for word in (pair.reason, pair.other))
        if stopped:
            person.sums = _plus(person.sums, sums)
            if pair.miss:
                person.misses[pair.miss] += pair.flows
        if stopped and not stopped_other:
            person.passes = _plus(person.passes, sums)
        if stopped_other and not stopped:
            person.stops = _plus(person.stops, sums)
    return sorted(
        found.values(),
        key=lambda each: (each.registrant is None, -each.sums[0] - each.stops[0], each.registrant or ""),
    )


def summed(pairs: Iterable[Pair], key: Callable[[Pair], Any], other: Callable[[Pair], Any]) -> list[Sum]:
    """Stopped pairs summed by key(pair), most flows first; others is how many different other(pair) each has."""
    found: dict[Any, tuple[Pair, list[int], set[Any]]] = {}
    for pair in pairs:
        if pair.reason in _STOPPED:
            each = found.get(name := key(pair))
            if each is None:
                found[name] = (pair, [pair.flows, pair.packets, pair.bytes], {other(pair)})
                continue
            sums = each[1]
            sums[0] += pair.flows
            sums[1] += pair.packets
            sums[2] += pair.bytes
            each[2].add(other(pair))
    sums_of = [Sum(pair, sums, len(others)) for pair, sums, others in found.values()]
    return sorted(sums_of, key=lambda each: (-each.sums[0], -each.sums[2]))


_STOPPED = {reason for reason, stopped in zip(REASONS, STOPPED, strict=True) if stopped}


def _plus(left: Any, right: Any) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


@cache
def _kinds(protocol: str) -> tuple[str, ...]:
    """The classes a registration for this protocol covers (cells._CLASSES), asked of cells itself."""
    probe = Entry(1, "", ("0.0.0.0/0",), ("0.0.0.0/0",), (), (protocol,))
    return tuple({shape.kind for shape, _ in cells(probe, "subscriber+endpoint")})


def _numbers(version: int, column: Any) -> list[int]:
    if version == 4:
        return column.tolist()
    return [(high << 64) | low for high, low in column.tolist()]
