"""Rate limits: token buckets by what is done and by whom, in memory. A restart forgives everybody."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Limit:
    """`burst` at once, then `per_minute` more."""

    burst: int
    per_minute: float


# A bucket for each (kind, who). Sign-in counts failures only; an address is an office's whole NAT, an account one person.
LIMITS: Mapping[str, Limit] = {
    "sign-in-account": Limit(5, 1),
    "sign-in-address": Limit(20, 10),
    "sign-up-address": Limit(10, 2),
    "lookup-address": Limit(20, 10),
    "post-account": Limit(60, 60),
    "post-address": Limit(120, 240),
    "get-address": Limit(600, 1200),
    # Applications of many people behind one address on the day of a deadline; offices and enforcers are not counted.
    "call-address": Limit(3000, 6000),
}
_MOST_BUCKETS = 100_000  # about 20 MB; beyond it the ones that were quiet longest are forgotten


@dataclass(slots=True)
class Limiter:
    """clock: seconds, monotonic."""

    limits: Mapping[str, Limit] = field(default_factory=lambda: LIMITS)
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[tuple[str, str], tuple[float, float]] = field(default_factory=OrderedDict)

    def wait_s(self, kind: str, who: str) -> float:
        """0 when one more is allowed now, else in how many seconds. Counts nothing."""
        limit = self.limits[kind]
        tokens = self._tokens(kind, who)
        return 0.0 if tokens >= 1 else (1 - tokens) / limit.per_minute * 60

    def take(self, kind: str, who: str) -> float:
        """As wait_s, and counts this one when it is allowed."""
        wait_s = self.wait_s(kind, who)
        if wait_s == 0:
            self._buckets[kind, who] = (self._tokens(kind, who) - 1, self.clock())
            self._buckets.move_to_end((kind, who))
            while len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        return wait_s

    def _tokens(self, kind: str, who: str) -> float:
        limit = self.limits[kind]
        tokens, since = self._buckets.get((kind, who), (float(limit.burst), self.clock()))
        return min(float(limit.burst), tokens + (self.clock() - since) * limit.per_minute / 60)


def address_key(address: str) -> str:
    """What counts as one address: IPv4 as it is, IPv6 by its /64, which is what one line has at the least (RFC 6177)."""
    try:
        parsed = ip_address(address.split("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    if mapped is not None:
        return str(mapped)
    return str(parsed) if parsed.version == 4 else str(ip_network((parsed, 64), strict=False))
