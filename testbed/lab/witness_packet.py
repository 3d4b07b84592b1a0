"""What a witness notes of a packet: protocol, addresses, ports. Pure; reads headers only, IPv4 and IPv6.

Ports are 0 for protocols without any, for later fragments (they have none) and for ICMP other than echo; an ICMP echo's
identifier stands as source port in both directions. Only headers are here to begin with: SNAP_BYTES are taken.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache

# IPv4 with all its options (60) or IPv6 with 50 bytes of extension headers, and the ports.
SNAP_BYTES = 96

# protocol, source and destination address together, source port, destination port
Flow = tuple[int, bytes, int, int]

_ICMP, _TCP, _UDP, _ICMPV6, _SCTP = 1, 6, 17, 58, 132
_WITH_PORTS = frozenset((_TCP, _UDP, _SCTP))
_NAMES = {_ICMP: "icmp", _TCP: "tcp", _UDP: "udp", 47: "gre", 50: "esp", 51: "ah", _ICMPV6: "icmpv6"}
_ECHO = {_ICMP: (8, 0), _ICMPV6: (128, 129)}
# RFC 8200 section 4: hop-by-hop, routing, destination options; a fragment header has its own shape. AH ends the walk: it is
# what is counted.
_SKIPPED, _FRAGMENT = frozenset((0, 43, 60)), 44
_IPV4 = struct.Struct(">BxHxxHxBxx8sHH")
_PORTS = struct.Struct(">HH")
_IDENTIFIER = struct.Struct(">BxxxH")
# A segment kept whole by offloading counts as the packets it stands for, of 1500 bytes, 40 of them headers.
_MTU_BYTES, _SEGMENT_BYTES, _HEADER_BYTES = 1500, 1460, 40


def flow_of(data: memoryview | bytes, start: int, end: int) -> Flow | None:
    """The flow of the IP packet at data[start:end] (which may be cut short), or None when there is too little of it."""
    if end - start < 20:
        return None
    version = data[start] >> 4
    if version == 4:
        return _flow4(data, start, end)
    return _flow6(data, start, end) if version == 6 and end - start >= 40 else None


def packets_in(length: int) -> int:
    """How many packets on a wire an IP packet of this length stands for."""
    return 1 if length <= _MTU_BYTES else -(-(length - _HEADER_BYTES) // _SEGMENT_BYTES)


@lru_cache(maxsize=65_536)
def names(addresses: bytes) -> tuple[str, str]:
    """Source and destination as people write them."""
    half = len(addresses) // 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    return socket.inet_ntop(family, addresses[:half]), socket.inet_ntop(family, addresses[half:])


def transport_name(protocol: int) -> str:
    return _NAMES.get(protocol) or str(protocol)


def _flow4(data: memoryview | bytes, start: int, end: int) -> Flow | None:
    if end - start < 24:
        return data[start + 9], bytes(data[start + 12 : start + 20]), 0, 0
    first, _length, fragment, protocol, addresses, source, destination = _IPV4.unpack_from(data, start)
    if fragment & 0x1FFF:
        return protocol, addresses, 0, 0
    if first == 0x45 and protocol in _WITH_PORTS:
        return protocol, addresses, source, destination
    return protocol, addresses, *_ports(data, start + (first & 0xF) * 4, end, protocol)


def _flow6(data: memoryview | bytes, start: int, end: int) -> Flow:
    addresses = bytes(data[start + 8 : start + 40])
    protocol, at = data[start + 6], start + 40
    while at + 8 <= end:
        if protocol in _SKIPPED:
            protocol, at = data[at], at + 8 + 8 * data[at + 1]
        elif protocol == _FRAGMENT:
            is_later = (data[at + 2] << 8 | data[at + 3]) & 0xFFF8
            protocol, at = data[at], at + 8
            if is_later:
                return protocol, addresses, 0, 0
        else:
            break
    return protocol, addresses, *_ports(data, at, end, protocol)


def _ports(data: memoryview | bytes, at: int, end: int, protocol: int) -> tuple[int, int]:
    if protocol in _WITH_PORTS and at + 4 <= end:
        return _PORTS.unpack_from(data, at)
    if protocol in _ECHO and at + 6 <= end:
        kind, identifier = _IDENTIFIER.unpack_from(data, at)
        return (identifier, 0) if kind in _ECHO[protocol] else (0, 0)
    return 0, 0
