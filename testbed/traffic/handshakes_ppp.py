"""The first control messages of L2TP (RFC 2661 §4 to §6) and PPTP (RFC 2637 §2.1, §2.2)."""

from __future__ import annotations

import struct

_L2TP = struct.Struct("!HHHHHH")  # flags and version, length, tunnel, session, Ns, Nr
_L2TP_CONTROL = 0xC802  # T, L and S bits; version 2
_MANDATORY = 0x8000
_SCCRQ, _SCCRP = 1, 2
_PPTP_HEAD = struct.Struct("!HHIHH")  # length, message type, magic cookie, control type, reserved
_PPTP_REQUEST = struct.Struct("!HHIIHH64s64s")
_PPTP_ANSWER = struct.Struct("!HBBIIHH64s64s")
_MAGIC = 0x1A2B3C4D
PPTP_BYTES = 156


def l2tp_request(tunnel: int) -> bytes:
    """A Start-Control-Connection-Request that assigns tunnel id `tunnel` (1 to 65535)."""
    return _l2tp(0, 0, 0, _SCCRQ, tunnel, b"allowlab")


def l2tp_answer(data: bytes) -> bytes | None:
    """The reply to a request (its own tunnel id is the same number); None for anything else."""
    tunnel = _assigned(data, _SCCRQ)
    return None if tunnel is None else _l2tp(tunnel, 0, 1, _SCCRP, tunnel, b"allowlab-lns")


def is_l2tp_answer(data: bytes, tunnel: int | None) -> bool:
    if _assigned(data, _SCCRP) is None:
        return False
    return tunnel is None or int.from_bytes(data[4:6], "big") == tunnel


def pptp_request() -> bytes:
    """A Start-Control-Connection-Request."""
    head = _PPTP_HEAD.pack(PPTP_BYTES, 1, _MAGIC, 1, 0)
    return head + _PPTP_REQUEST.pack(0x0100, 0, 3, 3, 0, 1, b"allowlab", b"allowlab")


def pptp_answer(data: bytes) -> bytes | None:
    """The reply to a request; None while it is not all there. Raises ValueError for anything else."""
    if not _is_pptp(data, 1):
        return None
    return _PPTP_HEAD.pack(PPTP_BYTES, 1, _MAGIC, 2, 0) + _PPTP_ANSWER.pack(
        0x0100, 1, 0, 3, 3, 0, 1, b"allowlab-pac", b"allowlab"
    )


def is_pptp_answer(data: bytes) -> bool:
    """Whether a whole reply is there that says the connection was made. Raises ValueError for anything else."""
    if not _is_pptp(data, 2):
        return False
    if data[14] != 1:
        raise ValueError(f"PPTP result code {data[14]}")
    return True


def _is_pptp(data: bytes, control: int) -> bool:
    if len(data) < _PPTP_HEAD.size:
        return False
    length, kind, magic, found, _reserved = _PPTP_HEAD.unpack_from(data)
    if (length, kind, magic, found) != (PPTP_BYTES, 1, _MAGIC, control):
        raise ValueError("not the PPTP message that was due")
    return len(data) >= PPTP_BYTES


def _l2tp(to: int, sent: int, received: int, kind: int, tunnel: int, name: bytes) -> bytes:
    values = (
        _avp(0, struct.pack("!H", kind)),
        _avp(2, b"\x01\x00"),  # protocol version 1, revision 0
        _avp(3, struct.pack("!I", 3)),  # framing: asynchronous and synchronous
        _avp(7, name),
        _avp(9, struct.pack("!H", tunnel)),
        _avp(10, struct.pack("!H", 4)),  # receive window
    )
    body = b"".join(values)
    return _L2TP.pack(_L2TP_CONTROL, _L2TP.size + len(body), to, 0, sent, received) + body


def _avp(kind: int, value: bytes) -> bytes:
    return struct.pack("!HHH", _MANDATORY | (6 + len(value)), 0, kind) + value


def _assigned(data: bytes, kind: int) -> int | None:
    """The tunnel id a control message of that kind assigns; None for any other packet."""
    if len(data) < _L2TP.size + 8:
        return None
    flags, length, *_ = _L2TP.unpack_from(data)
    if flags != _L2TP_CONTROL or length != len(data) or data[12:20] != _avp(0, struct.pack("!H", kind)):
        return None
    at = _L2TP.size
    while at + 6 <= length:
        size, vendor, number = struct.unpack_from("!HHH", data, at)
        size &= 0x03FF
        if size < 6:
            return None
        if (vendor, number, size) == (0, 9, 8):
            return int.from_bytes(data[at + 6 : at + 8], "big")
        at += size
    return None
