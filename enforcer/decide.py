"""The decision about one packet: pure, short, and the specification every dataplane is tested against."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, Protocol

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import find, is_valid
from enforcer.packet import ACK, SYN, Packet
from enforcer.policy import Policy
from enforcer.prefixes import PrefixMap
from enforcer.protocols import (
    FIRST_MESSAGES,
    GRE,
    GRE_PPTP_TYPE,
    GRE_PPTP_VERSION,
    ICMP,
    ICMPV6,
    IP_PROTOCOLS,
    SERVICE_PORTS,
    SERVICE_PORTS_OF_VPN,
    TCP,
    TCP_PORTS,
    UDP,
    UDP_PORTS,
    FirstMessage,
)

# What a flow's conntrack mark says. 1..2**31-1 is the registration that let it pass; 0 is not judged yet.
UNJUDGED = 0
CLEAR, EXEMPT, POLICED, OBSERVED, FAIL_OPEN, REVOKED = (1 << 31 | number for number in range(6))
# A flow with one of these is looked at again at each packet, for it may be registered by now; else this is what it is.
JUDGED_AGAIN = {
    POLICED: "unregistered",
    OBSERVED: "unregistered",
    FAIL_OPEN: "unregistered",
    REVOKED: "revoked",
}

REASONS = {
    "not-vpn": "nothing documented marks the flow as a VPN the policy governs",
    "not-yet": "a TCP connection without payload so far; its first payload will be judged",
    "fragment": "a later fragment, judged with the first of its packet",
    "registered": "a registration covers the flow",
    "finishing": "the flow's registration ended, and the policy lets live flows finish for a while",
    "exempt": "the policy exempts this class of VPN traffic",
    "fail-open": "something is broken, and the policy lets every VPN flow pass meanwhile",
    "unregistered": "a VPN flow that no registration covers",
    "revoked": "a flow under way whose registration ended",
    "fail-closed": "something is broken, and the policy stops every VPN flow meanwhile",
}

Fallback = Literal["keep", "allow", "block"]
Act = Literal["pass", "drop", "reject", "police", "observe"]


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of the packet's flow: its conntrack mark, and when the registration in the mark ended (Unix ns), if it did."""

    mark: int = UNJUDGED
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """action "observe" passes and is recorded. reason: a word of REASONS. mark: the flow's mark from now on."""

    action: Act
    reason: str
    registration: int | None = None
    protocol: str | None = None
    mark: int = UNJUDGED

    @property
    def passes(self) -> bool:
        return self.action in ("pass", "observe")


@dataclass(frozen=True, slots=True)
class Recognised:
    """A VPN protocol of protocols.VPN_PROTOCOLS and the class of cells it is looked up in (cells.py)."""

    protocol: str
    kind: str


class Lookup(Protocol):
    """An allowlist made ready for lookups: cells.Index, dataplanes.prefix_index.PrefixIndex.

    It holds only entries that count under the policy (`Policy.counts`): whoever makes it leaves the others out.
    """

    entries: dict[int, Entry]

    def find(
        self, version: int, kind: str, src: int, src_port: int, dst: int, dst_port: int, now_ns: int | None
    ) -> Entry | None: ...


