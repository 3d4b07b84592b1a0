"""One IP packet, parsed as far as an allowlist decision needs. Pure; garbage gives a Packet that says so, never an exception."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from enforcer.protocols import GRE, TCP, UDP

SYN, RST, ACK = 0x02, 0x04, 0x10  # RFC 9293 section 3.1

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60  # RFC 8200 section 4
_NO_NEXT_HEADER = 59
_MOST_EXTENSIONS = 32  # a chain longer than any real one; parsing stays bounded


@dataclass(frozen=True, slots=True)
class Packet:
    """What the headers say.

    version is 4 or 6, or 0 for what is not IP (then nothing else is set). src/dst are the addresses as numbers. protocol is the
    one after IPv6 extension headers, where an authentication header ends them (51); None when they are cut off. is_fragment: not the first fragment, so no ports. ports are 0 without any. payload is what follows the
    UDP or TCP header as far as the packet goes (GRE: the GRE header); udp_length is the UDP header's length less 8.
    """

    version: int
    src: int = 0
    dst: int = 0
    protocol: int | None = None
    is_fragment: bool = False
    has_options: bool = False
    src_port: int = 0
    dst_port: int = 0
    tcp_flags: int = 0
    udp_length: int = 0
    payload: bytes = b""
    length: int = 0

    @property
    def src_text(self) -> str:
        return address_text(self.version, self.src)

    @property
    def dst_text(self) -> str:
        return address_text(self.version, self.dst)


def address_text(version: int, address: int) -> str:
    """The address as `ipaddress` prints it; "" when version is 0."""
    if not version:
        return ""
    return str(IPv4Address(address) if version == 4 else IPv6Address(address))


def parse(data: bytes) -> Packet:
    """The packet in these bytes, which begin with the IP header (no link layer). Never raises; not IP gives version 0."""
    version = data[0] >> 4 if data else 0
    if version == 4:
        return _ipv4(data)
    if version == 6:
        return _ipv6(data)
    return Packet(0, length=len(data))


def _ipv4(data: bytes) -> Packet:
    header = (data[0] & 0x0F) * 4
    if header < 20 or len(data) < header:
        return Packet(0, length=len(data))
    total = int.from_bytes(data[2:4], "big")
    if total >= header:  # 0 in segments merged beyond 64 KiB (BIG TCP)
        data = data[:total]
    fragment = int.from_bytes(data[6:8], "big") & 0x1FFF
    return _transport(
        data,
        header,
        4,
        int.from_bytes(data[12:16], "big"),
        int.from_bytes(data[16:20], "big"),
        data[9],
        bool(fragment),
        header > 20,
    )


def _ipv6(data: bytes) -> Packet:
    if len(data) < 40:
        return Packet(0, length=len(data))
    length = int.from_bytes(data[4:6], "big")
    if length:  # 0 in a jumbogram
        data = data[: 40 + length]
    src, dst = int.from_bytes(data[8:24], "big"), int.from_bytes(data[24:40], "big")
    protocol: int | None = data[6]
    offset, is_fragment, has_options = 40, False, False
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
            break
        has_options = True
        head = data[offset : offset + 8]
        if len(head) < 8:
            protocol = None
            break
        if protocol == _FRAGMENT:
            is_fragment = bool(int.from_bytes(head[2:4], "big") & 0xFFF8)
            size = 8
        else:
            size = (head[1] + 1) * 8
        offset += size
        protocol = head[0]
        if is_fragment:
            break
    if protocol == _NO_NEXT_HEADER:
        protocol = None
    return _transport(data, offset, 6, src, dst, protocol, is_fragment, has_options)


def _transport(
    data: bytes,
    offset: int,
    version: int,
    src: int,
    dst: int,
    protocol: int | None,
    is_fragment: bool,
    has_options: bool,
) -> Packet:
    packet = (version, src, dst, protocol, is_fragment, has_options)
    rest = data[offset:]
    if is_fragment or protocol not in (TCP, UDP, GRE):
        return Packet(*packet, length=len(data))
    if protocol == UDP and len(rest) >= 8:
        src_port, dst_port, udp_length = struct.unpack_from("!HHH", rest)
        return Packet(
            *packet,
            src_port,
            dst_port,
            udp_length=max(0, udp_length - 8),
            payload=rest[8:],
            length=len(data),
        )
    if protocol == TCP and len(rest) >= 20:
        src_port, dst_port = struct.unpack_from("!HH", rest)
        payload = rest[(rest[12] >> 4) * 4 :]
        return Packet(*packet, src_port, dst_port, rest[13], payload=payload, length=len(data))
    if protocol == GRE:
        return Packet(*packet, payload=rest, length=len(data))
    return Packet(*packet, length=len(data))
