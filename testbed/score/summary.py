"""Puts a run's score together as plain data: the same records give the same bytes of summary.json."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.policy import Policy
from testbed.plan.figures import FIGURES
from testbed.plan.plan import Plan
from testbed.records import EventRecord
from testbed.score.accounts import told_and_measured
from testbed.score.carriers import Carriers
from testbed.score.cause import EnforcerHistory, explain
from testbed.score.clock import bulk_of, health_of, needs_real_time
from testbed.score.figures import Measured, Run, delivered_ratio, false_block_ratio, false_pass_ratio
from testbed.score.harm import (
    Outage,
    Wait,
    longest_restore_ns,
    not_back,
    outages,
    person_ns,
    sessions_cut,
    waits,
)
from testbed.score.intervals import percentile
from testbed.score.lifting import Lifting, faults_of
from testbed.score.outcomes import OUTCOMES, Evidence, Judged, carriers_of, judge_all
from testbed.score.reading import Records, read_records
from testbed.score.taps import Taps
from testbed.score.troubles import troubles
from testbed.score.truth import Truth, truth_of
from testbed.score.tunnels_down import audit_agrees, tunnels_down
from testbed.score.verdicts import Noise, Verdict, judge_expectation, outcome_of

SCHEMA = "allowlab.summary/2"
BIN_NS = 1_000_000_000
# More bins than this nobody reads or draws: those of a longer scenario are as many whole seconds wide as it takes.
_MOST_BINS = 3600


def score_run(run_dir: Path) -> dict[str, Any]:
    """Scores a run folder and writes summary.json in it; returns what it wrote.

    Raises FileNotFoundError without plan.json, ValueError when the records do not belong to the plan.
    """
    from testbed.plan.store import read_plan

    plan = read_plan(run_dir / "plan.json")
    summary = score(plan, read_records(run_dir), _broken(run_dir))
    write_summary(run_dir, summary)
    return summary


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json whole or not at all."""
    text = json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    part = run_dir / ".summary.json.part"
    part.write_text(text, encoding="utf-8")
    part.replace(run_dir / "summary.json")


def score(plan: Plan, records: Records, broken: dict[str, Any] | None = None) -> dict[str, Any]:
    """The score of records under a plan, as plain data. broken: why the run ended early, if it did (reason, details)."""
    truth = truth_of(plan, records.events)
    judging = _Judging.of(plan, records, truth)
    judged = judging.judged
    run = Run(plan, truth, judged, [event for event in records.events if event.kind == "bulk"])
    noise = Noise() if plan.clock == "virtual" else noise_of(records.events)
    verdicts = [judge_expectation(each, run, noise, broken is not None) for each in plan.expectations]
    outcome: str = outcome_of(verdicts)
    if broken is not None:
        outcome = "interrupted" if str(broken.get("reason", "")).startswith("interrupted") else "broken"
    found = outages(judged)
    return {
        "schema": SCHEMA,
        "scenario": plan.scenario,
        "title": plan.title,
        "seed": plan.seed,
        "starts_at": plan.starts_at,
        "duration_ns": plan.duration_ns,
        "clock": plan.clock,
        "needs_real_time": needs_real_time(plan.clock),
        "outcome": outcome,
        "broken": broken,
        "has_enforcer": bool(plan.enforcers),
        "is_observing": _is_observing(plan),
        "noise": list(noise.reasons),
        "health": health_of(plan.clock, _health(records.events)),
        "records": {
            "attempts": len(records.flows),
            "planned_attempts": sum(len(stream.at_ns) for stream in plan.streams),
            "probes": len(records.probes),
            "witness_lines": len(records.witness),
            "unreadable_lines": records.unreadable,
            "truncated_files": sorted(records.truncated),
            "missing_files": sorted(records.missing),
        },
        "all": _table(judged),
        "by_kind": _tables(judged, lambda each: each.subscriber.kind),
        "by_group": _tables(judged, lambda each: each.stream.group),
        "by_isp": _tables(judged, lambda each: each.subscriber.isp),
        "by_protocol": _tables(judged, lambda each: each.stream.protocol),
        "by_family": _tables(judged, lambda each: f"IPv{each.stream.family}"),
        "by_subscriber": _tables(judged, lambda each: each.subscriber.name),
        "over_time": _over_time(plan, judged),
        "rtt": _rtt(plan, records),
        "goodput": [bulk_of(plan.clock, _bulk(event)) for event in records.events if event.kind == "bulk"],
        "harm": _harm(plan, truth, judged, found),
        "hurt": [_hurt(outage, judged) for outage in found],
        "tunnels_down": tunnels_down(
            plan, judged, found, judging.carriers, judging.history, judging.lifting.lifted_ns
        ),
        "audit": audit_agrees(judged),
        "accounts": told_and_measured(plan, truth, judged, found, records.events),
        "expectations": [_expectation(verdict) for verdict in verdicts],
    }


