"""The last good allowlist on disk: the signed messages it came in, so that a restart checks them as if they had just arrived."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.allowlist import Allowlist
from enforcer.registry.feed import FeedError, SignedDelta, Snapshot, verify

_MOST_DELTAS = 1000  # then a snapshot is worth asking for: a start would have as many signatures to check


class Store:
    """A folder with `snapshot` and `deltas`. Raises OSError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._snapshot, self._deltas = folder / "snapshot.json", folder / "deltas.jsonl"
        self._count = 0

    def load(self, key: Ed25519PublicKey) -> tuple[Allowlist, int] | None:
        """The list and when its newest message was issued (Unix ns); None when nothing is kept.

        Raises FeedError when the snapshot is damaged; a damaged delta ends the reading, for the registry has the rest.
        """
        if not self._snapshot.exists():
            return None
        snapshot = verify(self._snapshot.read_bytes(), key, allow_empty=True)
        if not isinstance(snapshot, Snapshot):
            raise FeedError(f"{self._snapshot} holds a delta, not a snapshot")
        allowlist, issued_ns = snapshot.allowlist, snapshot.issued_ns
        for line in self._deltas.read_bytes().splitlines() if self._deltas.exists() else ():
            try:
                delta = verify(line, key, allowlist.serial)
            except FeedError:
                break
            if not isinstance(delta, SignedDelta):
                break
            allowlist, issued_ns = allowlist.after(delta.delta), delta.issued_ns
            self._count += 1
        return allowlist, issued_ns

    @property
    def is_long(self) -> bool:
        """Whether so many deltas are kept that a new snapshot should replace them."""
        return self._count >= _MOST_DELTAS

    def keep_snapshot(self, message: bytes) -> None:
        new = self._snapshot.with_suffix(".new")
        with new.open("wb") as file:
            file.write(message)
            file.flush()
            os.fsync(file.fileno())
        # In this order a crash in between leaves the old snapshot without its deltas: older, but whole.
        self._deltas.unlink(missing_ok=True)
        new.replace(self._snapshot)
        self._count = 0

    def keep_delta(self, message: bytes) -> None:
        with self._deltas.open("ab") as file:
            file.write(b" ".join(message.splitlines()) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._count += 1
