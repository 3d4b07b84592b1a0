"""Accounts of people and offices, their sessions, API tokens and claims, in a SQLite file beside the ledger.

The ledger is for ever and says who did what; this file is what may be changed and forgotten: passwords, sessions, tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Role = Literal["registrant", "officer", "provider", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{2,63}")

IDLE_NS = 30 * 60 * 10**9  # OWASP's session guide: 15 to 30 minutes for what matters
ABSOLUTE_NS = 12 * 3600 * 10**9  # a working day
_TOUCH_NS = 60 * 10**9  # a session's last use is written once a minute at most


class AccountExists(ValueError):
    """The name is taken."""


class BadAccount(ValueError):
    """Name, role or provider will not do; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Account:
    """provider: the office's own name, for the role provider only."""

    name: str
    role: Role
    provider: str = ""
    is_disabled: bool = False


class Accounts:
    """The open file. Made when absent, readable by its owner only. clock: Unix nanoseconds. One process."""

    def __init__(self, path: str, clock: Callable[[], int] = time.time_ns) -> None:
        """Raises sqlite3.DatabaseError when the file is something else."""
        if path != ":memory:" and not Path(path).exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        self._clock = clock
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.execute(
            "INSERT OR IGNORE INTO settings (name, value) VALUES ('secret', ?)", (secrets.token_hex(32),)
        )
        row = self._database.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
        self.secret: bytes = bytes.fromhex(row[0])  # signs cookies and forms

    def close(self) -> None:
        """Close the file, which alone then holds everything."""
        with contextlib.suppress(sqlite3.OperationalError):  # somebody is reading it just now
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._database.close()

    def add(self, name: str, password_hash: str, role: Role, provider: str = "") -> Account:
        """Raises AccountExists, BadAccount."""
        if not NAME.fullmatch(name):
            raise BadAccount(
                f"{name!r}: write 3 to 64 letters, digits or . _ @ + -, small letters, beginning with a letter or digit"
            )
        if role not in ROLES:
            raise BadAccount(f"role {role!r}: write one of {', '.join(ROLES)}")
        if (role == "provider") != bool(provider):
            raise BadAccount(
                "provider: an account with the role provider names its provider, and no other does"
            )
        try:
            self._database.execute(
                "INSERT INTO accounts (name, password, role, provider, created_ns) VALUES (?, ?, ?, ?, ?)",
                (name, password_hash, role, provider, self._clock()),
            )
        except sqlite3.IntegrityError:
            raise AccountExists(f"there is an account {name} already") from None
        return Account(name, role, provider)

    def find(self, name: str) -> tuple[Account, str] | None:
        """The account and its password hash."""
        row = self._database.execute(
            "SELECT name, role, provider, is_disabled, password FROM accounts WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else (Account(row[0], row[1], row[2], bool(row[3])), row[4])

    def all(self) -> list[Account]:
        rows = self._database.execute("SELECT name, role, provider, is_disabled FROM accounts ORDER BY name")
        return [Account(name, role, provider, bool(off)) for name, role, provider, off in rows]

    def providers(self) -> list[str]:
        """The providers that somebody can answer for: those of accounts that are not disabled."""
        rows = self._database.execute(
            "SELECT DISTINCT provider FROM accounts WHERE role = 'provider' AND NOT is_disabled ORDER BY provider"
        )
        return [name for (name,) in rows]

    def set_password(self, name: str, password_hash: str) -> None:
        """And ends the account's sessions and API tokens, wherever they are."""
        self._database.execute("UPDATE accounts SET password = ? WHERE name = ?", (password_hash, name))
        self.forget(name)

    def disable(self, name: str, is_disabled: bool = True) -> None:
        """Nobody enters with it until it is enabled again; what it did stays in the ledger."""
        self._database.execute("UPDATE accounts SET is_disabled = ? WHERE name = ?", (is_disabled, name))
        self.forget(name)

    def forget(self, name: str) -> None:
        """Ends all sessions and API tokens of an account."""
        self._database.execute("DELETE FROM sessions WHERE account = ?", (name,))
        self._database.execute("DELETE FROM tokens WHERE account = ?", (name,))

    # Sessions: the cookie holds a random id, this file its hash, so that a copy of the file opens no session.

    def open_session(self, name: str) -> str:
        """The new session's id, for the cookie."""
        now, session = self._clock(), secrets.token_urlsafe(32)
        self._database.execute(
            "DELETE FROM sessions WHERE seen_ns < ? OR created_ns < ?", (now - IDLE_NS, now - ABSOLUTE_NS)
        )
        self._database.execute(
            "INSERT INTO sessions (id_sha256, account, created_ns, seen_ns) VALUES (?, ?, ?, ?)",
            (_sha256(session), name, now, now),
        )
        return session

    def session(self, session: str) -> Account | None:
        """Whose it is, if it has not been idle or open for too long; being asked counts as use."""
        now = self._clock()
        row = self._database.execute(
            "SELECT name, role, provider, sessions.created_ns, seen_ns FROM sessions JOIN accounts ON account = name "
            "WHERE id_sha256 = ? AND NOT is_disabled",
            (_sha256(session),),
        ).fetchone()
        if row is None or now - row[4] > IDLE_NS or now - row[3] > ABSOLUTE_NS:
            return None
        if now - row[4] > _TOUCH_NS:
            self._database.execute(
                "UPDATE sessions SET seen_ns = ? WHERE id_sha256 = ?", (now, _sha256(session))
            )
        return Account(row[0], row[1], row[2])

    def close_session(self, session: str) -> None:
        self._database.execute("DELETE FROM sessions WHERE id_sha256 = ?", (_sha256(session),))

    def new_token(self, name: str) -> str:
        """A bearer token for API calls as this account; it replaces the one before. Shown once, kept as a hash."""
        token = secrets.token_urlsafe(32)
        self._database.execute("DELETE FROM tokens WHERE account = ?", (name,))
        self._database.execute(
            "INSERT INTO tokens (sha256, account, created_ns) VALUES (?, ?, ?)",
            (_sha256(token), name, self._clock()),
        )
        return token

    def token_account(self, token: str) -> Account | None:
        row = self._database.execute(
            "SELECT name, role, provider FROM tokens JOIN accounts ON account = name WHERE sha256 = ? AND NOT is_disabled",
            (_sha256(token),),
        ).fetchone()
        return None if row is None else Account(*row)

    def claim(self, name: str, registration: int) -> None:
        """The account may act for a registration that was made without one (its token was shown)."""
        self._database.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (name, registration))

    def claims(self, name: str) -> list[int]:
        rows = self._database.execute(
            "SELECT registration FROM claims WHERE account = ? ORDER BY registration", (name,)
        )
        return [number for (number,) in rows]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    password TEXT NOT NULL,
    role TEXT NOT NULL,
    provider TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    is_disabled INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
    id_sha256 TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    seen_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_account ON sessions (account);
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS claims (
    account TEXT NOT NULL,
    registration INTEGER NOT NULL,
    PRIMARY KEY (account, registration)
) STRICT;
"""
