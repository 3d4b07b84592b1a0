"""What a registration is and how it may change: pure. The ledger keeps the events; this says what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from enforcer.allowlist import Entry
from enforcer.registry.form import Application, BadApplication, Document, application, checked_prefixes
from enforcer.registry.rules import AddressChange, Rules

__all__ = [
    "TRANSITIONS",
    "AddressChange",
    "Appeal",
    "Application",
    "BadApplication",
    "Document",
    "IllegalTransition",
    "LedgerEvent",
    "NotVerified",
    "Registration",
    "Rules",
    "State",
    "after",
    "application",
    "checked_prefixes",
    "next_state",
]

State = Literal["pending", "active", "suspended", "expired", "revoked", "rejected", "withdrawn"]

_LIVING = ("pending", "active", "suspended", "expired")
_APPEALED = ("pending", "active", "suspended", "expired", "revoked", "rejected")


def _same(*states: State) -> Mapping[State | None, State]:
    return {state: state for state in states}


# action -> state before -> state after. None: there was no registration. What is not here is illegal.
# Rejected, revoked and withdrawn are ends: whoever wants in again applies again. `renew` also lifts a suspension.
TRANSITIONS: Mapping[str, Mapping[State | None, State]] = {
    "apply": {None: "pending"},
    "correct": {"pending": "pending"},
    "verify": _same("pending", "active", "suspended"),
    "approve": {"pending": "active"},
    "reject": {"pending": "rejected"},
    "suspend": {"active": "suspended"},
    "revoke": {"active": "revoked", "suspended": "revoked"},
    "expire": {"active": "expired", "suspended": "expired"},
    "renew": {"active": "active", "suspended": "active", "expired": "active"},
    # "active" here is the rule "keep"; under "remove" an active registration goes back to pending (see `next_state`).
    "change-address": _same("pending", "active", "suspended"),
    "ask-renewal": _same("active", "suspended", "expired"),
    "withdraw": dict.fromkeys(_LIVING, "withdrawn"),
    "appeal": _same(*_APPEALED),
    # A granted appeal of a rejection goes back to pending (see `next_state`).
    "answer-appeal": _same(*_APPEALED),
    "remind": _same(*_APPEALED),
}
REFUSALS = ("wrong-subscriber", "wrong-address", "unknown")  # a provider's reasons for "no"
ABOUT = ("rejection", "false-block")
# What a provider compares with its records: when one of these is corrected, it is asked again.
PROVIDER_CHECKS = ("registrant", "provider", "subscriber_id", "subscriber_prefixes")
# What helps instead, where the table alone would leave people at a loss.
_INSTEAD = {
    "correct": "only what is not decided yet can be corrected: change the address, or withdraw it and apply again"
}


class IllegalTransition(ValueError):
    """The action is not possible in the registration's state; the message says which are."""


class NotVerified(IllegalTransition):
    """The ISP has not confirmed the form, and the registry's rules require it before approval."""


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """One line of the ledger: what was done, by whom ("applicant", "isp", "officer", "system"), when (Unix ns) and why.

    hash: of the line before and this one (enforcer/registry/chain.py); "" until it is in a ledger.
    """

    sequence: int
    at_ns: int
    registration: int
    action: str
    actor: str
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    hash: str = ""

    @property
    def by(self) -> str:
        """The account that acted; "" when only the office is known."""
        return self.data.get("by", "")


@dataclass(frozen=True, slots=True)
class Appeal:
    """Against a rejection, or against being blocked though registered. is_granted: None while there is no answer.

    due_ns: until when the rules promise one.
    """

    about: str
    text: str
    at_ns: int
    due_ns: int | None = None
    is_granted: bool | None = None
    answer: str = ""

    @property
    def is_open(self) -> bool:
        return self.is_granted is None


