"""Packets out of capture files: pcap and pcapng, with the link layer taken off. Pure reading; a damaged file ends where it breaks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Link types (tcpdump.org/linktypes.html)
_NULL, _ETHERNET, _RAW_12, _RAW_14, _RAW, _LINUX_SLL, _IPV4, _IPV6, _LINUX_SLL2 = (
    0,
    1,
    12,
    14,
    101,
    113,
    228,
    229,
    276,
)
_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
_IP_TYPES = (0x0800, 0x86DD)
_PPPOE_SESSION, _MPLS = 0x8864, 0x8847


class NotACapture(ValueError):
    """The file is neither pcap nor pcapng."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet from its IP header on; time_ns is Unix time. data is b"" when there is no IP in the frame."""

    time_ns: int
    data: bytes


def read(path: Path) -> Iterator[Frame]:
    """Every frame, in the file's order. Raises OSError, NotACapture."""
    data = path.read_bytes()
    magic = data[:4]
    if magic == b"\x0a\x0d\x0d\x0a":
        yield from _pcapng(data)
        return
    for order in "<>":
        for number, unit_ns in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
            if magic == struct.pack(order + "I", number):
                yield from _pcap(data, order, unit_ns)
                return
    raise NotACapture(f"{path} is neither pcap nor pcapng")


def without_link_layer(link_type: int, data: bytes) -> bytes:
    """The packet from its IP header on; b"" when the frame carries none."""
    if link_type in (_RAW_12, _RAW_14, _RAW, _IPV4, _IPV6):
        return data
    if link_type == _NULL:
        return data[4:]
    if link_type == _ETHERNET:
        return _after_type(data, 12)
    if link_type == _LINUX_SLL:
        return _after_type(data, 14)
    if link_type == _LINUX_SLL2:
        return data[20:] if int.from_bytes(data[:2], "big") in _IP_TYPES else b""
    return b""


def _after_type(data: bytes, offset: int) -> bytes:
    kind = int.from_bytes(data[offset : offset + 2], "big")
    offset += 2
    while kind in _VLAN_TYPES:
        kind = int.from_bytes(data[offset + 2 : offset + 4], "big")
        offset += 4
    if kind == _PPPOE_SESSION:
        return data[offset + 8 :] if data[offset + 6 : offset + 8] in (b"\x00\x21", b"\x00\x57") else b""
    if kind == _MPLS:
        while offset + 4 <= len(data):
            is_last = data[offset + 2] & 1
            offset += 4
            if is_last:
                return data[offset:]
        return b""
    return data[offset:] if kind in _IP_TYPES else b""


def _pcap(data: bytes, order: str, unit_ns: int) -> Iterator[Frame]:
    (link_type,) = struct.unpack_from(order + "I", data, 20)
    offset = 24
    while offset + 16 <= len(data):
        seconds, fraction, size, _ = struct.unpack_from(order + "IIII", data, offset)
        offset += 16
        if offset + size > len(data):
            return
        packet = without_link_layer(link_type & 0xFFFF, data[offset : offset + size])
        yield Frame(seconds * 1_000_000_000 + fraction * unit_ns, packet)
        offset += size


def _pcapng(data: bytes) -> Iterator[Frame]:
    order, offset = "<", 0
    interfaces: list[tuple[int, int]] = []  # link type, nanoseconds of one tick
    while offset + 12 <= len(data):
        if data[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[offset + 8 : offset + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, size = struct.unpack_from(order + "II", data, offset)
        if size < 12 or offset + size > len(data):
            return
        body = data[offset + 8 : offset + size - 4]
        if kind == 1 and len(body) >= 8:
            (link_type,) = struct.unpack_from(order + "H", body)
            interfaces.append((link_type, _tick_ns(body[8:], order)))
        elif kind == 6 and len(body) >= 20:
            number, high, low, captured, _ = struct.unpack_from(order + "IIIII", body)
            if number < len(interfaces):
                link_type, tick_ns = interfaces[number]
                packet = without_link_layer(link_type, body[20 : 20 + captured])
                yield Frame((high << 32 | low) * tick_ns, packet)
        elif kind == 3 and len(body) >= 4 and interfaces:
            yield Frame(0, without_link_layer(interfaces[0][0], body[4:]))
        offset += size


def _tick_ns(options: bytes, order: str) -> int:
    offset = 0
    while offset + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, offset)
        if code == 9 and size:  # if_tsresol
            value = options[offset + 4]
            if value & 0x80:
                return max(1, 1_000_000_000 >> (value & 0x7F))
            return max(1, 10 ** (9 - value)) if value <= 9 else 1
        if code == 0:
            break
        offset += 4 + (size + 3 & ~3)
    return 1000
