"""What a registration is and how it may change: pure. The ledger keeps the events; this says what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, Literal

from enforcer.allowlist import Entry
from enforcer.protocols import VPN_PROTOCOLS

State = Literal["pending", "active", "suspended", "expired", "revoked", "rejected"]
AddressChange = Literal["remove", "keep"]

# action -> state before -> state after. None: there was no registration. What is not here is illegal.
# Rejected and revoked are ends: whoever wants in again applies again. `renew` also lifts a suspension.
TRANSITIONS: Mapping[str, Mapping[State | None, State]] = {
    "apply": {None: "pending"},
    "verify": {"pending": "pending", "active": "active", "suspended": "suspended"},
    "approve": {"pending": "active"},
    "reject": {"pending": "rejected"},
    "suspend": {"active": "suspended"},
    "revoke": {"active": "revoked", "suspended": "revoked"},
    "expire": {"active": "expired", "suspended": "expired"},
    "renew": {"active": "active", "suspended": "active", "expired": "active"},
    # "active" here is the rule "keep"; under "remove" an active registration goes back to pending (see `after`).
    "change-address": {"pending": "pending", "active": "active", "suspended": "suspended"},
}


class IllegalTransition(ValueError):
    """The action is not possible in the registration's state; the message says which are."""


class NotVerified(IllegalTransition):
    """The ISP has not confirmed the form, and the registry's rules require it before approval."""


