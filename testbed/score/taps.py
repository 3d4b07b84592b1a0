"""What the witnesses saw of an attempt at each enforcer, and whether it was stopped there. The enforcer is not asked."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from testbed.plan.plan import Plan, Stream, Subscriber, VpnServer
from testbed.records import FlowRecord, WitnessRecord

# A client that gets no answer tries again after a while: where its packets went lately is where an attempt would have gone.
# 15 s covers the first retry timers of the clients used here (WireGuard 5 s, OpenVPN and IKEv2 up to 12 s).
LOOK_BACK_NS = 15_000_000_000
# Witness buckets are 200 ms wide and a packet may cross one tap in one bucket and the other in the next.
BUCKET_NS = 200_000_000

# A packet sent into a tunnel reaches the gateway within this: access and transit delays of a country, and some queueing.
OWN_NS = 400_000_000
# Packets are held between a node's two taps for the delay of the link they came by (testbed/lab/holder_placement.py), and
# may queue besides.
_QUEUE_NS = 50_000_000

# What a VPN's packets may travel in; its data in some that have no ports (RFC 7296 section 1, RFC 2637 section 1).
TRANSPORTS = {
    "wireguard": ("udp",),
    "openvpn-udp": ("udp",),
    "openvpn-tcp": ("tcp",),
    "ikev2": ("udp", "esp", "ah"),
    "openconnect": ("tcp", "udp"),
    "l2tp": ("udp",),
    "pptp": ("tcp", "gre"),
}
# Ports of a VPN beside its own: IKE goes on at 4500 and starts at 500 (RFC 7296 section 2.23).
_MORE_PORTS = {"ikev2": (500, 4500)}


@dataclass(frozen=True, slots=True)
class Seen:
    """Packets of one flow and direction at one enforcer's two taps, in a window of time; `last_*` None when none was seen."""

    before: int = 0
    after: int = 0
    last_before_ns: int | None = None
    last_after_ns: int | None = None
    last_row: WitnessRecord | None = None

    @property
    def lost(self) -> int:
        """How many went in and did not come out."""
        return max(0, self.before - self.after)

    @property
    def is_stopped_at_end(self) -> bool:
        """The last packet that went in was not followed by one that came out."""
        if self.last_before_ns is None or not self.lost:
            return False
        return self.last_after_ns is None or self.last_after_ns < self.last_before_ns


@dataclass(frozen=True, slots=True)
class Stop:
    """Proof that an attempt was stopped at an enforcer. at_ns: when the last packet that proves it went in; row: the record of
    the flow it was of, which for an attempt through a tunnel is the tunnel's own."""

    node: str
    direction: str
    at_ns: int
    lost: int
    row: WitnessRecord | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What the taps say about one attempt: where it was stopped, or at which enforcers it was seen at all."""

    stop: Stop | None
    nodes: tuple[str, ...]


class Taps:
    """The witness records of a run, arranged for questions about single attempts."""

    def __init__(self, plan: Plan, records: Iterable[WitnessRecord]) -> None:
        self.nodes = tuple(placement.node for placement in plan.enforcers)
        self.count = 0
        self._held_ns = {node: _longest_delay_ns(plan, node) + _QUEUE_NS for node in self.nodes}
        self._servers = {server.name: server for server in plan.servers}
        self._tunnels = {tunnel.name: self._servers[tunnel.server] for tunnel in plan.tunnels}
        # (node, side, src, dst) -> records by time; a pair of addresses has few flows at a time.
        self._records: dict[tuple[str, str, str, str], list[WitnessRecord]] = defaultdict(list)
        self._lost: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for record in records:
            if record.transport == "lost":  # docs/witnesses.md: packets the witness missed itself
                self._lost[record.node].append((record.first_ns, record.last_ns))
                continue
            self._records[record.node, record.side, record.src, record.dst].append(record)
            self.count += 1
        for rows in self._records.values():
            rows.sort(key=lambda row: row.first_ns)

    def sight(self, flow: FlowRecord, stream: Stream, subscriber: Subscriber) -> Sight:
        """Where the attempt's own packets were stopped, judged at each enforcer and in each direction.

        Which of a tunnel's packets are an attempt's own cannot be told: those around its own time are taken for them.
        """
        wanted = _Wanted.of(flow, self._tunnels.get(stream.target), subscriber)
        sent_ns = flow.sent_ns if flow.sent_ns is not None else flow.scheduled_ns
        windows = [(sent_ns - BUCKET_NS, flow.done_ns)]
        if wanted.server is not None:
            # First what the attempt itself may have sent, then at which enforcers its tunnel was seen at all.
            own = (
                [(flow.sent_ns, min(flow.done_ns, flow.sent_ns + OWN_NS))] if flow.sent_ns is not None else []
            )
            windows = [*own, (flow.done_ns - LOOK_BACK_NS, flow.done_ns)]
        nodes: dict[str, None] = {}
        for since_ns, until_ns in windows:
            for node in self.nodes:
                out = self._seen(node, ("inside", "outside"), wanted, since_ns, until_ns)
                back = self._seen(node, ("outside", "inside"), wanted.reversed(), since_ns, until_ns)
                if out.before or out.after or back.before or back.after:
                    nodes[node] = None
                is_own = wanted.server is not None and since_ns == flow.sent_ns
                # What was stopped of a tunnel at other times is for testbed.score.carriers to say.
                if (is_own or wanted.server is None) and (stop := _stop(node, flow, out, back, is_own)):
                    return Sight(stop, tuple(nodes))
            if nodes:  # seen, and not stopped
                break
        return Sight(None, tuple(nodes))

    def has_missed(self, node: str, since_ns: int, until_ns: int) -> bool:
        """Whether the witness at this enforcer missed packets in that time: then its silence proves nothing."""
        return any(
            first <= until_ns + BUCKET_NS and last >= since_ns - BUCKET_NS for first, last in self._lost[node]
        )

    def rows(self, node: str, side: str, src: str, dst: str) -> Sequence[WitnessRecord]:
        """What was seen at one tap between two addresses, by time."""
        return self._records.get((node, side, src, dst), ())

    def held_ns(self, node: str) -> int:
        """How long a packet may be between the node's two taps."""
        return self._held_ns[node]

    def _seen(self, node: str, sides: tuple[str, str], wanted: _Wanted, since_ns: int, until_ns: int) -> Seen:
        counts, lasts, rows = [], [], []
        # What went in before the window's end comes out a little later.
        for side, later_ns in zip(sides, (0, self._held_ns[node]), strict=True):
            known = self._records.get((node, side, wanted.src, wanted.dst), [])
            found = [row for row in _between(known, since_ns, until_ns + later_ns) if wanted.fits(row)]
            counts.append(sum(row.packets for row in found))
            rows.append(max(found, key=lambda row: row.last_ns, default=None))
            lasts.append(rows[-1] and rows[-1].last_ns)
        return Seen(counts[0], counts[1], lasts[0], lasts[1], rows[0])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which witness records are an attempt's: one flow; of a tunnel every flow between the line and its server."""

    transport: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    server: VpnServer | None
    ports: tuple[int, int] | None
    is_reply: bool = False

    @classmethod
    def of(cls, flow: FlowRecord, server: VpnServer | None, subscriber: Subscriber) -> _Wanted:
        # Neighbours behind one shared address are told apart by their port blocks (RFC 7422).
        ports = None
        if subscriber.port_first is not None and subscriber.port_last is not None and flow.family == 4:
            ports = (subscriber.port_first, subscriber.port_last)
        dst = flow.dst
        # While its client has no socket, an attempt through a tunnel has no outer flow to name.
        if server is not None and not (flow.src and dst):
            dst = (server.address4 if flow.family == 4 else server.address6) or ""
        return cls(flow.transport, flow.public_src, flow.src_port, dst, flow.dst_port, server, ports)

    def reversed(self) -> _Wanted:
        return _Wanted(
            self.transport, self.dst, self.src_port, self.src, self.dst_port, self.server, self.ports, True
        )

    def fits(self, row: WitnessRecord) -> bool:
        if row.transport in ("icmp", "icmpv6"):
            # An echo's identifier is in src_port in both directions.
            return row.transport == self.transport and row.src_port == self.src_port
        near, far = (row.dst_port, row.src_port) if self.is_reply else (row.src_port, row.dst_port)
        if self.server is None:
            return row.transport == self.transport and near == self.src_port and far == self.dst_port
        return carries(self.server, row.transport, near, far, self.ports)


