"""Packets out of capture files: pcap and pcapng, with the link layer taken off. Pure reading; a damaged file ends where it breaks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
_SECTION = b"\x0a\x0d\x0d\x0a"  # how pcapng begins
# What a length in the file may be: captures of merged segments reach 256 KiB (tcpdump's MAXIMUM_SNAPLEN), blocks of keys some MB.
_MOST_BYTES = 16 << 20


class NotACapture(ValueError):
    """The file is neither pcap nor pcapng."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet from its IP header on; time_ns is Unix time. data is b"" when there is no IP in the frame."""

    time_ns: int
    data: bytes


def read(path: Path) -> Iterator[Frame]:
    """Every frame, in the file's order; a file of any size costs the memory of one frame. Raises OSError, NotACapture."""
    with path.open("rb") as file:
        yield from frames(file, str(path))


def frames(file: BinaryIO, name: str = "the file") -> Iterator[Frame]:
    """Like read, from an open file; name is how an error names it. Raises OSError, NotACapture."""
    magic = file.read(4)
    if magic == _SECTION:
        file.seek(0)
        yield from _pcapng(file)
        return
    for order in "<>":
        for number, unit_ns in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
            if magic == struct.pack(order + "I", number):
                yield from _pcap(file, order, unit_ns)
                return
    zipped = "; it is compressed, gunzip it first" if magic[:2] == b"\x1f\x8b" else ""
    raise NotACapture(f"{name} is neither pcap nor pcapng{zipped}")


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


def _pcap(file: BinaryIO, order: str, unit_ns: int) -> Iterator[Frame]:
    header = file.read(20)
    if len(header) < 20:
        return
    (link_type,) = struct.unpack_from(order + "I", header, 16)
    while len(record := file.read(16)) == 16:
        seconds, fraction, size, _ = struct.unpack(order + "IIII", record)
        if size > _MOST_BYTES or len(data := file.read(size)) < size:
            return
        packet = without_link_layer(link_type & 0xFFFF, data)
        yield Frame(seconds * 1_000_000_000 + fraction * unit_ns, packet)


def _pcapng(file: BinaryIO) -> Iterator[Frame]:
    order = "<"
    interfaces: list[tuple[int, int]] = []  # link type, nanoseconds of one tick
    while len(head := file.read(12)) == 12:
        if head[:4] == _SECTION:
            order = "<" if head[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, size = struct.unpack_from(order + "II", head)
        if not 12 <= size <= _MOST_BYTES or len(rest := file.read(size - 12)) < size - 12:
            return
        body = (head[8:] + rest)[:-4]
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


def _tick_ns(options: bytes, order: str) -> int:
    offset = 0
    while offset + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, offset)
        if code == 9 and size and offset + 4 < len(options):  # if_tsresol
            value = options[offset + 4]
            if value & 0x80:
                return max(1, 1_000_000_000 >> (value & 0x7F))
            return max(1, 10 ** (9 - value)) if value <= 9 else 1
        if code == 0:
            break
        offset += 4 + (size + 3 & ~3)
    return 1000
