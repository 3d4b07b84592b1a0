"""The desk: what people and programs may do to one ledger. Who may comes first, then the act, then waking whoever follows the feed."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enforcer.registry.bulk import BulkReport, apply_all
from enforcer.registry.chain import Head
from enforcer.registry.exchange import BadFile, read_forms
from enforcer.registry.feed import Signer
from enforcer.registry.feed_calls import FeedCalls
from enforcer.registry.form import Application, application, checked_prefixes
from enforcer.registry.ledger import Ledger, UnknownRegistration
from enforcer.registry.standing import provider_key
from enforcer.registry.states import IllegalTransition, LedgerEvent, Registration, State
from enforcer.registry.verification import Verified
from enforcer.registry.web.accounts import Account, Accounts

MOST_ROWS = 10_000
MOST_CHECKED = 20_000  # events; about 0.3 s

Who = Literal["nobody", "applicant", "isp", "officer", "auditor"]
_ROLES: Mapping[str, Who] = {
    "registrant": "applicant",
    "provider": "isp",
    "officer": "officer",
    "auditor": "auditor",
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Bearer tokens of the two offices. Applicants get their own when they apply, accounts make theirs on their page."""

    isp: str
    officer: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever acts. name: the account's, "" for a bare token. provider: whose applications an ISP sees; "" is all (the office token)."""

    role: Who
    name: str = ""
    provider: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """Where the chain of events stands, and whether all of it fits; verified None: too long to look at for a page."""

    head: Head
    verified: Verified | None


NOBODY = Principal("nobody")


class Refused(Exception):
    """An answer other than 2xx: status and what to say."""

    def __init__(self, status: int, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message)
        self.status, self.problems = status, problems


class Changed(IllegalTransition):
    """Whoever answers looked at what is no longer asked for."""


