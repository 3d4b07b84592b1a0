"""WireGuard's first two messages, exact: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (https://www.wireguard.com/papers/wireguard.pdf §5.4).

A real server answers them. It drops a second initiation of one peer within 20 ms, and one whose timestamp is not above
the last (wireguard-go device/constants.go, device/noise-protocol.go): requests of one key are to be sent in order.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import time
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INITIATION_BYTES, RESPONSE_BYTES, COOKIE_BYTES = 148, 92, 64

_MOST_PEERS = 65536
_ZERO_NONCE = bytes(12)
_ZERO_MAC = bytes(16)
# TAI64N labels count from 2^62 and run 10 s ahead of the Unix epoch (https://cr.yp.to/libtai/tai64.html).
_TAI64_EPOCH = (1 << 62) + 10


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


_CONSTRUCTION = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_IDENTIFIED = _hash(_CONSTRUCTION, b"WireGuard v1 zx2c4 Jason@zx2c4.com")


@dataclass(slots=True)
class Initiator:
    """Builds initiations of one key pair to one server. private and server_public: 32 raw bytes each."""

    private: bytes
    server_public: bytes
    _static_public: bytes = field(init=False)
    _server: X25519PublicKey = field(init=False)
    _shared: bytes = field(init=False)
    _start_hash: bytes = field(init=False)
    _mac1_key: bytes = field(init=False)
    _answer_mac1_key: bytes = field(init=False)
    _last_ns: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        own = X25519PrivateKey.from_private_bytes(self.private)
        self._static_public = own.public_key().public_bytes_raw()
        self._server = X25519PublicKey.from_public_bytes(self.server_public)
        self._shared = own.exchange(self._server)
        self._start_hash = _hash(_IDENTIFIED, self.server_public)
        self._mac1_key = _hash(b"mac1----", self.server_public)
        self._answer_mac1_key = _hash(b"mac1----", self._static_public)

    def initiation(self, index: int) -> bytes:
        """A new initiation (148 bytes) with sender index `index` (32 bits), stamped later than the one built before."""
        ephemeral = X25519PrivateKey.generate()
        ephemeral_public = ephemeral.public_key().public_bytes_raw()
        digest = _hash(self._start_hash, ephemeral_public)
        chain, key = _kdf(_kdf1(_CONSTRUCTION, ephemeral_public), ephemeral.exchange(self._server))
        static = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, self._static_public, digest)
        digest = _hash(digest, static)
        _chain, key = _kdf(chain, self._shared)
        stamp = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, self._timestamp(), digest)
        body = struct.pack("<II", 1, index) + ephemeral_public + static + stamp
        return body + _mac(self._mac1_key, body) + _ZERO_MAC

    def is_answer(self, data: bytes, index: int | None) -> bool:
        """A response, or a cookie from a server under load, to `index` (None: any); a response has to be meant for our key."""
        if len(data) not in (RESPONSE_BYTES, COOKIE_BYTES):
            return False
        kind = int.from_bytes(data[:4], "little")
        is_response = kind == 2 and len(data) == RESPONSE_BYTES
        receiver = int.from_bytes(data[8:12] if is_response else data[4:8], "little")
        if index is not None and receiver != index:
            return False
        if is_response:
            return hmac.compare_digest(_mac(self._answer_mac1_key, data[:60]), data[60:76])
        return kind == 3 and len(data) == COOKIE_BYTES

    def _timestamp(self) -> bytes:
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        seconds, nanoseconds = divmod(self._last_ns, 10**9)
        return struct.pack("!QI", _TAI64_EPOCH + seconds, nanoseconds)


@dataclass(frozen=True, slots=True)
class _Peer:
    public: X25519PublicKey
    shared: bytes
    mac1_key: bytes


@dataclass(slots=True)
class Responder:
    """Answers initiations to one server key, whoever they come from. private: 32 raw bytes."""

    private: bytes
    _own: X25519PrivateKey = field(init=False)
    _start_hash: bytes = field(init=False)
    _mac1_key: bytes = field(init=False)
    _count: int = field(init=False, default=0)
    _peers: dict[bytes, _Peer] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._own = X25519PrivateKey.from_private_bytes(self.private)
        public = self._own.public_key().public_bytes_raw()
        self._start_hash = _hash(_IDENTIFIED, public)
        self._mac1_key = _hash(b"mac1----", public)

    def answer(self, data: bytes) -> bytes | None:
        """The response (92 bytes) to an initiation; None for one that a real server would drop."""
        if len(data) != INITIATION_BYTES or data[:4] != b"\x01\0\0\0":
            return None
        if not hmac.compare_digest(_mac(self._mac1_key, data[:116]), data[116:132]):
            return None
        initiator = X25519PublicKey.from_public_bytes(data[8:40])
        digest = _hash(self._start_hash, data[8:40])
        try:
            chain, key = _kdf(_kdf1(_CONSTRUCTION, data[8:40]), self._own.exchange(initiator))
            static_bytes = ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, data[40:88], digest)
            peer = self._peers.get(static_bytes) or self._know(static_bytes)
            digest = _hash(digest, data[40:88])
            chain, key = _kdf(chain, peer.shared)
            ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, data[88:116], digest)
        except (InvalidTag, ValueError):  # ValueError: a point of low order
            return None
        return self._response(data[4:8], _hash(digest, data[88:116]), chain, initiator, peer)

    def _know(self, static: bytes) -> _Peer:
        """What follows from a client's static key alone; kept, for a client comes again and again."""
        public = X25519PublicKey.from_public_bytes(static)
        peer = _Peer(public, self._own.exchange(public), _hash(b"mac1----", static))
        if len(self._peers) < _MOST_PEERS:
            self._peers[static] = peer
        return peer

    def _response(
        self,
        receiver: bytes,
        digest: bytes,
        chain: bytes,
        initiator: X25519PublicKey,
        peer: _Peer,
    ) -> bytes:
        self._count = self._count + 1 & 0xFFFFFFFF
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        chain = _kdf1(chain, public)
        digest = _hash(digest, public)
        chain = _kdf1(chain, ephemeral.exchange(initiator))
        chain = _kdf1(chain, ephemeral.exchange(peer.public))
        mixed, key = _kdf3(chain, bytes(32))  # without a pre-shared key it is 32 zero bytes (§5.4.3)
        digest = _hash(digest, mixed)
        empty = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, b"", digest)
        body = struct.pack("<II", 2, self._count) + receiver + public + empty
        return body + _mac(peer.mac1_key, body) + _ZERO_MAC


def _kdf1(chain: bytes, material: bytes) -> bytes:
    return hmac.digest(hmac.digest(chain, material, "blake2s"), b"\x01", "blake2s")


def _kdf(chain: bytes, material: bytes) -> tuple[bytes, bytes]:
    """The next chaining key and a key (HKDF with two outputs)."""
    secret = hmac.digest(chain, material, "blake2s")
    first = hmac.digest(secret, b"\x01", "blake2s")
    return first, hmac.digest(secret, first + b"\x02", "blake2s")


def _kdf3(chain: bytes, material: bytes) -> tuple[bytes, bytes]:
    """The second and third of three outputs; the chaining key is not needed after the response."""
    secret = hmac.digest(chain, material, "blake2s")
    first = hmac.digest(secret, b"\x01", "blake2s")
    second = hmac.digest(secret, first + b"\x02", "blake2s")
    return second, hmac.digest(secret, second + b"\x03", "blake2s")


def _mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()
