"""What the ledger officially says over time: the script's events, the desks' answers and the registry's clock, played in order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from enforcer.registry.states import TRANSITIONS, State
from enforcer.units import render_duration
from testbed.plan.desks import Desks
from testbed.plan.people import Resolving
from testbed.plan.plan import Event
from testbed.plan.rest import registrations_in_doubt
from testbed.plan.scenario_file import EventFile
from testbed.plan.script_actions import PORTAL

_ORIGIN = (0, 0)  # line and column of what no event of the timeline led to


@dataclass(slots=True)
class Histories:
    """What the ledger officially says at each time: (from when, state) by registration, in order; None: no application."""

    states: dict[str, list[tuple[int, State | None]]] = field(default_factory=dict)

    def ever(self, name: str, state: str | None, is_state: bool = True) -> bool:
        """Whether the registration is ever in the state (or, with is_state False, ever in another one)."""
        return any((known == state) is is_state for _, known in self.states.get(name, [(0, None)]))

    def moments(self, name: str, state: str) -> list[int]:
        """When it comes into the state."""
        changes = self.states.get(name, [])
        return [at for (at, now), (_, was) in zip(changes[1:], changes, strict=False) if now == state != was]

    def leaves(self, name: str, state: str) -> list[int]:
        """When it goes out of the state."""
        changes = self.states.get(name, [])
        return [at for (at, now), (_, was) in zip(changes[1:], changes, strict=False) if was == state != now]


def play_ledger(
    resolving: Resolving, events: tuple[Event, ...], files: list[EventFile], desks: Desks
) -> tuple[tuple[Event, ...], Histories]:
    """The events with those of the desks and of the registry's clock among them, and what follows. Notes what the registry would refuse."""
    played = _Play(resolving, files, desks)
    return tuple(played.run(events)), played.histories


@dataclass(slots=True)
class _Standing:
    """A registration as it stands. question: how often its provider was asked; answered_by: who answered that, if anybody.

    form, new_form: the addresses on it, and those that wait for the provider. until_ns: the end of the last of the approvals.
    """

    form: tuple[str, ...]
    is_verified: bool
    is_unsure: bool
    question: int = 0
    answers: int = 0
    answered_by: str = ""
    new_form: tuple[str, ...] = ()
    approvals: int = 0
    until_ns: int | None = None
    appeals: int = 0
    is_appeal_open: bool = False
    has_asked_renewal: bool = False


