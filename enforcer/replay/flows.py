"""The flow table of a capture: what conntrack would know, and what each policy has said about each flow. Bounded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from enforcer.allowlist import Entry
from enforcer.cells import Index, is_valid
from enforcer.decide import CLEAR, EXEMPT, JUDGED_AGAIN, UNJUDGED, Flow, decide
from enforcer.packet import Packet
from enforcer.policy import Policy
from enforcer.protocols import TCP, UDP
from enforcer.replay.judge import REASONS, STOPPED

_NS = 1_000_000_000
# How long a flow is remembered without packets: nf_conntrack's defaults (Documentation/networking/nf_conntrack-sysctl.rst).
IDLE_NS = {TCP: 432_000 * _NS, UDP: 120 * _NS}
IDLE_CLOSED_NS, IDLE_OTHER_NS = 120 * _NS, 600 * _NS
FOREVER_NS = 1 << 63
REASON_CODES = {word: code for code, word in enumerate(REASONS)}
_IS_STOPPED = STOPPED.tolist()
# What says nothing against a verdict that stopped the flow before.
_SAYS_NOTHING = {"not-vpn", "not-yet", "fragment"}


class Standing:
    """What one policy says about one flow. reason: code of the last word; stopped: code of the first that stopped it, or 0.

    protocol: the last one recognised. spoke_ns: when it was said.
    since: packets and bytes of the flow when `reason` began.
    """

    __slots__ = (
        "mark",
        "reason",
        "stopped",
        "protocol",
        "registration",
        "spoke_ns",
        "since_packets",
        "since_bytes",
    )

    def __init__(self) -> None:
        self.mark = UNJUDGED
        self.reason = REASON_CODES["not-yet"]
        self.stopped = 0
        self.protocol: str | None = None
        self.registration: int | None = None
        self.spoke_ns = 0
        self.since_packets = 0
        self.since_bytes = 0


class Known:
    """A flow. ends: src, src_port, dst, dst_port of the packet it was judged by. until_ns: its verdicts hold till then."""

    __slots__ = (
        "version",
        "protocol",
        "ends",
        "start_ns",
        "last_ns",
        "idle_ns",
        "until_ns",
        "packets",
        "bytes",
        "is_closed",
        "standings",
        "keys",
    )

    def __init__(self, packet: Packet, start_ns: int, policies: int) -> None:
        self.version = packet.version
        self.protocol = packet.protocol or 0
        self.ends = (packet.src, packet.src_port, packet.dst, packet.dst_port)
        self.start_ns = start_ns
        self.last_ns = start_ns
        self.idle_ns = IDLE_NS.get(self.protocol, IDLE_OTHER_NS)
        self.until_ns = 0
        self.packets = 0
        self.bytes = 0
        self.is_closed = False
        self.standings = [Standing() for _ in range(policies)]
        self.keys: tuple[object, object] = (None, None)


class Decider:
    """One policy over one allowlist, a packet of a flow at a time. at_ns: judge as if it were then (None: the packet's time).

    A packet that says nothing (no VPN, no payload yet) in a flow that was stopped stays stopped: on the wire it would not have
    come, or would have fallen under the same verdict.
    """

    def __init__(self, policy: Policy, entries: Iterable[Entry], at_ns: int | None) -> None:
        self.policy = policy
        self.index = Index(policy.match, (entry for entry in entries if policy.counts(entry)))
        self.decided = 0
        self._at_ns = at_ns
        moments = set()
        for entry in self.index.entries.values():
            moments.add(entry.valid_from_ns)
            if entry.valid_until_ns is not None:
                moments.add(entry.valid_until_ns)
                moments.add(entry.valid_until_ns + (policy.let_finish_ns or 0))
        self._moments = sorted(moments)

    def judge(self, standing: Standing, packet: Packet, time_ns: int) -> tuple[int, int]:
        """Let the packet speak. Returns the code of what the flow is now, and until when that holds without another look."""
        self.decided += 1
        now_ns = time_ns if self._at_ns is None else self._at_ns
        verdict = decide(
            packet, Flow(standing.mark, self._ended_ns(standing, now_ns)), self.index, self.policy, now_ns
        )
        if standing.stopped and verdict.reason in _SAYS_NOTHING:
            # What did speak holds only until the next change of the registrations, and this packet could not say more.
            return standing.reason, self._next_ns(standing.spoke_ns)
        standing.mark, standing.spoke_ns = verdict.mark, now_ns
        standing.protocol = verdict.protocol or standing.protocol
        if verdict.registration is not None:
            standing.registration = verdict.registration
        code = REASON_CODES[verdict.reason]
        if _IS_STOPPED[code]:
            standing.stopped = standing.stopped or code
            return code, self._next_ns(now_ns)
        if verdict.reason in ("registered", "finishing"):
            return code, self._next_ns(now_ns)
        return code, FOREVER_NS if verdict.mark in (CLEAR, EXEMPT) else 0

    def _ended_ns(self, standing: Standing, now_ns: int) -> int | None:
        """When the registration in the mark ended, if it did."""
        if standing.mark == UNJUDGED or standing.mark in JUDGED_AGAIN:
            return None
        entry = self.index.entries.get(standing.mark)
        return None if entry is None or is_valid(entry, now_ns) else entry.valid_until_ns

    def _next_ns(self, now_ns: int) -> int:
        """The next moment at which any registration begins or ends; it is soon enough to look again then."""
        if self._at_ns is not None:
            return FOREVER_NS
        place = bisect_right(self._moments, now_ns)
        return self._moments[place] if place < len(self._moments) else FOREVER_NS


def final(standing: Standing) -> int:
    """The code a flow is counted under: what stopped it, if anything did; else the last word."""
    return standing.stopped or standing.reason
