"""What the taps saw of the packets that carry a tunnel: when an enforcer shut it, and when it got through again.

An attempt through a tunnel that is down has no packet of its own at a gateway: its client waits before it tries again, for minutes
where its timers say so, or has given up the interface. What keeps it down is what became of the last packets it did send.
"""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from testbed.plan.plan import Plan, Subscriber, Tunnel, VpnServer
from testbed.records import FlowRecord, WitnessRecord
from testbed.score.taps import BUCKET_NS, Stop, Taps, carries

# A client that got through has this long to set its tunnel up: some ten round trips, one of them repeated after a second.
SETTLING_NS = 5_000_000_000

# These need both their transports: one that gets through proves nothing for the other.
_NEEDS_BOTH = ("ikev2", "pptp")
# IP and TCP headers with the options of a SYN: a TCP packet that is not longer carries nothing, and says nothing of what would.
_BARE_TCP_BYTES = {4: 60, 6: 80}

IsBlock = Callable[[str, WitnessRecord], bool]


@dataclass(frozen=True, slots=True)
class Closure:
    """From the first packet of a tunnel's transport and direction that an enforcer stopped until the next that got through.

    stops: (when it went in, how many, the tap's record), by time. until_ns: when one got through; None: never.
    """

    direction: str
    stops: Sequence[tuple[int, int, WitnessRecord]]
    until_ns: int | None

    @property
    def from_ns(self) -> int:
        return self.stops[0][0]

    def last_before(self, t_ns: int) -> tuple[int, int, WitnessRecord]:
        return self.stops[bisect.bisect_right(self.stops, t_ns, key=lambda each: each[0]) - 1]


@dataclass(slots=True)
class _Flow:
    """One flow of a tunnel's carrier, in the client's direction: what is known of it while marks are read in order."""

    first_ns: int


@dataclass(frozen=True, slots=True)
class _Mark:
    at_ns: int
    is_through: bool
    count: int
    direction: str
    row: WitnessRecord