def carries(server: VpnServer, transport: str, near: int, far: int, ports: tuple[int, int] | None) -> bool:
    """Whether packets between a line and a server's address can be those of a tunnel to it; ports: the line's, if it shares its address."""
    if transport not in TRANSPORTS[server.protocol]:
        return False
    if transport not in ("udp", "tcp"):
        return True
    if far != server.port and far not in _MORE_PORTS.get(server.protocol, ()):
        return False
    return ports is None or ports[0] <= near <= ports[1]


def _longest_delay_ns(plan: Plan, node: str) -> int:
    links = {link.name for link in plan.links if node in (link.a.node, link.b.node)}
    delays = [link.delay_ns + link.jitter_ns for link in plan.links if link.name in links]
    for event in plan.events:
        named = {event.args.get("link"), *event.args.get("at", ())}
        if named & links:
            delays.append(int(event.args.get("delay_ns") or 0) + int(event.args.get("jitter_ns") or 0))
    return max(delays, default=0)


def _between(rows: list[WitnessRecord], since_ns: int, until_ns: int) -> Iterable[WitnessRecord]:
    # Buckets are short, so records that began one bucket earlier are all that can reach into the window.
    at = bisect.bisect_left(rows, since_ns - BUCKET_NS, key=lambda row: row.first_ns)
    for row in rows[at:]:
        if row.first_ns > until_ns:
            return
        if row.last_ns >= since_ns:
            yield row


def _stop(node: str, flow: FlowRecord, out: Seen, back: Seen, is_own: bool) -> Stop | None:
    """is_own: a tunnel's packets around the attempt's own one. Which is its own cannot be told, so one lost is enough: the
    attempt failed, and packets of its flow went into this enforcer just then and did not come out."""
    lost = out.lost + back.lost
    if not lost:
        return None
    request, reply = (
        seen.last_before_ns is not None
        and seen.lost > 0
        and (is_own or seen.after == 0 or seen.is_stopped_at_end)
        for seen in (out, back)
    )
    if flow.probe == "voice" and flow.sent > 1:
        # Part of a stream came through: the enforcer is to blame if most of what is missing went missing there.
        missing = flow.sent - flow.received
        request, reply = (2 * lost >= missing and seen.lost > 0 for seen in (out, back))
    if request:
        return Stop(node, "request", out.last_before_ns or 0, lost, out.last_row)
    if reply:
        return Stop(node, "reply", back.last_before_ns or 0, lost, back.last_row)
    return None
