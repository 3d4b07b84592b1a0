"""A registration as pages show it: what comes next, until when, what can be done, what was done. Pure but for reading the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enforcer.registry.changes import FormChange, form_changes
from enforcer.registry.standing import provider_key
from enforcer.registry.states import TRANSITIONS, Appeal, Application, LedgerEvent, Registration, State
from enforcer.registry.web import reports
from enforcer.registry.web.listcheck import Report

if TYPE_CHECKING:
    from enforcer.registry.desk import Desk

RENEW_BEFORE_NS = 30 * 86400 * 10**9  # a page says "renew in time" from a month before the end


@dataclass(frozen=True, slots=True)
class Line:
    """One event, in the words' keys: what is an action, or one with what became of it ("verify-yes")."""

    sequence: int
    at_ns: int
    number: int
    what: str
    actor: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class View:
    """next_step: a key of texts `next.*`; until_ns: when it is promised by. steps: (name, done|now|later|failed|off).

    is_nobodys: it waits for a provider, and no provider here has the name that was given. version: Registration.version.
    report: what an appeal against a block says for programs; appeal_text: the rest, in people's words.
    """

    number: int
    state: State
    form: Application
    is_verified: bool | None
    new_prefixes: tuple[str, ...]
    valid_until_ns: int | None
    next_step: str
    until_ns: int | None
    steps: tuple[tuple[str, str], ...]
    acts: frozenset[str]
    appeal: Appeal | None
    history: tuple[Line, ...]
    last_reason: str
    refusal: str
    renewal_asked_ns: int | None
    is_nobodys: bool
    version: int
    changes: tuple[FormChange, ...]
    report: Report | None
    appeal_text: str


def view_of(desk: Desk, registration: Registration) -> View:
    """Everything a page shows of it."""
    events = list(desk.ledger.events(registration.number))
    history = tuple(line_of(event) for event in events)
    needs_provider = desk.ledger.rules.requires_verification
    appeal = registration.appeal
    report = reports.read(appeal.text) if appeal and appeal.about == "false-block" else None
    is_nobodys = needs_provider and registration.waits_for_provider and not _is_known(desk, registration)
    return View(
        registration.number,
        registration.state,
        registration.application,
        registration.is_verified,
        registration.new_prefixes,
        registration.valid_until_ns,
        "provider-unknown" if is_nobodys and not (appeal and appeal.is_open) else _next_step(registration, appeal, needs_provider, desk.now_ns()),
        _due_ns(registration),
        _steps(registration, needs_provider),
        _acts(registration, appeal),
        appeal,
        history,
        next((line.reason for line in reversed(history) if line.reason and line.actor in ("officer", "isp")), ""),
        registration.refusal,
        registration.renewal_asked_ns,
        is_nobodys,
        registration.version,
        form_changes(events),
        report,
        (appeal.text if report is None else appeal.text.partition("\n")[2]) if appeal else "",
    )  # fmt: skip


def _is_known(desk: Desk, registration: Registration) -> bool:
    names = desk.providers()
    return not names or provider_key(registration.application.provider) in map(provider_key, names)


def _next_step(registration: Registration, appeal: Appeal | None, needs_provider: bool, now_ns: int) -> str:
    state, until_ns = registration.state, registration.valid_until_ns
    if appeal is not None and appeal.is_open:
        return "appeal" if appeal.about == "rejection" else "block"
    if state == "pending":
        if not needs_provider or registration.is_verified:
            return "officer"
        return "provider" if registration.is_verified is None else "provider-refused"
    if state == "active":
        if registration.new_prefixes:
            return "new-address"
        if registration.renewal_asked_ns is not None:
            return "renewal"
        return "renew" if until_ns is not None and until_ns - now_ns < RENEW_BEFORE_NS else "nothing"
    return state if state in ("suspended", "expired", "rejected") else "ended"


def _due_ns(registration: Registration) -> int | None:
    """Until when the next answer is promised, whoever's it is."""
    if registration.appeal is not None and registration.appeal.is_open:
        return registration.appeal.due_ns
    if registration.waits_for_provider:
        return registration.verification_due_ns
    return registration.decision_due_ns if registration.state == "pending" else None


def _steps(registration: Registration, needs_provider: bool) -> tuple[tuple[str, str], ...]:
    """The way to the list, while it is under way or was refused."""
    state, verified = registration.state, registration.is_verified
    if state not in ("pending", "active", "rejected"):
        return ()
    provider = {None: {"pending": "now", "active": "later"}.get(state, "off"), True: "done", False: "failed"}[
        verified
    ]
    is_officers_turn = state == "pending" and (verified is True or not needs_provider)
    officer = {"active": "done", "rejected": "failed"}.get(state, "now" if is_officers_turn else "later")
    steps = [
        ("apply", "done"),
        ("provider", provider),
        ("officer", officer),
        ("list", {"active": "done", "pending": "later"}.get(state, "off")),
    ]
    return tuple(step for step in steps if needs_provider or step[0] != "provider")


def _acts(registration: Registration, appeal: Appeal | None) -> frozenset[str]:
    """What its registrant can do now: the ledger's own table, less a second appeal while one is open."""
    state = registration.state
    acts = ("correct", "change-address", "ask-renewal", "withdraw")
    found = {each for each in acts if state in TRANSITIONS[each]}
    if state == "pending" and not registration.was_active:
        found.discard("change-address")  # a correction does it, and the rest of the form with it
    if registration.renewal_asked_ns is not None or state == "suspended":
        found.discard("ask-renewal")
    is_open = appeal is not None and appeal.is_open
    if state == "rejected" and (appeal is None or appeal.about != "rejection"):
        found.add("appeal")
    if state != "rejected" and state in TRANSITIONS["appeal"] and registration.was_active and not is_open:
        found.add("blocked")
    return frozenset(found)


def line_of(event: LedgerEvent) -> Line:
    what = event.action
    if what == "verify":
        what = f"verify-{'yes' if event.data['verified'] else 'no'}"
    elif what == "appeal":
        what = f"appeal-{event.data['about']}"
    elif what == "answer-appeal":
        what = f"answer-{'yes' if event.data['granted'] else 'no'}"
    return Line(
        event.sequence,
        event.at_ns,
        event.registration,
        what,
        event.actor,
        event.data.get("by", ""),
        event.reason,
    )
