"""The last good allowlist on disk: the signed messages it came in, so that a restart checks them as if they had just arrived."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.allowlist import Allowlist
from enforcer.registry.feed import FeedError, Keys, SignedDelta, Snapshot, verify

_MOST_DELTAS = 1000  # then a snapshot is worth asking for: a start would have as many signatures to check


@dataclass(frozen=True, slots=True)
class Kept:
    """The list; when its newest message was issued (Unix ns); and that message's mark."""

    allowlist: Allowlist
    issued_ns: int
    mark: str


class Store:
    """A folder with the snapshot, the deltas since, and the key roll-overs. Raises OSError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._snapshot, self._deltas = folder / "snapshot.json", folder / "deltas.jsonl"
        self._rolls, self._running = folder / "keys.jsonl", folder / "running"
        self._count = 0

    def load(self, keys: Keys) -> Kept | None:
        """None when nothing is kept. keys: every key that was trusted when these messages came.

        Raises FeedError when the snapshot is damaged; a damaged delta ends the reading, for the registry has the rest.
        """
        kept = None
        for deltas, each in enumerate(self.history(keys)):
            self._count, kept = deltas, each
        return kept

    def history(self, keys: Keys) -> Iterator[Kept]:
        """The lists that are kept, oldest first: the snapshot's, and that after each delta. Raises as load."""
        if not self._snapshot.exists():
            return
        keys = (keys,) if isinstance(keys, Ed25519PublicKey) else tuple(keys)
        snapshot = verify(self._snapshot.read_bytes(), keys, allow_empty=True)
        if not isinstance(snapshot, Snapshot):
            raise FeedError(f"{self._snapshot} holds a delta, not a snapshot")
        allowlist = snapshot.allowlist
        yield Kept(allowlist, snapshot.issued_ns, snapshot.mark)
        for line in self._deltas.read_bytes().splitlines() if self._deltas.exists() else ():
            try:
                delta = verify(line, keys, allowlist.serial)
            except FeedError:
                return
            if not isinstance(delta, SignedDelta):
                return
            allowlist = allowlist.after(delta.delta)
            yield Kept(allowlist, delta.issued_ns, delta.mark)

    def rolls(self) -> list[str]:
        """The key roll-overs that were believed, oldest first."""
        return self._rolls.read_text().splitlines() if self._rolls.exists() else []

    def keep_rolls(self, messages: Iterable[str]) -> None:
        _replace(self._rolls, "".join(f"{message}\n" for message in messages).encode())

    @property
    def is_long(self) -> bool:
        """Whether so many deltas are kept that a new snapshot should replace them."""
        return self._count >= _MOST_DELTAS

    def begin_running(self) -> bool:
        """Whether an agent before this one has begun and never ended."""
        was_killed = self._running.exists()
        self._running.touch()
        return was_killed

    def end_running(self) -> None:
        self._running.unlink(missing_ok=True)

    def probe(self) -> None:
        """Raises OSError while the disk has no room for as long a snapshot as the one that is kept."""
        size = self._snapshot.stat().st_size if self._snapshot.exists() else 0
        probe = self.folder / "probe"
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size + (1 << 16))
        finally:
            probe.unlink(missing_ok=True)

    def keep_snapshot(self, message: bytes) -> None:
        # In this order a crash in between leaves the old snapshot without its deltas: older, but whole.
        _replace(self._snapshot, message, before=lambda: self._deltas.unlink(missing_ok=True))
        self._count = 0

    def keep_delta(self, message: bytes) -> None:
        line = b" ".join(message.splitlines()) + b"\n"
        with self._deltas.open("ab") as file:
            size = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:  # half a line would hide every later one
                os.ftruncate(file.fileno(), size)
                raise
        self._count += 1


def _replace(path: Path, data: bytes, before: Callable[[], object] = lambda: None) -> None:
    """The file with this content, or as it was. Calls `before` when the new one is safely on the disk."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        new.unlink(missing_ok=True)
        raise
    before()
    new.replace(path)
