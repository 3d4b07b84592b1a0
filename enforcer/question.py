"""A flow that somebody asks about, from words on a command line to the packets it would begin with."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from enforcer.filemodel import suggest
from enforcer.first_bytes import PPTP_GRE, first_bytes
from enforcer.packet import SYN, Packet
from enforcer.policy import Policy
from enforcer.protocols import AH, ESP, GRE, L2TP_IP, TCP, TCP_PORTS, UDP, UDP_PORTS

_FIRST_DYNAMIC_PORT = 49152  # RFC 6335
_TRANSPORTS = {"udp": UDP, "tcp": TCP, "esp": ESP, "ah": AH, "gre": GRE, "l2tp-ip": L2TP_IP}
_OF_PROTOCOL = {
    **{protocol: ("udp", port) for port, protocol in reversed(UDP_PORTS.items())},
    **{protocol: ("tcp", port) for port, protocol in TCP_PORTS.items()},
    "openconnect": ("tcp", 443),
}
PROTOCOLS = (*dict.fromkeys((*_OF_PROTOCOL, *_TRANSPORTS)),)


@dataclass(frozen=True, slots=True)
class Asked:
    """One flow: what it is called, its transport, and its first packet."""

    name: str
    transport: str
    packet: Packet

    @property
    def title(self) -> str:
        port = f" port {self.packet.dst_port}" if self.packet.dst_port else ""
        own = f"{self.name} " if self.name != self.transport else ""
        return f"{own}({self.transport}{port})" if own else f"{self.transport}{port}"


def questions(src: str, dst: str, proto: str | None, port: int | None, policy: Policy) -> list[Asked]:
    """The flows that are meant. Without proto: each protocol the policy governs, at its customary port; with a port only: udp and tcp.

    Raises ValueError, which says what to write.
    """
    ends = _address(src), _address(dst)
    if ends[0].version != ends[1].version:
        raise ValueError(f"{src} and {dst} are not of the same family; write two IPv4 or two IPv6 addresses")
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port; write 1 to 65535")
    if proto is not None:
        return [_asked(ends, proto.lower(), port)]
    if port is not None:
        return [_asked(ends, name, port) for name in ("udp", "tcp")]
    return [_asked(ends, name, None) for name in policy.governs]


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address; write one such as 203.0.113.7 or 2001:db8::7"
        ) from None


def _asked(ends: tuple[IPv4Address | IPv6Address, ...], name: str, port: int | None) -> Asked:
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; {suggest(name, PROTOCOLS, 20)}")
    is_vpn = name in _OF_PROTOCOL
    transport, usual = _OF_PROTOCOL[name] if is_vpn else (name, None)
    if transport not in ("udp", "tcp"):
        if port is not None:
            raise ValueError(f"{name} has no ports; leave --port out")
        payload = PPTP_GRE if transport == "gre" else b""
        return Asked(name, transport, _packet(ends, transport, 0, payload))
    port = port or usual
    if port is None:
        raise ValueError(f"{name} needs a port; write --port 51820")
    payload = (first_bytes(name, transport) or b"") if is_vpn else b""
    return Asked(name, transport, _packet(ends, transport, port, payload))


def _packet(ends: tuple[IPv4Address | IPv6Address, ...], transport: str, port: int, payload: bytes) -> Packet:
    src, dst = ends
    return Packet(
        src.version,
        int(src),
        int(dst),
        _TRANSPORTS[transport],
        src_port=_FIRST_DYNAMIC_PORT if port else 0,
        dst_port=port,
        tcp_flags=SYN if transport == "tcp" and not payload else 0,
        udp_length=len(payload) if transport == "udp" else 0,
        payload=payload,
    )