class BadApplication(ValueError):
    """The form is wrong; `problems` names each field, what is wrong with it and what to write."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Rules:
    """What the authority's regulations leave open.

    requires_verification: the ISP confirms subscriber and address before an officer may approve (the portal's FAQ: facts §1.2).
    on_address_change: "remove" (default, for any change of IP assignment was a ground for de-listing in the 2019/20
    regulations): an active registration goes back to pending and needs the ISP and the officer again; "keep": the old
    address stays allowed until the ISP has verified the new one.
    validity_ns: how long an approval or renewal holds; None has no end.
    """

    requires_verification: bool = True
    on_address_change: AddressChange = "remove"
    validity_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Application:
    """The form. Prefixes are CIDR without host bits; no ports means any port, no protocols any VPN protocol."""

    registrant: str
    subscriber_prefixes: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    category: str = "company"
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """One line of the ledger: what was done, by whom ("applicant", "isp", "officer", "system"), when (Unix ns) and why."""

    sequence: int
    at_ns: int
    registration: int
    action: str
    actor: str
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registration:
    """One application as it stands. is_verified: None until the ISP has answered. new_prefixes wait for it under "keep"."""

    number: int
    application: Application
    state: State
    is_verified: bool | None = None
    valid_from_ns: int | None = None
    valid_until_ns: int | None = None
    new_prefixes: tuple[str, ...] = ()
    token_sha256: str = ""

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
            self.valid_until_ns,
        )


def after(before: Registration | None, event: LedgerEvent) -> Registration:
    """The registration once the event has happened. Depends on nothing but its arguments, so replay is exact.

    Raises IllegalTransition when TRANSITIONS does not have it, NotVerified for an approval the ISP has not confirmed.
    """
    state = _next_state(before, event)
    if before is None:
        form = application(event.data["form"])
        return Registration(event.registration, form, state, token_sha256=event.data.get("token_sha256", ""))
    return _HANDLERS.get(event.action, _only_state)(replace(before, state=state), before, event)


def application(form: Mapping[str, Any]) -> Application:
    """The checked form. Raises BadApplication with every problem at once."""
    problems: list[str] = []
    known = set(Application.__dataclass_fields__)
    problems += [
        f"{key}: unknown; write one of {', '.join(sorted(known))}" for key in form if key not in known
    ]
    registrant = form.get("registrant")
    if not isinstance(registrant, str) or not 1 <= len(registrant.strip()) <= 200:
        problems.append("registrant: write the name of the person or company (1 to 200 characters)")
    subscriber = _prefixes("subscriber_prefixes", form.get("subscriber_prefixes"), problems)
    endpoint = _prefixes("endpoint_prefixes", form.get("endpoint_prefixes"), problems)
    ports = _sequence("endpoint_ports", form.get("endpoint_ports", ()), problems)
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            problems.append(f"endpoint_ports: {port!r} is not a port; write a number from 1 to 65535")
    protocols = _sequence("protocols", form.get("protocols", ()), problems)
    for protocol in protocols:
        if protocol not in VPN_PROTOCOLS:
            problems.append(f"protocols: {protocol!r} is unknown; write one of {', '.join(VPN_PROTOCOLS)}")
    texts = {key: form.get(key, default) for key, default in (("category", "company"), ("purpose", ""))}
    problems += [
        f"{key}: write text of at most 2000 characters"
        for key, value in texts.items()
        if not isinstance(value, str) or len(value) > 2000
    ]
    if problems:
        raise BadApplication(problems)
    assert isinstance(registrant, str)
    return Application(registrant.strip(), subscriber, endpoint, tuple(ports), tuple(protocols), **texts)


def checked_prefixes(value: Any) -> tuple[str, ...]:
    """subscriber_prefixes of a change of address, checked. Raises BadApplication."""
    problems: list[str] = []
    prefixes = _prefixes("subscriber_prefixes", value, problems)
    if problems:
        raise BadApplication(problems)
    return prefixes


def _next_state(before: Registration | None, event: LedgerEvent) -> State:
    was = before.state if before else None
    targets = TRANSITIONS.get(event.action)
    if targets is None:
        raise IllegalTransition(f"unknown action {event.action!r}; write one of {', '.join(TRANSITIONS)}")
    if was not in targets:
        possible = sorted(str(state) for state in targets if state) or ["not there yet"]
        raise IllegalTransition(
            f"registration {event.registration} is {was or 'not there'}: cannot {event.action} it; "
            f"that needs it to be {' or '.join(possible)}"
        )
    needs_isp = event.action in ("approve", "renew") and event.data.get("requires_verification")
    if before and needs_isp and before.is_verified is not True:
        told = "has not answered yet" if before.is_verified is None else "refused"
        raise NotVerified(
            f"registration {event.registration}: the ISP {told}; it must verify before an officer may {event.action}"
        )
    return targets[was]


def _only_state(now: Registration, _before: Registration, _event: LedgerEvent) -> Registration:
    return now


def _verify(now: Registration, before: Registration, event: LedgerEvent) -> Registration:
    is_verified = bool(event.data["verified"])
    if not before.new_prefixes:
        return replace(now, is_verified=is_verified)
    form = before.application
    if is_verified:
        form = replace(form, subscriber_prefixes=before.new_prefixes)
    # A refused new address changes nothing about the old one, which the ISP had verified.
    return replace(now, application=form, new_prefixes=(), is_verified=True)


def _start_validity(now: Registration, before: Registration, event: LedgerEvent) -> Registration:
    validity_ns = event.data.get("validity_ns")
    start = before.valid_from_ns if before.valid_from_ns is not None else event.at_ns
    return replace(
        now, valid_from_ns=start, valid_until_ns=event.at_ns + validity_ns if validity_ns else None
    )


def _change_address(now: Registration, before: Registration, event: LedgerEvent) -> Registration:
    prefixes = tuple(event.data["subscriber_prefixes"])
    if before.state == "active" and event.data["rule"] == "keep":
        return replace(now, new_prefixes=prefixes)
    state: State = "pending" if before.state == "active" else before.state
    form = replace(before.application, subscriber_prefixes=prefixes)
    return replace(now, state=state, application=form, is_verified=None, new_prefixes=(), valid_from_ns=None)


_HANDLERS = {
    "verify": _verify,
    "approve": _start_validity,
    "renew": _start_validity,
    "change-address": _change_address,
}


def _sequence(name: str, value: Any, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        problems.append(f"{name}: write a list")
        return ()
    return tuple(value)


def _prefixes(name: str, value: Any, problems: list[str]) -> tuple[str, ...]:
    values = _sequence(name, value, problems)
    if isinstance(value, (list, tuple)) and not 1 <= len(values) <= 1024:
        problems.append(f"{name}: write 1 to 1024 prefixes, such as 203.0.113.7/32")
    good: list[str] = []
    for item in values:
        try:
            good.append(str(ip_network(item if isinstance(item, str) else repr(item))))
        except ValueError as error:
            problems.append(f"{name}: {error}; write a prefix such as 203.0.113.7/32 or 2001:db8::/48")
    return tuple(good)
