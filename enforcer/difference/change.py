"""What a difference is made of: a change says which traffic between whom gets which other verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enforcer.difference.cover import Label
from enforcer.difference.prefixes import WIDTHS, Prefix, Product, contains, cut, flat


class Ports(NamedTuple):
    """Ports of the endpoint: these, or all but these."""

    is_all_but: bool
    ports: frozenset[int]

    def both(self, other: Ports) -> Ports:
        if self.is_all_but and other.is_all_but:
            return Ports(True, self.ports | other.ports)
        if self.is_all_but:
            return Ports(False, other.ports - self.ports)
        return Ports(False, self.ports - other.ports if other.is_all_but else self.ports & other.ports)

    def either(self, other: Ports) -> Ports:
        if self.is_all_but and other.is_all_but:
            return Ports(True, self.ports & other.ports)
        if self.is_all_but or other.is_all_but:
            one, rest = (self, other) if self.is_all_but else (other, self)
            return Ports(True, one.ports - rest.ports)
        return Ports(False, self.ports | other.ports)

    @property
    def is_none(self) -> bool:
        return not self.is_all_but and not self.ports


ANY_PORT, NO_PORT = Ports(True, frozenset()), Ports(False, frozenset())


class Outcome(NamedTuple):
    """verdict: pass, observe, "police RATE", reject or drop. by: what lets it pass; None for what is stopped."""

    verdict: str
    by: Label | None = None


class Traffic(NamedTuple):
    """look: a word of sides.LOOKS. ports: the called side's. opened_by: "subscriber", "endpoint" or "either"."""

    look: str
    ports: Ports
    opened_by: str


class Change(NamedTuple):
    """Each of the subscribers with each of the endpoints, less the exceptions: what of their traffic changes, and how.

    Prefixes of a list are disjoint; changes are disjoint in (subscriber, endpoint, look, port, who opens).
    """

    version: int
    subscribers: tuple[Prefix, ...]
    endpoints: tuple[Prefix, ...]
    exceptions: tuple[Product, ...]
    traffic: tuple[Traffic, ...]
    before: Outcome
    after: Outcome

    def pieces(self) -> Iterator[tuple[Prefix, Prefix]]:
        """The same as disjoint rectangles of prefixes without exceptions."""
        width = WIDTHS[self.version]
        less = flat(self.exceptions)
        for subscriber in self.subscribers:
            for endpoint in self.endpoints:
                overlapping = [
                    (a if a[1] > subscriber[1] else subscriber, b if b[1] > endpoint[1] else endpoint)
                    for a, b in less
                    if (contains(subscriber, a, width) or contains(a, subscriber, width))
                    and (contains(endpoint, b, width) or contains(b, endpoint, width))
                ]
                yield from cut(subscriber, endpoint, overlapping, width)
