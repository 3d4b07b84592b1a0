"""Passwords: kept as scrypt hashes that name their own cost, so that the cost can rise without anybody's password ending."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

MIN_LENGTH, MAX_LENGTH = 10, 200
# The few that every list of leaked passwords begins with; length does the rest (NIST SP 800-63B section 5.1.1.2).
_COMMON = frozenset({"1234567890", "0123456789", "password12", "password123", "qwertyuiop", "1q2w3e4r5t"})


@dataclass(frozen=True, slots=True)
class Cost:
    """scrypt's parameters (RFC 7914). The default is OWASP's for 16 MiB a guess: N=2^14, r=8, p=5."""

    n: int = 2**14
    r: int = 8
    p: int = 5


def hashed(password: str, cost: Cost | None = None) -> str:
    """`scrypt$N$r$p$salt$hash`, base64 without padding."""
    cost = cost or Cost()
    salt = secrets.token_bytes(16)
    return f"scrypt${cost.n}${cost.r}${cost.p}${_text(salt)}${_text(_scrypt(password, salt, cost))}"


def matches(password: str, kept: str) -> bool:
    """Takes as long for a wrong password as for the right one. Raises ValueError when `kept` is not a hash of ours."""
    scheme, n, r, p, salt, digest = kept.split("$")
    if scheme != "scrypt":
        raise ValueError(f"unknown password scheme {scheme!r}")
    found = _scrypt(password, _bytes(salt), Cost(int(n), int(r), int(p)))
    return hmac.compare_digest(found, _bytes(digest))


def weakness(password: str, account: str) -> str | None:
    """What is wrong with a new password, as a key of the texts (password.*); None when it will do."""
    if len(password) < MIN_LENGTH:
        return "short"
    if len(password) > MAX_LENGTH:
        return "long"
    if password.lower() in _COMMON or len(set(password)) < 4:
        return "common"
    return "is-name" if password.lower() == account.lower() else None


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # OpenSSL wants a little above 128 * N * r bytes.
    memory = 128 * cost.n * cost.r + 2**20 + 128 * cost.r * cost.p
    return hashlib.scrypt(password.encode(), salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=32)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