class Desk:
    """Over one ledger and one file of accounts."""

    def __init__(
        self,
        ledger: Ledger,
        key: Signer,
        tokens: Tokens,
        accounts: Accounts | None = None,
        clock: Callable[[], int] = time.time_ns,
        providers: Iterable[str] = (),
    ) -> None:
        """providers: those that answer without an account (simulated ones)."""
        self._providers = tuple(providers)
        self.ledger, self.key = ledger, key
        self.accounts = accounts or Accounts(":memory:", clock)
        self._tokens, self._clock = tokens, clock
        self.feed = FeedCalls(ledger, key, clock)
        self._checked: Chain | None = None

    # Who

    def principal(self, token: str) -> Principal:
        """Whose a bearer token is; NOBODY's when it is not known."""
        if not token:
            return NOBODY
        if hmac.compare_digest(token.encode(), self._tokens.isp.encode()):
            return Principal("isp")
        if hmac.compare_digest(token.encode(), self._tokens.officer.encode()):
            return Principal("officer")
        account = self.accounts.token_account(token)
        if account is not None:
            return self.of_account(account)
        held = token_sha256(token)
        return Principal("applicant", owner=held) if self.ledger.owned(held) else NOBODY

    def of_account(self, account: Account) -> Principal:
        held = owner(account.name) if account.role == "registrant" else ""
        return Principal(_ROLES[account.role], account.name, account.provider, held)

    def own(self, number: int, by: Principal) -> Registration:
        """The applicant's own registration. Another's raises UnknownRegistration, in the words for one that is not there."""
        registration = self._held(number)
        if registration is None or not self._owns(registration, by):
            raise UnknownRegistration(f"there is no registration {number}, or it is not yours")
        return registration

    def look(self, number: int, by: Principal) -> Registration:
        """As `own`, but officers and auditors see every registration, and providers those that name them."""
        if by.role in ("officer", "auditor"):
            return self.ledger.registration(number)
        return self.of_provider(number, by) if by.role == "isp" else self.own(number, by)

    def with_token(self, number: int, token: str) -> Registration | None:
        """The registration that was made without an account, for whoever has its token."""
        registration = self._held(number)
        by = Principal("applicant", owner=token_sha256(token))
        return registration if registration is not None and self._owns(registration, by) else None

    def mine(self, by: Principal) -> list[Registration]:
        """The applicant's registrations, by number."""
        found = {each.number: each for each in self.ledger.owned(by.owner)}
        for number in self.accounts.claims(by.name) if by.name else ():
            found[number] = self.ledger.registration(number)
        return [found[number] for number in sorted(found)]

    def visible(
        self, by: Principal, state: State | None = None, after: int = 0, limit: int = -1
    ) -> list[Registration]:
        """Registrations that this one may look at, by number: at most `limit` of those after a number."""
        if by.role == "applicant":
            found = [each for each in self.mine(by) if each.number > after and state in (None, each.state)]
            return found if limit < 0 else found[:limit]
        return self.ledger.registrations(state, by.provider, after, limit)

    def of_provider(self, number: int, by: Principal) -> Registration:
        """The registration, if it names the provider. Raises UnknownRegistration."""
        registration = self._held(number)
        if registration is None or not self._sees(registration, by):
            raise UnknownRegistration(f"there is no registration {number} that names your office")
        return registration

    def to_verify(self, by: Principal) -> list[Registration]:
        """What waits for this provider's answer, the earliest promise first."""
        found = self.ledger.waiting_for_provider(by.provider)
        return sorted(found, key=lambda each: (each.verification_due_ns or 0, each.number))

    def open_appeals(self) -> list[Registration]:
        """Appeals and reports without an answer, the earliest promise first."""
        found = self.ledger.open_appeals()
        return sorted(found, key=lambda each: (each.appeal and each.appeal.due_ns or 0, each.number))

    def audit(
        self, before: int | None = None, number: int | None = None, action: str = "", by: str = ""
    ) -> Iterator[LedgerEvent]:
        """Events, newest first: those before a sequence number, of one registration, one action, one account or office."""
        for event in self.ledger.events(number, action, before=before, is_newest_first=True):
            if by in ("", event.by, event.actor):
                yield event

    def chain(self) -> Chain:
        """Where the ledger stands; the whole chain is computed again while that takes no longer than a page may."""
        head = self.ledger.head()
        if self._checked is None or self._checked.head != head:
            is_short = head.events <= MOST_CHECKED
            self._checked = Chain(head, self.ledger.check_chain() if is_short else None)
        return self._checked

    def providers(self) -> list[str]:
        """The providers that can answer here, by name, each once; none: only the office's token answers, for all."""
        names = {provider_key(each): each for each in (*self._providers, *self.accounts.providers())}
        return sorted(names.values(), key=str.casefold)

    def now_ns(self) -> int:
        return self._clock()

    def similar(self, form: Mapping[str, Any]) -> list[int]:
        """Registrations that are not over and ask for the same thing for the same registrant. Raises BadApplication."""
        return self.ledger.similar(self._checked_form(form))

    # Acts

    def apply(self, form: Mapping[str, Any], by: Principal = NOBODY) -> tuple[Registration, str]:
        """The new registration, and the token its applicant must keep ("" for an account, which needs none)."""
        token = "" if by.name else secrets.token_urlsafe(24)
        held = by.owner if by.name else token_sha256(token)
        checked = self._checked_form(form)
        return self._done(self.ledger.apply(checked, token_sha256=held, by=by.name)), token

    def apply_all(self, file: str, text: str, by: Principal, is_trial: bool = False) -> BulkReport:
        """Every row of a CSV or JSON Lines file, or none; the registrations are the account's. Raises BadFile."""
        rows = read_forms(file, text)
        if len(rows) > MOST_ROWS:
            raise BadFile(
                [f"{file}: {len(rows)} rows; write at most {MOST_ROWS}, and the rest in another file"]
            )
        actor = "officer" if by.role == "officer" else "applicant"
        report = apply_all(self.ledger, rows, file, actor, by.owner, by.name, is_trial)
        if report.is_applied:
            self.feed.wake()
        return report

    def correct(self, number: int, changes: Mapping[str, Any], by: Principal) -> Registration:
        """Other values for some fields of a form that is not decided yet. Raises BadApplication, IllegalTransition."""
        before = self.own(number, by).application.to_json()
        form = self._checked_form(before | dict(changes))
        return self._done(self.ledger.correct(number, form, by=by.name))

    def verify(
        self,
        number: int,
        is_verified: bool,
        reason: str,
        by: Principal,
        why: str = "",
        version: int | None = None,
    ) -> Registration:
        """version, here and below: of the registration that was looked at (None: whichever). Raises Changed when it is another now."""
        self._check_version(self.of_provider(number, by), version)
        return self._done(self.ledger.verify(number, is_verified, "isp", reason, why=why, by=by.name))

    def decide(
        self, number: int, action: str, reason: str, by: Principal, version: int | None = None
    ) -> Registration:
        self._check_version(self.ledger.registration(number), version)
        return self._done(self.ledger.decide(number, action, "officer", reason, by=by.name))

    def answer_appeal(self, number: int, is_granted: bool, answer: str, by: Principal) -> Registration:
        return self._done(self.ledger.answer_appeal(number, is_granted, answer, by=by.name))

    def change_address(self, number: int, prefixes: Any, by: Principal) -> Registration:
        self.own(number, by)
        checked = checked_prefixes(prefixes, self.ledger.rules.accepts_private_addresses)
        return self._done(self.ledger.change_address(number, checked, by=by.name))

    def ask_renewal(self, number: int, by: Principal) -> Registration:
        self.own(number, by)
        return self._done(self.ledger.ask_renewal(number, by=by.name))

    def withdraw(self, number: int, reason: str, by: Principal) -> Registration:
        self.own(number, by)
        return self._done(self.ledger.withdraw(number, reason, by=by.name))

    def appeal(self, number: int, about: str, text: str, by: Principal) -> Registration:
        self.own(number, by)
        return self._done(self.ledger.appeal(number, about, text, by=by.name))

    def close(self) -> None:
        """Lets everybody go who waits for a delta."""
        self.feed.close()

    def _check_version(self, registration: Registration, version: int | None) -> None:
        if version not in (None, registration.version):
            raise Changed(
                f"registration {registration.number} was corrected or its address changed since version {version}: "
                f"look at it again; it is version {registration.version} now"
            )

    def _held(self, number: int) -> Registration | None:
        try:
            return self.ledger.registration(number)
        except UnknownRegistration:
            return None

    def _sees(self, registration: Registration, by: Principal) -> bool:
        if by.role == "isp":
            return not by.provider or provider_key(registration.application.provider) == provider_key(
                by.provider
            )
        return by.role in ("officer", "auditor") or self._owns(registration, by)

    def _owns(self, registration: Registration, by: Principal) -> bool:
        if by.role != "applicant":
            return False
        held, given = registration.token_sha256, by.owner
        return bool(held and given and hmac.compare_digest(held, given)) or (
            bool(by.name) and registration.number in self.accounts.claims(by.name)
        )

    def _checked_form(self, form: Mapping[str, Any]) -> Application:
        rules = self.ledger.rules
        return application(form, rules.requires_documents, rules.accepts_private_addresses)

    def _done(self, registration: Registration) -> Registration:
        self.feed.wake()
        return registration


def token_sha256(token: str) -> str:
    """What the ledger keeps of an applicant's token."""
    return hashlib.sha256(token.encode()).hexdigest()


def owner(account: str) -> str:
    """What the ledger keeps of an account that applies, in the place of a token's hash; no token has this for a hash."""
    return f"account:{account}"