def judged_attempts(plan: Plan, records: Records, truth: Truth) -> list[Judged]:
    """Every attempt with its outcome and cause, by scheduled time."""
    return _Judging.of(plan, records, truth).judged


@dataclass(frozen=True, slots=True)
class _Judging:
    """The attempts as judged, and what they were judged by."""

    judged: list[Judged]
    carriers: Carriers
    history: EnforcerHistory
    lifting: Lifting

    @classmethod
    def of(cls, plan: Plan, records: Records, truth: Truth) -> _Judging:
        policy = Policy.from_json(plan.policy) if plan.policy is not None else None
        history = EnforcerHistory(records.audit, records.events, policy)
        lifting = Lifting(policy, truth, history, faults_of(records.events))
        evidence = Evidence(
            Taps(plan, records.witness),
            troubles(plan, records.events),
            history.says_blocked,
            lifting.lifted_ns,
            lifting.is_down,
        )
        carriers = carriers_of(plan, records.flows, evidence)
        judged = judge_all(plan, records.flows, truth, evidence, carriers)
        return cls(
            [explain(each, plan, policy, truth, history) for each in judged], carriers, history, lifting
        )


def noise_of(events: Iterable[EventRecord]) -> Noise:
    """The run's own health checks, from its health events."""
    reasons: list[str] = []
    lag_max_s = 0.0
    for event in events:
        if event.kind == "health":
            reasons += [str(reason) for reason in event.data.get("noise", [])]
            lag_max_s = max(lag_max_s, float(event.data.get("lag_max_ns", 0)) / 1e9)
    return Noise(tuple(reasons), lag_max_s)


def _is_observing(plan: Plan) -> bool:
    """Whether the policy stops nobody for being unregistered: it only writes down what it would have stopped."""
    policy = Policy.from_json(plan.policy) if plan.policy is not None else None
    return policy is not None and "observe" in (policy.mode, policy.action)


def _broken(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / "broken.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _health(events: Iterable[EventRecord]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for event in events:
        if event.kind == "health":
            kept |= {key: value for key, value in event.data.items() if key not in ("noise", "is_noisy")}
    return kept


def _table(judged: Sequence[Judged]) -> dict[str, Any]:
    counts = Counter(each.outcome for each in judged)
    through = Counter(each.outcome for each in judged if each.is_through_tunnel)
    causes: dict[str, Counter[str]] = {
        "false_block": Counter(),
        "false_pass": Counter(),
        "not_back": Counter(),
    }
    for each in judged:
        if each.cause:
            causes[each.outcome][each.cause] += 1
    return {
        "attempts": len(judged),
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES},
        "through_tunnel": {outcome: through[outcome] for outcome in ("false_block", "policy_block")},
        "false_block": _ratio(false_block_ratio(judged)),
        "false_pass": _ratio(false_pass_ratio(judged)),
        "delivered": _ratio(delivered_ratio(judged)),
        "causes": {outcome: dict(sorted(counter.items())) for outcome, counter in causes.items()},
    }


def _tables(judged: Sequence[Judged], key: Callable[[Judged], str]) -> dict[str, Any]:
    groups: dict[str, list[Judged]] = defaultdict(list)
    for each in judged:
        groups[key(each)].append(each)
    return {name: _table(group) for name, group in sorted(groups.items())}


def _ratio(measured: Measured) -> dict[str, Any]:
    return {
        "k": measured.k,
        "n": measured.n,
        "ratio": _rounded(measured.value),
        "low_ratio": _rounded(measured.low),
        "high_ratio": _rounded(measured.high),
    }


