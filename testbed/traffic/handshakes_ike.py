"""IKE's first messages: IKE_SA_INIT (RFC 7296 §1.2) and IKEv1 main mode (RFC 2408, 2409 §5).

A real charon answers the first: the Diffie-Hellman value is a point on the curve.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_HEADER = struct.Struct("!8s8sBBBBII")  # SPIs, next payload, version, exchange, flags, message id, length
_SA, _KE, _NONCE, _NOTIFY = 33, 34, 40, 41  # RFC 7296 §3.2
_V1_SA = 1
_IKE_SA_INIT, _MAIN_MODE = 34, 2
_INITIATOR, _RESPONSE = 0x08, 0x20
_COOKIE = 16390
_NON_ESP_MARKER = bytes(4)  # before IKE on port 4500, RFC 3948 §2.2
_NONCE_BYTES = 32


def v2_request(spi: bytes) -> bytes:
    """An IKE_SA_INIT of the initiator with SPI `spi` (8 bytes, not zero): AES-GCM-128, HMAC-SHA-256, P-256."""
    body = _v2_body(spi)
    return (
        _HEADER.pack(spi, bytes(8), _SA, 0x20, _IKE_SA_INIT, _INITIATOR, 0, _HEADER.size + len(body)) + body
    )


def v1_request(spi: bytes) -> bytes:
    """Main mode's first message: AES-CBC-128, SHA-1, pre-shared key, group 14 (RFC 2409 App. A, RFC 3602, RFC 3526)."""
    return (
        _HEADER.pack(spi, bytes(8), _V1_SA, 0x10, _MAIN_MODE, 0, 0, _HEADER.size + len(_V1_BODY)) + _V1_BODY
    )


def answer(data: bytes) -> bytes | None:
    """The responder's answer to either, marker kept; None for anything else."""
    if data.startswith(_NON_ESP_MARKER):
        found = answer(data[4:]) if len(data) > 4 else None
        return None if found is None else _NON_ESP_MARKER + found
    if len(data) < _HEADER.size + 4:
        return None
    spi, other, following, version, exchange, flags, message, size = _HEADER.unpack_from(data)
    if other != bytes(8) or size != len(data) or message or spi == bytes(8):
        return None
    own = hashlib.blake2s(spi, digest_size=8, person=b"answer").digest()
    if (version, exchange, following) == (0x20, _IKE_SA_INIT, _SA) and flags & _RESPONSE == 0:
        body = _v2_body(own)
        return _HEADER.pack(spi, own, _SA, 0x20, exchange, _RESPONSE, 0, _HEADER.size + len(body)) + body
    if (version, exchange, following) == (0x10, _MAIN_MODE, _V1_SA):
        return _HEADER.pack(spi, own, _V1_SA, 0x10, exchange, 0, 0, size) + data[_HEADER.size :]
    return None


def is_v2_answer(data: bytes, spi: bytes | None) -> bool:
    """A response to our SPI (None: any) that takes the proposal, or asks for a cookie; a refusal is none."""
    data = data.removeprefix(_NON_ESP_MARKER)
    if len(data) < _HEADER.size + 8:
        return False
    ours, _own, following, version, exchange, flags, _message, size = _HEADER.unpack_from(data)
    if (version, exchange) != (0x20, _IKE_SA_INIT) or not flags & _RESPONSE or size != len(data):
        return False
    if spi is not None and ours != spi:
        return False
    if following == _NOTIFY:
        return int.from_bytes(data[_HEADER.size + 6 : _HEADER.size + 8], "big") == _COOKIE
    return following == _SA


def is_v1_answer(data: bytes, spi: bytes | None) -> bool:
    data = data.removeprefix(_NON_ESP_MARKER)
    if len(data) < _HEADER.size + 8:
        return False
    ours, own, following, version, exchange, _flags, _message, size = _HEADER.unpack_from(data)
    if (version, exchange, following) != (0x10, _MAIN_MODE, _V1_SA) or own == bytes(8) or size != len(data):
        return False
    return spi is None or ours == spi


def _v2_body(spi: bytes) -> bytes:
    return _v2_start() + hashlib.blake2s(spi, digest_size=_NONCE_BYTES, person=b"nonce").digest()


@cache
def _v2_start() -> bytes:
    """SA, KE and the nonce's header. One key for all: no probe goes on to the exchange that would use it."""
    transforms = (
        _transform(3, 1, 20, b"\x80\x0e\x00\x80"),  # ENCR_AES_GCM_16, key length 128
        _transform(3, 2, 5),  # PRF_HMAC_SHA2_256
        _transform(0, 4, 19),  # 256-bit random ECP group
    )
    proposal = struct.pack("!BBHBBBB", 0, 0, 8 + sum(map(len, transforms)), 1, 1, 0, len(transforms))
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    value = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[
        1:
    ]  # RFC 5903 §6: x and y alone
    return (
        _payload(_KE, proposal + b"".join(transforms))
        + _payload(_NONCE, struct.pack("!HH", 19, 0) + value)
        + struct.pack("!BBH", 0, 0, 4 + _NONCE_BYTES)
    )


def _payload(following: int, body: bytes) -> bytes:
    return struct.pack("!BBH", following, 0, 4 + len(body)) + body


def _transform(more: int, kind: int, number: int, attributes: bytes = b"") -> bytes:
    return struct.pack("!BBHBBH", more, 0, 8 + len(attributes), kind, 0, number) + attributes


def _v1_body() -> bytes:
    # Attributes in the short form (RFC 2408 §3.3): encryption 7 = AES-CBC, hash 2 = SHA, authentication 1 = pre-shared
    # key, group 14, key length 128, life type seconds, life duration 28800.
    pairs = ((1, 7), (2, 2), (3, 1), (4, 14), (14, 128), (11, 1), (12, 28800))
    attributes = b"".join(struct.pack("!HH", 0x8000 | kind, value) for kind, value in pairs)
    transform = struct.pack("!BBHBBH", 0, 0, 8 + len(attributes), 1, 1, 0) + attributes
    proposal = struct.pack("!BBHBBBB", 0, 0, 8 + len(transform), 1, 1, 0, 1) + transform
    return _payload(0, struct.pack("!II", 1, 1) + proposal)


_V1_BODY = _v1_body()
