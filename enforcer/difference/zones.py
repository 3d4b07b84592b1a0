"""Where both policies take a flow for one and the same thing: a product of prefixes, less what an earlier named endpoint holds. Pure.

A named endpoint is taken away from the zones after it as a list, never cut out: the rest of IPv6 less one address, on both sides,
would be 128 × 128 prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from enforcer.difference.prefixes import WHOLE, Nest, Prefix, Product, common, contains
from enforcer.difference.sides import Judged, Region

_ALL = (WHOLE,)


class Zone(NamedTuple):
    """Each of the subscribers with each of the endpoints, less; kinds: what the old and the new policy take a flow there for."""

    subscribers: tuple[Prefix, ...]
    endpoints: tuple[Prefix, ...]
    less: tuple[Product, ...]
    kinds: tuple[str | None, str | None]

    @property
    def is_whole(self) -> bool:
        """Whether it is everything but the exceptions."""
        return self.subscribers == self.endpoints == _ALL


class Zones:
    """Zones of one family. Equal lists of prefixes are one object."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lists: dict[tuple[Prefix, ...], tuple[Prefix, ...]] = {}
        self._nests: dict[int, Nest] = {}
        self._known: dict[tuple[Judged, Judged], tuple[Zone, ...]] = {}

    def of(self, judged: tuple[Judged, Judged]) -> tuple[Zone, ...]:
        """Disjoint, and together everything but what is no VPN on either side."""
        if judged not in self._known:
            self._known[judged] = tuple(self._find(judged))
        return self._known[judged]

    def within(self, products: Iterable[Product], region: Region) -> tuple[Product, ...]:
        """What the products (of unpaired lists) have in common with a rectangle."""
        found = []
        for each in products:
            ones, others = self.clipped(each.subscribers, region[0]), self.clipped(each.endpoints, region[1])
            if ones and others:
                found.append(Product(ones, others))
        return tuple(found)

    def is_within(self, product: Product, others: tuple[Product, ...]) -> bool:
        """Whether one of the others holds all of a product of two prefixes."""
        one, other = product.subscribers, product.endpoints
        return len(one) == len(other) == 1 and product in self.within(others, (one[0], other[0]))

    def clipped(self, prefixes: tuple[Prefix, ...], prefix: Prefix) -> tuple[Prefix, ...]:
        """What disjoint prefixes have in common with one."""
        if prefix == WHOLE:
            return prefixes
        if len(prefixes) == 1:
            both = common(prefixes[0], prefix, self._width)
            return (both,) if both is not None else ()
        nest = self._nests.get(id(prefixes))  # by id: every list is kept
        if nest is None:
            prefixes = self._shared(prefixes)
            nest = self._nests[id(prefixes)] = Nest(dict.fromkeys(prefixes), self._width)
        return self._shared(
            tuple([each if each[1] > prefix[1] else prefix for each in nest.touching(prefix)])
        )

    def _find(self, judged: tuple[Judged, Judged]) -> Iterator[Zone]:
        olds, news = self._blocks(judged[0]), self._blocks(judged[1])
        for place, (old, old_kind) in enumerate(olds):
            for other_place, (new, new_kind) in enumerate(news):
                if old_kind is None and new_kind is None:
                    continue
                subscribers = self._common(old.subscribers, new.subscribers)
                endpoints = self._common(old.endpoints, new.endpoints)
                less = dict.fromkeys(each for each, _ in (*olds[:place], *news[:other_place]))
                if subscribers and endpoints and not any(self._holds(each, old, new) for each in less):
                    yield Zone(subscribers, endpoints, tuple(less), (old_kind, new_kind))

    def _blocks(self, judged: Judged) -> list[tuple[Product, str | None]]:
        """The named regions in their order, with what is taken for one thing together, then everything."""
        found: list[tuple[Product, str | None]] = []
        runs: list[tuple[str, list[Region]]] = []
        for regions, kind in judged.named:
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].extend(regions)
        for kind, regions in runs:
            # Every region has all addresses on one side (sides.Side.judged).
            called = self._outermost(other for one, other in regions if one == WHOLE)
            opening = self._outermost(one for one, other in regions if one != WHOLE)
            if called:
                found.append((Product(_ALL, called), kind))
            if opening:
                found.append((Product(opening, _ALL), kind))
        return [*found, (Product(_ALL, _ALL), judged.base)]

    def _common(self, ones: tuple[Prefix, ...], others: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        if ones == _ALL or others == _ALL:
            return others if ones == _ALL else ones
        return self._outermost(both for one in ones for both in self.clipped(others, one))

    def _holds(self, less: Product, old: Product, new: Product) -> bool:
        """Whether nothing of what the two have in common is left."""
        return all(
            mine == _ALL or mine in (its, others)
            for mine, its, others in zip(less[:2], old[:2], new[:2], strict=True)
        )

    def _outermost(self, prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
        """Disjoint: without those that lie in another one."""
        found: list[Prefix] = []
        for prefix in sorted(set(prefixes)):
            if not found or not contains(found[-1], prefix, self._width):
                found.append(prefix)
        return self._shared(tuple(found))

    def _shared(self, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        return self._lists.setdefault(prefixes, prefixes)
