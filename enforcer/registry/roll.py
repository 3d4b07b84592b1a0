"""Rolling the feed's key over: messages in which a key names the next one, and the ring of keys an enforcer trusts by them.

Only a key that is still trusted can name its successor, only once, and never after its own end: whoever steals a retired key gets
nothing. An enforcer that was away for the whole overlap cannot tell a theft from a roll-over, so it needs the new public key by hand.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.registry.feed import SCHEMA, FeedError, Signer, WrongSchema, public_hex, sign, signed_body

# A registry's clock may be ahead of an enforcer's; a key that begins is believed so much too early rather than refused.
_CLOCKS_DIFFER_NS = 60_000_000_000


class BadRoll(FeedError):
    """A roll-over that is signed, and must not be followed."""

    word = "bad-key-roll"


@dataclass(frozen=True, slots=True)
class Roll:
    """key: the next one (hexadecimal), used from not_before_ns on; the one before it is refused from old_until_ns on. Unix ns."""

    key: str
    not_before_ns: int
    old_until_ns: int

    def body(self) -> str:
        data = {"schema": SCHEMA, "kind": "key", "key": self.key}
        return json.dumps(
            data | {"not_before_ns": self.not_before_ns, "old_until_ns": self.old_until_ns},
            separators=(",", ":"),
        )


def signed_roll(roll: Roll, key: Signer) -> str:
    """The message, signed by the key that is to be replaced."""
    return sign(roll.body(), key)


class KeyRing:
    """The configured key and those that followed from it. `messages`: the roll-overs that were believed, to be kept."""

    def __init__(self, first: Ed25519PublicKey, messages: Iterable[str] = ()) -> None:
        """messages: as they were kept; they were in time when they came, so their end is not asked again. Raises FeedError."""
        self.messages: list[str] = []
        self._keys = {public_hex(first): first}
        self._rolls: dict[str, Roll] = {}  # by the key that signed them
        for message in messages:
            self._follow(message, None)

    def trusted(self, now_ns: int) -> list[Ed25519PublicKey]:
        """The keys a message may be signed by at this time, the newest first."""
        early = {roll.key for roll in self._rolls.values() if now_ns + _CLOCKS_DIFFER_NS < roll.not_before_ns}
        return [
            key
            for name, key in reversed(self._keys.items())
            if name not in early and (name not in self._rolls or now_ns < self._rolls[name].old_until_ns)
        ]

    @property
    def all(self) -> list[Ed25519PublicKey]:
        """Every key that ever was trusted: for messages that were checked when they came, and kept."""
        return list(self._keys.values())[::-1]

    @property
    def rolls(self) -> list[Roll]:
        """What was followed, oldest first."""
        return list(self._rolls.values())

    def learn(self, messages: Iterable[str], now_ns: int) -> list[Roll]:
        """Follow what is new among a registry's roll-overs; returns it. Raises BadRoll, BadSignature, WrongSchema, Truncated."""
        new = []
        for message in messages:
            if message not in self.messages and not self._leads_here(message):
                new.append(self._follow(message, now_ns))
        return new

    def _leads_here(self, message: str) -> bool:
        """Whether a message only tells how the configured key came about: a registry publishes all of its roll-overs.

        Who signed it nobody here can check, and nothing follows from it.
        """
        try:
            self._signer(message)
        except FeedError:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                return json.loads(json.loads(message)["body"])["key"] == next(iter(self._keys))
        return False

    def _follow(self, message: str, now_ns: int | None) -> Roll:
        signer = self._signer(message)
        roll = _parse(signed_body(message, self._keys[signer]))
        earlier = self._rolls.get(signer)
        if earlier is not None:
            raise BadRoll(
                f"the key {signer[:16]}… has named {earlier.key[:16]}… already; a key is replaced once"
            )
        if roll.key in self._keys:
            raise BadRoll(f"the roll-over names {roll.key[:16]}…, which is or was in use")
        if roll.old_until_ns <= roll.not_before_ns:
            raise BadRoll("the old key would end before the new one begins")
        if now_ns is not None and now_ns >= roll.old_until_ns:
            raise BadRoll(
                "the time in which both keys were accepted is over, and this enforcer missed it; get the registry's new public key "
                "from its operator by another way and write it to the file of feed.key"
            )
        self._rolls[signer] = roll
        self._keys[roll.key] = Ed25519PublicKey.from_public_bytes(bytes.fromhex(roll.key))
        self.messages.append(message)
        return roll

    def _signer(self, message: str) -> str:
        error: FeedError | None = None
        for name, key in self._keys.items():
            try:
                signed_body(message, key)
            except FeedError as each:
                error = each
                continue
            return name
        assert error is not None
        raise error


def _parse(body: str) -> Roll:
    try:
        data = json.loads(body)
        if data["schema"] != SCHEMA or data["kind"] != "key":
            raise WrongSchema("the message does not name a key")
        key, begins, ends = data["key"], data["not_before_ns"], data["old_until_ns"]
        if (
            len(bytes.fromhex(key)) != 32
            or key != key.lower()
            or not all(type(each) is int for each in (begins, ends))
        ):
            raise ValueError("a key has 64 hexadecimal digits, a time is a whole number")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, FeedError):
            raise
        raise WrongSchema(f"the body does not name a key: {error}") from error
    return Roll(key, begins, ends)