@dataclass(slots=True)
class Carriers:
    """Each tunnel's closures, found when they are first asked for.

    is_block: whether a packet missing between the taps of a node was stopped by its enforcer, for all that is known. flows: the
    attempts; one delivered through a tunnel proves it open, those of other probes have flows that are not the tunnel's.
    """

    plan: Plan
    taps: Taps
    flows: Iterable[FlowRecord]
    is_block: IsBlock = lambda _node, _row: True
    _found: dict[str, list[Closure]] = field(default_factory=dict)
    _delivered: dict[str, list[int]] | None = (
        None  # by tunnel: when the attempts that were answered were sent
    )
    _others: set[tuple[str, str, int, str, int]] = field(default_factory=set)

    def shut_at(self, tunnel: str, t_ns: int) -> Stop | None:
        """The last stopped packet before t_ns of a tunnel that nothing got through since; of two directions the client's."""
        found = [
            each
            for each in self.closures(tunnel)
            if each.from_ns <= t_ns and (each.until_ns is None or each.until_ns > t_ns)
        ]
        if not found:
            return None
        # The client's own packets say most of why it is down; of these the last.
        chosen = max(found, key=lambda each: (each.direction == "request", each.last_before(t_ns)[0]))
        at_ns, count, row = chosen.last_before(t_ns)
        return Stop(row.node, chosen.direction, at_ns, count, row)

    def opened_before(self, tunnel: str, t_ns: int) -> tuple[int, Stop] | None:
        """(when packets of the tunnel got through again, what had been stopped last) if that was so shortly before t_ns that
        the tunnel need not be up yet, and no attempt was delivered since."""
        ended = [
            each for each in self.closures(tunnel) if each.until_ns is not None and each.until_ns <= t_ns
        ]
        if not ended:
            return None
        last = max(ended, key=lambda each: (each.until_ns or 0, each.direction == "request"))
        opened_ns = last.until_ns or 0
        if t_ns - opened_ns > SETTLING_NS or self._delivered_between(tunnel, opened_ns, t_ns):
            return None
        at_ns, count, row = last.stops[-1]
        return opened_ns, Stop(row.node, last.direction, at_ns, count, row)

    def closures(self, tunnel: str) -> list[Closure]:
        """Every closure of the tunnel, by when it began."""
        if tunnel not in self._found:
            wanted = next((each for each in self.plan.tunnels if each.name == tunnel), None)
            self._found[tunnel] = [] if wanted is None else self._closures_of(wanted)
        return self._found[tunnel]

    def _delivered_between(self, tunnel: str, from_ns: int, until_ns: int) -> bool:
        times = self._deliveries().get(tunnel, [])
        at = bisect.bisect_left(times, from_ns)
        return at < len(times) and times[at] <= until_ns

    def _deliveries(self) -> dict[str, list[int]]:
        if self._delivered is None:
            found: dict[str, list[int]] = defaultdict(list)
            for flow in self.flows:
                if flow.probe != "tunnel-echo":
                    self._others.add(
                        (flow.transport, flow.public_src, flow.src_port, flow.dst, flow.dst_port)
                    )
                elif flow.is_delivered:
                    found[flow.target].append(flow.sent_ns or flow.scheduled_ns)
            self._delivered = {name: sorted(times) for name, times in found.items()}
        return self._delivered

    def _closures_of(self, tunnel: Tunnel) -> list[Closure]:
        deliveries = self._deliveries().get(tunnel.name, [])
        server = next(each for each in self.plan.servers if each.name == tunnel.server)
        person = next(each for each in self.plan.subscribers if each.name == tunnel.subscriber)
        channels: dict[str, list[_Mark]] = defaultdict(list)
        for node in self.taps.nodes:
            for direction, sides in (("request", ("inside", "outside")), ("reply", ("outside", "inside"))):
                before, after = (self._rows(tunnel, server, person, node, side, direction) for side in sides)
                for mark in _marks(before, after, self.taps.held_ns(node), direction):
                    channel = mark.row.transport if server.protocol in _NEEDS_BOTH else ""
                    channels[channel].append(mark)
        found: list[Closure] = []
        for marks in channels.values():
            marks.sort(key=lambda each: (each.at_ns, each.is_through))
            found += self._closed(marks, deliveries)
        return sorted(found, key=lambda each: each.from_ns)

    def _closed(self, marks: list[_Mark], deliveries: list[int]) -> list[Closure]:
        flows: dict[tuple[str, int], _Flow] = {}
        newest_through_ns = -(2**62)
        found: list[Closure] = []
        open_stops: dict[str, list[tuple[int, int, WitnessRecord]]] = {"request": [], "reply": []}

        def end(direction: str, at_ns: int) -> None:
            if open_stops[direction]:
                found.append(Closure(direction, open_stops[direction], at_ns))
                open_stops[direction] = []

        delivered = deque(deliveries)
        for mark in marks:
            while delivered and delivered[0] < mark.at_ns:
                at_ns = delivered.popleft()
                for direction in open_stops:
                    end(direction, at_ns)
            flow = flows.setdefault(_near_end(mark), _Flow(mark.at_ns))
            if mark.is_through:
                if _says_something(mark.row):
                    newest_through_ns = max(newest_through_ns, flow.first_ns)
                    end(mark.direction, mark.at_ns)
            # What a server still sends to a connection that its client has left behind for a newer one says nothing of that one.
            elif flow.first_ns >= newest_through_ns and self.is_block(mark.row.node, mark.row):
                open_stops[mark.direction].append((mark.at_ns, mark.count, mark.row))
        for direction, stops in open_stops.items():
            if stops:
                later = [each for each in delivered if each > stops[0][0]]
                found.append(Closure(direction, stops, later[0] if later else None))
        return found

    def _rows(
        self, tunnel: Tunnel, server: VpnServer, person: Subscriber, node: str, side: str, direction: str
    ) -> list[WitnessRecord]:
        remote = (server.address4 if tunnel.family == 4 else server.address6) or ""
        own = (
            (person.public4, *person.spare4) if tunnel.family == 4 else (person.public6 or "", *person.spare6)
        )
        ports = None
        if person.port_first is not None and person.port_last is not None and tunnel.family == 4:
            ports = (person.port_first, person.port_last)
        wanted = []
        for address in own:
            ends = (address, remote) if direction == "request" else (remote, address)
            for row in self.taps.rows(node, side, *ends):
                near, far = row.src_port, row.dst_port
                if direction == "reply":
                    near, far = far, near
                is_other = (row.transport, address, near, remote, far) in self._others
                if carries(server, row.transport, near, far, ports) and not is_other:
                    wanted.append(row)
        return sorted(wanted, key=lambda row: row.first_ns)


def _marks(
    before: list[WitnessRecord], after: list[WitnessRecord], held_ns: int, direction: str
) -> Iterable[_Mark]:
    """What went in and came out, and what did not, of one direction at one node.

    A packet that came out is taken for the oldest of its flow that went in and is not accounted for; one held longer than held_ns
    and a witness's bucket did not come out.
    """
    waiting: dict[tuple[str, int, int], deque[list]] = defaultdict(deque)
    into = deque(before)
    for out in after:
        while into and into[0].first_ns <= out.last_ns:
            row = into.popleft()
            waiting[row.transport, row.src_port, row.dst_port].append([row.packets, row])
        queue = waiting[out.transport, out.src_port, out.dst_port]
        while queue and queue[0][1].last_ns + held_ns + BUCKET_NS < out.first_ns:
            count, row = queue.popleft()
            yield _Mark(row.last_ns, False, count, direction, row)
        left = out.packets
        while queue and left:
            taken = min(left, queue[0][0])
            left -= taken
            queue[0][0] -= taken
            if not queue[0][0]:
                queue.popleft()
        yield _Mark(out.last_ns, True, out.packets, direction, out)
    for row in into:
        waiting[row.transport, row.src_port, row.dst_port].append([row.packets, row])
    for queue in waiting.values():
        for count, row in queue:
            yield _Mark(row.last_ns, False, count, direction, row)


def _near_end(mark: _Mark) -> tuple[str, int]:
    row = mark.row
    return (row.src, row.src_port) if mark.direction == "request" else (row.dst, row.dst_port)


def _says_something(row: WitnessRecord) -> bool:
    if row.transport != "tcp":
        return True
    return row.bytes > row.packets * _BARE_TCP_BYTES[6 if ":" in row.src else 4]