@dataclass(frozen=True, slots=True)
class Registration:
    """One application as it stands; times are Unix ns.

    is_verified: None until the ISP has answered. new_prefixes wait for it under "keep". refusal: the ISP's word for "no".
    token_sha256: who may act as its applicant. valid_until_ns: the end of the approval; grace_ns later it leaves the allowlist.
    reminders_ns: moments still to come. verification_due_ns, decision_due_ns: until when the ISP's and the officer's answers are
    promised. reminded: which of them were reminded of. was_active: it was approved once, so a block may be false.
    asked_ns: when the ISP was asked last. version: the sequence of the event that last changed what is
    asked for, so that whoever answers can say what it looked at.
    """

    number: int
    application: Application
    state: State
    is_verified: bool | None = None
    valid_from_ns: int | None = None
    valid_until_ns: int | None = None
    new_prefixes: tuple[str, ...] = ()
    token_sha256: str = ""
    refusal: str = ""
    grace_ns: int = 0
    reminders_ns: tuple[int, ...] = ()
    verification_due_ns: int | None = None
    on_silence: str = "wait"
    decision_due_ns: int | None = None
    renewal_asked_ns: int | None = None
    appeal: Appeal | None = None
    reminded: tuple[str, ...] = ()
    was_active: bool = False
    asked_ns: int | None = None
    version: int = 0

    @property
    def waits_for_provider(self) -> bool:
        """Its ISP has not answered: about the application, or about a new address."""
        if self.state == "pending":
            return self.is_verified is None
        return bool(self.new_prefixes) and self.state in ("active", "suspended")

    @property
    def leaves_ns(self) -> int | None:
        """When it leaves the allowlist by itself: the end of validity and of the grace after it."""
        return None if self.valid_until_ns is None else self.valid_until_ns + self.grace_ns

    def entry(self) -> Entry | None:
        """What the allowlist holds for it; None unless it is active."""
        if self.state != "active":
            return None
        form = self.application
        return Entry(
            self.number,
            form.registrant,
            form.subscriber_prefixes,
            form.endpoint_prefixes,
            form.endpoint_ports,
            form.protocols,
            self.valid_from_ns or 0,
            self.leaves_ns,
            form.category,
        )


def after(before: Registration | None, event: LedgerEvent) -> Registration:
    """The registration once the event has happened. Depends on nothing but its arguments, so replay is exact.

    Raises IllegalTransition when TRANSITIONS does not have it or one of the action's own conditions is not met, NotVerified for
    an approval the ISP has not confirmed.
    """
    state = _checked_state(before, event)
    if before is None:
        return Registration(
            event.registration,
            Application.from_json(event.data["form"]),
            state,
            token_sha256=event.data.get("token_sha256", ""),
            asked_ns=event.at_ns,
            version=event.sequence,
            **_promises(event),
        )
    handler = _HANDLERS.get(event.action)
    return handler(before, event, state) if handler else replace(before, state=state)


def next_state(was: State | None, action: str, data: Mapping[str, Any]) -> State:
    """The state a possible action leads to: all that is needed to follow states alone."""
    if action == "change-address" and was == "active" and data["rule"] == "remove":
        return "pending"
    if action == "answer-appeal" and was == "rejected" and data["granted"]:
        return "pending"
    return TRANSITIONS[action][was]


def differing(one: Application, other: Application) -> set[str]:
    """The fields in which two forms differ."""
    return {name for name in Application.__dataclass_fields__ if getattr(one, name) != getattr(other, name)}


def _checked_state(before: Registration | None, event: LedgerEvent) -> State:
    was = before.state if before else None
    targets = TRANSITIONS.get(event.action)
    if targets is None:
        raise IllegalTransition(f"unknown action {event.action!r}; write one of {', '.join(TRANSITIONS)}")
    if was not in targets:
        possible = sorted(str(state) for state in targets if state) or ["not there yet"]
        raise IllegalTransition(
            f"registration {event.registration} is {was or 'not there'}: cannot {event.action} it; "
            f"that needs it to be {' or '.join(possible)}{f'; {instead}' if (instead := _INSTEAD.get(event.action)) else ''}"
        )
    if before is not None:
        _check_isp(before, event)
        _check_window(before, event)
    return next_state(was, event.action, event.data)


def _check_isp(before: Registration, event: LedgerEvent) -> None:
    needs_isp = event.action in ("approve", "renew") and event.data.get("requires_verification")
    if needs_isp and before.is_verified is not True:
        told = "has not answered yet" if before.is_verified is None else "refused"
        raise NotVerified(
            f"registration {event.registration}: the ISP {told}; it must verify before an officer may {event.action}"
        )


