"""Packets out of capture files: pcap and pcapng, with the link layer taken off. Pure reading; a damaged file ends where it breaks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from enforcer.link_layer import LINK_TYPES, without_link_layer

_SECTION = b"\x0a\x0d\x0d\x0a"  # how pcapng begins
# What a length in the file may be: captures of merged segments reach 256 KiB (tcpdump's MAXIMUM_SNAPLEN), blocks of keys some MB.
_MOST_BYTES = 16 << 20


class NotACapture(ValueError):
    """The file is neither pcap nor pcapng, or holds frames of a link layer that is not known here."""


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
        yield from _pcapng(file, name)
        return
    for order in "<>":
        for number, unit_ns in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
            if magic == struct.pack(order + "I", number):
                yield from _pcap(file, name, order, unit_ns)
                return
    zipped = "; it is compressed, gunzip it first" if magic[:2] == b"\x1f\x8b" else ""
    raise NotACapture(f"{name} is neither pcap nor pcapng{zipped}")


def _pcap(file: BinaryIO, name: str, order: str, unit_ns: int) -> Iterator[Frame]:
    header = file.read(20)
    if len(header) < 20:
        return
    (link_type,) = struct.unpack_from(order + "I", header, 16)
    link_type = _known(link_type & 0xFFFF, name)  # above: the frame check sequence's length
    while len(record := file.read(16)) == 16:
        seconds, fraction, size, _ = struct.unpack(order + "IIII", record)
        if size > _MOST_BYTES or len(data := file.read(size)) < size:
            return
        packet = without_link_layer(link_type, data)
        yield Frame(seconds * 1_000_000_000 + fraction * unit_ns, packet)


def _pcapng(file: BinaryIO, name: str) -> Iterator[Frame]:
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
        elif kind in (2, 6) and len(body) >= 20:  # 2: the packet block that 6 took the place of
            number, high, low, captured, _ = struct.unpack_from(
                order + ("HxxIIII" if kind == 2 else "IIIII"), body
            )
            if number < len(interfaces):
                link_type, tick_ns = interfaces[number]
                packet = without_link_layer(_known(link_type, name), body[20 : 20 + captured])
                yield Frame((high << 32 | low) * tick_ns, packet)
        elif kind == 3 and len(body) >= 4 and interfaces:
            packet = without_link_layer(_known(interfaces[0][0], name), body[4:])
            yield Frame(0, packet)


def _known(link_type: int, name: str) -> int:
    """Raises NotACapture: a capture that nothing can be read from must not look like one without traffic."""
    if link_type not in LINK_TYPES:
        names = ", ".join(dict.fromkeys(each for each, _ in LINK_TYPES.values()))
        raise NotACapture(f"{name} has frames of link type {link_type}; what can be read is {names}")
    return link_type


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