def decide(
    packet: Packet,
    flow: Flow,
    allowlist: Allowlist | Lookup,
    policy: Policy,
    now_ns: int,
    fallback: Fallback = "keep",
) -> Verdict:
    """What happens to a packet, and why. now_ns is Unix time.

    allowlist: as the feed carries it (looked through entry by entry), or a Lookup of it for speed. fallback: what the policy
    says about a failure that lasts now ("keep" when none does).
    """
    mark = flow.mark
    if mark == CLEAR:
        return Verdict("pass", "not-vpn", mark=mark)
    if mark == EXEMPT:
        return Verdict("pass", "exempt", mark=mark)
    if (
        packet.protocol in (ICMP, ICMPV6) or not packet.version
    ):  # errors about any flow must reach their sender
        return Verdict("pass", "not-vpn", mark=mark)
    if mark != UNJUDGED and mark not in JUDGED_AGAIN:
        entry = allowlist.entries.get(mark)
        is_active = entry is not None and is_valid(entry, now_ns) and policy.counts(entry)
        if is_active or _may_finish(flow, policy, now_ns):
            if fallback == "block":
                return _stopped(policy, "fail-closed", None, mark)
            return Verdict("pass", "registered" if is_active else "finishing", mark, mark=mark)
    if packet.is_fragment:
        return Verdict("pass", "fragment", mark=mark)

    found = recognise(packet, policy)
    if found is None:
        return _unrecognised(packet, mark, policy, fallback)
    if _is_exempt(packet, found, policy):
        return Verdict("pass", "exempt", protocol=found.protocol, mark=EXEMPT)
    if fallback == "block":
        return _stopped(policy, "fail-closed", found.protocol, mark)
    entry = _covering(packet, found, allowlist, policy, now_ns)
    if entry is not None:
        return Verdict("pass", "registered", entry, found.protocol, entry)
    if fallback == "allow":
        return Verdict("pass", "fail-open", protocol=found.protocol, mark=mark or FAIL_OPEN)
    return _stopped(policy, _standing(mark), found.protocol, mark)


def counted(allowlist: Allowlist, policy: Policy) -> Allowlist:
    """The allowlist without the entries that do not count under the policy."""
    if not policy.categories:
        return allowlist
    counting = {number: entry for number, entry in allowlist.entries.items() if policy.counts(entry)}
    return Allowlist(allowlist.serial, counting)


def recognise(packet: Packet, policy: Policy) -> Recognised | None:
    """The governed VPN protocol that documented numbers, ports or a first message show; None without any.

    Numbers first, then named endpoints, then ports, then first messages; what a step finds and the policy does not govern
    is left to the next.
    """
    for found in _candidates(packet, policy):
        if found.protocol in policy.governs:
            return found
    return None


def _candidates(packet: Packet, policy: Policy):
    if packet.protocol in IP_PROTOCOLS and packet.protocol is not None:
        protocol = IP_PROTOCOLS[packet.protocol]
        yield Recognised(protocol, "l2tp-ip" if protocol == "l2tp" else protocol)
    if packet.protocol == GRE and len(packet.payload) >= 4:
        version = packet.payload[1] & 0x07
        if version == GRE_PPTP_VERSION and int.from_bytes(packet.payload[2:4], "big") == GRE_PPTP_TYPE:
            yield Recognised("pptp", "gre")
    if packet.protocol not in (TCP, UDP):
        return
    for named in policy.named_endpoints:
        ends = ((packet.dst, packet.dst_port), (packet.src, packet.src_port))
        for address, port in ends:
            if _within(packet.version, address, named.prefixes) and (not named.ports or port in named.ports):
                yield Recognised(named.protocol, named.protocol)
    if "ports" in policy.recognise_by:
        yield from _by_port(packet)
    if "first-packets" in policy.recognise_by:
        transport = "tcp" if packet.protocol == TCP else "udp"
        for message in FIRST_MESSAGES:
            if message.transport == transport and not message.from_server and fits(packet, message):
                yield Recognised(message.protocol, message.protocol)


def _by_port(packet: Packet):
    """The destination's port says it, unless the packet comes from a service; the source's port only together with a header.

    A client behind carrier-grade NAT may send from any port, 1194 and 51820 included, so a source port alone proves nothing;
    but a server's packet may be the first one seen of a tunnel that is older than the enforcer.
    """
    ports, transport = (TCP_PORTS, "tcp") if packet.protocol == TCP else (UDP_PORTS, "udp")
    if packet.dst_port in ports and not _is_service(packet.src_port):
        yield Recognised(ports[packet.dst_port], ports[packet.dst_port])
    if packet.src_port in ports and not _is_service(packet.dst_port):
        protocol = ports[packet.src_port]
        is_answer = packet.protocol == TCP and packet.tcp_flags & (SYN | ACK) == SYN | ACK
        if is_answer or any(
            message.protocol == protocol and message.transport == transport and fits(packet, message)
            for message in FIRST_MESSAGES
        ):
            yield Recognised(protocol, protocol)


