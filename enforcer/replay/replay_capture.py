"""Captures judged and counted: `decide` on the packets that may change a flow's standing, a look into the flow table for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from enforcer.allowlist import Entry
from enforcer.decide import Recognised
from enforcer.link_layer import without_link_layer
from enforcer.packet import ACK, RST, SYN, Packet, parse
from enforcer.protocols import GRE, L2TP_IP, TCP, UDP
from enforcer.replay.flows import FOREVER_NS, IDLE_CLOSED_NS, REASON_CODES, Decider, Known, Standing, final
from enforcer.replay.frames import Frame
from enforcer.replay.judge import RECOGNISED, STOPPED
from enforcer.replay.lines import Lines
from enforcer.replay.orient import Ends
from enforcer.replay.result import CaptureFacts, Result, Side
from enforcer.replay.tally import Rows

MOST_FLOWS = 500_000
_MOST_FRAGMENTS = 20_000
_FLUSH_ROWS = 20_000
_ETHERNET, _RAW = 1, (12, 14, 101, 228, 229)
_CODES = {recognised: code for code, recognised in enumerate(RECOGNISED)}
_FRAGMENT = REASON_CODES["fragment"]
_IS_STOPPED = STOPPED.tolist()
_FIN = 0x01
_TICK_PACKETS = 1 << 16


class CaptureReplay:
    """Judges frames into a Result. most_flows bounds the flow table, and so the memory (about 0.8 KB a flow)."""

    def __init__(
        self,
        result: Result,
        entries: list[Iterable[Entry]],
        inside: Iterable[str] = (),
        most_flows: int = MOST_FLOWS,
    ) -> None:
        self.result = result
        self.facts = result.capture = CaptureFacts()
        lists = [list(each) for each in entries]
        self._deciders = [
            Decider(side.policy, each, result.at_ns) for side, each in zip(result.sides, lists, strict=True)
        ]
        self.ends = Ends(result.sides[0].policy, lists[0], inside)
        self._most_flows = most_flows
        self._tables: dict[int, dict[Any, Known]] = {TCP: {}, UDP: {}, 0: {}}
        self._held = 0
        self._fragments: dict[bytes, Known] = {}
        self._finished: dict[int, list[Known]] = {4: [], 6: []}
        self._unknown_links: dict[str, int] = {}
        self._not_ip = 0

    def run(self, frames: Iterator[Frame], tick: Callable[[], None] = lambda: None) -> None:
        """Judge every frame; tick is called now and then. What was counted so far stays when it is interrupted; see finish."""
        tcp, udp = self._tables[TCP], self._tables[UDP]
        countdown = _TICK_PACKETS
        for time_ns, link, data, ip, end in frames:
            countdown -= 1
            if not countdown:
                countdown = _TICK_PACKETS
                tick()
            if link == _ETHERNET and data[ip + 12 : ip + 14] in (b"\x08\x00", b"\x86\xdd"):
                ip += 14
            elif link not in _RAW:
                data = self._without_link(link, data[ip:end])
                ip, end = 0, len(data)
            if ip >= end:
                self._not_ip += 1
                continue
            # Whole packets of known flows whose standing is settled: all but a few of any capture.
            flow = None
            first = data[ip]
            if first == 0x45:  # IPv4 without options
                if end - ip >= 40 or (end - ip >= 28 and data[ip + 9] == UDP):
                    length = data[ip + 2] << 8 | data[ip + 3]
                    if not data[ip + 7] and not data[ip + 6] & 0x3F:
                        if data[ip + 9] == UDP and length >= 28:
                            flow = udp.get(data[ip + 12 : ip + 24])
                        elif data[ip + 9] == TCP and length >= 40 and not data[ip + 33] & 7:
                            flow = tcp.get(data[ip + 12 : ip + 24])
            elif first >> 4 == 6 and end - ip >= 48:
                length = 40 + (data[ip + 4] << 8 | data[ip + 5])
                if data[ip + 6] == UDP and length >= 48:
                    flow = udp.get(data[ip + 8 : ip + 44])
                elif data[ip + 6] == TCP and length >= 60 and end - ip >= 60 and not data[ip + 53] & 7:
                    flow = tcp.get(data[ip + 8 : ip + 44])
            if flow is not None and time_ns < flow.until_ns and time_ns - flow.last_ns <= flow.idle_ns:
                flow.last_ns = time_ns
                flow.packets += 1
                flow.bytes += length  # pyright: ignore[reportPossiblyUnboundVariable]
            else:
                self._judge(data[ip:end], time_ns)

    def finish(self) -> None:
        """Count the flows that are still in the table; call it once, after run or its interruption."""
        for table in self._tables.values():
            for flow in list(table.values()):
                if flow.keys[0] is not None:
                    self._end(flow)
        for version in (4, 6):
            self._flush(version)
        self.facts.decided = sum(each.decided for each in self._deciders)
        self.facts.not_ip = self._not_ip
        for what, count in sorted(self._unknown_links.items()):
            self.result.notes.append(f"{count:,} frames were left out: {what}")

    def _without_link(self, link: int, data: bytes) -> bytes:
        try:
            return without_link_layer(link, data)
        except ValueError as error:
            self._unknown_links[str(error)] = self._unknown_links.get(str(error), 0) + 1
            return b""

    def _judge(self, data: bytes, time_ns: int) -> None:
        packet = parse(data)
        if not packet.version:
            self._not_ip += 1
            return
        length = _length(data, packet.version)
        if packet.is_fragment:
            flow = self._fragments.get(_fragment_key(data, packet.version))
            if flow is None or flow.keys[0] is None:
                self.facts.unmatched_fragments += 1
                self._saw(time_ns)
                self.result.seen[1] += 1
                self.result.seen[2] += length
                for side in self.result.sides:
                    side.totals.add_sum(_FRAGMENT, 0, 1, length)
                return
            self._count(flow, length, time_ns)
            return
        flow = self._flow(packet, time_ns)
        if _is_first_fragment(data, packet.version):
            if len(self._fragments) >= _MOST_FRAGMENTS:
                self._fragments.clear()
            self._fragments[_fragment_key(data, packet.version)] = flow
        if time_ns >= flow.until_ns:
            until_ns = FOREVER_NS
            for decider, side, standing in zip(
                self._deciders, self.result.sides, flow.standings, strict=True
            ):
                had = standing.protocol
                reason, holds_ns = decider.judge(standing, packet, time_ns)
                if reason != standing.reason:
                    _settle(flow, standing, side)
                    standing.reason = reason
                if had is None and standing.protocol is not None:
                    flow.ends = (packet.src, packet.src_port, packet.dst, packet.dst_port)
                until_ns = min(until_ns, holds_ns)
            flow.until_ns = until_ns
        if packet.tcp_flags & (_FIN | RST):
            flow.is_closed = True
            flow.idle_ns = IDLE_CLOSED_NS
        self._count(flow, length, time_ns)

    def _count(self, flow: Known, length: int, time_ns: int) -> None:
        flow.last_ns = max(flow.last_ns, time_ns)
        flow.packets += 1
        flow.bytes += length

    def _flow(self, packet: Packet, time_ns: int) -> Known:
        table, keys = _keys(packet)
        held = self._tables[table]
        flow = held.get(keys[0])
        if flow is not None:
            is_new = flow.is_closed and packet.tcp_flags & (SYN | ACK) == SYN
            if not is_new and time_ns - flow.last_ns <= flow.idle_ns:
                return flow
            self._end(flow)
        if self._held >= self._most_flows:
            self._forget()
        flow = Known(packet, time_ns, len(self._deciders))
        flow.keys = keys
        held[keys[0]] = held[keys[1]] = flow
        self._held += 1
        return flow

    def _forget(self) -> None:
        """Make room: flows idle too long by the newest packet go, then those that were silent longest."""
        flows = {id(flow): flow for table in self._tables.values() for flow in table.values()}.values()
        newest = max(flow.last_ns for flow in flows)
        alive = []
        for flow in flows:
            if newest - flow.last_ns > flow.idle_ns:
                self._end(flow)
            else:
                alive.append(flow)
        room = self._most_flows * 3 // 4
        if len(alive) > room:
            alive.sort(key=lambda flow: flow.last_ns)
            for flow in alive[: len(alive) - room]:
                self.facts.forgotten += 1
                self._end(flow)

    def _end(self, flow: Known) -> None:
        held = self._tables[
            flow.protocol if flow.protocol in (TCP, UDP) and not isinstance(flow.keys[0], tuple) else 0
        ]
        for key in flow.keys:
            held.pop(key, None)
        flow.keys = (None, None)
        self._held -= 1
        result = self.result
        result.seen[0] += 1
        result.seen[1] += flow.packets
        result.seen[2] += flow.bytes
        self._saw(flow.start_ns)
        self._saw(flow.last_ns)
        is_stopped = False
        for standing, side in zip(flow.standings, result.sides, strict=True):
            _settle(flow, standing, side)
            reason = final(standing)
            side.totals.add_sum(reason, 1, 0, 0, _code(flow, standing))
            is_stopped = is_stopped or _IS_STOPPED[reason]
        if is_stopped:
            self._finished[flow.version].append(flow)
            if len(self._finished[flow.version]) >= _FLUSH_ROWS:
                self._flush(flow.version)

    def _flush(self, version: int) -> None:
        flows = self._finished[version]
        self._finished[version] = []
        if not flows:
            return
        first = [flow.standings[0] for flow in flows]
        other = [flow.standings[-1] for flow in flows]
        code = np.array(
            [_code(flow, a) or _code(flow, b) for flow, a, b in zip(flows, first, other, strict=True)],
            np.uint8,
        )
        lines = Lines(
            version,  # type: ignore[arg-type]
            _column(version, [flow.ends[0] for flow in flows]),
            _column(version, [flow.ends[2] for flow in flows]),
            np.array([flow.protocol for flow in flows], np.uint8),
            np.array([flow.ends[1] for flow in flows], np.uint16),
            np.array([flow.ends[3] for flow in flows], np.uint16),
            np.array([flow.start_ns for flow in flows], np.int64),
            np.array([flow.packets for flow in flows], np.int64),
            np.array([flow.bytes for flow in flows], np.int64),
        )
        lines = lines.turned(self.ends.is_backwards(lines, code, is_opener_known=True))
        registration = [a.registration or b.registration or 0 for a, b in zip(first, other, strict=True)]
        self.result.pairs.add(
            Rows(
                version,
                lines.src,
                lines.dst,
                lines.dst_port,
                code,
                np.array([final(each) for each in first], np.uint8),
                np.array([final(each) for each in other], np.uint8),
                np.array(registration, np.int64),
                lines.start_ns,
                lines.packets,
                lines.bytes,
            )
        )

    def _saw(self, time_ns: int) -> None:
        self.result.saw(time_ns, time_ns)


def _keys(packet: Packet) -> tuple[int, tuple[Any, Any]]:
    """The table, and the flow's key from either end. A key is what the packet's bytes hold, so that the quick look finds it."""
    if packet.protocol in (TCP, UDP) and (packet.src_port or packet.dst_port):
        size = 4 if packet.version == 4 else 16
        src, dst = packet.src.to_bytes(size, "big"), packet.dst.to_bytes(size, "big")
        ports = packet.src_port.to_bytes(2, "big"), packet.dst_port.to_bytes(2, "big")
        return packet.protocol, (src + dst + ports[0] + ports[1], dst + src + ports[1] + ports[0])
    # GRE's version 1 (PPTP) is another flow than plain GRE between the same hosts.
    kind = packet.payload[1] & 7 if packet.protocol == GRE and len(packet.payload) > 1 else 0
    both = (packet.version, packet.protocol, kind)
    return 0, ((*both, packet.src, packet.dst), (*both, packet.dst, packet.src))


def _settle(flow: Known, standing: Standing, side: Side) -> None:
    """Count the packets that came since the flow's standing was last another."""
    packets, octets = flow.packets - standing.since_packets, flow.bytes - standing.since_bytes
    if packets:
        side.totals.add_sum(standing.reason, 0, packets, octets, _code(flow, standing))
    standing.since_packets, standing.since_bytes = flow.packets, flow.bytes


