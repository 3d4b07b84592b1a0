"""The figures of testbed/plan/figures.py, computed over the attempts an expectation selects."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from testbed.plan.plan import Bulk, Expectation, Plan, Registration, Stream, Subscriber
from testbed.records import EventRecord
from testbed.score.cause import CAUSES
from testbed.score.harm import (
    NS_PER_MINUTE,
    Wait,
    longest_restore_ns,
    outages,
    person_ns,
    sessions_cut,
    waits,
)
from testbed.score.intervals import percentile, wilson
from testbed.score.outcomes import Judged
from testbed.score.truth import Truth

NS_PER_S = 1_000_000_000
_KNOWN_OF_ENTITLED = ("passed", "false_block", "not_back", "infra_down")


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure in its unit. value None: it could not be had, reason says why; is_never: what was waited for never came.

    n: what it was computed over (attempts, phases, registrations, tunnels); k: how many of them count, for ratios.
    """

    value: float | str | None
    n: int
    low: float | None = None
    high: float | None = None
    k: int | None = None
    reason: str = ""
    is_never: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What figures are computed from."""

    plan: Plan
    truth: Truth
    judged: Sequence[Judged]
    bulk: Sequence[EventRecord] = field(default_factory=tuple)

    def selected(self, where: dict[str, list[str]], from_ns: int, until_ns: int) -> list[Judged]:
        """The attempts that were scheduled in the window and fit every key of `where`."""
        fits = _fits_stream(self.plan, where)
        names = {stream.name for stream in self.plan.streams if fits(stream)}
        return [
            each
            for each in self.judged
            if each.stream.name in names and from_ns <= each.flow.scheduled_ns < until_ns
        ]

    def planned(self, where: dict[str, list[str]], from_ns: int, until_ns: int) -> int:
        """How many attempts the plan has in the same selection."""
        fits = _fits_stream(self.plan, where)
        return sum(
            1
            for stream in self.plan.streams
            if fits(stream)
            for at_ns in stream.at_ns
            if from_ns <= at_ns < until_ns
        )


def measure(expectation: Expectation, run: Run) -> Measured:
    """The figure an expectation is about. Raises ValueError for a figure that is not known."""
    name, _, word = expectation.figure.partition(":")
    where, from_ns, until_ns = expectation.where, expectation.from_ns, expectation.until_ns
    if name in _OF_ATTEMPTS:
        return _OF_ATTEMPTS[name](run.selected(where, from_ns, until_ns))
    if name == "outcome_count":
        chosen = run.selected(where, from_ns, until_ns)
        return Measured(float(sum(1 for each in chosen if each.outcome == word)), len(chosen))
    if name in ("approval_to_first_byte_s", "revocation_to_last_byte_s"):
        # The effect of an act in the window may come after it.
        attempts = run.selected(where, -(2**62), 2**62)
        found = waits(
            run.plan, run.truth, attempts, "approval" if name.startswith("approval") else "revocation"
        )
        return _longest([wait for wait in found if from_ns <= wait.at_ns < until_ns])
    if name == "application_to_approval_s":
        return _longest(_applications(run, where, from_ns, until_ns))
    if name == "registration_state":
        return _state(run, where, until_ns)
    if name == "goodput_bps":
        return _goodput(run, where, from_ns, until_ns)
    raise ValueError(f"{expectation.file}:{expectation.line}: no figure is called {expectation.figure!r}")


def false_block_ratio(judged: Iterable[Judged]) -> Measured:
    """False blocks among the attempts of entitled people whose outcome is known."""
    known = [each.outcome for each in judged if each.is_entitled]
    return ratio(known.count("false_block"), sum(known.count(each) for each in _KNOWN_OF_ENTITLED))


def false_pass_ratio(judged: Iterable[Judged]) -> Measured:
    """False passes among the attempts of people who were not entitled whose outcome is known."""
    known = [each.outcome for each in judged if each.is_entitled is False]
    return ratio(
        known.count("false_pass"),
        sum(known.count(each) for each in ("false_pass", "policy_block", "infra_down")),
    )


def delivered_ratio(judged: Iterable[Judged]) -> Measured:
    """Delivered among all attempts the harness could carry out."""
    known = [each.flow.is_delivered for each in judged if each.outcome != "harness_error"]
    return ratio(sum(known), len(known))


def ratio(k: int, n: int) -> Measured:
    """k of n with its Wilson interval; no value when n is 0."""
    if n == 0:
        return Measured(None, 0, k=0, reason="no attempt was selected whose outcome is known")
    interval = wilson(k, n)
    return Measured(k / n, n, interval.low, interval.high, k)


def main_cause(judged: Iterable[Judged]) -> Measured:
    """The commonest cause of false blocks and false passes; "none" when there were none."""
    causes = Counter(each.cause for each in judged if each.cause and each.outcome != "not_back")
    if not causes:
        return Measured("none", 0, k=0, reason="there was neither a false block nor a false pass")
    best = max(CAUSES, key=lambda cause: causes[cause])
    return Measured(best, sum(causes.values()), k=causes[best])


def _rtt(quantile: float) -> Callable[[list[Judged]], Measured]:
    def measured(judged: list[Judged]) -> Measured:
        samples = [
            each.flow.rtt_ns / NS_PER_S for each in judged if each.flow.is_delivered and each.flow.rtt_ns
        ]
        found = percentile(samples, quantile)
        return Measured(found.value, found.n, found.interval.low, found.interval.high, reason=found.reason)

    return measured


def _person_minutes(judged: list[Judged]) -> Measured:
    known = [each for each in judged if each.is_entitled]
    return Measured(person_ns(outages(known)) / NS_PER_MINUTE, len(known))


def _sessions_cut(judged: list[Judged]) -> Measured:
    tunnels = {each.stream.target for each in judged if each.stream.probe == "tunnel-echo"}
    return Measured(float(len(sessions_cut(judged))), len(tunnels))


def _restore(judged: list[Judged]) -> Measured:
    found = outages(judged)
    still = [each for each in found if each.back_ns is None]
    if still:
        return Measured(None, len(found), reason=f"{still[0].subscriber} had no service again", is_never=True)
    longest = longest_restore_ns(found)
    return Measured((longest or 0) / NS_PER_S, len(judged))


_OF_ATTEMPTS: dict[str, Callable[[list[Judged]], Measured]] = {
    "false_block_ratio": false_block_ratio,
    "false_pass_ratio": false_pass_ratio,
    "delivered_ratio": delivered_ratio,
    "rtt_p50_s": _rtt(0.50),
    "rtt_p95_s": _rtt(0.95),
    "rtt_p99_s": _rtt(0.99),
    "person_minutes_lost": _person_minutes,
    "sessions_cut": _sessions_cut,
    "time_to_restore_s": _restore,
    "main_cause": main_cause,
}


def _longest(found: list[Wait]) -> Measured:
    if not found:
        return Measured(None, 0, reason="nothing of the kind happened in the window")
    never = [wait for wait in found if wait.value_ns is None]
    if never:
        return Measured(None, len(found), reason=f"{never[0].registration}: never", is_never=True)
    longest = max(found, key=lambda wait: wait.value_ns or 0)
    value = (longest.value_ns or 0) / NS_PER_S
    low = None if longest.low_ns is None else longest.low_ns / NS_PER_S
    return Measured(value, len(found), low, value, reason=f"longest: {longest.registration}")


def _applications(run: Run, where: dict[str, list[str]], from_ns: int, until_ns: int) -> list[Wait]:
    """From each application (or new address) in the window to the approval; what was not approved waits for ever."""
    fits = _fits_registration(run.plan, where)
    found = []
    for name in (each.name for each in run.plan.registrations if fits(each)):
        changes = run.truth.transitions(name)
        for (at_ns, _, state), (next_ns, _, after) in zip(
            changes, [*changes[1:], (0, None, None)], strict=True
        ):
            if state == "pending" and from_ns <= at_ns < until_ns:
                found.append(Wait(name, state, at_ns, next_ns - at_ns if after == "active" else None))
    return found


def _state(run: Run, where: dict[str, list[str]], until_ns: int) -> Measured:
    fits = _fits_registration(run.plan, where)
    names = [each.name for each in run.plan.registrations if fits(each)]
    states = sorted({run.truth.state_at(name, until_ns) or "none" for name in names})
    if not names:
        return Measured(None, 0, reason="no registration was selected")
    return Measured(states[0] if len(states) == 1 else " and ".join(states), len(names))


def _goodput(run: Run, where: dict[str, list[str]], from_ns: int, until_ns: int) -> Measured:
    phases = {each.name: each for each in run.plan.bulk}
    fits = _fits_bulk(run.plan, where)
    values = []
    for event in run.bulk:
        phase = phases.get(event.name)
        if phase is None or not fits(phase):
            continue
        if from_ns <= phase.start_ns and phase.start_ns + phase.duration_ns <= until_ns:
            values.append(float(event.data.get("goodput_bps") or 0))
    if not values:
        return Measured(None, 0, reason="no bulk phase lies in the window")
    return Measured(statistics.median(values), len(values), min(values), max(values))


def _fits_stream(plan: Plan, where: dict[str, list[str]]) -> Callable[[Stream], bool]:
    subscribers = {each.name: each for each in plan.subscribers}
    registrations = {each.name: each.server for each in plan.registrations}

    def fits(stream: Stream) -> bool:
        server = registrations.get(stream.registration or "", stream.target)
        facts = {"stream": stream.name, "group": stream.group, "protocol": stream.protocol, "server": server}
        return _fits(where, {**_of_person(subscribers[stream.subscriber]), **facts})

    return fits


def _fits_registration(plan: Plan, where: dict[str, list[str]]) -> Callable[[Registration], bool]:
    subscribers = {each.name: each for each in plan.subscribers}

    def fits(registration: Registration) -> bool:
        person = {**_of_person(subscribers[registration.subscriber]), "server": registration.server}
        protocols = where.get("protocol")
        has_protocol = protocols is None or not set(protocols).isdisjoint(registration.protocols)
        rest = {key: wanted for key, wanted in where.items() if key != "protocol"}
        return has_protocol and _fits(rest, person)

    return fits


def _fits_bulk(plan: Plan, where: dict[str, list[str]]) -> Callable[[Bulk], bool]:
    people = {each.name: _of_person(each) for each in plan.subscribers}
    of_people = {key: wanted for key, wanted in where.items() if key in ("subscriber", "kind", "isp")}
    return lambda bulk: _fits(of_people, people[bulk.subscriber])


def _of_person(subscriber: Subscriber) -> dict[str, str]:
    return {"subscriber": subscriber.name, "kind": subscriber.kind, "isp": subscriber.isp}


def _fits(where: dict[str, list[str]], facts: dict[str, str]) -> bool:
    return all(facts.get(key) in wanted for key, wanted in where.items())
