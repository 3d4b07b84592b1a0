"""What follows from a registration as it stands: what the clock will do to it, and how it is found again. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from enforcer.registry.form import Application
from enforcer.registry.states import Registration

About = Literal["expiry", "renewal", "verification", "decision", "appeal"]
Act = Literal["expire", "remind", "refuse", "approve"]


@dataclass(frozen=True, slots=True)
class Due:
    """What the clock does at a moment (Unix ns) when nobody acts before. refuse and approve: the provider's answer, by its silence."""

    at_ns: int
    about: About
    act: Act


def due(registration: Registration) -> tuple[Due, ...]:
    """Everything the clock will do, soonest first."""
    found: list[Due] = []
    if registration.state in ("active", "suspended") and registration.leaves_ns is not None:
        found.append(Due(registration.leaves_ns, "expiry", "expire"))
        # Whoever has asked for the renewal needs no reminder of it.
        if registration.renewal_asked_ns is None:
            found += [Due(at_ns, "renewal", "remind") for at_ns in registration.reminders_ns]
    found += [
        Due(each.at_ns, each.about, _ON_SILENCE[registration.on_silence])
        if each.about == "verification"
        else each
        for each in promised(registration)
        if each.about not in registration.reminded
        and (each.about != "verification" or registration.on_silence in _ON_SILENCE)
    ]
    return tuple(sorted(found, key=lambda each: each.at_ns))


def promised(registration: Registration) -> tuple[Due, ...]:
    """Until when somebody's answer is promised: the provider's, the officer's, on an appeal. Also when it is past."""
    found: list[Due] = []
    if registration.waits_for_provider and registration.verification_due_ns is not None:
        found.append(Due(registration.verification_due_ns, "verification", "remind"))
    if registration.state == "pending" and registration.decision_due_ns is not None:
        found.append(Due(registration.decision_due_ns, "decision", "remind"))
    appeal = registration.appeal
    if appeal is not None and appeal.is_open and appeal.due_ns is not None:
        found.append(Due(appeal.due_ns, "appeal", "remind"))
    return tuple(found)


def form_key(form: Application) -> bytes:
    """The same for two forms that ask for the same thing for the same registrant: how duplicates are found. 8 bytes."""
    asked = (
        " ".join(form.registrant.casefold().split()),
        " ".join(sorted(form.subscriber_prefixes)),
        " ".join(sorted(form.endpoint_prefixes)),
        " ".join(map(str, sorted(form.endpoint_ports))),
        " ".join(sorted(form.protocols)),
    )
    return hashlib.sha256("\n".join(asked).encode()).digest()[:8]


def provider_key(name: str) -> str:
    """A provider's name without what people write differently: neither case nor spaces count."""
    return "".join(name.casefold().split())


def row(
    registration: Registration, sequence: int
) -> tuple[int, int, str, str, str, int, int, int | None, bytes]:
    """Its row of the table `standing`, after the event of that sequence."""
    clock = due(registration)
    return (
        registration.number,
        sequence,
        registration.state,
        registration.token_sha256,
        provider_key(registration.application.provider),
        int(registration.waits_for_provider),
        int(registration.appeal is not None and registration.appeal.is_open),
        clock[0].at_ns if clock else None,
        form_key(registration.application),
    )


_ON_SILENCE: dict[str, Act] = {"remind": "remind", "refuse": "refuse", "approve": "approve"}
