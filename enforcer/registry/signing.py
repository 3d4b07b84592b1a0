"""The registry's signing keys: the first, and those it rolled over to. On disk beside feed.key: feed-1.key … and feed.rolls."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from enforcer.registry.feed import load_or_create_key, public_hex
from enforcer.registry.roll import KeyRing, Roll, signed_roll


class SigningKeys:
    """Signs with the newest key that has begun. Reads the files again when they change, so a running registry follows a roll-over."""

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        """Raises ValueError (a file is not a key), OSError."""
        self._path, self._clock = path, clock
        self._rolls_path = path.with_suffix(".rolls")
        self._read_at: int | None = -1
        self._refresh()

    def sign(self, data: bytes, /) -> bytes:
        return self._current().sign(data)

    def public_key(self) -> Ed25519PublicKey:
        return self._current().public_key()

    def rolls(self) -> list[str]:
        """The signed roll-over messages, oldest first."""
        self._refresh()
        return list(self._ring.messages)

    def roll(self, not_before_ns: int, old_until_ns: int) -> Roll:
        """Make the next key, and have the newest one name it. Raises ValueError while the last roll-over still runs."""
        self._refresh()
        if self._rolls and self._clock() < self._rolls[-1].old_until_ns:
            raise ValueError(
                "the last roll-over still runs: its old key is accepted until then; wait for its end"
            )
        key = load_or_create_key(self._numbered(len(self._keys)))
        roll = Roll(public_hex(key.public_key()), not_before_ns, old_until_ns)
        message = signed_roll(roll, self._keys[-1])
        with self._rolls_path.open("a") as file:  # the key's file is there before anybody hears of it
            file.write(message + "\n")
        self._refresh()
        return roll

    def _current(self) -> Ed25519PrivateKey:
        self._refresh()
        now_ns = self._clock()
        begun = sum(roll.not_before_ns <= now_ns for roll in self._rolls)
        return self._keys[begun]

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{number}{self._path.suffix}")

    def _refresh(self) -> None:
        changed = self._rolls_path.stat().st_mtime_ns if self._rolls_path.exists() else None
        if changed == self._read_at:
            return
        first = load_or_create_key(self._path)
        messages = self._rolls_path.read_text().splitlines() if changed is not None else []
        self._ring = KeyRing(first.public_key(), messages)
        self._rolls = self._ring.rolls
        later = (self._numbered(number + 1) for number in range(len(messages)))
        self._keys: list[Ed25519PrivateKey] = [first, *map(load_or_create_key, later)]
        for key, roll in zip(self._keys[1:], self._rolls, strict=True):
            if public_hex(key.public_key()) != roll.key:
                raise ValueError(
                    f"{self._rolls_path}: names {roll.key}, and the key's file holds another one"
                )
        self._read_at = changed
