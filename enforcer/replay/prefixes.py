"""Sets of prefixes, asked about whole columns of addresses."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import numpy as np
from numpy.typing import NDArray

from enforcer.replay.lines import Addresses

_LOW = (1 << 64) - 1


class PrefixSet:
    """Which addresses lie in one of some prefixes, either family."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        networks = [ip_network(prefix) for prefix in prefixes]
        spans = sorted(
            (int(network.network_address), int(network.broadcast_address))
            for network in networks
            if network.version == 4
        )
        merged: list[list[int]] = []
        for start, end in spans:
            if merged and start <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts = np.array([start for start, _ in merged], np.uint32)
        self._ends = np.array([end for _, end in merged], np.uint32)
        # Which /16 holds any of it: most addresses are told apart by one read of 64 KiB.
        self._coarse4 = np.zeros(1 << 16, bool)
        for start, end in merged:
            self._coarse4[start >> 16 : (end >> 16) + 1] = True
        self._six = [
            tuple(np.uint64(value) for value in (net >> 64, net & _LOW, mask >> 64, mask & _LOW))
            for net, mask in (
                (int(network.network_address), int(network.netmask))
                for network in networks
                if network.version == 6
            )
        ]
        self._coarse6 = np.zeros(1 << 16, bool)
        for network in networks:
            if network.version == 6:
                first, last = int(network.network_address) >> 112, int(network.broadcast_address) >> 112
                self._coarse6[first : last + 1] = True

    def may_hold(self, version: int, addresses: Addresses) -> NDArray[np.bool_]:
        """False only where the address is surely in none of the prefixes; cheap."""
        if version == 4:
            return self._coarse4[addresses >> np.uint32(16)]
        return self._coarse6[addresses[:, 0] >> np.uint64(48)]

    def holds(self, version: int, addresses: Addresses) -> NDArray[np.bool_]:
        """Whether each address lies in one of the prefixes."""
        if version == 4:
            if not len(self._starts):
                return np.zeros(len(addresses), bool)
            place = np.searchsorted(self._starts, addresses, "right") - 1
            return (place >= 0) & (addresses <= self._ends[place])
        found = np.zeros(len(addresses), bool)
        for net_high, net_low, mask_high, mask_low in self._six:
            found |= ((addresses[:, 0] & mask_high) == net_high) & ((addresses[:, 1] & mask_low) == net_low)
        return found
