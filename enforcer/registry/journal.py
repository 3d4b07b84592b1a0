"""Writing to the ledger's file, one event at a time: its hash, what it changes on the allowlist, and where it leaves its registration."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from enforcer.allowlist import Entry
from enforcer.registry import standing
from enforcer.registry.chain import canonical, link
from enforcer.registry.past import allowlist_at, events_of, replayed, write_checkpoints
from enforcer.registry.reading import CannotRead, ReadConnection
from enforcer.registry.states import LedgerEvent, Registration, after
from enforcer.registry.tables import last_event, moment, open_tables, transaction

_KEPT = 65_536  # registrations held in memory; any other is replayed from its own events (some 50 µs)


class UnknownRegistration(LookupError):
    """There is no registration with that number."""


class Journal:
    """The open file and what is known of it. Another process may write to it too: `refresh` notices."""

    def __init__(self, path: str, is_read_only: bool = False) -> None:
        """Raises BadLedger, sqlite3.DatabaseError."""
        self.database = open_tables(path, is_read_only)
        self._path = path
        self._is_in_batch = False
        self.refresh(always=True)

    def refresh(self, always: bool = False) -> None:
        """Forget what another process may have made untrue."""
        if self._is_in_batch:
            return
        if isinstance(self.database, ReadConnection) and self.database.has_changed:
            self.database.close()
            self.database, always = open_tables(self._path, is_read_only=True), True
        version = self.database.execute("PRAGMA data_version").fetchone()[0]
        if always or version != self._version:
            self._version = version
            with moment(self.database):
                self.sequence, self.hash = last_event(self.database)
                self.serial: int = self._one("SELECT coalesce(max(serial), 0) FROM changes")
                self.count: int = self._one("SELECT coalesce(max(registration), 0) FROM standing")
            self._registrations: dict[int, Registration] = {}
            self._entries: dict[int, Entry] | None = None

    def close(self) -> None:
        """Close the file; what the write-ahead log holds goes into it first, so that the file alone is the whole ledger.

        Raises CannotRead when it was read where it cannot be written to, and somebody did: what was read may be wrong.
        """
        if isinstance(self.database, ReadConnection):
            has_changed = self.database.has_changed
            self.database.close()
            if has_changed:
                raise CannotRead(f"{self._path}: was written to while it was read; ask again")
            return
        # Somebody may be reading it just now, or the disk is full.
        with contextlib.suppress(sqlite3.OperationalError):
            write_checkpoints(self.database, self.sequence)
            self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.close()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Many events in one transaction, kept all or not at all."""
        if self._is_in_batch:
            yield
            return
        try:
            with transaction(self.database):
                self.refresh()
                self._is_in_batch = True
                yield
                write_checkpoints(self.database, self.sequence)
        except BaseException:
            self._is_in_batch = False
            self.refresh(always=True)
            raise
        finally:
            self._is_in_batch = False

    def registration(self, number: int) -> Registration:
        """Raises UnknownRegistration."""
        found = self._registrations.get(number)
        if found is None:
            found = replayed(events_of(self.database, number, self.sequence))
            if found is None:
                raise UnknownRegistration(f"there is no registration {number}")
            self._keep(found)
        return found

    def append(
        self, number: int | None, at_ns: int, action: str, actor: str, reason: str, data: dict[str, Any]
    ) -> Registration:
        """The registration after the event; None for its number is a new one. Raises what `after` raises; then nothing was kept."""
        if self._is_in_batch:
            return self._append(number, at_ns, action, actor, reason, data)
        try:
            with transaction(self.database):
                self.refresh()
                return self._append(number, at_ns, action, actor, reason, data)
        except sqlite3.Error:
            self.refresh(always=True)
            raise

    def entries(self) -> dict[int, Entry]:
        """What the allowlist has now; read once, then kept up."""
        if self._entries is None:
            self._entries = allowlist_at(self.database, self.serial).entries
        return self._entries

    def _append(
        self, number: int | None, at_ns: int, action: str, actor: str, reason: str, data: dict[str, Any]
    ) -> Registration:
        before = None if number is None else self.registration(number)
        number = self.count + 1 if number is None else number
        # The data goes through JSON first, so that what is derived now is what is derived after a restart.
        text = canonical(data)
        sequence = self.sequence + 1
        now = after(before, LedgerEvent(sequence, at_ns, number, action, actor, reason, json.loads(text)))
        old, new = before.entry() if before else None, now.entry()
        hash_ = link(self.hash, sequence, at_ns, number, action, actor, reason, text)
        execute = self.database.execute
        execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (sequence, at_ns, number, action, actor, reason, text, hash_),
        )
        serial = self.serial + (old != new)
        if serial != self.serial:
            execute(
                "INSERT INTO changes VALUES (?, ?, ?, ?, ?)", (serial, sequence, number, *change(now, new))
            )
        row = standing.row(now, sequence)
        execute("INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self.sequence, self.serial, self.hash = sequence, serial, hash_
        self.count = max(self.count, number)
        self._keep(now)
        if self._entries is not None:
            if new is not None:
                self._entries[number] = new
            else:
                self._entries.pop(number, None)
        return now

    def _keep(self, registration: Registration) -> None:
        if len(self._registrations) >= _KEPT:
            self._registrations.clear()
        self._registrations[registration.number] = registration

    def _one(self, query: str) -> Any:
        return self.database.execute(query).fetchone()[0]


def change(now: Registration, entry: Entry | None) -> tuple[str, str | None]:
    """What `changes` says of it: the state, and the entry as JSON or None when it leaves the allowlist."""
    state = "changed" if now.state == "pending" else now.state
    return state, None if entry is None else json.dumps(entry.to_json(), separators=(",", ":"))