def _code(flow: Known, standing: Standing) -> int:
    if standing.protocol is None:
        return 0
    kind = {GRE: "gre", L2TP_IP: "l2tp-ip"}.get(flow.protocol, standing.protocol)
    return _CODES.get(Recognised(standing.protocol, kind), 0)


def _length(data: bytes, version: int) -> int:
    """The packet's length as its header says, cut off or not; what was captured where it says 0 (merged segments)."""
    if version == 4:
        return int.from_bytes(data[2:4], "big") or len(data)
    payload = int.from_bytes(data[4:6], "big")
    return 40 + payload if payload else len(data)


def _is_first_fragment(data: bytes, version: int) -> bool:
    if version == 4:
        return bool(data[6] & 0x20)
    header = _fragment_header(data)
    return bool(header and header[3] & 1)


def _fragment_key(data: bytes, version: int) -> bytes:
    """What the fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5)."""
    if version == 4:
        return data[12:20] + data[4:6] + data[9:10]
    return data[8:40] + _fragment_header(data)[4:8]


def _fragment_header(data: bytes) -> bytes:
    following, offset = data[6], 40
    while following in (0, 43, 60) and offset + 8 <= len(data):
        following, offset = data[offset], offset + (data[offset + 1] + 1) * 8
    return data[offset : offset + 8] if following == 44 and offset + 8 <= len(data) else b""


def _column(version: int, addresses: list[int]) -> Any:
    if version == 4:
        return np.array(addresses, np.uint32)
    return np.array([(each >> 64, each & (1 << 64) - 1) for each in addresses], np.uint64).reshape(-1, 2)
