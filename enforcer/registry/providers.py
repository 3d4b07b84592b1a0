"""Simulated providers, for labs: the second approver that is slow, wrong or silent. Seeded, so a rerun gives the same answers.

The real ones answer at the portal. A registry whose configuration has `providers:` answers for those by itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from enforcer.registry.form import Application
from enforcer.registry.ledger import Ledger
from enforcer.registry.standing import provider_key
from enforcer.registry.states import Registration
from enforcer.registry.worktime import ALWAYS, WorkCalendar, add_working


@dataclass(frozen=True, slots=True)
class Provider:
    """How an ISP's desk answers.

    An answer takes delay_ns of its working time and an exponentially distributed part of mean spread_ns. wrong_ratio of the
    answers are the opposite of what the records say; silent_ratio of the questions get none. lines: the records, prefixes by
    subscriber number; None: whatever the form says is right.
    """

    name: str
    delay_ns: int = 0
    spread_ns: int = 0
    wrong_ratio: float = 0.0
    silent_ratio: float = 0.0
    calendar: WorkCalendar = ALWAYS
    lines: Mapping[str, tuple[str, ...]] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """at_ns: when it comes (Unix ns). why: one of states.REFUSALS for a "no"."""

    at_ns: int
    is_verified: bool
    why: str = ""


def answer(provider: Provider, registration: Registration, seed: int) -> Answer | None:
    """What the provider says to what it was asked last about the registration; None: nothing, ever."""
    asked_ns = registration.asked_ns or 0
    chance = random.Random(f"{seed}/{provider.name}/{registration.number}/{asked_ns}")
    is_silent, is_wrong = chance.random() < provider.silent_ratio, chance.random() < provider.wrong_ratio
    delay_ns = provider.delay_ns + round(chance.expovariate(1) * provider.spread_ns)
    if is_silent:
        return None
    why = _records_say(provider, registration.application, registration.new_prefixes)
    if is_wrong:
        why = "" if why else chance.choice(("wrong-subscriber", "wrong-address", "unknown"))
    return Answer(add_working(provider.calendar, asked_ns, delay_ns), not why, why)


class SimulatedProviders:
    """Answers at a ledger for some providers. `answer_due` is to be called as time passes."""

    def __init__(self, ledger: Ledger, providers: tuple[Provider, ...], seed: int = 0) -> None:
        self._ledger, self._seed = ledger, seed
        self._providers = {provider_key(each.name): each for each in providers}
        self._answers: dict[tuple[int, int | None], Answer | None] = {}
        self.next_ns: int | None = None  # when the next answer comes, as far as `answer_due` knew

    def answer_due(self, now_ns: int) -> list[Registration]:
        """Gives every answer whose time has come, dated so; returns what they were about."""
        answered, self.next_ns = [], None
        for registration in self._ledger.waiting_for_provider() if self._providers else []:
            provider = self._providers.get(provider_key(registration.application.provider))
            if provider is None:
                continue
            asked = (registration.number, registration.asked_ns)
            if asked not in self._answers:
                self._answers[asked] = answer(provider, registration, self._seed)
            given = self._answers[asked]
            if given is not None and given.at_ns <= now_ns:
                reason = "" if given.is_verified else f"simulated: {given.why}"
                answered.append(
                    self._ledger.verify(
                        registration.number,
                        given.is_verified,
                        "isp",
                        reason,
                        now_ns,
                        given.why,
                        provider.name,
                    )
                )
            elif given is not None:
                self.next_ns = given.at_ns if self.next_ns is None else min(self.next_ns, given.at_ns)
        return answered


def _records_say(provider: Provider, form: Application, new_prefixes: tuple[str, ...]) -> str:
    if provider.lines is None:
        return ""
    known = provider.lines.get(form.subscriber_id)
    if known is None:
        return "unknown"
    return "" if set(new_prefixes or form.subscriber_prefixes) <= set(known) else "wrong-address"
