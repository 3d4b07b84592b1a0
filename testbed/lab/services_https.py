"""The HTTPS-like exchange: real TLS record and handshake headers around a fixed-size answer, without the cryptography.

A gateway that reads headers sees a TLS 1.2/1.3 ClientHello with a server name, a ServerHello, and application data
(RFC 8446 §4.1.2, §4.1.3, §5.1), as for any web page. The client asks for a number of bytes and checks that it got
them and that they answer its own hello.

client:  ClientHello | application data: bytes wanted (4 octets)
server:  ServerHello, its session id the client's random | application data, wanted bytes in all
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Protocol

_HANDSHAKE, _APPLICATION_DATA = 0x16, 0x17
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_LEGACY_VERSION = 0x0303
_RECORD = struct.Struct("!BHH")
_RECORD_MAX = 2**14  # RFC 8446 §5.1
_WANTED = struct.Struct("!I")
WANTED_MAX_BYTES = 64 * 2**20
REQUEST_MAX_BYTES = 2048
_CIPHERS = struct.pack("!3H", 0x1301, 0x1302, 0x1303)


class Asked(Protocol):
    """What a request is made from: an attempt of testbed.traffic.attempt."""

    @property
    def id(self) -> str: ...

    @property
    def stream(self) -> Sized: ...

    @property
    def target(self) -> Named: ...


class Sized(Protocol):
    @property
    def payload_bytes(self) -> int: ...


class Named(Protocol):
    @property
    def name(self) -> str: ...


def https_request(attempt: Asked) -> bytes:
    """ClientHello and the wish for `payload_bytes` bytes. Raises ValueError for more than WANTED_MAX_BYTES."""
    wanted = attempt.stream.payload_bytes
    if not 0 <= wanted <= WANTED_MAX_BYTES:
        raise ValueError(f"{attempt.id}: {wanted} bytes asked for; 0 to {WANTED_MAX_BYTES} can be")
    hello = _client_hello(_random(attempt), f"{attempt.target.name}.example")
    return _record(_HANDSHAKE, hello) + _record(_APPLICATION_DATA, _WANTED.pack(wanted))


def is_https_complete(attempt: Asked, data: bytes) -> bool:
    """Whether `data` is the whole answer to this attempt's request. Raises ValueError when it answers something else."""
    got = 0
    for index, (kind, body) in enumerate(_records(data)):
        if index == 0:
            if kind != _HANDSHAKE or _session_id(body, _SERVER_HELLO) != _random(attempt):
                raise ValueError("not the ServerHello of this ClientHello")
        elif kind != _APPLICATION_DATA:
            raise ValueError(f"record type {kind} among the answer")
        else:
            got += len(body)
    wanted = attempt.stream.payload_bytes
    if got > wanted:
        raise ValueError(f"{got} bytes for the {wanted} asked for")
    return got == wanted and len(data) >= len(_record(_HANDSHAKE, _server_hello(bytes(32))))


def parse_request(data: bytes) -> tuple[bytes, int] | None:
    """(client random, bytes wanted); None while the request is incomplete. Raises ValueError when it is no such request."""
    if data and data[0] != _HANDSHAKE:
        raise ValueError("the first record is no handshake")
    if len(data) > REQUEST_MAX_BYTES:
        raise ValueError("a request is shorter")
    records = list(_records(data))
    if records and not _is_client_hello(records[0][1]):
        raise ValueError("the first handshake message is no ClientHello")
    if len(records) < 2:
        return None
    kind, body = records[1]
    if kind != _APPLICATION_DATA or len(body) != _WANTED.size:
        raise ValueError("no number of bytes asked for")
    wanted = _WANTED.unpack(body)[0]
    if wanted > WANTED_MAX_BYTES:
        raise ValueError(f"{wanted} bytes asked for")
    return records[0][1][6:38], wanted


def answer(client_random: bytes, wanted: int) -> bytes:
    """ServerHello and `wanted` bytes."""
    parts = [_record(_HANDSHAKE, _server_hello(client_random))]
    while wanted > 0:
        size = min(wanted, _RECORD_MAX)
        parts.append(_record(_APPLICATION_DATA, bytes(size)))
        wanted -= size
    return b"".join(parts)


def _random(attempt: Asked) -> bytes:
    return hashlib.sha256(attempt.id.encode()).digest()


def _client_hello(random: bytes, server_name: str) -> bytes:
    name = server_name.encode("ascii")
    sni = struct.pack("!HBH", len(name) + 3, 0, len(name)) + name
    extensions = (
        _extension(0, sni)
        + _extension(10, struct.pack("!HH", 2, 0x001D))  # supported_groups: x25519
        + _extension(13, struct.pack("!HH", 2, 0x0403))  # signature_algorithms: ecdsa_secp256r1_sha256
        + _extension(43, b"\x04\x03\x04\x03\x03")  # supported_versions: 1.3, 1.2
        + _extension(51, struct.pack("!HHH", 36, 0x001D, 32) + random)  # key_share
    )
    body = struct.pack("!H", _LEGACY_VERSION) + random + bytes((32,)) + random
    body += struct.pack("!H", len(_CIPHERS)) + _CIPHERS + b"\x01\x00"
    body += struct.pack("!H", len(extensions)) + extensions
    return _message(_CLIENT_HELLO, body)


def _server_hello(session_id: bytes) -> bytes:
    extensions = _extension(43, b"\x03\x04") + _extension(51, struct.pack("!HH", 0x001D, 32) + bytes(32))
    body = struct.pack("!H", _LEGACY_VERSION) + bytes(32) + bytes((32,)) + session_id
    body += struct.pack("!HB", 0x1301, 0) + struct.pack("!H", len(extensions)) + extensions
    return _message(_SERVER_HELLO, body)


def _is_client_hello(message: bytes) -> bool:
    """Type, length, version, and lists that end exactly where the message ends."""
    if len(message) < 39 or message[0] != _CLIENT_HELLO or int.from_bytes(message[1:4]) != len(message) - 4:
        return False
    if int.from_bytes(message[4:6]) != _LEGACY_VERSION:
        return False
    at = 38
    for width in (1, 2, 1, 2):  # session id, cipher suites, compression methods, extensions
        if at + width > len(message):
            return False
        at += width + int.from_bytes(message[at : at + width])
    return at == len(message)


def _session_id(message: bytes, kind: int) -> bytes | None:
    if len(message) < 39 or message[0] != kind:
        return None
    return message[39 : 39 + message[38]]


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _RECORD.size <= len(data):
        kind, version, length = _RECORD.unpack_from(data, at)
        if version not in (0x0301, _LEGACY_VERSION) or length > _RECORD_MAX + 256:
            raise ValueError("not a TLS record")
        at += _RECORD.size
        if at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += length


def _record(kind: int, body: bytes) -> bytes:
    version = 0x0301 if kind == _HANDSHAKE and body[:1] == bytes((_CLIENT_HELLO,)) else _LEGACY_VERSION
    return _RECORD.pack(kind, version, len(body)) + body


def _message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3) + body


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body
