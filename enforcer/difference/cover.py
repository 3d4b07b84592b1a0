"""Rectangles that pass, found by what they overlap. One Cover holds those of one kind of traffic under one policy and list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enforcer.difference.prefixes import WHOLE, WIDTHS, Nest, Prefix, Product, common

_FEW = 8  # below this, looking at each is quicker than sorting them
Label = int | str
"""Why it passes: a registration's number, an exemption ("exempt:NAME"), or NOT_VPN."""
NOT_VPN = "not-vpn"


class Rect(NamedTuple):
    """What passes. port: 0 is any. rank: of several that cover a point the lowest names it; ranks are all different."""

    subscriber: Prefix
    endpoint: Prefix
    port: int
    rank: tuple[int, ...]
    label: Label


class Cover:
    """Rectangles by both sides. Fill it with add(), then ask."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.rects: list[Rect] = []
        self._by_subscriber: dict[Prefix, _Bucket] = {}
        self._by_endpoint: dict[Prefix, _Bucket] | None = None
        self._nests: dict[bool, Nest] = {}

    def add(self, rect: Rect) -> None:
        self.rects.append(rect)
        bucket = self._by_subscriber.get(rect.subscriber)
        if bucket is None:
            bucket = self._by_subscriber[rect.subscriber] = _Bucket()
        bucket.add(rect.endpoint, rect)

    def same(self, rect: Rect) -> Rect | None:
        """One with the same two sides that covers its port, if there is one."""
        bucket = self._by_subscriber.get(rect.subscriber)
        if bucket is not None:
            for other in bucket.items.get(rect.endpoint, ()):
                if other.port == 0 or other.port == rect.port:
                    return other
        return None

    def overlaps(
        self, rect: Rect, before: tuple[int, ...] | None = None
    ) -> Iterator[tuple[int, Product, Label]]:
        """What it has in common with those here, as (port, product, label of one of them), where ports agree.

        before: only with those of a lower rank. Port 0: for any port of the rectangle.
        """
        if not self.rects:
            return
        width = WIDTHS[self.version]
        by_endpoint = rect.subscriber == WHOLE or (
            rect.endpoint != WHOLE and self._nest(False).count(rect.subscriber) > _FEW
        )
        side, cross = (rect.endpoint, rect.subscriber) if by_endpoint else (rect.subscriber, rect.endpoint)
        buckets, nest = self._buckets(by_endpoint), self._nest(by_endpoint)
        for keys in (nest.outer(side), nest.inner(side)):
            for key in keys:
                shared = key if key[1] > side[1] else side
                bucket = buckets[key]
                if cross == WHOLE and before is None:
                    for port, others, label in bucket.shared(rect.port):
                        pair = (others, (shared,)) if by_endpoint else ((shared,), others)
                        yield port, Product(*pair), label
                    continue
                for other, rects in bucket.near(cross, width):
                    both = other if other[1] > cross[1] else cross
                    pair = ((both,), (shared,)) if by_endpoint else ((shared,), (both,))
                    for each in rects:
                        if (before is None or each.rank < before) and (
                            each.port == 0 or rect.port in (0, each.port)
                        ):
                            yield each.port, Product(*pair), each.label

    def _buckets(self, by_endpoint: bool) -> dict[Prefix, _Bucket]:
        if not by_endpoint:
            return self._by_subscriber
        if self._by_endpoint is None:
            self._by_endpoint = {}
            for rect in self.rects:
                bucket = self._by_endpoint.get(rect.endpoint)
                if bucket is None:
                    bucket = self._by_endpoint[rect.endpoint] = _Bucket()
                bucket.add(rect.subscriber, rect)
        return self._by_endpoint

    def _nest(self, by_endpoint: bool) -> Nest:
        if by_endpoint not in self._nests:
            self._nests[by_endpoint] = Nest(self._buckets(by_endpoint), WIDTHS[self.version])
        return self._nests[by_endpoint]


class _Bucket:
    """The rectangles with one prefix on one side, by the other side."""

    __slots__ = ("_nest", "_shared", "items")

    def __init__(self) -> None:
        self.items: dict[Prefix, tuple[Rect, ...]] = {}
        self._nest: Nest | None = None
        self._shared: dict[int, tuple[tuple[Prefix, ...], Label]] | None = None

    def add(self, key: Prefix, rect: Rect) -> None:
        self.items[key] = (*self.items.get(key, ()), rect)

    def near(self, prefix: Prefix, width: int) -> Iterator[tuple[Prefix, tuple[Rect, ...]]]:
        """Those that contain the prefix or lie in it."""
        if len(self.items) <= _FEW:
            for key, rects in self.items.items():
                if common(key, prefix, width) is not None:
                    yield key, rects
            return
        if self._nest is None:
            self._nest = Nest(self.items, width)
        for keys in (self._nest.outer(prefix), self._nest.inner(prefix)):
            for key in keys:
                yield key, self.items[key]

    def shared(self, port: int) -> Iterator[tuple[int, tuple[Prefix, ...], Label]]:
        """All of them by port, in tuples that are made once: a whole side against a long list is then one step."""
        if self._shared is None:
            found: dict[int, dict[Prefix, Label]] = {}
            for key, rects in self.items.items():
                for rect in rects:
                    found.setdefault(rect.port, {}).setdefault(key, rect.label)
            self._shared = {
                each: (tuple(keys), next(iter(keys.values()))) for each, keys in sorted(found.items())
            }
        for each in (0, port) if port else self._shared:
            if each in self._shared:
                keys, label = self._shared[each]
                yield each, keys, label
