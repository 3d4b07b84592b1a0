"""Samples of the protocols without ports: ESP (RFC 4303), AH (RFC 4302) and PPTP's GRE (RFC 2637 §4.1); and GRE version 0 (RFC 2784),
which is no VPN's and looks like one to whoever knows protocol numbers alone.

There is no handshake: the far end sends a packet of the same kind and number back, which real peers do not.
"""

from __future__ import annotations

import struct

PROTOCOLS = {"esp": 50, "ah": 51, "gre": 47, "gre-0": 47}  # https://www.iana.org/assignments/protocol-numbers
TRANSPORT = {"esp": "esp", "ah": "ah", "gre": "gre", "gre-0": "gre"}  # the word in records

_ESP = struct.Struct("!II64s")  # SPI, sequence, what would be encrypted
_AH = struct.Struct("!BBHII12s8s")  # next header, length, reserved, SPI, sequence, integrity value, payload
_GRE = struct.Struct("!HHHHI")  # flags and version, protocol, payload length, call id, sequence
_GRE_HEAD = (0x3001, 0x880B)  # key and sequence present, version 1; PPP
_GRE0 = struct.Struct("!HHBI")  # flags and version, protocol, who sent it, number
_GRE0_HEAD = (
    0,
    0x88B5,
)  # nothing present, version 0; IEEE 802 Local Experimental EtherType 1 (RFC 9542 §B.1)
_FROM_SERVER = 0x80000000
_FIRST_SPI = 0x1000  # 1 to 255 are reserved (RFC 4303 §2.1)
_NUMBERS = 1 << 28
_FILL = bytes(range(64))


def sample(protocol: str, number: int, from_server: bool = False) -> bytes:
    """A packet (without IP header) carrying `number` (28 bits), towards the server or from it."""
    spi = _FIRST_SPI + number | (_FROM_SERVER if from_server else 0)
    if protocol == "esp":
        return _ESP.pack(spi, 1, _FILL)
    if protocol == "ah":
        return _AH.pack(
            59, 4, 0, spi, 1, _FILL[:12], _FILL[:8]
        )  # 59: no next header; 4: 24 bytes in words less 2
    if protocol == "gre":
        ppp = struct.pack("!HBBH", 0xC021, 10 if from_server else 9, 0, 8) + struct.pack(
            "!I", number
        )  # LCP echo
        return _GRE.pack(*_GRE_HEAD, len(ppp), number & 0xFFFF, 0) + ppp
    if protocol == "gre-0":
        return _GRE0.pack(*_GRE0_HEAD, from_server, number)
    raise ValueError(f"no raw protocol '{protocol}'; there are {', '.join(PROTOCOLS)}")


def number_of(protocol: str, data: bytes) -> tuple[int, bool] | None:
    """The number in a sample and whether it is from the server; None for a packet that is no sample."""
    if protocol == "gre":
        number, from_server = int.from_bytes(data[-4:], "big"), data[14:15] == b"\x0a"
    elif protocol == "gre-0":
        number, from_server = int.from_bytes(data[5:9], "big"), data[4:5] == b"\x01"
    else:
        spi = int.from_bytes(data[:4] if protocol == "esp" else data[4:8], "big")
        number, from_server = (spi & ~_FROM_SERVER) - _FIRST_SPI, bool(spi & _FROM_SERVER)
    if not 0 <= number < _NUMBERS or data != sample(protocol, number, from_server):
        return None
    return number, from_server


def answer(protocol: str, data: bytes) -> bytes | None:
    """The far end's packet for a sample from the client; None for anything else."""
    found = number_of(protocol, data)
    return None if found is None or found[1] else sample(protocol, found[0], from_server=True)