class _Play:
    def __init__(self, resolving: Resolving, files: list[EventFile], desks: Desks) -> None:
        self._resolving, self._desks = resolving, desks
        self._place = {resolving.document.position(file.place): file.place for file in files}
        known = resolving.registrations
        self.histories = Histories({name: [(0, item.initial)] for name, item in known.items()})
        self._standing = {
            name: _Standing(
                item.subscriber_prefixes, item.initial not in (None, "pending"), item.initial == "pending"
            )
            for name, item in known.items()
        }
        self._moves: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self._to_come: list[tuple[int, int, Event, Callable[[], bool]]] = []
        self._number = 0

    def run(self, events: tuple[Event, ...]) -> list[Event]:
        doubtful, is_known = (
            registrations_in_doubt(self._resolving),
            self._resolving.is_sound("registrations"),
        )
        found: list[Event] = []
        # In the file's order, also where that is not the order of time: what is wrong there is noted already.
        for event, at_ns in zip(events, accumulate((each.at_ns for each in events), max), strict=True):
            self._push(at_ns, event, lambda: True)
        for name, item in self._resolving.registrations.items():
            if item.initial == "pending":
                self._ask(name, 0, _ORIGIN)
        while self._to_come:
            at_ns, _, event, is_still_so = heapq.heappop(self._to_come)
            if "by" in event.args:
                if is_still_so():
                    found.append(event)
                    self._follow(event.args["registration"], event, at_ns)
                continue
            found.append(event)
            if event.action == "change-address":
                self._move(event)
            name = str(event.args.get("registration"))
            # What is wrong with a registration there may be why it seems wrong here.
            if (
                event.action in PORTAL
                and name not in doubtful
                and is_known
                and self._is_possible(name, event)
            ):
                self._follow(name, event, at_ns)
        return found

    # What the script wants

    def _move(self, event: Event) -> None:
        name = event.args["subscriber"]
        self._moves[name] += 1
        if self._moves[name] > len(self._resolving.subscribers[name].spare4):
            self._resolving.add(
                self._where(event), f"{name} has no further address", "remove this event", True
            )

    def _is_possible(self, name: str, event: Event) -> bool:
        """Whether the registry would do it; notes why not."""
        state, standing = self._state(name), self._standing[name]
        action = _ledger_action(event.action)
        possible = TRANSITIONS[action]
        if action == "apply" and state in ("rejected", "revoked", "expired"):
            state = None  # whoever wants in again applies again
        problem: tuple[str, str] | None = None
        is_refused = False
        if state not in possible:
            problem, is_refused = (
                (f"{name} is {state or 'not applied for'} at that time", _remedy(action, possible)),
                True,
            )
        elif action == "appeal":
            problem = self._against_complaint(name, state)
        elif action == "answer-appeal" and not standing.is_appeal_open:
            problem, is_refused = (
                (f"{name} has no appeal that waits for an answer", f"add 'complain: {name}' before it"),
                True,
            )
        elif action in ("renew", "ask-renewal"):
            problem, is_refused = self._against_renewal(name, event.at_ns), True
        elif action == "approve" and not standing.is_verified and not standing.is_unsure and self._needs_isp:
            problem = (f"the ISP has not verified {name} at that time", f"add 'verify: {name}' before it")
        if problem is not None:
            self._resolving.add(self._where(event), *problem, True)
        return problem is None or not is_refused

    def _against_complaint(self, name: str, state: str | None) -> tuple[str, str] | None:
        """What the registry would say to "I am registered and blocked", and what to do; None when it would take it."""
        if self._standing[name].is_appeal_open:
            return (
                f"{name} has complained already, and nobody answered",
                f"remove this event, or add 'grant-appeal: {name}' or 'deny-appeal' before it",
            )
        if state == "rejected" or not any(known == "active" for _, known in self.histories.states[name]):
            return (
                f"{name} was never approved: a block of it is not false",
                "remove this event, or approve it before",
            )
        return None

    def _against_renewal(self, name: str, at_ns: int) -> tuple[str, str] | None:
        window_ns, until_ns = self._desks.rules.renewal_window, self._standing[name].until_ns
        if window_ns is None or self._state(name) == "expired":
            return None
        if until_ns is None:
            return f"{name} does not end in this scenario, so its renewal is not open", "remove this event"
        if at_ns < until_ns - window_ns:
            opens = render_duration(until_ns - window_ns)
            return f"the renewal of {name} is not open at that time", f"write a time from '{opens}' on"
        return None

    # What follows

    def _follow(self, name: str, event: Event, at_ns: int) -> None:
        """What an event that is possible makes of a registration, and who acts because of it."""
        state, standing, rules = self._state(name), self._standing[name], self._desks.rules
        action, origin = event.action, (event.line, event.column)
        after = state
        if action == "apply":
            after = "pending"
            standing.form, standing.new_form = self._resolving.registrations[name].subscriber_prefixes, ()
            self._ask(name, at_ns, origin)
        elif action == "change-address-form":
            if state == "active" and rules.on_address_change == "keep":
                standing.new_form = self._line(name)
            else:
                after = "pending" if state == "active" else state
                standing.form = self._line(name)
            self._ask(name, at_ns, origin)
        elif action in ("verify", "refuse-verify"):
            self._answered(name, action == "verify", event.args.get("by", "isp"), at_ns, origin)
        elif action in ("approve", "renew"):
            after = "active"
            self._approved(name, at_ns, origin)
        elif action == "complain":
            self._appealed(name, at_ns, origin)
        elif action in ("grant-appeal", "deny-appeal"):
            standing.is_appeal_open = False
        elif action == "ask-renewal":
            standing.has_asked_renewal = True
        elif action != "remind":
            after = TRANSITIONS[action][state]
        self.histories.states[name].append((event.at_ns, after))

    def _ask(self, name: str, at_ns: int, origin: tuple[int, int]) -> None:
        """The provider is asked; what a desk there will say, and what its silence comes to."""
        standing, desks = self._standing[name], self._desks
        standing.question, standing.answered_by = standing.question + 1, ""
        standing.answers += 1  # what was to be decided on the last one is not any more
        if not standing.new_form:
            standing.is_verified, standing.is_unsure = False, origin == _ORIGIN
        question, isp = standing.question, self._isp(name)
        answer = desks.answer(isp, name, question, at_ns)
        if answer is not None:
            right = set(standing.new_form or standing.form) == set(self._line(name))
            action = "verify" if right is not answer.is_opposite else "refuse-verify"
            self._later(
                answer.at_ns, action, name, "provider", origin, lambda: self._waits(name, question, late=True)
            )
        due_ns = desks.promised_ns(desks.rules.verification_within, at_ns) if self._needs_isp else None
        if due_ns is not None and origin == _ORIGIN:
            what = "it is pending at the start, so until when its provider's answer was promised is not known"
            self._resolving.add(
                ("rules", "verification-within"), f"{name}: {what}", "apply for it in the timeline", True
            )
            due_ns = None
        silence = {"remind": "remind", "refuse": "refuse-verify", "approve": "verify"}.get(
            desks.rules.on_silence
        )
        if due_ns is not None and silence is not None:
            self._later(due_ns, silence, name, "registry", origin, lambda: self._waits(name, question))
        if not self._needs_isp:
            self._decide(name, at_ns, origin)

    def _answered(self, name: str, is_verified: bool, by: str, at_ns: int, origin: tuple[int, int]) -> None:
        standing = self._standing[name]
        standing.answered_by, standing.is_unsure = by, False
        if standing.new_form:  # a refused new address changes nothing about the old one, which was verified
            standing.form, standing.new_form = standing.new_form if is_verified else standing.form, ()
            return
        standing.is_verified = is_verified
        self._decide(name, at_ns, origin)

    def _decide(self, name: str, at_ns: int, origin: tuple[int, int]) -> None:
        """What an officer's desk does about an application, and by when somebody must have."""
        standing, desks = self._standing[name], self._desks
        standing.answers += 1
        answers = standing.answers

        def waits() -> bool:
            return self._state(name) == "pending" and standing.answers == answers

        decision_ns = desks.decision_ns(at_ns)
        if decision_ns is not None and desks.officer is not None:
            if standing.is_verified or not self._needs_isp:
                self._later(decision_ns, "approve", name, "officer", origin, waits)
            elif desks.officer[0].after_refusal == "reject":
                self._later(decision_ns, "reject", name, "officer", origin, waits)
        due_ns = desks.promised_ns(desks.rules.decision_within, at_ns)
        if due_ns is not None:
            self._later(due_ns, "remind", name, "registry", origin, waits)

    def _approved(self, name: str, at_ns: int, origin: tuple[int, int]) -> None:
        standing, rules = self._standing[name], self._desks.rules
        standing.approvals += 1
        standing.has_asked_renewal = False
        if rules.validity is None:
            return
        approvals, standing.until_ns = standing.approvals, at_ns + rules.validity

        def holds() -> bool:
            return self._state(name) in ("active", "suspended") and standing.approvals == approvals

        def is_forgotten() -> bool:
            return holds() and not standing.has_asked_renewal

        for before_ns in rules.reminders:
            if before_ns < rules.validity:
                self._later(standing.until_ns - before_ns, "remind", name, "registry", origin, is_forgotten)
        self._later(standing.until_ns + (rules.grace or 0), "expire", name, "registry", origin, holds)

    def _appealed(self, name: str, at_ns: int, origin: tuple[int, int]) -> None:
        """By when the officer must have answered, and what their silence comes to."""
        standing = self._standing[name]
        standing.appeals, standing.is_appeal_open = standing.appeals + 1, True
        appeals = standing.appeals

        def waits() -> bool:
            return standing.is_appeal_open and standing.appeals == appeals

        due_ns = self._desks.promised_ns(self._desks.rules.appeal_within, at_ns)
        if due_ns is not None:
            self._later(due_ns, "remind", name, "registry", origin, waits)

    def _later(
        self,
        at_ns: int,
        action: str,
        name: str,
        by: str,
        origin: tuple[int, int],
        is_still_so: Callable[[], bool],
    ) -> None:
        """An event nobody wrote, if it comes before the end and is still called for then."""
        if at_ns >= self._resolving.duration_ns:
            return
        title = f"{by}:{action}:{name}"
        self._names[title] += 1
        unique = title if self._names[title] == 1 else f"{title}.{self._names[title]}"
        self._push(
            at_ns, Event(unique, at_ns, action, {"registration": name, "by": by}, *origin), is_still_so
        )

    def _push(self, at_ns: int, event: Event, is_still_so: Callable[[], bool]) -> None:
        self._number += 1
        heapq.heappush(self._to_come, (at_ns, self._number, event, is_still_so))

    def _waits(self, name: str, question: int, late: bool = False) -> bool:
        """Whether the provider's answer to a question is still waited for; late: also after the registry answered in its place."""
        standing = self._standing[name]
        if standing.question != question:
            return False
        if standing.new_form:
            return self._state(name) in ("active", "suspended")
        may_answer = standing.answered_by == "" or (late and standing.answered_by == "registry")
        return self._state(name) == "pending" and may_answer

    @property
    def _needs_isp(self) -> bool:
        return self._desks.rules.requires_verification

    def _state(self, name: str) -> State | None:
        return self.histories.states[name][-1][1]

    def _isp(self, name: str) -> str:
        return self._resolving.subscribers[self._resolving.registrations[name].subscriber].isp

    def _line(self, name: str) -> tuple[str, ...]:
        """The addresses the registrant's line has now, as they are written on a form."""
        line = self._resolving.subscribers[self._resolving.registrations[name].subscriber]
        moves = min(self._moves[line.name], len(line.spare4))
        now4 = line.spare4[moves - 1] if moves else line.public4
        now6 = line.spare6[moves - 1] if 0 < moves <= len(line.spare6) else line.public6
        own = [each.partition("/")[0] for each in (now4, now6) if each]
        return tuple(f"{each}/{128 if ':' in each else 32}" for each in own)

    def _where(self, event: Event) -> tuple[Any, ...]:
        return (*self._place[event.line, event.column], event.action)


def _ledger_action(action: str) -> str:
    """What the registry calls an action of the timeline."""
    return {
        "refuse-verify": "verify",
        "change-address-form": "change-address",
        "complain": "appeal",
        "grant-appeal": "answer-appeal",
        "deny-appeal": "answer-appeal",
    }.get(action, action)


def _remedy(action: str, possible: Any) -> str:
    states = [state or "not applied for" for state in possible]
    return f"put {action} where it is {' or '.join(states)}"
