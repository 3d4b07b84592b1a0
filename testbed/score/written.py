"""What the policy as written says about an attempt under a given allowlist: the enforcer's own pure `decide`, asked offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from enforcer.allowlist import Allowlist, Entry
from enforcer.decide import Flow, Verdict, decide
from enforcer.first_bytes import PPTP_GRE, first_bytes
from enforcer.packet import ACK, Packet
from enforcer.policy import Policy
from enforcer.protocols import AH, ESP, GRE, ICMP, ICMPV6, TCP, UDP
from testbed.records import FlowRecord

_NUMBERS = {"udp": UDP, "tcp": TCP, "icmp": ICMP, "icmpv6": ICMPV6, "esp": ESP, "ah": AH, "gre": GRE}
_NOW_NS = 10**18  # any Unix time: the entries asked about are those in force

# First bytes of what is not VPN: a DNS question with recursion desired, a TLS ClientHello record, a voice packet's number.
_PLAIN = {
    "dns": bytes((0x7A, 0x5C, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0)),
    "https": bytes((0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01)),
    "voice": bytes(12),
}
_GRE_0 = bytes((0, 0, 0x88, 0xB5)) + bytes(5)  # RFC 2784 section 2.1: version 0


@dataclass(frozen=True, slots=True)
class Written:
    """passes: what should happen to the attempt; reason: a word of enforcer.decide.REASONS, or "no-policy"."""

    passes: bool
    reason: str


def written(
    flow: FlowRecord,
    policy: Policy | None,
    entries: Iterable[Entry],
    live: tuple[int, int] | None = None,
) -> Written:
    """The answer for the attempt's first packet.

    live: (registration, ns since it ended) of a flow that was under way when its registration ended; then the policy's
    rule for live flows is asked.
    """
    if policy is None:
        return Written(True, "no-policy")
    if not flow.public_src or not flow.dst:
        return Written(True, "not-vpn")
    allowlist = Allowlist(0, {entry.registration: entry for entry in entries})
    state = Flow() if live is None else Flow(mark=live[0], ended_ns=_NOW_NS - live[1])
    verdict: Verdict = decide(first_packet(flow), state, allowlist, policy, _NOW_NS)
    return Written(verdict.passes or verdict.action == "police", verdict.reason)


def first_packet(flow: FlowRecord) -> Packet:
    """The first packet with payload of an attempt, as a gateway sees it; its bytes are the protocol's documented ones."""
    src, dst = ip_address(flow.public_src), ip_address(flow.dst)
    payload = _payload(flow)
    return Packet(
        version=dst.version,
        src=int(src),
        dst=int(dst),
        protocol=_NUMBERS.get(flow.transport, UDP),
        src_port=flow.src_port,
        dst_port=flow.dst_port,
        tcp_flags=ACK if flow.transport == "tcp" else 0,
        udp_length=len(payload) if flow.transport == "udp" else 0,
        payload=payload,
        length=len(payload) + 28,
    )


def _payload(flow: FlowRecord) -> bytes:
    if flow.transport == "gre":
        return _GRE_0 if flow.protocol == "gre-0" else PPTP_GRE
    return first_bytes(flow.protocol, flow.transport) or _PLAIN.get(flow.probe, bytes(8))
