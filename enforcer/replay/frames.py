"""Frames of captures as a stream: files of any size in bounded memory, each break with its byte offset.

A faster reading of the formats that enforcer/capture.py knows: it gives no objects but places in a buffer, so that most packets
are never copied. Link layers are capture.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from enforcer.replay.source import Damage, Damages, Source

# (Unix ns, link type, buffer, start of the frame, end of what was captured of it)
Frame = tuple[int, int, bytes, int, int]

_CHUNK_BYTES = 4 << 20
# No snapshot length of any tool is larger (tcpdump's MAXIMUM_SNAPLEN is 262,144); more is damage, not a packet.
_LARGEST_FRAME = 16 << 20


def frames(source: Source, damages: Damages) -> Iterator[Frame]:
    """Every frame, in the file's order; where the file breaks, that is noted and the frames end."""
    yield from _pcapng(source, damages) if source.kind() == "pcapng" else _pcap(source, damages)


class _Buffer:
    """A window on the source. base: the file's offset of data[0]."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.data = b""
        self.base = 0

    def more(self, offset: int, needed: int) -> bool:
        """Drop what is before offset and read until `needed` bytes are there (at offset 0 from now on); False at the end."""
        parts = [self.data[offset:]]
        held = len(parts[0])
        self.base += offset
        while held < needed:
            part = self._source.read(max(_CHUNK_BYTES, needed - held))
            if not part:
                break
            parts.append(part)
            held += len(part)
        self.data = b"".join(parts)
        return held >= needed


def _ends(buffer: _Buffer, source: Source, damages: Damages, what: str) -> None:
    """Note how the file ended, unless it did where a record did."""
    if source.breaks:
        damages.add(Damage(buffer.base + len(buffer.data), source.breaks))
    elif buffer.data:
        damages.add(
            Damage(
                buffer.base,
                f"the file ends in the middle of {what} ({len(buffer.data):,} bytes of it are there)",
            )
        )


def _pcap(source: Source, damages: Damages) -> Iterator[Frame]:
    buffer = _Buffer(source)
    if not buffer.more(0, 24):
        _ends(buffer, source, damages, "its header")
        return
    order = "<" if buffer.data[0] in (0xD4, 0x4D) else ">"
    (magic,) = struct.unpack_from(order + "I", buffer.data)
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    # The upper half tells of frame check sequences (pcap-savefile(5)).
    link_type = struct.unpack_from(order + "I", buffer.data, 20)[0] & 0xFFFF
    unpack = struct.Struct(order + "III").unpack_from
    offset, data, size = 24, buffer.data, len(buffer.data)
    while True:
        if offset + 16 > size:
            if not buffer.more(offset, 16):
                _ends(buffer, source, damages, "a packet's header")
                return
            offset, data, size = 0, buffer.data, len(buffer.data)
        seconds, fraction, captured = unpack(data, offset)
        end = offset + 16 + captured
        if end > size:
            if captured > _LARGEST_FRAME:
                damages.add(
                    Damage(buffer.base + offset, f"a packet of {captured:,} bytes: the file is damaged here")
                )
                return
            if not buffer.more(offset, 16 + captured):
                _ends(buffer, source, damages, "a packet")
                return
            offset, data, size = 0, buffer.data, len(buffer.data)
            end = 16 + captured
        yield seconds * 1_000_000_000 + fraction * unit_ns, link_type, data, offset + 16, end
        offset = end


def _pcapng(source: Source, damages: Damages) -> Iterator[Frame]:
    buffer = _Buffer(source)
    order, offset = "<", 0
    interfaces: list[
        tuple[int, int, int, int]
    ] = []  # link type, numerator, denominator of a tick in ns, offset in ns
    last_ns = 0
    while True:
        data = buffer.data
        if offset + 12 > len(data):
            if not buffer.more(offset, 12):
                _ends(buffer, source, damages, "a block's header")
                return
            offset, data = 0, buffer.data
        if data[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[offset + 8 : offset + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, size = struct.unpack_from(order + "II", data, offset)
        if size < 12 or size % 4 or size > _LARGEST_FRAME:
            damages.add(Damage(buffer.base + offset, f"a block of {size:,} bytes: the file is damaged here"))
            return
        if offset + size > len(data):
            if not buffer.more(offset, size):
                _ends(buffer, source, damages, "a block")
                return
            offset, data = 0, buffer.data
        end = offset + size - 4
        if kind == 6 and size >= 32:  # enhanced packet
            number, high, low, captured = struct.unpack_from(order + "IIII", data, offset + 8)
            if number >= len(interfaces) or captured > size - 32:
                damages.add(
                    Damage(
                        buffer.base + offset,
                        "a packet of an interface that is not described, or longer than its block",
                    )
                )
            else:
                link_type, numerator, denominator, shift_ns = interfaces[number]
                last_ns = (high << 32 | low) * numerator // denominator + shift_ns
                yield last_ns, link_type, data, offset + 28, offset + 28 + captured
        elif kind == 1 and size >= 20:  # interface description
            (link_type,) = struct.unpack_from(order + "H", data, offset + 8)
            interfaces.append((link_type, *_ticks(data[offset + 16 : end], order)))
        elif kind == 3 and size >= 16 and interfaces:  # simple packet: no time of its own
            (original,) = struct.unpack_from(order + "I", data, offset + 8)
            yield last_ns, interfaces[0][0], data, offset + 12, min(offset + 12 + original, end)
        elif kind == 2 and size >= 32:  # packet, obsolete
            number, _, high, low, captured = struct.unpack_from(order + "HHIII", data, offset + 8)
            if number < len(interfaces) and captured <= size - 32:
                link_type, numerator, denominator, shift_ns = interfaces[number]
                last_ns = (high << 32 | low) * numerator // denominator + shift_ns
                yield last_ns, link_type, data, offset + 28, offset + 28 + captured
        offset += size


def _ticks(options: bytes, order: str) -> tuple[int, int, int]:
    """if_tsresol as nanoseconds (numerator, denominator) of one tick, and if_tsoffset in ns (pcapng, section 4.2)."""
    offset, numerator, denominator, shift_ns = 0, 1000, 1, 0
    while offset + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, offset)
        if code == 0:
            break
        value = options[offset + 4 : offset + 4 + size]
        if code == 9 and value:
            power = value[0] & 0x7F
            if value[0] & 0x80:
                numerator, denominator = 1_000_000_000, 1 << power
            else:
                numerator, denominator = 1_000_000_000, 10**power
        elif code == 14 and len(value) == 8:
            shift_ns = struct.unpack(order + "q", value)[0] * 1_000_000_000
        offset += 4 + (size + 3 & ~3)
    return numerator, denominator, shift_ns
