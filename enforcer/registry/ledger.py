"""The ledger: an append-only, hash-chained list of events in SQLite. States, the allowlist and the serial are derived from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from enforcer.allowlist import Allowlist, Delta
from enforcer.registry import past
from enforcer.registry.chain import GENESIS, Head
from enforcer.registry.form import Application, BadApplication, checked_prefixes, missing_documents
from enforcer.registry.journal import Journal, UnknownRegistration
from enforcer.registry.past import COLUMNS, StateAt, allowlist_at, delta_between, event_of, state_after
from enforcer.registry.rules import Rules, terms
from enforcer.registry.standing import due, form_key, provider_key
from enforcer.registry.states import REFUSALS, IllegalTransition, LedgerEvent, Registration, State
from enforcer.registry.tables import BadLedger
from enforcer.registry.verification import Verified, verify_chain

__all__ = ["DECISIONS", "BadLedger", "Ledger", "UnknownRegistration", "UnknownSerial"]

DECISIONS = ("approve", "reject", "suspend", "revoke", "renew", "expire")


class UnknownSerial(LookupError):
    """The serial is newer than the ledger's: somebody follows another registry, or this one lost its file."""


class Ledger:
    """An open ledger. One process at a time writes an event; others may read the file, or write to it, beside (write-ahead log).

    path: a file, made when absent, or ":memory:". clock: Unix nanoseconds. An act is in the file with its change of the
    allowlist, in one transaction, or not at all.
    """

    def __init__(
        self,
        path: str,
        rules: Rules | None = None,
        clock: Callable[[], int] = time.time_ns,
        is_read_only: bool = False,
    ) -> None:
        """Raises BadLedger when the file was changed, is too old or something else, sqlite3.DatabaseError when it is no SQLite file.

        is_read_only: an act is refused by SQLite, and a file without a ledger in it is a BadLedger.
        """
        self.rules = rules or Rules()
        self._clock = clock
        self._journal = Journal(path, is_read_only)

    def close(self) -> None:
        """Close the file, which alone is then the whole ledger."""
        self._journal.close()

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Many acts in one transaction (much faster). If the body raises, none of them was done."""
        return self._journal.batch()

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

    # Acts

    def apply(
        self,
        form: Application,
        actor: str = "applicant",
        token_sha256: str = "",
        at_ns: int | None = None,
        by: str = "",
    ) -> Registration:
        """A new pending registration with the next number. Raises BadApplication when the rules ask for papers it does not name.

        by, here and below: the account that acts, kept in the event.
        """
        self._check_papers(form)
        data = {"form": form.to_json(), "token_sha256": token_sha256}
        return self._append(None, "apply", actor, "", data, at_ns, by)

    def correct(self, number: int, form: Application, at_ns: int | None = None, by: str = "") -> Registration:
        """The applicant corrects what is not decided yet: the whole form, as it should be. Raises also BadApplication.

        The provider is asked again when what it compares has changed (states.PROVIDER_CHECKS).
        """
        with self.batch():
            before = self.registration(number)
            if before.state == "pending":
                if before.application == form:
                    raise BadApplication(
                        ["form: nothing in it differs from what was applied for; change a field"]
                    )
                self._check_papers(form)
            return self._append(number, "correct", "applicant", "", {"form": form.to_json()}, at_ns, by)

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
        valid_until_ns: int | None = None,
    ) -> Registration:
        """An officer's act: approve, reject, revoke, suspend, renew; or the system's: expire.

        valid_until_ns: another end of an approval than the rules'. Raises UnknownRegistration, IllegalTransition, NotVerified.
        """
        if action not in DECISIONS:
            raise IllegalTransition(
                f"{action!r} is no decision of an office; write one of {', '.join(DECISIONS)}"
            )
        at_ns = self._clock() if at_ns is None else at_ns
        data = {} if valid_until_ns is None else {"validity_ns": valid_until_ns - at_ns}
        return self._append(number, action, actor, reason, data, at_ns, by)

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
        return [each for each in self._pass(("expiry",)) if each.state == "expired"]

    def pass_time(self) -> list[Registration]:
        """Everything the clock does by now (`standing.due`): expiry, reminders, a silent provider's answer. Returns what it acted on."""
        return self._pass(("expiry", "renewal", "verification", "decision", "appeal"))

    def keep_checkpoints(self) -> None:
        """Write what makes the past quick to read, when there is enough of it; a tenth of a second then, nothing otherwise."""
        newest = self._query("SELECT coalesce(max(sequence), 0) FROM checkpoints").fetchone()[0]
        if self._journal.sequence - newest >= past.STEP:
            with self.batch():  # a batch ends with writing them
                pass

    def next_due_ns(self) -> int | None:
        """When the clock will next have something to do."""
        return self._query("SELECT min(due_ns) FROM standing WHERE due_ns IS NOT NULL").fetchone()[0]

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

    def _check_papers(self, form: Application) -> None:
        if self.rules.requires_documents:
            missing = missing_documents(form.category, (each.kind for each in form.documents))
            if missing:
                raise BadApplication([f"documents: {each}" for each in missing])

    def _check(self, serial: int) -> None:
        if not 0 <= serial <= self.serial:
            raise UnknownSerial(
                f"serial {serial} is not in this ledger; its newest is {self._journal.serial}"
            )

    def _append(
        self,
        number: int | None,
        action: str,
        actor: str,
        reason: str,
        data: dict[str, Any],
        at_ns: int | None,
        by: str = "",
    ) -> Registration:
        at_ns = self._clock() if at_ns is None else at_ns
        data = terms(self.rules, action, at_ns) | data | ({"by": by} if by else {})
        return self._journal.append(number, at_ns, action, actor, reason, data)

    def _pass(self, about: tuple[str, ...]) -> list[Registration]:
        now_ns = self._clock()
        rows = self._query(
            "SELECT registration FROM standing WHERE due_ns <= ? ORDER BY due_ns, registration", now_ns
        )
        numbers = [number for (number,) in rows]
        if not numbers:
            return []
        with self.batch():
            acted = [self._act(number, about, now_ns) for number in numbers]
        return [each for each in acted if each is not None]

    def _act(self, number: int, about: tuple[str, ...], now_ns: int) -> Registration | None:
        """Everything that is due of one registration; None when nothing is."""
        now, acted = self.registration(number), None
        while found := [each for each in due(now) if each.at_ns <= now_ns and each.about in about]:
            first = found[0]
            until = f"{datetime.fromtimestamp(first.at_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
            if first.act == "expire":
                acted = self._append(
                    number, "expire", "system", "validity ran out", {"due_ns": first.at_ns}, now_ns
                )
            elif first.act == "remind":
                told = {"about": first.about, "due_ns": first.at_ns}
                acted = self._append(number, "remind", "system", f"{first.about} is due", told, now_ns)
            else:
                is_yes = first.act == "approve"
                acted = self.verify(number, is_yes, "system", f"no answer until {until}", now_ns)
            now = acted
        return acted

    def _found(self, where: str, *values: Any) -> list[Registration]:
        rows = self._query(f"SELECT registration FROM standing WHERE {where}", *values).fetchall()
        return [self._journal.registration(number) for (number,) in rows]

    def _query(self, query: str, *values: Any):
        self._journal.refresh()
        return self._journal.database.execute(query, values)
