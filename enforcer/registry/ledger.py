"""The ledger: an append-only, hash-chained list of events in SQLite. States, the allowlist and the serial are derived from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from enforcer.registry import past
from enforcer.registry.form import Application, BadApplication, checked_prefixes, missing_documents
from enforcer.registry.journal import Journal, UnknownRegistration
from enforcer.registry.records import Records, UnknownSerial
from enforcer.registry.rules import Rules, terms
from enforcer.registry.standing import due
from enforcer.registry.states import REFUSALS, IllegalTransition, Registration
from enforcer.registry.tables import BadLedger

__all__ = ["DECISIONS", "BadLedger", "Ledger", "UnknownRegistration", "UnknownSerial"]

DECISIONS = ("approve", "reject", "suspend", "revoke", "renew", "expire")


class Ledger(Records):
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
        super().__init__(Journal(path, is_read_only))

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Many acts in one transaction (much faster). If the body raises, none of them was done."""
        return self._journal.batch()

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

    def _check_papers(self, form: Application) -> None:
        if self.rules.requires_documents:
            missing = missing_documents(form.category, (each.kind for each in form.documents))
            if missing:
                raise BadApplication([f"documents: {each}" for each in missing])

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