def _check_window(before: Registration, event: LedgerEvent) -> None:
    window_ns, until_ns = event.data.get("window_ns"), before.valid_until_ns
    if window_ns is None or until_ns is None or before.state == "expired":
        return
    if event.at_ns < until_ns - window_ns:
        opens = datetime.fromtimestamp((until_ns - window_ns) // 10**9, UTC)
        raise IllegalTransition(
            f"registration {event.registration}: cannot {event.action} it yet; renewal opens at {opens:%Y-%m-%dT%H:%M:%SZ}"
        )


def _promises(event: LedgerEvent) -> dict[str, Any]:
    """The clocks that an event starts; those it does not name stop."""
    data = event.data
    return {
        "verification_due_ns": data.get("verification_due_ns"),
        "on_silence": data.get("on_silence", "wait"),
        "decision_due_ns": data.get("decision_due_ns"),
        "reminded": (),
    }


def _verify(before: Registration, event: LedgerEvent, state: State) -> Registration:
    is_verified = bool(event.data["verified"])
    rest = {**_promises(event), "refusal": "" if is_verified else event.data.get("why", "")}
    if not before.new_prefixes:
        return replace(before, state=state, is_verified=is_verified, **rest)
    form = before.application
    if is_verified:
        form = replace(form, subscriber_prefixes=before.new_prefixes)
    # A refused new address changes nothing about the old one, which the ISP had verified.
    version = event.sequence if is_verified else before.version
    return replace(
        before, state=state, application=form, new_prefixes=(), is_verified=True, version=version, **rest
    )


def _correct(before: Registration, event: LedgerEvent, state: State) -> Registration:
    form = Application.from_json(event.data["form"])
    now = replace(before, state=state, application=form, version=event.sequence)
    if differing(before.application, form) & set(PROVIDER_CHECKS):
        promises = _promises(event)
        if event.data["requires_verification"]:
            promises["decision_due_ns"] = None  # begins with the provider's answer
        return replace(now, is_verified=None, refusal="", asked_ns=event.at_ns, **promises)
    if before.decision_due_ns is None:
        return now
    # The officer has another form before it: its time begins again, the provider's does not.
    due_ns = event.data.get("decision_due_ns", before.decision_due_ns)
    return replace(now, decision_due_ns=due_ns, reminded=_less(before, "decision"))


def _start_validity(before: Registration, event: LedgerEvent, state: State) -> Registration:
    validity_ns = event.data.get("validity_ns")
    start = before.valid_from_ns if before.valid_from_ns is not None else event.at_ns
    until = event.at_ns + validity_ns if validity_ns else None
    reminders = [until - each for each in event.data.get("reminders_ns", ())] if until is not None else []
    return replace(
        before,
        state=state,
        valid_from_ns=start,
        valid_until_ns=until,
        grace_ns=event.data.get("grace_ns", 0),
        reminders_ns=tuple(sorted(each for each in reminders if each > event.at_ns)),
        decision_due_ns=None,
        renewal_asked_ns=None,
        was_active=True,
    )


def _change_address(before: Registration, event: LedgerEvent, state: State) -> Registration:
    prefixes = tuple(event.data["subscriber_prefixes"])
    if before.state == "active" and event.data["rule"] == "keep":
        asked = {"asked_ns": event.at_ns, "version": event.sequence, **_promises(event)}
        return replace(before, new_prefixes=prefixes, **asked)
    form = replace(before.application, subscriber_prefixes=prefixes)
    return replace(
        before,
        state=state,
        application=form,
        is_verified=None,
        new_prefixes=(),
        valid_from_ns=None,
        asked_ns=event.at_ns,
        version=event.sequence,
        **_promises(event),
    )


def _ask_renewal(before: Registration, event: LedgerEvent, state: State) -> Registration:
    return replace(before, state=state, renewal_asked_ns=event.at_ns)


def _appeal(before: Registration, event: LedgerEvent, state: State) -> Registration:
    about, number = event.data["about"], event.registration
    if about not in ABOUT:
        raise IllegalTransition(f"appeal about {about!r}: write one of {', '.join(ABOUT)}")
    if (before.state == "rejected") is not (about == "rejection"):
        raise IllegalTransition(f"registration {number} is {before.state}: cannot appeal about a {about}")
    if about == "false-block" and not before.was_active:
        raise IllegalTransition(f"registration {number} was never approved: a block of it is not false")
    if before.appeal is not None and before.appeal.is_open:
        raise IllegalTransition(f"registration {number} has an appeal that is not answered yet")
    if about == "rejection" and before.appeal is not None and before.appeal.is_granted is False:
        raise IllegalTransition(f"registration {number}: its appeal was answered; apply again")
    made = Appeal(about, event.data["text"], event.at_ns, event.data.get("due_ns"))
    return replace(before, state=state, appeal=made, reminded=_less(before, "appeal"))


def _answer_appeal(before: Registration, event: LedgerEvent, state: State) -> Registration:
    appeal = before.appeal
    if appeal is None or not appeal.is_open:
        raise IllegalTransition(f"registration {event.registration} has no appeal that waits for an answer")
    answered = replace(appeal, is_granted=bool(event.data["granted"]), answer=event.reason)
    return replace(before, state=state, appeal=answered, decision_due_ns=event.data.get("decision_due_ns"))


def _remind(before: Registration, event: LedgerEvent, state: State) -> Registration:
    about = event.data["about"]
    if about == "renewal":
        to_come = tuple(each for each in before.reminders_ns if each > event.at_ns)
        return replace(before, state=state, reminders_ns=to_come)
    return replace(before, state=state, reminded=(*_less(before, about), about))


def _less(before: Registration, about: str) -> tuple[str, ...]:
    return tuple(each for each in before.reminded if each != about)


_HANDLERS = {
    "correct": _correct,
    "verify": _verify,
    "approve": _start_validity,
    "renew": _start_validity,
    "change-address": _change_address,
    "ask-renewal": _ask_renewal,
    "appeal": _appeal,
    "answer-appeal": _answer_appeal,
    "remind": _remind,
}
