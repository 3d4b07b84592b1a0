"""Harm to people: time without service, how long until it came back, sessions cut, and the waits after officers' acts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from testbed.plan.plan import Plan
from testbed.score.outcomes import Judged
from testbed.score.truth import Truth

_STOPPED = ("false_block", "not_back", "infra_down")
NS_PER_MINUTE = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Outage:
    """A stretch in which a line's attempts of one stream failed although it was entitled.

    until_ns: when the first later attempt that got through was scheduled, or the first to which the line was entitled no more;
    with neither, the end of what the last failed attempt stands for. back_ns: when the first later attempt that got through was
    scheduled, however much later; None when none did. outcome: "false_block" when any of its attempts was one, else "not_back" when one was.
    """

    subscriber: str
    stream: str
    from_ns: int
    until_ns: int
    back_ns: int | None
    outcome: str
    attempts: int
    cause: str | None


@dataclass(frozen=True, slots=True)
class Wait:
    """From an officer's act to its effect. value_ns None: the effect never came. low_ns..value_ns: what the spacing of
    the attempts leaves open. state: what the act made of the registration."""

    registration: str
    state: str
    at_ns: int
    value_ns: int | None
    low_ns: int | None = None


def outages(judged: Iterable[Judged]) -> list[Outage]:
    """Every outage of entitled people, by line, stream and time. Attempts of unknown outcome neither begin nor end one."""
    found = []
    for (subscriber, stream), attempts in sorted(_by_stream(judged).items()):
        run: list[Judged] = []
        for position, attempt in enumerate(attempts):
            if attempt.is_entitled and attempt.outcome in _STOPPED:
                run.append(attempt)
            elif run and attempt.outcome not in ("harness_error", "straddles_change"):
                found.append(_outage(subscriber, stream, run, attempts[position:]))
                run = []
        if run:
            found.append(_outage(subscriber, stream, run, []))
    return found


def not_back(judged: Iterable[Judged]) -> list[Outage]:
    """The parts of outages in which nothing stopped a tunnel any more that had not come back yet."""
    found = []
    for (subscriber, stream), attempts in sorted(_by_stream(judged).items()):
        run: list[Judged] = []
        for position, attempt in enumerate(attempts):
            if attempt.outcome == "not_back":
                run.append(attempt)
            elif run:
                found.append(_outage(subscriber, stream, run, attempts[position:]))
                run = []
        if run:
            found.append(_outage(subscriber, stream, run, []))
    return found


def person_ns(found: Iterable[Outage]) -> int:
    """Time without service: per line the union of its outages (two broken services at once count once), summed over lines."""
    by_subscriber: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for outage in found:
        by_subscriber[outage.subscriber].append((outage.from_ns, outage.until_ns))
    return sum(_union_ns(spans) for spans in by_subscriber.values())


def longest_restore_ns(found: Iterable[Outage]) -> int | None:
    """The longest time from a first failed attempt until one got through again; None when none did."""
    return max((each.back_ns - each.from_ns for each in found if each.back_ns is not None), default=None)


def sessions_cut(judged: Iterable[Judged]) -> list[str]:
    """Tunnels that carried data and then did not although their line was entitled, and an enforcer stopped them."""
    cut = []
    for (_, _), attempts in sorted(_by_stream(judged).items()):
        if attempts[0].stream.probe != "tunnel-echo":
            continue
        has_carried = False
        for attempt in attempts:
            if attempt.outcome in ("passed", "false_pass"):
                has_carried = True
            elif has_carried and attempt.outcome == "false_block":
                cut.append(attempt.stream.target)
                break
    return sorted(set(cut))


def waits(plan: Plan, truth: Truth, judged: Sequence[Judged], act: str) -> list[Wait]:
    """act "approval": from each change to active to the first byte (an answer) of that registration's attempts;
    "revocation": from each change away from active to the last byte. During the scenario only."""
    by_registration: dict[str, list[Judged]] = defaultdict(list)
    for attempt in judged:
        if attempt.stream.registration is not None:
            by_registration[attempt.stream.registration].append(attempt)
    found = []
    for registration in plan.registrations:
        changes = truth.transitions(registration.name)
        attempts = by_registration[registration.name]
        for position, (at_ns, before, after) in enumerate(changes):
            until_ns = changes[position + 1][0] if position + 1 < len(changes) else 2**62
            if act == "approval" and after == "active":
                found.append(_first_byte(registration.name, at_ns, until_ns, attempts))
            elif act == "revocation" and before == "active":
                found.append(_last_byte(registration.name, after or "", at_ns, until_ns, attempts))
    return [wait for wait in found if wait is not None]


def _first_byte(name: str, at_ns: int, until_ns: int, attempts: Sequence[Judged]) -> Wait | None:
    later = [each for each in attempts if at_ns <= each.flow.done_ns and each.flow.scheduled_ns < until_ns]
    if not later:
        return None
    got = [each.flow.done_ns for each in later if each.flow.is_delivered]
    if not got:
        return Wait(name, "active", at_ns, None)
    first_ns = min(got)
    failed = [
        each.flow.scheduled_ns
        for each in later
        if not each.flow.is_delivered and each.flow.scheduled_ns < first_ns
    ]
    return Wait(name, "active", at_ns, first_ns - at_ns, max(0, max(failed, default=at_ns) - at_ns))


def _last_byte(name: str, state: str, at_ns: int, until_ns: int, attempts: Sequence[Judged]) -> Wait | None:
    later = [each for each in attempts if at_ns <= each.flow.done_ns <= until_ns]
    if not later:
        return None
    got = [each.flow.done_ns for each in later if each.flow.is_delivered]
    return Wait(name, state, at_ns, max(got) - at_ns if got else 0, max(got) - at_ns if got else 0)


def _by_stream(judged: Iterable[Judged]) -> dict[tuple[str, str], list[Judged]]:
    streams: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for attempt in judged:
        streams[attempt.subscriber.name, attempt.stream.name].append(attempt)
    return streams


def _outage(subscriber: str, stream: str, run: list[Judged], later: list[Judged]) -> Outage:
    last = run[-1]
    outcome = next(each for each in _STOPPED if any(attempt.outcome == each for attempt in run))
    causes = sorted(each.cause for each in run if each.cause)
    return Outage(
        subscriber,
        stream,
        run[0].flow.scheduled_ns,
        later[0].flow.scheduled_ns if later else last.flow.done_ns,
        next((each.flow.scheduled_ns for each in later if each.flow.is_delivered), None),
        outcome,
        len(run),
        max(causes, key=causes.count) if causes else None,
    )


def _union_ns(spans: list[tuple[int, int]]) -> int:
    total, reached = 0, -(2**62)
    for from_ns, until_ns in sorted(spans):
        total += max(0, until_ns - max(from_ns, reached))
        reached = max(reached, until_ns)
    return total
