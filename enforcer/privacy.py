"""How the audit writes addresses: whole, as networks, or as words that only the key's holder can make (the policy's `audit`)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from enforcer.policy import AuditRules

_MARK = "h:"
_WORD_BYTES = 8  # 64 bits: two of a million addresses share a word once in 37 million audits (birthday bound)
_KEY_DIGITS = 64
_OTHERS = 0o007
# Whatever may be an address, with or without a prefix length, in a sentence; what is none is left alone.
_MAYBE = re.compile(r"(?<![\w.:])([0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*[.:][0-9A-Fa-f.:]*)(?:/(\d{1,3}))?(?![\w])")


class Addresses:
    """key: of "keyed-hash", at least 16 bytes; left out, one is drawn that nobody will know when this object is gone."""

    def __init__(self, rules: AuditRules | None = None, key: bytes | None = None) -> None:
        self.rules = rules or AuditRules()
        self._key = key or (secrets.token_bytes(32) if self.rules.addresses == "keyed-hash" else b"")

    def shown(self, address: str) -> str:
        """What stands in the audit for an address; what is no address is left as it is."""
        if self.rules.addresses == "full":
            return address
        try:
            parsed = ip_address(address)
        except ValueError:
            return address
        if self.rules.addresses == "keyed-hash":
            return word(self._key, address)
        bits = self.rules.ipv4_prefix if parsed.version == 4 else self.rules.ipv6_prefix
        return str(ip_network((parsed, bits), strict=False))

    def shown_in(self, text: str) -> str:
        """A sentence with what stands for the addresses and prefixes in it."""
        return text if self.rules.addresses == "full" else _MAYBE.sub(self._instead, text)

    def told(self) -> dict[str, Any]:
        """What the audit's `started` line says about it; key: enough to tell two keys apart, and no more."""
        rules = self.rules
        if rules.addresses == "prefix":
            return {"as": "prefix", "ipv4_prefix": rules.ipv4_prefix, "ipv6_prefix": rules.ipv6_prefix}
        if rules.addresses == "keyed-hash":
            return {"as": "keyed-hash", "key": key_name(self._key)}
        return {"as": "full"}

    def _instead(self, found: re.Match[str]) -> str:
        address, bits = found[1], found[2]
        tail = ""
        while address and address[-1] in ".:" and not address.endswith("::"):  # the end of a sentence
            address, tail = address[:-1], address[-1] + tail
        try:
            parsed = ip_address(address)
        except ValueError:
            return found[0]
        if self.rules.addresses == "keyed-hash":
            return self.shown(address) + tail
        kept = self.rules.ipv4_prefix if parsed.version == 4 else self.rules.ipv6_prefix
        if bits is not None and int(bits) <= kept:  # says no more than what is shown anyway
            return found[0]
        return self.shown(address) + tail


def word(key: bytes, address: str) -> str:
    """The word for an address: HMAC-SHA256 (RFC 2104) over its 4 or 16 bytes, cut to 64 bits. Raises ValueError for no address."""
    digest = hmac.new(key, ip_address(address).packed, hashlib.sha256).digest()
    return _MARK + digest[:_WORD_BYTES].hex()


def key_name(key: bytes) -> str:
    return hmac.new(key, b"allowlab audit key", hashlib.sha256).hexdigest()[:8]


def is_word(shown: str) -> bool:
    return shown.startswith(_MARK)


def names(shown: str, wanted: str, key: bytes | None = None) -> bool:
    """Whether what an audit shows stands for this address (or is this word); a network stands for each address in it."""
    if is_word(shown) or is_word(wanted):
        return shown == (word(key, wanted) if key and not is_word(wanted) else wanted)
    try:
        if "/" in shown:
            return ip_address(wanted) in ip_network(shown)
        return ip_address(shown) == ip_address(wanted)
    except ValueError:
        return False


def load_key(path: Path) -> bytes:
    """The key in a file of 64 hexadecimal digits. Raises ValueError, OSError."""
    text = path.read_text("ascii", "replace").strip()
    if path.stat().st_mode & _OTHERS:
        raise ValueError(f"{path}: anybody may read this key; write: chmod o= {path}")
    if len(text) != _KEY_DIGITS or not all(digit in "0123456789abcdefABCDEF" for digit in text):
        raise ValueError(
            f"{path}: not a key of 64 hexadecimal digits; make one: openssl rand -hex 32 > {path}"
        )
    return bytes.fromhex(text)
