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
    """What passes. port: 0 is any. rank: of several that cover a point the lowest names it; ranks are all different.

    is_led: its own changes are a leader's (alike.py); it is there to be taken away from others.
    """

    subscriber: Prefix
    endpoint: Prefix
    port: int
    rank: tuple[int, ...]
    label: Label
    is_led: bool = False


class Crowded(NamedTuple):
    """Rectangles at the same place of both lists; label: the lowest of them."""

    subscribers: list[Prefix]
    endpoints: list[Prefix]
    label: Label


class Cover:
    """Rectangles by both sides. Fill it with add() and add_crowd(), then ask.

    crowd: by port, rectangles that are met as whole lists only: by what has all addresses on a side. Of them either all have a whole
    side too, or none has.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self.rects: list[Rect] = []
        self.crowd: dict[int, Crowded] = {}
        self._pairs: dict[int, Product] = {}
        self._by_subscriber: dict[Prefix, _Bucket] = {}
        self._wide: str | None = None  # which side of the crowd is whole
        self._indexes: list[tuple[dict[Prefix, _Bucket], Nest] | None] = [
            None,
            None,
        ]  # by subscriber, by endpoint

    def add(self, rect: Rect) -> None:
        self.rects.append(rect)
        bucket = self._by_subscriber.get(rect.subscriber)
        if bucket is None:
            bucket = self._by_subscriber[rect.subscriber] = _Bucket()
        bucket.add(rect.endpoint, rect)

    @property
    def is_empty(self) -> bool:
        return not self.rects and not self.crowd

    def add_crowd(self, port: int, subscribers: list[Prefix], endpoints: list[Prefix], label: Label) -> None:
        """What add() does for many, of which no single one is ever asked for."""
        held = self.crowd.get(port)
        if held is None:
            self.crowd[port] = Crowded([*subscribers], [*endpoints], label)
            whole = (subscribers[0] == WHOLE, endpoints[0] == WHOLE)
            self._wide = "subscriber" if whole[0] else "endpoint" if whole[1] else None
            return
        held.subscribers.extend(subscribers)
        held.endpoints.extend(endpoints)
        self.crowd[port] = held._replace(label=min(held.label, label, key=_order))

    def take_crowd(self, other: Cover) -> None:
        """Add another's."""
        for port, each in other.crowd.items():
            self.add_crowd(port, *each)

    def same(self, rect: Rect) -> Rect | None:
        """The first by rank with the same two sides that covers its port, if there is one."""
        bucket = self._by_subscriber.get(rect.subscriber)
        if bucket is None:
            return None
        found = None
        for other in bucket.items.get(rect.endpoint, ()):
            if other.port in (0, rect.port) and (found is None or other.rank < found.rank):
                found = other
        return found

    def overlaps(
        self, rect: Rect, before: tuple[int, ...] | None = None
    ) -> Iterator[tuple[int, Product, Label]]:
        """What it has in common with those here, as (port, product, label of one of them), where ports agree.

        before: only with those of a lower rank. Port 0: for any port of the rectangle.
        """
        if self.is_empty:
            return
        by_endpoint = rect.subscriber == WHOLE or (
            rect.endpoint != WHOLE
            and len(self._by_subscriber) > _FEW
            and self._index(False)[1].count(rect.subscriber) > _FEW
        )
        if self.crowd and rect.subscriber == rect.endpoint == WHOLE:
            by_endpoint = self._wide != "subscriber"
            if self._wide is None:
                for port in (0, rect.port) if rect.port else sorted(self.crowd):
                    if port in self.crowd:
                        yield port, self._paired(port), self.crowd[port].label
        side, cross = (rect.endpoint, rect.subscriber) if by_endpoint else (rect.subscriber, rect.endpoint)
        buckets, nest = self._indexes[by_endpoint] or self._index(by_endpoint)
        width, is_whole = WIDTHS[self.version], cross == WHOLE and before is None
        for key in nest.touching(side):
            shared = (key if key[1] > side[1] else side,)
            bucket = buckets[key]
            if is_whole:
                for port, others, label in bucket.shared(rect.port):
                    pair = (others, shared) if by_endpoint else (shared, others)
                    yield port, Product(*pair), label
                continue
            for other, rects in bucket.near(cross, width):
                both = (other if other[1] > cross[1] else cross,)
                pair = (both, shared) if by_endpoint else (shared, both)
                for each in rects:
                    if (before is None or each.rank < before) and (
                        each.port == 0 or rect.port in (0, each.port)
                    ):
                        yield each.port, Product(*pair), each.label

    def _paired(self, port: int) -> Product:
        if port not in self._pairs:
            held = self.crowd[port]
            ones, others = zip(
                *dict.fromkeys(zip(held.subscribers, held.endpoints, strict=True)), strict=True
            )
            self._pairs[port] = Product(ones, others, True)
        return self._pairs[port]

    def _index(self, by_endpoint: bool) -> tuple[dict[Prefix, _Bucket], Nest]:
        """What is asked, made at the first question."""
        found = self._indexes[by_endpoint]
        if found is not None:
            return found
        buckets = self._by_subscriber
        if by_endpoint:
            buckets = {}
            for rect in self.rects:
                bucket = buckets.get(rect.endpoint)
                if bucket is None:
                    bucket = buckets[rect.endpoint] = _Bucket()
                bucket.add(rect.subscriber, rect)
        if self._wide == ("endpoint" if by_endpoint else "subscriber"):
            crowd = self.crowd.items()
            buckets.setdefault(WHOLE, _Bucket()).crowd = {
                port: (each.subscribers if by_endpoint else each.endpoints, each.label)
                for port, each in crowd
            }
        found = self._indexes[by_endpoint] = buckets, Nest(buckets, WIDTHS[self.version])
        return found


class _Bucket:
    """The rectangles with one prefix on one side, by the other side."""

    __slots__ = ("_nest", "_shared", "crowd", "items")

    def __init__(self) -> None:
        self.crowd: dict[int, tuple[list[Prefix], Label]] = {}
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
        for key in self._nest.touching(prefix):
            yield key, self.items[key]

    def shared(self, port: int) -> Iterator[tuple[int, tuple[Prefix, ...], Label]]:
        """All of them by port, in tuples that are made once: a whole side against a long list is then one step."""
        if self._shared is None:
            found: dict[int, dict[Prefix, None]] = {}
            labels: dict[int, set[Label]] = {}
            for key, rects in self.items.items():
                for rect in rects:
                    found.setdefault(rect.port, {})[key] = None
                    labels.setdefault(rect.port, set()).add(rect.label)
            for each, (prefixes, label) in self.crowd.items():
                found.setdefault(each, {}).update(dict.fromkeys(prefixes))
                labels.setdefault(each, set()).add(label)
            self._shared = {
                each: (tuple(keys), min(labels[each], key=_order)) for each, keys in sorted(found.items())
            }
        for each in (0, port) if port else self._shared:
            if each in self._shared:
                keys, label = self._shared[each]
                yield each, keys, label


def _order(label: Label) -> tuple[int, str]:
    return (label, "") if isinstance(label, int) else (0, label)