def fits(packet: Packet, message: FirstMessage) -> bool:
    """Whether the payload has the message's length and fields. Bytes that are not there fit nothing."""
    if message.lengths and not message.lengths[0] <= packet.udp_length <= message.lengths[1]:
        return False
    for field in message.fields:
        value = packet.payload[field.offset : field.offset + field.size]
        if len(value) < field.size or (int.from_bytes(value, "big") in field.values) == field.is_absent:
            return False
    return True


def _is_service(port: int) -> bool:
    return port in SERVICE_PORTS and port not in SERVICE_PORTS_OF_VPN


def _unrecognised(packet: Packet, mark: int, policy: Policy, fallback: Fallback) -> Verdict:
    if mark == UNJUDGED:
        if packet.protocol == TCP and not packet.payload:
            return Verdict("pass", "not-yet")
        return Verdict("pass", "not-vpn", mark=CLEAR)
    # A VPN flow that was judged before, in its middle, where no port says so: what it was, it still is.
    if fallback == "allow":
        return Verdict("pass", "fail-open", mark=mark)
    if fallback == "block":
        return _stopped(policy, "fail-closed", None, mark)
    return _stopped(policy, _standing(mark), None, mark)


def _standing(mark: int) -> str:
    """Why a flow with this mark is stopped when no registration covers it."""
    return "unregistered" if mark == UNJUDGED else JUDGED_AGAIN.get(mark, "revoked")


def _stopped(policy: Policy, reason: str, protocol: str | None, mark: int) -> Verdict:
    registration = None if mark == UNJUDGED or mark in JUDGED_AGAIN else mark
    action = "observe" if policy.mode == "observe" else policy.action
    if reason == "fail-closed" and action != "observe":
        action = "reject" if action == "reject" else "drop"
    remembered = {"observe": OBSERVED, "police": POLICED}.get(action, UNJUDGED)
    return Verdict(action, reason, registration, protocol, mark or remembered)


def _may_finish(flow: Flow, policy: Policy, now_ns: int) -> bool:
    if policy.live_flows != "let-finish" or policy.let_finish_ns is None or flow.ended_ns is None:
        return False
    return now_ns < flow.ended_ns + policy.let_finish_ns


def _covering(
    packet: Packet, found: Recognised, allowlist: Allowlist | Lookup, policy: Policy, now_ns: int
) -> int | None:
    ends = (packet.version, found.kind, packet.src, packet.src_port, packet.dst, packet.dst_port, now_ns)
    if isinstance(allowlist, Allowlist):
        entry = find(counted(allowlist, policy), policy.match, *ends)
    else:
        entry = allowlist.find(*ends)
    return entry.registration if entry else None


def _is_exempt(packet: Packet, found: Recognised, policy: Policy) -> bool:
    """Whether one exemption names the packet's protocol and its two ends, in either direction."""
    has_ports = packet.protocol in (TCP, UDP)
    for exemption in policy.exempt:
        if exemption.protocols and found.protocol not in exemption.protocols:
            continue
        for subscriber, endpoint, port in (
            (packet.src, packet.dst, packet.dst_port),
            (packet.dst, packet.src, packet.src_port),
        ):
            if exemption.endpoint_prefixes and not _within(
                packet.version, endpoint, exemption.endpoint_prefixes
            ):
                continue
            if exemption.subscriber_prefixes and not _within(
                packet.version, subscriber, exemption.subscriber_prefixes
            ):
                continue
            if exemption.endpoint_ports and has_ports and port not in exemption.endpoint_ports:
                continue
            return True
    return False


def _within(version: int, address: int, prefixes: tuple[str, ...]) -> bool:
    return _lookup(prefixes).covers(version, address)


@functools.lru_cache(maxsize=1024)  # the lists of policies, for each is asked at each packet
def _lookup(prefixes: tuple[str, ...]) -> PrefixMap[None]:
    return PrefixMap((prefix, None) for prefix in prefixes)
