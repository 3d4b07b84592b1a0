"""Token buckets, one a flow and direction, for dataplanes that police in user space."""

from __future__ import annotations

import time
from collections.abc import Callable

from enforcer.packet import Packet

_MOST_FLOWS = 65_536
POLICE_BURST_BYTES = 3000  # two full packets, so that a slow rate lets any through


class Buckets:
    """rate_bps a flow, with the burst the kernel gives (ruleset.py): a second's worth and POLICE_BURST_BYTES."""

    def __init__(self, rate_bps: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_bps / 8
        self._burst = self._rate + POLICE_BURST_BYTES
        self._clock_s = clock_s
        self._flows: dict[tuple[int, int, int, int], tuple[float, float]] = {}

    def take(self, packet: Packet) -> bool:
        """Whether the packet is within its flow's rate."""
        key = (packet.src, packet.src_port, packet.dst, packet.dst_port)
        now_s = self._clock_s()
        tokens, since_s = self._flows.pop(key, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - since_s) * self._rate)
        is_within = tokens >= packet.length
        self._flows[key] = (tokens - packet.length if is_within else tokens, now_s)
        if len(self._flows) > _MOST_FLOWS:
            del self._flows[next(iter(self._flows))]  # the one not seen for longest
        return is_within
