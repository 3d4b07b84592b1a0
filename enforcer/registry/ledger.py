"""The ledger: an append-only list of events in SQLite. States, the allowlist and the serial are derived from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.registry.rules import terms
from enforcer.registry.states import (
    REFUSALS,
    Application,
    IllegalTransition,
    LedgerEvent,
    Registration,
    Rules,
    State,
    after,
    checked_prefixes,
)

DECISIONS = ("approve", "reject", "suspend", "revoke", "renew", "expire")
_MARKED = 64  # changes; a backup so old that its next 64 are the same to the nanosecond is the same ledger


class UnknownRegistration(LookupError):
    """There is no registration with that number."""


class UnknownSerial(LookupError):
    """The serial is newer than the ledger's: somebody follows another registry, or this one lost its file."""


class Ledger:
    """An open ledger. One process writes; anybody may read the file beside it (write-ahead log).

    path: a file, made when absent, or ":memory:". clock: Unix nanoseconds.
    Two tables grow and nothing in them ever changes (triggers refuse it): `events`, what was done, and `changes`, what the
    allowlist's serials consist of, written in the same transaction.
    """

    def __init__(
        self, path: str, rules: Rules | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """Raises sqlite3.DatabaseError when the file is not a ledger."""
        self.rules = rules or Rules()
        self._clock = clock
        self._is_in_batch = False
        # Autocommit; each action opens its own transaction.
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._registrations: dict[int, Registration] = {}
        for event in self.events():
            self._registrations[event.registration] = after(
                self._registrations.get(event.registration), event
            )
        self._entries: dict[int, Entry] = {}
        for registration in self._registrations.values():
            entry = registration.entry()
            if entry is not None:
                self._entries[registration.number] = entry
        self._serial: int = self._one("SELECT coalesce(max(serial), 0) FROM changes")

    def close(self) -> None:
        """Close the file; what the write-ahead log holds goes into it first, so that the file alone is the whole ledger."""
        with contextlib.suppress(
            sqlite3.OperationalError
        ):  # somebody is reading it just now: the log stays beside it
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._database.close()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Many acts in one transaction (a thousand times faster). If the body raises, close the ledger: nothing was kept."""
        self._is_in_batch = True
        try:
            with _transaction(self._database):
                yield
        finally:
            self._is_in_batch = False

    @property
    def serial(self) -> int:
        """The allowlist's serial: up by one with each change of it."""
        return self._serial

    def apply(
        self,
        form: Application,
        actor: str = "applicant",
        token_sha256: str = "",
        at_ns: int | None = None,
        by: str = "",
    ) -> Registration:
        """A new pending registration with the next number. by, here and below: the account that acts, kept in the event."""
        number = len(self._registrations) + 1
        data = {"form": form.to_json(), "token_sha256": token_sha256}
        return self._append(number, "apply", actor, "", data, at_ns, by)

    def verify(
        self,
        number: int,
        is_verified: bool,
        actor: str = "isp",
        reason: str = "",
        at_ns: int | None = None,
        why: str = "",
        by: str = "",
    ) -> Registration:
        """The ISP's answer; why, for a "no": one of states.REFUSALS. Raises UnknownRegistration, IllegalTransition, ValueError."""
        if why and (is_verified or why not in REFUSALS):
            raise ValueError(f"why: write one of {', '.join(REFUSALS)}, and only when the answer is no")
        data = {"verified": is_verified} | ({"why": why} if why else {})
        return self._append(number, "verify", actor, reason, data, at_ns, by)

    def decide(
        self,
        number: int,
        action: str,
        actor: str = "officer",
        reason: str = "",
        at_ns: int | None = None,
        by: str = "",
    ) -> Registration:
        """An officer's act: approve, reject, revoke, suspend, renew; or the system's: expire.

        Raises UnknownRegistration, IllegalTransition, NotVerified.
        """
        if action not in DECISIONS:
            raise IllegalTransition(
                f"{action!r} is no decision of an office; write one of {', '.join(DECISIONS)}"
            )
        return self._append(number, action, actor, reason, {}, at_ns, by)

    def change_address(
        self,
        number: int,
        subscriber_prefixes: Any,
        actor: str = "applicant",
        at_ns: int | None = None,
        by: str = "",
    ) -> Registration:
        """The line has other addresses now; see Rules.on_address_change. Raises also BadApplication."""
        prefixes = list(checked_prefixes(subscriber_prefixes))
        return self._append(number, "change-address", actor, "", {"subscriber_prefixes": prefixes}, at_ns, by)

    def ask_renewal(self, number: int, at_ns: int | None = None, by: str = "") -> Registration:
        """The applicant asks for a renewal, inside the window the rules leave."""
        return self._append(number, "ask-renewal", "applicant", "", {}, at_ns, by)

    def withdraw(self, number: int, reason: str = "", at_ns: int | None = None, by: str = "") -> Registration:
        """The applicant takes it back; for good."""
        return self._append(number, "withdraw", "applicant", reason, {}, at_ns, by)

    def appeal(
        self, number: int, about: str, text: str, at_ns: int | None = None, by: str = ""
    ) -> Registration:
        """Against a "rejection", or a "false-block": registered, and blocked all the same."""
        return self._append(number, "appeal", "applicant", "", {"about": about, "text": text}, at_ns, by)

    def answer_appeal(
        self, number: int, is_granted: bool, reason: str, at_ns: int | None = None, by: str = ""
    ) -> Registration:
        """The officer's answer. A rejection whose appeal is granted is pending again."""
        return self._append(number, "answer-appeal", "officer", reason, {"granted": is_granted}, at_ns, by)

    def expire_due(self) -> list[Registration]:
        """Expires what has run out by the clock; returns what it expired."""
        now = self._clock()
        due = [
            number
            for number, registration in self._registrations.items()
            if registration.state in ("active", "suspended")
            and registration.leaves_ns is not None
            and registration.leaves_ns <= now
        ]
        return [self.decide(number, "expire", "system", "validity ran out") for number in due]

    def registration(self, number: int) -> Registration:
        """Raises UnknownRegistration."""
        try:
            return self._registrations[number]
        except KeyError:
            raise UnknownRegistration(f"there is no registration {number}") from None

    def registrations(self, state: State | None = None) -> list[Registration]:
        """All, or those in one state, by number."""
        return [each for each in self._registrations.values() if state is None or each.state == state]

    def events(self, number: int | None = None) -> Iterator[LedgerEvent]:
        """The ledger itself, oldest first; or one registration's part of it."""
        where, values = ("WHERE registration = ?", (number,)) if number is not None else ("", ())
        rows = self._database.execute(
            f"SELECT sequence, at_ns, registration, action, actor, reason, data FROM events {where} ORDER BY sequence",
            values,
        )
        for sequence, at_ns, registration, action, actor, reason, data in rows:
            yield LedgerEvent(sequence, at_ns, registration, action, actor, reason, json.loads(data))

    def allowlist(self) -> Allowlist:
        """The allowlist at the newest serial."""
        return Allowlist(self._serial, dict(self._entries))

    def allowlist_at(self, serial: int) -> Allowlist:
        """The allowlist as it was at an earlier serial. Raises UnknownSerial."""
        self._check(serial)
        entries: dict[int, Entry] = {}
        rows = self._database.execute(
            "SELECT registration, entry FROM changes WHERE serial <= ? ORDER BY serial", (serial,)
        )
        for number, entry in rows:
            if entry is None:
                entries.pop(number, None)
            else:
                entries[number] = Entry.from_json(json.loads(entry))
        return Allowlist(serial, entries)

    def delta(self, since: int) -> Delta | None:
        """Everything between a serial and the newest, each registration's last change only; None when nothing changed.

        A registration that was allowed and removed after `since` is in `remove`: harmless to whoever never had it.
        Raises UnknownSerial when `since` is newer than the ledger's serial.
        """
        self._check(since)
        if since == self._serial:
            return None
        rows = self._database.execute(
            "SELECT registration, state, entry, max(serial) FROM changes WHERE serial > ? GROUP BY registration",
            (since,),
        ).fetchall()
        add = tuple(Entry.from_json(json.loads(entry)) for _, _, entry, _ in rows if entry is not None)
        remove = tuple(Removal(number, state) for number, state, entry, _ in rows if entry is None)
        return Delta(since, self._serial, add, remove)

    def mark(self, serial: int) -> str:
        """Which history led to a serial: two ledgers that went different ways have different marks at the same serial.

        A ledger restored from a backup counts the same serials again; the last changes before each tell them apart.
        """
        rows = self._database.execute(
            "SELECT serial, registration, state, entry FROM changes WHERE serial <= ? ORDER BY serial DESC LIMIT ?",
            (serial, _MARKED),
        ).fetchall()
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]

    def _check(self, serial: int) -> None:
        if not 0 <= serial <= self._serial:
            raise UnknownSerial(f"serial {serial} is not in this ledger; its newest is {self._serial}")

    def _append(
        self,
        number: int,
        action: str,
        actor: str,
        reason: str,
        data: dict[str, Any],
        at_ns: int | None,
        by: str = "",
    ) -> Registration:
        before = None if action == "apply" else self.registration(number)
        at_ns = self._clock() if at_ns is None else at_ns
        data = data | terms(self.rules, action, at_ns) | ({"by": by} if by else {})
        # The form goes through JSON first, so that what is derived now is what is derived after a restart.
        text = json.dumps(data, separators=(",", ":"), sort_keys=True)
        now = after(before, LedgerEvent(0, at_ns, number, action, actor, reason, json.loads(text)))
        old, new = self._entries.get(number), now.entry()
        serial = self._serial + (old != new)
        with contextlib.nullcontext() if self._is_in_batch else _transaction(self._database):
            self._database.execute(
                "INSERT INTO events (at_ns, registration, action, actor, reason, data) VALUES (?, ?, ?, ?, ?, ?)",
                (at_ns, number, action, actor, reason, text),
            )
            if serial != self._serial:
                entry = None if new is None else json.dumps(new.to_json(), separators=(",", ":"))
                state = "changed" if now.state == "pending" else now.state
                self._database.execute(
                    "INSERT INTO changes (serial, registration, state, entry) VALUES (?, ?, ?, ?)",
                    (serial, number, state, entry),
                )
        self._registrations[number], self._serial = now, serial
        if new is not None:
            self._entries[number] = new
        else:
            self._entries.pop(number, None)
        return now

    def _one(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    # All of an action is in the ledger, or none of it.
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _refuse(table: str, key: str) -> str:
    refusals = "".join(
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no {verb} on {table}'); END;\n"
        for verb in ("UPDATE", "DELETE")
    )
    # REPLACE deletes without asking the DELETE trigger (sqlite.org/lang_conflict.html).
    return refusals + (
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no REPLACE on {table}'); END;\n"
    )


# NORMAL with a write-ahead log: a power cut may lose the last actions, never half of one (sqlite.org/pragma.html).
_SCHEMA = (
    """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns INTEGER NOT NULL,
    registration INTEGER NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_registration ON events (registration, sequence);
CREATE TABLE IF NOT EXISTS changes (
    serial INTEGER PRIMARY KEY,
    registration INTEGER NOT NULL,
    state TEXT NOT NULL,
    entry TEXT
) STRICT;
"""
    + _refuse("events", "sequence")
    + _refuse("changes", "serial")
)
