"""OpenVPN's first packets: hard resets over UDP and TCP, plain or wrapped by tls-crypt.

Formats: openvpn-wire-protocol.xml of OpenVPN's openvpn-rfc; src/openvpn/tls_crypt.h of OpenVPN for the wrapping.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CLIENT_RESET, SERVER_RESET = 7 << 3, 8 << 3  # P_CONTROL_HARD_RESET_{CLIENT,SERVER}_V2, key id 0

_PLAIN_REQUEST = struct.Struct("!B8sBI")  # opcode, session id, no acknowledgements, packet id 0
_PLAIN_ANSWER = struct.Struct(
    "!B8sBI8sI"
)  # opcode, session id, one acknowledgement: its id and session, packet id 0
_ACKNOWLEDGED = struct.Struct("!BI8sI")


def plain_request(session: bytes) -> bytes:
    """The client's hard reset (14 bytes); session: 8 bytes."""
    return _PLAIN_REQUEST.pack(CLIENT_RESET, session, 0, 0)


def plain_answer(data: bytes) -> bytes | None:
    """The server's hard reset (26 bytes) for a client's; None for anything else."""
    if len(data) != _PLAIN_REQUEST.size or data[0] != CLIENT_RESET or data[9]:
        return None
    return _PLAIN_ANSWER.pack(SERVER_RESET, _server_session(data[1:9]), 1, 0, data[1:9], 0)


def is_plain_answer(data: bytes, session: bytes | None) -> bool:
    """A server's hard reset that acknowledges the session (None: any)."""
    if len(data) < _PLAIN_ANSWER.size or data[0] != SERVER_RESET or data[9] != 1:
        return False
    return session is None or data[14:22] == session


def framed(packet: bytes) -> bytes:
    """The packet as it goes over TCP: after its length in two bytes."""
    return struct.pack("!H", len(packet)) + packet


def unframed(data: bytes) -> bytes | None:
    """The first whole packet of a TCP stream; None while it is not all there."""
    if len(data) < 2:
        return None
    size = int.from_bytes(data[:2], "big")
    return data[2 : 2 + size] if len(data) >= 2 + size else None


@dataclass(slots=True)
class TlsCrypt:
    """Wraps and unwraps control packets with a static key file (text as `openvpn --genkey` writes it).

    Raises ValueError for a text that is not such a file.
    """

    text: str
    _client: tuple[bytes, bytes] = field(init=False)
    _server: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        lines = [line.strip() for line in self.text.splitlines()]
        try:
            begin = lines.index("-----BEGIN OpenVPN Static key V1-----")
            key = bytes.fromhex(
                "".join(lines[begin + 1 : lines.index("-----END OpenVPN Static key V1-----")])
            )
        except ValueError as error:
            raise ValueError("not an OpenVPN static key file") from error
        if len(key) != 256:
            raise ValueError(f"an OpenVPN static key has 256 bytes, this one {len(key)}")
        # Each half: 64 bytes for the cipher, 64 for the HMAC, of which 32 are used; the client sends with the second.
        self._server = key[0:32], key[64:96]
        self._client = key[128:160], key[192:224]

    def request(self, session: bytes) -> bytes:
        """The client's hard reset, wrapped (54 bytes)."""
        return self._wrap(self._client, CLIENT_RESET, session, struct.pack("!BI", 0, 0))

    def answer(self, data: bytes) -> bytes | None:
        """The server's hard reset, wrapped (66 bytes); None for what a real server would drop."""
        if len(data) != 54 or data[0] != CLIENT_RESET or self._unwrap(self._client, data) is None:
            return None
        session = data[1:9]
        return self._wrap(
            self._server, SERVER_RESET, _server_session(session), _ACKNOWLEDGED.pack(1, 0, session, 0)
        )

    def is_answer(self, data: bytes, session: bytes | None) -> bool:
        if len(data) < 66 or data[0] != SERVER_RESET:
            return False
        plain = self._unwrap(self._server, data)
        return plain is not None and plain[0] == 1 and (session is None or plain[5:13] == session)

    def _wrap(self, keys: tuple[bytes, bytes], opcode: int, session: bytes, plain: bytes) -> bytes:
        head = bytes((opcode,)) + session + struct.pack("!II", 1, int(time.time()))
        tag = hmac.digest(keys[1], head + plain, "sha256")
        return head + tag + _ctr(keys[0], tag[:16], plain)

    def _unwrap(self, keys: tuple[bytes, bytes], data: bytes) -> bytes | None:
        head, tag = data[:17], data[17:49]
        plain = _ctr(keys[0], tag[:16], data[49:])
        return plain if hmac.compare_digest(hmac.digest(keys[1], head + plain, "sha256"), tag) else None


def _ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def _server_session(session: bytes) -> bytes:
    """A session id of the server's own that follows from the client's: a repeated reset gets the same answer."""
    return hashlib.blake2s(session, digest_size=8, person=b"answer").digest()
