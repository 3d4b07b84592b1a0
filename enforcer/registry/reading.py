"""Opening a SQLite file only to read it: nothing beside it is made or left, and it may lie where nothing can be written.

A file with a write-ahead log is the file, FILE-wal and FILE-shm while anybody has it open. SQLite's mode=ro makes the latter two when they
are not there and cannot remove them again; where it cannot make them, it cannot read at all (sqlite.org/wal.html, "Read-Only Databases").
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


class CannotRead(sqlite3.OperationalError):
    """The file cannot be read as it lies there, or was written to meanwhile; the message says what to do."""


class ReadConnection(sqlite3.Connection):
    """still: what the file looked like, when nobody was expected to write to it; None when SQLite looks after that."""

    still: tuple[int, ...] | None = None
    file: Path

    @property
    def has_changed(self) -> bool:
        """Whether somebody has begun to write all the same; then what is read may be neither old nor new."""
        return self.still is not None and _look(self.file) != self.still


def open_to_read(path: str | Path) -> ReadConnection:
    """Raises CannotRead, sqlite3.DatabaseError. Whoever finds that it `has_changed` opens it anew."""
    file = Path(path).resolve()
    log = Path(f"{file}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if has_log:  # of a program that runs, or that was killed: then it stays as it is
        return _read_beside(file)
    if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
        # As if to write: only so does SQLite, when the last connection is closed, remove what it made.
        database = _connect(file, "mode=rw")
        database.execute("PRAGMA query_only = 1")
        return database
    if log.exists() and Path(f"{file}-shm").exists():
        return _read_beside(file)
    still = _look(file)
    database = _connect(file, "mode=ro&immutable=1")
    database.still = still
    return database


def _read_beside(file: Path) -> ReadConnection:
    database = _connect(file, "mode=ro")
    try:
        database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        database.close()
        if "unable to open" not in str(error):
            raise
        raise CannotRead(
            f"{file}: its newest events are in {file.name}-wal, and SQLite needs to make a file beside it to read them; "
            f"copy {file.name} and {file.name}-wal to a folder that can be written to, and read them there"
        ) from error
    return database


def _connect(file: Path, how: str) -> ReadConnection:
    database = sqlite3.connect(
        f"{file.as_uri()}?{how}", uri=True, isolation_level=None, factory=ReadConnection
    )
    database.file = file
    return database


def _look(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, Path(f"{file}-wal").exists()
