"""A plan played faster: the script's waiting times are divided, what the network does is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from testbed.plan.plan import Plan

# Of the registry's rules (docs/registry.md).
_TIMES = (
    "validity",
    "grace",
    "renewal_window",
    "reminders",
    "verification_within",
    "decision_within",
    "appeal_within",
)


def faster(plan: Plan, speed: float) -> Plan:
    """The plan with every time of its script divided by speed (> 0).

    Divided: when attempts, events, tunnels and bulk phases begin, how long faults last, the windows of expectations, the
    scenario's length. Not divided: delays, deadlines, packet spacings, how long a bulk phase lasts. Raises ValueError.
    """
    if not speed > 0:
        raise ValueError(f"--speed {speed}: write a number above 0, such as 2")
    if speed == 1:
        return plan
    if any(key in _TIMES for key in plan.registry.get("rules", {})):
        raise ValueError(
            f"--speed {speed:g}: the scenario's rules have times, and the registry does not go faster; leave --speed out"
        )

    def at(t_ns: int) -> int:
        return round(t_ns / speed)

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        return values | {"until_ns": at(values["until_ns"])} if "until_ns" in values else values

    last_bulk_ns = max((at(bulk.start_ns) + bulk.duration_ns for bulk in plan.bulk), default=0)
    return replace(
        plan,
        duration_ns=max(at(plan.duration_ns), last_bulk_ns),
        tunnels=tuple(
            replace(each, start_ns=at(each.start_ns), stop_ns=at(each.stop_ns)) for each in plan.tunnels
        ),
        streams=tuple(replace(each, at_ns=tuple(map(at, each.at_ns))) for each in plan.streams),
        bulk=tuple(replace(each, start_ns=at(each.start_ns)) for each in plan.bulk),
        events=tuple(replace(each, at_ns=at(each.at_ns), args=arguments(each.args)) for each in plan.events),
        expectations=tuple(
            replace(each, from_ns=at(each.from_ns), until_ns=at(each.until_ns)) for each in plan.expectations
        ),
    )
