"""The tunnels that an enforcer brought down: from when until when, by which rule, when it was over, and when they were back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from testbed.plan.plan import Plan
from testbed.records import FlowRecord
from testbed.score.carriers import Carriers
from testbed.score.cause import EnforcerHistory
from testbed.score.harm import Outage
from testbed.score.outcomes import Judged, carrier_of

# Repeats of a block are written down when their second is over (enforcer/audit.py).
_AUDIT_LATE_NS = 2_000_000_000


def tunnels_down(
    plan: Plan,
    judged: Sequence[Judged],
    found: Iterable[Outage],
    carriers: Carriers,
    history: EnforcerHistory,
    lifted_ns: Callable[[str, FlowRecord, int, int], int | None],
) -> list[dict[str, Any]]:
    """A row for each stretch in which a tunnel of somebody entitled was down by a false block, as plain data, by time.

    attempts: those whose own or whose tunnel's packets were stopped while they ran ("stopped"), those of a tunnel that the block
    had brought down before ("through_tunnel"), and those after it was over ("not_back"). packets: of the tunnel, that the taps saw
    stopped, and that the enforcer's audit lists (None where the audit does not keep whole addresses, or not of each packet).
    """
    streams = {each.name: each for each in plan.streams}
    rows = []
    for outage in sorted(found, key=lambda each: (each.from_ns, each.subscriber, each.stream)):
        stream = streams[outage.stream]
        if stream.probe != "tunnel-echo" or outage.outcome != "false_block":
            continue
        attempts = [
            each
            for each in judged
            if each.stream is stream and outage.from_ns <= each.flow.scheduled_ns < outage.until_ns
        ]
        rows.append(_row(outage, attempts, carriers, history, lifted_ns))
    return rows


def audit_agrees(judged: Iterable[Judged]) -> dict[str, int]:
    """How many attempts were stopped at an enforcer by the taps' word, and of how many its own audit names the flow."""
    blocked = [each for each in judged if each.outcome in ("false_block", "policy_block")]
    return {"blocked": len(blocked), "in_audit": sum(each.rule is not None for each in blocked)}


def _row(
    outage: Outage,
    attempts: list[Judged],
    carriers: Carriers,
    history: EnforcerHistory,
    lifted_ns: Callable[[str, FlowRecord, int, int], int | None],
) -> dict[str, Any]:
    blocked = [each for each in attempts if each.outcome == "false_block"]
    first, last = blocked[0], blocked[-1]
    counts = Counter(_how(each) for each in attempts)
    rule = next((each.rule for each in blocked if each.rule is not None), None)
    over_ns = next((each.lifted_ns for each in attempts if each.lifted_ns is not None), None)
    if over_ns is None and last.stop is not None and last.where is not None:
        carrier = last.flow if last.stop.row is None else carrier_of(last.flow, last.stop.row)
        over_ns = lifted_ns(last.where, carrier, last.stop.at_ns, outage.until_ns)
    stops = [
        stop
        for each in carriers.closures(first.stream.target)
        for stop in each.stops
        if outage.from_ns - _AUDIT_LATE_NS <= stop[0] <= outage.until_ns
    ]
    return {
        "tunnel": first.stream.target,
        "subscriber": outage.subscriber,
        "kind": first.subscriber.kind,
        "protocol": first.stream.protocol,
        "registration": first.stream.registration,
        "where": first.where,
        "cause": outage.cause,
        "why": first.why,
        "rule": None
        if rule is None
        else {
            "reason": rule.reason,
            "protocol": rule.protocol,
            "registration": rule.registration,
            "registration_state": rule.registration_state,
        },
        "from_ns": outage.from_ns,
        "lifted_ns": over_ns,
        "until_ns": outage.until_ns,
        "back_ns": outage.back_ns,
        "attempts": {key: counts[key] for key in ("stopped", "through_tunnel", "not_back", "other")},
        "packets": {
            "stopped": sum(count for _, count, _ in stops),
            "in_audit": _in_audit(stops, outage, history),
        },
    }


def _how(each: Judged) -> str:
    if each.outcome == "not_back":
        return "not_back"
    if each.outcome != "false_block":
        return "other"
    return "through_tunnel" if each.is_through_tunnel else "stopped"


def _in_audit(stops: list, outage: Outage, history: EnforcerHistory) -> int | None:
    if not history.is_exact:
        return None
    found = 0
    for node in sorted({row.node for _, _, row in stops}):
        flows = {(row.src, row.src_port, row.dst, row.dst_port) for _, _, row in stops if row.node == node}
        found += history.blocked_packets(
            node, flows, outage.from_ns - _AUDIT_LATE_NS, outage.until_ns + _AUDIT_LATE_NS
        )
    return found
