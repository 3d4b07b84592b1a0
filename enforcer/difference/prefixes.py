"""Prefixes and rectangles of prefixes (subscriber side × endpoint side) of one address family. Pure.

Two prefixes are nested or disjoint, so two rectangles overlap in a rectangle, and a rectangle less others can be cut into prefixes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

Prefix = tuple[int, int]
"""Address and length in bits. The width of the address is known from the family."""

WHOLE: Prefix = (0, 0)
WIDTHS = {4: 32, 6: 128}


class Product(NamedTuple):
    """Each prefix of the one side with each of the other; is_paired: those at the same place of both. Tuples may be shared."""

    subscribers: tuple[Prefix, ...]
    endpoints: tuple[Prefix, ...]
    is_paired: bool = False

    @property
    def turned(self) -> Product:
        return Product(self.endpoints, self.subscribers, self.is_paired)


def contains(outer: Prefix, inner: Prefix, width: int) -> bool:
    """Whether inner lies in outer, or is it."""
    shift = width - outer[1]
    return outer[1] <= inner[1] and inner[0] >> shift == outer[0] >> shift


def common(one: Prefix, other: Prefix, width: int) -> Prefix | None:
    """What two prefixes share: the longer one, or nothing."""
    longer, shorter = (one, other) if one[1] >= other[1] else (other, one)
    return longer if contains(shorter, longer, width) else None


def read(prefix: str) -> tuple[int, Prefix]:
    """Family and prefix of CIDR notation that has been checked before (enforcer.cells.check_prefixes, policy files)."""
    address, _, bits = prefix.partition("/")
    version, family = (6, AF_INET6) if ":" in address else (4, AF_INET)
    return version, (int.from_bytes(inet_pton(family, address), "big"), int(bits))


def text(prefix: Prefix, version: int) -> str:
    """CIDR notation."""
    size, family = (4, AF_INET) if version == 4 else (16, AF_INET6)
    return f"{inet_ntop(family, prefix[0].to_bytes(size, 'big'))}/{prefix[1]}"


class Nest:
    """Which keys of a mapping by prefix contain a prefix or lie in it. The mapping must not change meanwhile."""

    def __init__(self, keys: Mapping[Prefix, object], width: int) -> None:
        self._keys, self._width = keys, width
        self._sorted = sorted(keys)
        self._lengths = sorted({bits for _, bits in keys})
        self._masks = [(bits, (1 << width) - (1 << (width - bits))) for bits in self._lengths]

    def touching(self, prefix: Prefix) -> list[Prefix]:
        """Those that contain it, itself among them, shortest first; then those that lie in it."""
        address, length = prefix
        keys = self._keys
        found = []
        for bits, mask in self._masks:
            if bits > length:
                start, stop = self._span(prefix)
                return found + self._sorted[start:stop]
            key = (address & mask, bits)
            if key in keys:
                found.append(key)
        return found

    def count(self, prefix: Prefix) -> int:
        """How many lie in it."""
        if not self._lengths or prefix[1] >= self._lengths[-1]:
            return 0
        start, stop = self._span(prefix)
        return stop - start

    def _span(self, prefix: Prefix) -> tuple[int, int]:
        address, bits = prefix
        start = bisect_left(self._sorted, (address, bits + 1))
        return start, bisect_left(self._sorted, (address + (1 << (self._width - bits)), 0), start)


def cut(
    subscriber: Prefix, endpoint: Prefix, less: list[tuple[Prefix, Prefix]], width: int
) -> Iterator[tuple[Prefix, Prefix]]:
    """Disjoint rectangles that are the given one less the others, each of which must overlap it."""
    stack = [(subscriber, endpoint, less)]
    while stack:
        one, other, rest = stack.pop()
        if not rest:
            yield one, other
            continue
        if any(a[1] <= one[1] and b[1] <= other[1] for a, b in rest):
            continue
        # Along the side that some exception divides; the subscriber's first, so that pieces stay whole lines for long.
        if any(a[1] > one[1] for a, _ in rest):
            for half in _halves(one, width):
                kept = [(a, b) for a, b in rest if _overlap(a, half, width)]
                stack.append((half, other, kept))
        else:
            for half in _halves(other, width):
                kept = [(a, b) for a, b in rest if _overlap(b, half, width)]
                stack.append((one, half, kept))


def is_covered(subscriber: Prefix, endpoint: Prefix, covers: list[tuple[Prefix, Prefix]], width: int) -> bool:
    """Whether nothing of a rectangle lies outside the others, each of which must overlap it. No cutting, so as quick for IPv6."""
    by_subscriber: dict[Prefix, list[Prefix]] = {subscriber: []}
    for one, other in covers:
        by_subscriber.setdefault(one if one[1] > subscriber[1] else subscriber, []).append(other)
    # From wide to narrow: what lies around the next one, each with the endpoints that cover it and how much of it is still open.
    around: list[tuple[Prefix, list[Prefix], list[int]]] = []
    done: Prefix | None = None
    for prefix in sorted(by_subscriber):
        if done is not None and contains(done, prefix, width):
            continue
        while around and not contains(around[-1][0], prefix, width):
            if around.pop()[2][0]:
                return False
        size = 1 << (width - prefix[1])
        endpoints = by_subscriber[prefix]
        is_filled = any(each[1] <= endpoint[1] for each in endpoints)
        if around:
            around[-1][2][0] -= size
        if not is_filled:
            endpoints = endpoints + (around[-1][1] if around else [])
            is_filled = _is_filled(endpoint, endpoints, width)
        if is_filled:
            done = prefix
        else:
            around.append((prefix, endpoints, [size]))
    return not any(left[0] for _, _, left in around)


def _is_filled(whole: Prefix, prefixes: list[Prefix], width: int) -> bool:
    """Whether prefixes that overlap a prefix leave nothing of it."""
    left = 1 << (width - whole[1])
    last: Prefix | None = None
    for prefix in sorted(prefixes):
        if last is None or not contains(last, prefix, width):
            left -= 1 << (width - max(prefix[1], whole[1]))
            last = prefix
    return left == 0


def flat(products: tuple[Product, ...]) -> list[tuple[Prefix, Prefix]]:
    """The products as single rectangles."""
    found: list[tuple[Prefix, Prefix]] = []
    for each in products:
        if each.is_paired:
            found += zip(each.subscribers, each.endpoints, strict=True)
        else:
            found += [(a, b) for a in each.subscribers for b in each.endpoints]
    return found


def _halves(prefix: Prefix, width: int) -> tuple[Prefix, Prefix]:
    address, bits = prefix
    return (address, bits + 1), (address | 1 << (width - bits - 1), bits + 1)


def _overlap(one: Prefix, other: Prefix, width: int) -> bool:
    shift = width - min(one[1], other[1])
    return one[0] >> shift == other[0] >> shift
