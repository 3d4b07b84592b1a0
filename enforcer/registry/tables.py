"""The ledger's SQLite file: its tables, opening it, and transactions.

`events` is the truth and `changes` what the serials consist of; nothing in them ever changes (triggers refuse it). `standing` and
`checkpoints` are derived, so that a ledger of a million registrations opens at once; `enforcer-registry verify` compares them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from enforcer.registry.chain import GENESIS, link
from enforcer.registry.reading import open_to_read

VERSION = 2  # PRAGMA user_version; 0 with events in it is a ledger from before the hash chain
TAIL = 64  # events whose hashes opening checks; `verify` checks all


class BadLedger(ValueError):
    """The file is a ledger, but not one to go on with: changed, cut off, or of an older format. The message says what to do."""


def open_tables(path: str, is_read_only: bool = False, checks_tail: bool = True) -> sqlite3.Connection:
    """The open file, made when absent, with its newest events' hashes checked. Raises BadLedger, sqlite3.DatabaseError.

    is_read_only: nothing is written, and the connection is an enforcer.registry.reading.ReadConnection; a file that is no ledger, or has no tables yet, is a BadLedger.
    """
    # Autocommit; each action opens its own transaction.
    database = open_to_read(path) if is_read_only else sqlite3.connect(path, isolation_level=None)
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        is_there = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchone()
        if not is_there:
            _refuse_others(database, path, is_read_only)
        if is_there and version != VERSION:
            raise BadLedger(
                f"{path}: a ledger of format {version}, without a hash chain; make a new file that has one: enforcer-registry migrate {path} NEW"
                if version < VERSION
                else f"{path}: a ledger of format {version}; this program knows {VERSION}: use a newer one"
            )
        if not is_there:
            database.executescript(_SCHEMA)
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA cache_size = -65536")  # KiB at most; the indexes of a million registrations
        if checks_tail:
            with moment(database):
                _check_tail(database, path)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of what the body does is in the ledger, or none of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk has rolled back already
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def moment(database: sqlite3.Connection) -> Iterator[None]:
    """Everything the body reads is of one moment, whoever writes beside."""
    if database.in_transaction:
        yield
        return
    database.execute("BEGIN")
    try:
        yield
    finally:
        database.execute("COMMIT")


def last_event(database: sqlite3.Connection) -> tuple[int, bytes]:
    """The newest event's sequence and hash; (0, GENESIS) in an empty ledger."""
    row = database.execute("SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, GENESIS)


def _refuse_others(database: sqlite3.Connection, path: str, is_read_only: bool) -> None:
    """A file without events is a new ledger to whoever writes, when it is empty; to whoever reads it is none."""
    tables = [
        name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
    ]
    if tables:
        raise BadLedger(
            f"{path}: not a ledger: it has the tables {', '.join(tables[:6])}; write the ledger's file, "
            "which registry.yaml names after 'database'"
        )
    if is_read_only:
        raise BadLedger(
            f"{path}: not a ledger: there are no events in it. If it is a copy, the ledger was being served and its events were "
            f"still in ORIGINAL-wal: write the copy with 'enforcer-registry backup ORIGINAL {path}'"
        )


def _check_tail(database: sqlite3.Connection, path: str) -> None:
    last, _ = last_event(database)
    given = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    if given is not None and given[0] > last:
        raise BadLedger(
            f"{path}: events {last + 1} to {given[0]} are missing at the end: the file was cut off; restore it from a backup"
        )
    rows = database.execute(
        "SELECT sequence, at_ns, registration, action, actor, reason, data, hash FROM events WHERE sequence > ? "
        "ORDER BY sequence",
        (last - TAIL - 1,),
    ).fetchall()
    previous = GENESIS if rows and rows[0][0] == 1 else None
    for row in rows:
        hash_ = row[-1]
        if previous is not None and link(previous, *row[:-1]) != hash_:
            raise BadLedger(
                f"{path}: event {row[0]} was changed, or one before it taken out: its hash does not fit; "
                f"'enforcer-registry verify {path}' tells more; restore the file from a backup"
            )
        previous = hash_


def _refuse(table: str, key: str) -> str:
    refusals = "".join(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no {verb} on {table}'); END;\n"
        for verb in ("UPDATE", "DELETE")
    )
    # REPLACE deletes without asking the DELETE trigger (sqlite.org/lang_conflict.html).
    return refusals + (
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no REPLACE on {table}'); END;\n"
    )


# NORMAL with a write-ahead log: a power cut may lose the last actions, never half of one (sqlite.org/pragma.html).
_SCHEMA = (
    """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
BEGIN;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns INTEGER NOT NULL,
    registration INTEGER NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    data TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX events_registration ON events (registration, sequence);
CREATE INDEX events_at ON events (at_ns);
CREATE INDEX events_reminders ON events (sequence) WHERE action = 'remind';
CREATE TABLE changes (
    serial INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    registration INTEGER NOT NULL,
    state TEXT NOT NULL,
    entry TEXT
) STRICT;
CREATE INDEX changes_registration ON changes (registration, serial);
CREATE INDEX changes_sequence ON changes (sequence);
CREATE TABLE standing (
    registration INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    provider TEXT NOT NULL,
    waits INTEGER NOT NULL,
    appeals INTEGER NOT NULL,
    due_ns INTEGER,
    form BLOB NOT NULL
) STRICT;
CREATE INDEX standing_state ON standing (state);
CREATE INDEX standing_owner ON standing (owner) WHERE owner <> '';
CREATE INDEX standing_waits ON standing (provider) WHERE waits = 1;
CREATE INDEX standing_appeals ON standing (registration) WHERE appeals = 1;
CREATE INDEX standing_due ON standing (due_ns) WHERE due_ns IS NOT NULL;
CREATE INDEX standing_form ON standing (form);
CREATE TABLE checkpoints (
    sequence INTEGER PRIMARY KEY,
    states BLOB NOT NULL
) STRICT;
"""
    + _refuse("events", "sequence")
    + _refuse("changes", "serial")
    + f"PRAGMA user_version = {VERSION};\nCOMMIT;\n"
)
