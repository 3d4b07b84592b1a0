"""The link layer of captured frames, taken off: from there on a packet is IP or is not looked at."""

from __future__ import annotations

from collections.abc import Callable

_IP_TYPES = (0x0800, 0x86DD)
_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)  # IEEE 802.1Q, 802.1ad, and what came before it
_PPPOE_SESSION, _MPLS = 0x8864, 0x8847
_PPP_IP = (0x0021, 0x0057)  # RFC 1332, 5072
_SNAP = b"\xaa\xaa\x03\0\0\0"  # RFC 1042
_MOST_TAGS = 16


def without_link_layer(link_type: int, data: bytes) -> bytes:
    """The packet from its IP header on; b"" when the frame carries none. Raises ValueError for a link type not in LINK_TYPES."""
    if link_type not in LINK_TYPES:
        raise ValueError(
            f"frames of link type {link_type} cannot be read (tcpdump.org/linktypes.html has its name)"
        )
    return LINK_TYPES[link_type][1](data)


def _ip(data: bytes) -> bytes:
    return data


def _after_four(data: bytes) -> bytes:
    return data[4:]  # the address family, in the byte order of the host or of the network


def _ethernet(data: bytes) -> bytes:
    return _typed(data, 12)


def _cooked(data: bytes) -> bytes:
    return _typed(data, 14)


def _cooked2(data: bytes) -> bytes:
    return _typed(data[:2] + data[20:], 0)


def _ppp(data: bytes) -> bytes:
    if data[:2] == b"\xff\x03":  # address and control, unless they were negotiated away
        data = data[2:]
    return data[2:] if int.from_bytes(data[:2], "big") in _PPP_IP else b""


def _cisco_hdlc(data: bytes) -> bytes:
    return _typed(data, 2)


def _nflog(data: bytes) -> bytes:
    """TLVs in the host's byte order, here little-endian; the packet is attribute 9."""
    offset = 4
    while offset + 4 <= len(data):
        size, kind = int.from_bytes(data[offset : offset + 2], "little"), data[offset + 2]
        if kind == 9:
            return data[offset + 4 : offset + size]
        if size < 4:
            break
        offset += size + 3 & ~3
    return b""


def _radiotap(data: bytes) -> bytes:
    size = int.from_bytes(data[2:4], "little")
    return _wifi(data[size:]) if size >= 8 else b""


def _wifi(data: bytes) -> bytes:
    """IEEE 802.11 data frames that are not encrypted."""
    if len(data) < 24 or data[0] & 0x0C != 0x08 or data[0] & 0x40 or data[1] & 0x40:
        return b""
    header = 24 + (6 if data[1] & 3 == 3 else 0) + (2 if data[0] & 0x80 else 0)
    if data[0] & 0x80 and data[1] & 0x80:
        header += 4  # HT control
    return _typed(data, header + 6) if data[header : header + 6] == _SNAP else b""


# tcpdump.org/linktypes.html: number -> name, and what takes the layer off
LINK_TYPES: dict[int, tuple[str, Callable[[bytes], bytes]]] = {
    0: ("BSD loopback", _after_four),
    1: ("Ethernet", _ethernet),
    9: ("PPP", _ppp),
    12: ("raw IP", _ip),
    14: ("raw IP", _ip),
    50: ("PPP with HDLC framing", _ppp),
    101: ("raw IP", _ip),
    104: ("Cisco HDLC", _cisco_hdlc),
    105: ("IEEE 802.11", _wifi),
    108: ("OpenBSD loopback", _after_four),
    113: ("Linux cooked", _cooked),
    127: ("IEEE 802.11 with radiotap", _radiotap),
    228: ("IPv4", _ip),
    229: ("IPv6", _ip),
    239: ("NFLOG", _nflog),
    276: ("Linux cooked 2", _cooked2),
}


def _typed(data: bytes, offset: int) -> bytes:
    """What follows an EtherType at the offset, beyond tags, a PPPoE session, MPLS labels or an LLC header."""
    kind = int.from_bytes(data[offset : offset + 2], "big")
    offset += 2
    for _ in range(_MOST_TAGS):
        if kind not in _VLAN_TYPES:
            break
        kind = int.from_bytes(data[offset + 2 : offset + 4], "big")
        offset += 4
    if kind <= 1500 and data[offset : offset + 6] == _SNAP:  # IEEE 802.3: a length, not a type
        kind = int.from_bytes(data[offset + 6 : offset + 8], "big")
        offset += 8
    if kind == _PPPOE_SESSION:
        return _ppp(data[offset + 6 :])
    if kind == _MPLS:
        while offset + 4 <= len(data):
            is_last = data[offset + 2] & 1
            offset += 4
            if is_last:
                return data[offset:]
        return b""
    return data[offset:] if kind in _IP_TYPES else b""
