"""The desks of a scenario: when a provider answers and an officer decides by themselves, and what the registry's rules promise.

Everything is drawn when the plan is made, so a run's desks act at planned moments like everybody else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from enforcer.registry.rules_file import promise_ns
from enforcer.registry.worktime import ALWAYS, WorkCalendar, add_working
from enforcer.units import NS_PER_S, render_duration
from testbed.plan.people import Resolving
from testbed.plan.registry_file import OfficerFile, OpenFile, ProviderFile, RulesFile

Spans = tuple[tuple[int, int | None], ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """Working time. calendar: the rules'; start_ns: what the clock (Unix) says at the scenario's time 0."""

    calendar: WorkCalendar = ALWAYS
    start_ns: int = 0

    def after(self, at_ns: int, working_ns: int) -> int:
        return add_working(self.calendar, self.start_ns + at_ns, working_ns) - self.start_ns


@dataclass(frozen=True, slots=True)
class Desk:
    """Where questions are answered. spans: when it works, in the scenario's time; None: by the clock."""

    clock: Clock
    spans: Spans | None

    def done(self, at_ns: int, working_ns: int) -> int | None:
        """When what comes at a moment and takes so much working time is done; None when it never is."""
        if self.spans is None:
            return self.clock.after(at_ns, working_ns)
        left_ns = working_ns
        for opens_ns, closes_ns in self.spans:
            start_ns = max(at_ns, opens_ns)
            if closes_ns is None or start_ns + left_ns <= closes_ns:
                return start_ns + left_ns
            left_ns -= max(0, closes_ns - start_ns)
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's: at_ns from the scenario's start; is_opposite of what is so."""

    at_ns: int
    is_opposite: bool


@dataclass(slots=True)
class Desks:
    """What of a scenario acts by itself. asked: the ISPs that were asked while the events were played."""

    rules: RulesFile
    clock: Clock
    seed: int
    officer: tuple[OfficerFile, Desk] | None = None
    providers: dict[str, tuple[ProviderFile, Desk]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def answer(self, isp: str, registration: str, question: int, at_ns: int) -> Answer | None:
        """What the ISP's desk says to the registration's n-th question, asked at a moment; None: nothing, or nobody sits there."""
        self.asked.add(isp)
        if isp not in self.providers:
            return None
        file, desk = self.providers[isp]
        chance = random.Random(f"{self.seed}/provider/{registration}/{question}")
        is_silent, is_wrong = chance.random() < file.silent, chance.random() < file.wrong
        takes_ns = file.answers_after + round(chance.expovariate(1) * file.spread)
        done_ns = None if is_silent else desk.done(at_ns, takes_ns)
        return None if done_ns is None else Answer(done_ns, is_wrong)

    def decision_ns(self, at_ns: int) -> int | None:
        """When the officer decides what comes to them at a moment; None: not by themselves."""
        return self.officer[1].done(at_ns, self.officer[0].decides_after) if self.officer else None

    def promised_ns(self, promise: str | None, at_ns: int) -> int | None:
        """Until when something is promised at a moment."""
        working_ns = promise_ns(promise, self.clock.calendar)
        return None if working_ns is None else self.clock.after(at_ns, working_ns)

    def settings(self) -> dict[str, Any]:
        """The part of the registry's configuration (docs/registry.md) that the scenario says; {} when it says nothing."""
        rules = {
            key: self._setting(key) for key in RulesFile.model_fields if key in self.rules.model_fields_set
        }
        return {"rules": rules} if rules else {}

    def _setting(self, key: str) -> Any:
        value = getattr(self.rules, key)
        if key in ("validity", "grace", "renewal_window"):
            return _seconds(value)
        if key == "reminders":
            return [_seconds(each) for each in value]
        return value.model_dump(mode="json") if key == "calendar" else value


def resolve_desks(resolving: Resolving) -> Desks:
    """The scenario's desks. Notes every problem."""
    scenario = resolving.scenario
    rules = scenario.rules or RulesFile()
    if scenario.rules:
        _check_rules(resolving, rules)
    desks = Desks(rules, _clock(resolving, rules), resolving.seed)
    for key in ("rules", "providers", "officer"):
        if getattr(scenario, key) and resolving.network.authority is None:
            resolving.add(
                (key,),
                "the topology has no authority",
                "add 'authority: {name: registry, at: ISP}' to it",
                True,
            )
    if scenario.officer:
        desks.officer = scenario.officer, Desk(desks.clock, _spans(resolving, scenario.officer.works))
    isps = [node.name for node in resolving.network.nodes if node.kind == "isp"]
    for file in scenario.providers:
        spans = _spans(resolving, file.works)
        for isp in resolving.names((*file.place, "isp"), file.isp, isps, "an ISP"):
            if isp in desks.providers:
                resolving.add((*file.place, "isp"), f"{isp} has two desks", "keep one of them")
            desks.providers[isp] = file, Desk(desks.clock, spans)
    return desks


def check_asked(resolving: Resolving, desks: Desks) -> None:
    """Notes each desk that nobody asks: it would show nothing. To be called when the events have been played."""
    if not resolving.is_sound("registrations", "timeline", "providers"):
        return
    for file in resolving.scenario.providers:
        if desks.asked.isdisjoint(file.isp):
            names = " or ".join(file.isp)
            fix = f"add 'apply: SUBSCRIBER/SERVER' of a subscriber of {names} to the timeline, or remove this"
            resolving.add((*file.place, "isp"), "it is never asked anything", fix)


def _check_rules(resolving: Resolving, rules: RulesFile) -> None:
    def add(key: str, what: str, fix: str) -> None:
        resolving.add(("rules", key), what, fix, True)

    if rules.validity is None and rules.is_whole:
        for key in ("grace", "renewal-window", "reminders"):
            if getattr(rules, key.replace("-", "_")):
                add(key, "it is about the end of an approval, and approvals have none", "add 'validity: 20s'")
    if rules.on_silence != "wait" and rules.verification_within is None and rules.is_whole:
        add("on-silence", "there is no time after which silence counts", "add 'verification-within: 8s'")
    if rules.calendar is not None and resolving.scenario.clock != "virtual":
        what = "the clock is real, so what it does would depend on the day of the run"
        add("calendar", what, "write 'clock: virtual', or 'works' at the desks instead")


def _clock(resolving: Resolving, rules: RulesFile) -> Clock:
    try:
        start = datetime.fromisoformat(resolving.scenario.starts_at)
    except ValueError:  # which is noted elsewhere
        return Clock()
    calendar = rules.calendar.calendar() if rules.calendar else ALWAYS
    return Clock(calendar, round(start.timestamp()) * NS_PER_S)


def _spans(resolving: Resolving, files: list[OpenFile] | None) -> Spans | None:
    if files is None:
        return None
    before_ns: int | None = 0
    for file in files:
        if before_ns is None or file.from_ < before_ns:
            told = "the end" if before_ns is None else f"'{render_duration(before_ns)}'"
            resolving.add(
                (*file.place, "from"),
                f"the time before lasts until {told}",
                "put them in order, apart from each other",
            )
        if file.until is not None and file.until <= file.from_:
            resolving.add(
                (*file.place, "until"),
                "it is not after 'from'",
                f"write more than '{render_duration(file.from_)}'",
            )
        before_ns = file.until
    return tuple((file.from_, file.until) for file in files)


def _seconds(ns: int | None) -> str | None:
    return None if ns is None else f"{ns // NS_PER_S}s"
