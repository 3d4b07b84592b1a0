"""pcapng blocks for Wireshark: sections, interfaces, names for addresses, packets. Pure: values in, bytes out.

Format: draft-ietf-opsawg-pcapng. Link types: https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101

_SECTION, _INTERFACE, _NAMES, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 4, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPT_COMMENT, _SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 1, 4, 2, 9, 2
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_NANOSECONDS = b"\x09"
_INBOUND, _OUTBOUND = 1, 2
_NRB_IPV4, _NRB_IPV6 = 1, 2
_PACKET_HEAD = struct.Struct("=IIIII")


def section(comment: str) -> bytes:
    """The file's first block."""
    options = _option(_OPT_COMMENT, comment.encode()) + _option(_SHB_USERAPPL, b"allowlab")
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1), options)


def names(by_address: Mapping[str, str]) -> bytes:
    """What to call addresses; Wireshark shows it when told to resolve names."""
    return _block(_NAMES, b"".join(_name(*each) for each in by_address.items()) + bytes(4), b"")


def interface(name: str, linktype: int) -> bytes:
    """An interface; packets name it by its place among the file's interfaces, from 0. Times are in nanoseconds."""
    options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, _NANOSECONDS)
    return _block(_INTERFACE, struct.pack("=HHI", linktype, 0, 0), options)


def packet(number: int, time_ns: int, data: bytes, wire_bytes: int, *, is_outgoing: bool) -> bytes:
    """A packet of interface `number` at time_ns since 1970."""
    head = _PACKET_HEAD.pack(number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), wire_bytes)
    flags = _option(_EPB_FLAGS, struct.pack("=I", _OUTBOUND if is_outgoing else _INBOUND))
    return _block(_PACKET, head + _padded(data), flags)


def statistics(number: int, time_ns: int, received: int, dropped: int) -> bytes:
    """How many packets arrived and how many of them the capture lost."""
    options = _option(_ISB_IFRECV, struct.pack("=Q", received)) + _option(
        _ISB_IFDROP, struct.pack("=Q", dropped)
    )
    return _block(_STATISTICS, struct.pack("=III", number, time_ns >> 32, time_ns & 0xFFFFFFFF), options)


def _name(address: str, name: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    value = parsed.packed + name.encode() + b"\0"
    return struct.pack("=HH", _NRB_IPV4 if parsed.version == 4 else _NRB_IPV6, len(value)) + _padded(value)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    content = body + (options + bytes(4) if options else b"")
    length = len(content) + 12
    return struct.pack("=II", kind, length) + content + struct.pack("=I", length)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