def _over_time(plan: Plan, judged: Sequence[Judged]) -> dict[str, Any]:
    bin_ns = BIN_NS * max(1, -(-plan.duration_ns // (BIN_NS * _MOST_BINS)))
    bins = max(1, -(-plan.duration_ns // bin_ns))
    counts = {outcome: [0] * bins for outcome in OUTCOMES}
    for each in judged:
        at = min(bins - 1, max(0, each.flow.scheduled_ns // bin_ns))
        counts[each.outcome][at] += 1
    return {"bin_ns": bin_ns, "outcomes": counts}


def _rtt(plan: Plan, records: Records) -> dict[str, Any]:
    """Round trips of single probes by protocol; a lost one counts as later than any other."""
    protocols = {stream.name: stream.protocol for stream in plan.streams}
    samples: dict[str, list[float | None]] = defaultdict(list)
    flows: dict[str, set[str]] = defaultdict(set)
    for probe in records.probes:
        protocol = protocols.get(probe.flow.rpartition("#")[0])
        if protocol is not None:
            samples[protocol].append(probe.rtt_ns)
            flows[protocol].add(probe.flow)
    table = {}
    for protocol, values in sorted(samples.items()):
        lost = sum(1 for value in values if value is None)
        row: dict[str, Any] = {"n": len(values), "attempts": len(flows[protocol]), "lost": lost}
        for word, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            found = percentile(values, quantile)
            row[word] = {
                "ns": _whole(found.value),
                "low_ns": _whole(found.interval.low),
                "high_ns": _whole(found.interval.high),
                "reason": found.reason,
            }
        table[protocol] = row
    return table


def _bulk(event: EventRecord) -> dict[str, Any]:
    return {"name": event.name, "t_ns": event.t_ns, **event.data}


def _harm(plan: Plan, truth: Truth, judged: Sequence[Judged], found: Sequence[Outage]) -> dict[str, Any]:
    blocked = [outage for outage in found if outage.outcome == "false_block"]
    return {
        "person_ns_lost": person_ns(found),
        "person_ns_lost_to_false_blocks": person_ns(blocked),
        "person_ns_not_back": person_ns(not_back(judged)),
        "people_hurt": len({outage.subscriber for outage in found}),
        "people_falsely_blocked": len({outage.subscriber for outage in blocked}),
        "people": len({each.subscriber.name for each in judged}),
        "longest_restore_ns": longest_restore_ns(found),
        "not_restored": sorted(
            {f"{each.subscriber}: {each.stream}" for each in found if each.back_ns is None}
        ),
        "sessions_cut": sessions_cut(judged),
        "approvals": [_wait(wait) for wait in waits(plan, truth, judged, "approval")],
        "revocations": [_wait(wait) for wait in waits(plan, truth, judged, "revocation")],
    }


def _wait(wait: Wait) -> dict[str, Any]:
    return {
        "registration": wait.registration,
        "state": wait.state,
        "at_ns": wait.at_ns,
        "wait_ns": wait.value_ns,
        "at_least_ns": wait.low_ns,
    }


def _hurt(outage: Outage, judged: Sequence[Judged]) -> dict[str, Any]:
    first = next(
        each
        for each in judged
        if each.stream.name == outage.stream
        and outage.from_ns <= each.flow.scheduled_ns
        and each.outcome == outage.outcome
    )
    return {
        "subscriber": outage.subscriber,
        "kind": first.subscriber.kind,
        "stream": outage.stream,
        "protocol": first.stream.protocol,
        "target": first.stream.target,
        "from_ns": outage.from_ns,
        "until_ns": outage.until_ns,
        "back_ns": outage.back_ns,
        "attempts": outage.attempts,
        "outcome": outage.outcome,
        "where": first.where,
        "cause": outage.cause,
        "why": first.why,
    }


def _expectation(verdict: Verdict) -> dict[str, Any]:
    asked, seen = verdict.expectation, verdict.seen
    return {
        "name": asked.name,
        "figure": asked.figure,
        "unit": FIGURES[asked.figure.partition(":")[0]].unit,
        "where": asked.where,
        "from_ns": asked.from_ns,
        "until_ns": asked.until_ns,
        "comparator": asked.comparator,
        "bound": asked.bound,
        "seen": _rounded(seen.value) if isinstance(seen.value, float) else seen.value,
        "low": _rounded(seen.low),
        "high": _rounded(seen.high),
        "n": seen.n,
        "k": seen.k,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "file": asked.file,
        "line": asked.line,
        "column": asked.column,
    }


def _rounded(value: float | str | None) -> float | None:
    # Nine digits: more would only be the floating-point library's own.
    return None if value is None or isinstance(value, str) else round(float(value), 9)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
