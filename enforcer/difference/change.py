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


EACH = "each"
"""Outcome.by of registrations that change alike (Change.each)."""


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

    each: registrations that change alike, one for each place of the two lists (a list of one is everybody's). Then the
    subscribers and endpoints at the same place belong together, and EACH stands for the registration in an outcome.
    """

    version: int
    subscribers: tuple[Prefix, ...]
    endpoints: tuple[Prefix, ...]
    exceptions: tuple[Product, ...]
    traffic: tuple[Traffic, ...]
    before: Outcome
    after: Outcome
    each: tuple[int, ...] = ()

    def single(self, place: int) -> Change:
        """What becomes of one of the registrations that change alike."""
        passes = Outcome("pass", self.each[place])
        less = [
            Product(
                self._own(product.subscribers, place, product.is_paired),
                self._own(product.endpoints, place, product.is_paired),
            )
            for product in self.exceptions
        ]
        return Change(
            self.version,
            self._own(self.subscribers, place, True),
            self._own(self.endpoints, place, True),
            tuple(less),
            self.traffic,
            passes if self.before.by == EACH else self.before,
            passes if self.after.by == EACH else self.after,
        )

    def singles(self) -> Iterator[Change]:
        """One change for each registration."""
        if not self.each:
            yield self
        for place in range(len(self.each)):
            yield self.single(place)

    def pieces(self) -> Iterator[tuple[Prefix, Prefix]]:
        """The same as disjoint rectangles of prefixes without exceptions."""
        width = WIDTHS[self.version]
        for change in self.singles():
            less = flat(change.exceptions)
            for subscriber in change.subscribers:
                for endpoint in change.endpoints:
                    overlapping = [
                        (a if a[1] > subscriber[1] else subscriber, b if b[1] > endpoint[1] else endpoint)
                        for a, b in less
                        if (contains(subscriber, a, width) or contains(a, subscriber, width))
                        and (contains(endpoint, b, width) or contains(b, endpoint, width))
                    ]
                    yield from cut(subscriber, endpoint, overlapping, width)

    def _own(self, prefixes: tuple[Prefix, ...], place: int, is_by_place: bool) -> tuple[Prefix, ...]:
        """A list by place, or the change's own one again in an exception: the prefix of this place. Other lists are everybody's."""
        is_own = prefixes is self.subscribers or prefixes is self.endpoints
        if len(prefixes) > 1 and (is_by_place or is_own):
            return (prefixes[place],)
        return prefixes


def losing(change: Change) -> tuple[int, ...]:
    """The registrations by which it passed before and does not now."""
    return _by(change, change.before)


def gaining(change: Change) -> tuple[int, ...]:
    """The registrations by which it passes now and did not before."""
    return _by(change, change.after)


def _by(change: Change, outcome: Outcome) -> tuple[int, ...]:
    if isinstance(outcome.by, int):
        return (outcome.by,)
    return change.each if outcome.by == EACH else ()
