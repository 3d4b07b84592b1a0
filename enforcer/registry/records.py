"""What a ledger says: its registrations now and in the past, its events, the allowlist at any serial. Nothing here changes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from enforcer.allowlist import Allowlist, Delta
from enforcer.registry.chain import GENESIS, Head
from enforcer.registry.form import Application
from enforcer.registry.journal import Journal
from enforcer.registry.past import COLUMNS, StateAt, allowlist_at, delta_between, event_of, state_after
from enforcer.registry.standing import form_key, provider_key
from enforcer.registry.states import LedgerEvent, Registration, State
from enforcer.registry.verification import Verified, verify_chain, verify_derived


class UnknownSerial(LookupError):
    """The serial is newer than the ledger's: somebody follows another registry, or this one lost its file."""


class Records:
    """An open ledger's file, for reading; enforcer.registry.ledger.Ledger is one that can act, too."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def close(self) -> None:
        """Close the file, which alone is then the whole ledger."""
        self._journal.close()

    @property
    def serial(self) -> int:
        """The allowlist's serial: up by one with each change of it."""
        self._journal.refresh()
        return self._journal.serial

    def head(self) -> Head:
        """Where the ledger stands; noted elsewhere, it shows later that nothing before it was changed or cut off."""
        self._journal.refresh()
        return Head(self._journal.sequence, self._journal.serial, self._journal.hash.hex())

    def check_chain(self) -> Verified:
        """Every hash computed again, from the first event on: reads the whole file."""
        self._journal.refresh()
        return verify_chain(self._journal.database)

    def check(self) -> Verified:
        """The same, and everything that is derived replayed from the events; `differs` is "" when all of it fits."""
        found = self.check_chain()
        return verify_derived(self._journal.database, found.head) if found.is_whole else found

    # Registrations

    def registration(self, number: int) -> Registration:
        """Raises UnknownRegistration."""
        self._journal.refresh()
        return self._journal.registration(number)

    def registrations(
        self, state: State | None = None, provider: str = "", after: int = 0, limit: int = -1
    ) -> list[Registration]:
        """All, or those in one state, or of one provider, by number: at most `limit` of those after a number."""
        where: list[str] = ["registration > ?"]
        values: list[Any] = [after]
        where += (
            ["+state = ?"] if state is not None and provider else ["state = ?"] if state is not None else []
        )
        values += [state] if state is not None else []
        where += ["provider = ?"] if provider else []
        values += [provider_key(provider)] if provider else []
        return self._found(f"{' AND '.join(where)} ORDER BY registration LIMIT ?", *values, limit)

    def counts(self) -> dict[State, int]:
        """How many registrations are in each state; those with none left out."""
        return dict(self._query("SELECT state, count(*) FROM standing GROUP BY state").fetchall())

    def waiting_for_provider(self, provider: str = "") -> list[Registration]:
        """Those whose provider has not answered, by number: one provider's, or everybody's."""
        if provider:
            return self._found("waits = 1 AND provider = ? ORDER BY registration", provider_key(provider))
        return self._found("waits = 1 ORDER BY registration")

    def open_appeals(self) -> list[Registration]:
        """Those with an appeal that waits for an answer, by number."""
        return self._found("appeals = 1 ORDER BY registration")

    def with_clocks(self) -> list[Registration]:
        """Those to which the clock will do something (`standing.due`), by when."""
        return self._found("due_ns IS NOT NULL ORDER BY due_ns, registration")

    def owned(self, token_sha256: str) -> list[Registration]:
        """An applicant's, by number."""
        return self._found("owner = ? AND owner <> '' ORDER BY registration", token_sha256)

    def similar(self, form: Application) -> list[int]:
        """Numbers of registrations that are not over and ask for the same thing for the same registrant."""
        rows = self._query(
            "SELECT registration FROM standing WHERE form = ? AND state IN ('pending', 'active', 'suspended') ORDER BY 1",
            form_key(form),
        )
        return [number for (number,) in rows]

    def next_due_ns(self) -> int | None:
        """When the clock will next have something to do."""
        return self._query("SELECT min(due_ns) FROM standing WHERE due_ns IS NOT NULL").fetchone()[0]

    # Events

    def events(
        self,
        number: int | None = None,
        action: str = "",
        after: int = 0,
        before: int | None = None,
        is_newest_first: bool = False,
    ) -> Iterator[LedgerEvent]:
        """The ledger itself, oldest first; one registration's part of it, one action's, or what lies between two sequences."""
        where: list[str] = ["sequence > ?"]
        values: list[Any] = [after]
        for condition, value in (
            ("registration = ?", number),
            ("action = ?", action or None),
            ("sequence < ?", before),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        order = "DESC" if is_newest_first else "ASC"
        return map(
            event_of,
            self._query(
                f"SELECT {COLUMNS} FROM events WHERE {' AND '.join(where)} ORDER BY sequence {order}", *values
            ),
        )

    def reminders(self, after: int = 0) -> Iterator[LedgerEvent]:
        """What somebody should be told: the events `remind` after a sequence, oldest first. data["about"]: of what (standing.About)."""
        rows = self._query(
            f"SELECT {COLUMNS} FROM events WHERE action = 'remind' AND sequence > ? ORDER BY sequence", after
        )
        return map(event_of, rows)

    # The past

    def state_at(self, serial: int) -> StateAt:
        """All registrations as they stood when the allowlist had this serial last. Raises UnknownSerial."""
        self._check(serial)
        row = self._query("SELECT sequence FROM changes WHERE serial = ?", serial + 1).fetchone()
        return state_after(self._journal.database, row[0] - 1 if row else self._journal.sequence)

    def state_at_time(self, at_ns: int) -> StateAt:
        """All registrations as they stood after the last event dated at_ns or earlier."""
        row = self._query(
            "SELECT sequence FROM events WHERE at_ns <= ? ORDER BY at_ns DESC, sequence DESC LIMIT 1", at_ns
        ).fetchone()
        return state_after(self._journal.database, row[0] if row else 0)

    # The allowlist

    def allowlist(self) -> Allowlist:
        """The allowlist at the newest serial."""
        self._journal.refresh()
        return Allowlist(self._journal.serial, dict(self._journal.entries()))

    def allowlist_at(self, serial: int) -> Allowlist:
        """The allowlist as it was at an earlier serial. Raises UnknownSerial."""
        self._check(serial)
        return allowlist_at(self._journal.database, serial)

    def delta(self, since: int) -> Delta | None:
        """Everything between a serial and the newest, each registration's last change only; None when nothing changed.

        A registration that was allowed and removed after `since` is in `remove`: harmless to whoever never had it.
        Raises UnknownSerial when `since` is newer than the ledger's serial.
        """
        self._check(since)
        return delta_between(self._journal.database, since, self._journal.serial)

    def mark(self, serial: int) -> str:
        """Which history led to a serial: the hash of the event that made it, so the feed's messages witness the whole chain.

        A ledger restored from a backup counts the same serials again; their marks tell them apart.
        """
        row = self._query(
            "SELECT hash FROM events WHERE sequence = (SELECT sequence FROM changes WHERE serial = ?)", serial
        ).fetchone()
        return (row[0] if row else GENESIS).hex()

    def _check(self, serial: int) -> None:
        if not 0 <= serial <= self.serial:
            raise UnknownSerial(
                f"serial {serial} is not in this ledger; its newest is {self._journal.serial}"
            )

    def _found(self, where: str, *values: Any) -> list[Registration]:
        rows = self._query(f"SELECT registration FROM standing WHERE {where}", *values).fetchall()
        return [self._journal.registration(number) for (number,) in rows]

    def _query(self, query: str, *values: Any):
        self._journal.refresh()
        return self._journal.database.execute(query, values)
