"""Flow lines judged by the array: what decide_line (lines.py) says, for millions of lines a second."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from enforcer.allowlist import Entry
from enforcer.cells import Index
from enforcer.decide import Recognised, Verdict
from enforcer.policy import Policy
from enforcer.protocols import (
    FIRST_MESSAGES,
    GRE,
    IP_PROTOCOLS,
    SERVICE_PORTS,
    SERVICE_PORTS_OF_VPN,
    TCP,
    TCP_PORTS,
    UDP,
    UDP_PORTS,
    VPN_PROTOCOLS,
)
from enforcer.replay.lines import Direction, Lines
from enforcer.replay.prefixes import PrefixSet
from enforcer.replay.tables import Tables

# What a line may be recognised as; its code is its place in this list, and 0 is nothing.
RECOGNISED = (
    None,
    *(Recognised(protocol, protocol) for protocol in VPN_PROTOCOLS),
    Recognised("l2tp", "l2tp-ip"),
    Recognised("pptp", "gre"),
)
# The reasons a row of a report can have; their codes.
REASONS = ("not-vpn", "registered", "exempt", "unregistered", "finishing", "revoked", "not-yet", "fragment")
NOT_VPN, REGISTERED, EXEMPT, UNREGISTERED = range(4)
STOPPED = np.array([reason in ("unregistered", "revoked") for reason in REASONS])

_CODES = {recognised: code for code, recognised in enumerate(RECOGNISED) if recognised}
_GRE_CODE = _CODES[Recognised("pptp", "gre")]
_TRANSPORTS = {"udp": UDP, "tcp": TCP}
_BY_UDP_PORT, _BY_TCP_PORT, _BY_NUMBER, _SERVICE = np.array([1, 2, 4, 8], np.uint8)
# IPv4 header, then UDP or TCP header: the least a packet with a payload has in front of it.
_HEADERS = {"udp": 28, "tcp": 40}


class Judged(NamedTuple):
    """What became of lines. at: the positions recognised as VPN; all others are "not-vpn". The rest is one a position of `at`.

    row: of the entry in Tables.entries, -1 without one. is_turned: the line was judged as its answer.
    """

    at: NDArray[np.int64]
    code: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    row: NDArray[np.int64]
    is_turned: NDArray[np.bool_]
    is_answer: NDArray[np.uint8] | None

    def verdict(self, position: int) -> tuple[str, str | None, int, bool]:
        """Reason, protocol, row and is_turned of one line; for the check against decide."""
        place = int(np.searchsorted(self.at, position))
        if place == len(self.at) or self.at[place] != position:
            return "not-vpn", None, -1, False
        found = RECOGNISED[self.code[place]]
        assert found is not None
        row = int(self.row[place])
        return REASONS[self.reason[place]], found.protocol, row, bool(self.is_turned[place])


@dataclass(slots=True)
class Unseen:
    """What a flow log cannot show: flows, packets and bytes of lines that only a look at packets could settle.

    first_packets: UDP and TCP lines that pass by their ports and could hold a governed protocol's first message. gre: whether GRE is
    PPTP's stands in its header; gre_unregistered: those of them that no registration covers.
    """

    first_packets: NDArray[np.int64]
    gre: NDArray[np.int64]
    gre_unregistered: NDArray[np.int64]


class Judge:
    """One policy over the entries of an allowlist that count under it."""

    def __init__(
        self,
        policy: Policy,
        entries: Iterable[Entry],
        direction: Direction = "either",
        at_ns: int | None = None,
    ) -> None:
        self.policy = policy
        self.direction: Direction = direction
        self.at_ns = at_ns
        self.tables = Tables(Index(policy.match, entries))
        self._registrations = np.array([entry.registration for entry in self.tables.entries] or [0], np.int64)
        self._numbers = np.zeros(256, np.uint8)
        for number, protocol in IP_PROTOCOLS.items():
            if protocol in policy.governs:
                self._numbers[number] = _code(protocol, "l2tp-ip" if protocol == "l2tp" else protocol)
        # Which transport a protocol number is, times 65536: with a port it is a place in _ports.
        self._transports = np.zeros(256, np.uint32)
        self._transports[UDP], self._transports[TCP] = 1 << 16, 2 << 16
        self._ports = np.zeros(3 << 16, np.uint8)
        if "ports" in policy.recognise_by:
            for transport, ports in ((UDP, UDP_PORTS), (TCP, TCP_PORTS)):
                for port, protocol in ports.items():
                    if protocol in policy.governs:
                        self._ports[self._transports[transport] + port] = _code(protocol, protocol)
        self._is_service = np.zeros(1 << 16, bool)
        self._is_service[list(SERVICE_PORTS)] = True
        self._is_service[list(SERVICE_PORTS_OF_VPN)] = False
        # What a port may mean, and which of it under each protocol: most lines are passed over by one read of each.
        self._of_port = np.full(1 << 16, _BY_NUMBER, np.uint8)
        self._of_protocol = np.where(self._numbers, _BY_NUMBER, 0).astype(np.uint8)
        for number, bit in ((UDP, _BY_UDP_PORT), (TCP, _BY_TCP_PORT)):
            of_one = self._ports[self._transports[number] : self._transports[number] + (1 << 16)]
            self._of_port[of_one != 0] |= bit
            self._of_protocol[number] |= bit
        self._of_port[self._is_service] |= _SERVICE
        self._named = [
            (_code(named.protocol, named.protocol), PrefixSet(named.prefixes), _port_set(named.ports))
            for named in policy.named_endpoints
            if named.protocol in policy.governs
        ]
        self._any_named = PrefixSet(prefix for named in policy.named_endpoints for prefix in named.prefixes)
        self._exempt = [
            (
                np.array(
                    [
                        not item.protocols or (each is not None and each.protocol in item.protocols)
                        for each in RECOGNISED
                    ]
                ),
                PrefixSet(item.endpoint_prefixes) if item.endpoint_prefixes else None,
                PrefixSet(item.subscriber_prefixes) if item.subscriber_prefixes else None,
                _port_set(item.endpoint_ports),
            )
            for item in policy.exempt
        ]
        self._smallest = np.full(256, np.iinfo(np.int64).max, np.int64)
        for message in FIRST_MESSAGES if "first-packets" in policy.recognise_by else ():
            if not message.from_server and message.protocol in policy.governs:
                needed = (
                    message.lengths[0]
                    if message.lengths
                    else max(each.offset + each.size for each in message.fields)
                )
                number = _TRANSPORTS[message.transport]
                self._smallest[number] = min(self._smallest[number], needed + _HEADERS[message.transport])

    def __call__(self, lines: Lines) -> Judged:
        """The verdicts. What stops a line is the policy's action, the same for all: reason "unregistered"."""
        dst, src = self._of_port.take(lines.dst_port), self._of_port.take(lines.src_port)
        code, is_turned, at, mine = self._recognised(lines, dst | src if self.direction == "either" else dst)
        if is_turned.any():
            mine = mine.turned(is_turned)
        reason = np.full(len(at), UNREGISTERED, np.uint8)
        row = np.full(len(at), -1, np.int64)
        is_exempt = self._is_exempt(mine, code)
        reason[is_exempt] = EXEMPT
        rest = np.flatnonzero(~is_exempt)
        now_ns = mine.start_ns if self.at_ns is None else np.full(len(mine), self.at_ns, np.int64)
        for each in np.flatnonzero(np.bincount(code[rest])):
            where = rest[code[rest] == each]
            found = RECOGNISED[each]
            assert found is not None
            if len(where) == len(mine):
                row = self.tables.find(mine, found.kind, now_ns)
            else:
                row[where] = self.tables.find(mine.take(where), found.kind, now_ns[where])
        reason[row >= 0] = REGISTERED
        is_answer = src & ~dst & _SERVICE if self.direction == "either" else None
        return Judged(at, code, reason, row, is_turned, is_answer)

    def unseen(self, lines: Lines, judged: Judged) -> Unseen:
        """What of these lines only packets could settle; each figure is (flows, packets, bytes)."""
        may = lines.bytes >= self._smallest.take(lines.protocol)
        may[judged.at] = False
        if judged.is_answer is not None:
            may &= judged.is_answer == 0
        firsts = [np.count_nonzero(may), (lines.packets * may).sum(), (lines.bytes * may).sum()]
        first_packets = np.array(firsts, np.int64)
        none = np.zeros(3, np.int64)
        is_gre = np.flatnonzero(lines.protocol == GRE)
        if not len(is_gre) or "pptp" not in self.policy.governs:
            return Unseen(first_packets, none, none)
        gre = lines.take(is_gre)
        now_ns = gre.start_ns if self.at_ns is None else np.full(len(gre), self.at_ns, np.int64)
        code = np.full(len(gre), _GRE_CODE, np.uint8)
        uncovered = (self.tables.find(gre, "gre", now_ns) < 0) & ~self._is_exempt(gre, code)
        everything = np.arange(len(gre))
        return Unseen(first_packets, _sums(gre, everything), _sums(gre, everything[uncovered]))

    def registrations(self, judged: Judged) -> NDArray[np.int64]:
        """The number of the registration that covers each line of judged.at; 0 without one."""
        return np.where(judged.row >= 0, self._registrations[judged.row], 0)

    def agrees(self, spoken: tuple[str, str | None, int, bool], verdict: Verdict, is_turned: bool) -> bool:
        """Whether a line's verdict here (Judged.verdict) is decide's."""
        reason, protocol, row, turned = spoken
        registration = self.tables.entries[row].registration if row >= 0 else None
        return (reason, protocol, registration, turned) == (
            verdict.reason,
            verdict.protocol,
            verdict.registration,
            is_turned,
        ) and (reason == "unregistered") == (verdict.action != "pass")

    def _recognised(
        self, lines: Lines, of_ports: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64], Lines]:
        """Code, whether turned, position, and the lines, of those recognised; in decide's order: numbers, names, ports.

        of_ports: what the ports of each line that count may mean.
        """
        may = (of_ports & self._of_protocol.take(lines.protocol)) != 0
        if self._named:
            may |= self._any_named.may_hold(lines.version, lines.src)
            may |= self._any_named.may_hold(lines.version, lines.dst)
        at = np.flatnonzero(may)
        is_turned = np.zeros(len(at), bool)
        mine = lines if len(at) == len(lines) else lines.take(at)
        code = self._numbers[mine.protocol]
        transport = self._transports[mine.protocol]
        if self._named:
            has_ports = transport != 0
            for named, prefixes, ports in self._named:
                fits = np.zeros(len(at), bool)
                for address, port in ((mine.dst, mine.dst_port), (mine.src, mine.src_port)):
                    fits |= prefixes.holds(lines.version, address) & (True if ports is None else ports[port])
                code = np.where((code == 0) & has_ports & fits, named, code)
        found = np.where(self._is_service[mine.src_port], 0, self._ports[transport + mine.dst_port])
        code = np.where(code == 0, found.astype(np.uint8), code)
        if self.direction == "either":
            found = np.where(self._is_service[mine.dst_port], 0, self._ports[transport + mine.src_port])
            is_turned = (code == 0) & (found != 0)
            code = np.where(is_turned, found, code)
        kept = np.flatnonzero(code)
        if len(kept) == len(at):
            return code.astype(np.uint8), is_turned, at, mine
        return code[kept].astype(np.uint8), is_turned[kept], at[kept], mine.take(kept)

    def _is_exempt(self, lines: Lines, code: NDArray[np.uint8]) -> NDArray[np.bool_]:
        found = np.zeros(len(lines), bool)
        has_ports = self._transports[lines.protocol] != 0
        for protocols, endpoints, subscribers, ports in self._exempt:
            one_way = np.zeros(len(lines), bool)
            for subscriber, endpoint, port in (
                (lines.src, lines.dst, lines.dst_port),
                (lines.dst, lines.src, lines.src_port),
            ):
                fits = np.ones(len(lines), bool)
                if endpoints is not None:
                    fits &= endpoints.holds(lines.version, endpoint)
                if subscribers is not None:
                    fits &= subscribers.holds(lines.version, subscriber)
                if ports is not None:
                    fits &= ports[port] | ~has_ports
                one_way |= fits
            found |= one_way & protocols[code]
        return found


def _code(protocol: str, kind: str) -> int:
    return _CODES[Recognised(protocol, kind)]


def _port_set(ports: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """None means any port."""
    if not ports:
        return None
    found = np.zeros(1 << 16, bool)
    found[list(ports)] = True
    return found


def _sums(lines: Lines, at: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([len(at), lines.packets[at].sum(), lines.bytes[at].sum()], np.int64)
