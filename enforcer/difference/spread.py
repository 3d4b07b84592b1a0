"""Many prefixes of one family at once: which are there several times, contain others or lie in them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from enforcer.difference.prefixes import WIDTHS, Prefix


class Spread:
    """The distinct ones of many prefixes, in the order of their addresses, the shorter of two with one address first.

    What a prefix contains then follows it without a gap: to ask for it is a look for two ends.
    """

    def __init__(self, prefixes: Sequence[Prefix], version: int) -> None:
        self._prefixes, self._version = prefixes, version
        self._keys, self._places, self._counts = np.unique(
            _keys(prefixes, version), return_index=True, return_counts=True
        )
        self._ends: Any = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def shared(self) -> set[Prefix]:
        """Those that are there several times."""
        return self._those(self._counts > 1)

    def nested(self) -> set[Prefix]:
        """Those that contain another one or lie in it."""
        starts = np.arange(1, len(self) + 1)
        stops = self._stops(self)
        is_outer = stops > starts
        is_inner = np.zeros(len(self), bool)
        is_inner[1:] = np.maximum.accumulate(stops)[:-1] >= starts[1:]
        return self._those(is_outer | is_inner)

    def meeting(self, other: Spread) -> tuple[set[Prefix], set[Prefix]]:
        """Those that contain one of the other's, lie in it or are the same; and the other's."""
        if not len(self) or not len(other):
            return set(), set()
        mine, theirs = self._within(other), other._within(self)
        return self._those(theirs[1] | mine[0]), other._those(mine[1] | theirs[0])

    def _within(self, other: Spread) -> tuple[Any, Any]:
        """Which of these contain one of the other's; which of the other's lie in one of these."""
        starts, stops = np.searchsorted(other._keys, self._keys), self._stops(other)
        edges = np.zeros(len(other) + 1, np.int64)
        np.add.at(edges, starts, 1)
        np.add.at(edges, stops, -1)
        return stops > starts, np.cumsum(edges)[:-1] > 0

    def _stops(self, other: Spread) -> Any:
        """For each, where the first of the other's stands that begins after its last address."""
        if self._ends is None:
            self._ends = _ends(self._keys, [self._prefixes[place] for place in self._places], self._version)
        return np.searchsorted(other._keys, self._ends, "right")

    def _those(self, are: Any) -> set[Prefix]:
        return {self._prefixes[place] for place in self._places[are]}


def _keys(prefixes: Sequence[Prefix], version: int) -> Any:
    """Address and length as one number; numpy has none of 17 bytes, and orders strings of bytes alike."""
    if version == 4:
        return np.fromiter((address << 8 | bits for address, bits in prefixes), np.uint64, len(prefixes))
    return _texts([address << 8 | bits for address, bits in prefixes])


def _ends(keys: Any, prefixes: list[Prefix], version: int) -> Any:
    """The last key that can stand for something within each."""
    if version == 4:
        host_bits = np.uint64(40) - (keys & np.uint64(255))
        return keys | ((np.uint64(1) << host_bits) - np.uint64(1))
    width = WIDTHS[version] + 8
    return _texts([(address << 8) | ((1 << (width - bits)) - 1) for address, bits in prefixes])


def _texts(numbers: list[int]) -> Any:
    return np.frombuffer(b"".join([number.to_bytes(17, "big") for number in numbers]), "S17")
