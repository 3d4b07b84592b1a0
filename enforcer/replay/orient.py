"""Which end of a VPN flow is the subscriber and which the endpoint, as far as ports, prefixes and the allowlist tell."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from enforcer.allowlist import Entry
from enforcer.cells import PORTLESS, Index
from enforcer.policy import Policy
from enforcer.protocols import TCP, TCP_PORTS, UDP_PORTS
from enforcer.replay.judge import RECOGNISED
from enforcer.replay.lines import Lines
from enforcer.replay.prefixes import PrefixSet
from enforcer.replay.tables import Tables

_IS_PORTLESS = np.array([found is not None and found.kind in PORTLESS for found in RECOGNISED])


class Ends:
    """inside: prefixes of the subscribers' side, which settle it; without them a documented port at one end does, then the registry."""

    def __init__(self, policy: Policy, entries: Iterable[Entry], inside: Iterable[str] = ()) -> None:
        self._inside = PrefixSet(inside) if inside else None
        self._named = PrefixSet(prefix for named in policy.named_endpoints for prefix in named.prefixes)
        self.entries = sorted(entries, key=lambda entry: entry.registration)
        self.lines = Tables(Index("subscriber", map(of_anything, self.entries)))
        self.untold = 0  # stopped flows asked about whose ends nothing tells apart
        self._documented = np.zeros((2, 1 << 16), bool)
        self._documented[0, list(UDP_PORTS)] = True
        self._documented[1, list(TCP_PORTS)] = True

    def is_backwards(
        self, lines: Lines, code: NDArray[np.uint8], is_opener_known: bool = False
    ) -> NDArray[np.bool_]:
        """Whether src is the endpoint. lines: as they were judged. is_opener_known: src sent the flow's first packet."""
        version = lines.version
        is_tcp = (lines.protocol == TCP).astype(np.int64)
        ports = self._documented[is_tcp, lines.src_port], self._documented[is_tcp, lines.dst_port]
        names = self._named.holds(version, lines.src), self._named.holds(version, lines.dst)
        found = (ports[0] & ~ports[1]) | (names[0] & ~names[1])
        # ESP has no ports, and IKE has its own at both ends.
        is_open = (_IS_PORTLESS[code] | (ports[0] & ports[1])) & (names[0] == names[1])
        if self._inside is not None:
            inside = self._inside.holds(version, lines.src), self._inside.holds(version, lines.dst)
            is_told = inside[0] != inside[1]
            found = np.where(is_told, inside[1], found)
            is_open &= ~is_told
        unsure = np.flatnonzero(is_open)
        if len(unsure):
            mine = lines.take(unsure)
            src, dst = self.is_line(version, mine.src), self.is_line(version, mine.dst)
            # Neither known: a subscriber opens flows; without that, at least one way for both directions.
            guess = np.zeros(len(mine), bool) if is_opener_known else _is_less(version, mine.dst, mine.src)
            found[unsure] = np.where(src != dst, dst, guess)
            self.untold += 0 if is_opener_known else int(np.count_nonzero(src == dst))
        return found

    def is_line(self, version: int, addresses: NDArray) -> NDArray[np.bool_]:
        """Whether each address is a registered line, whatever the registration's validity."""
        return self.owner(version, addresses) >= 0

    def owner(self, version: int, addresses: NDArray) -> NDArray[np.int64]:
        """The row of the lowest registration with each address as a line; -1 without one."""
        return self.lines.find(alone(version, addresses), "any", None)


def alone(version: int, addresses: NDArray) -> Lines:
    """Lines with these addresses at both ends, for a lookup by one end alone."""
    count = len(addresses)
    small, port, long = np.zeros(count, np.uint8), np.zeros(count, np.uint16), np.zeros(count, np.int64)
    return Lines(version, addresses, addresses, small, port, port, long, long, long)  # type: ignore[arg-type]


def of_anything(entry: Entry) -> Entry:
    """The entry for all protocols and ports, whenever: for a lookup by one end alone."""
    return Entry(entry.registration, entry.registrant, entry.subscriber_prefixes, entry.endpoint_prefixes)


def _is_less(version: int, left: NDArray, right: NDArray) -> NDArray[np.bool_]:
    if version == 4:
        return left < right
    return (left[:, 0] < right[:, 0]) | ((left[:, 0] == right[:, 0]) & (left[:, 1] < right[:, 1]))
