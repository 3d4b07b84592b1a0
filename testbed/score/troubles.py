"""When a gateway's own links were in trouble: then a packet that went in and did not come out proves no block by itself.

A gateway without a route, or one that holds packets for a lossy link, loses them between its two taps just as an enforcer
would. The test-bed knows when it did that, so it says so instead of blaming the enforcer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.plan.plan import Plan
from testbed.records import EventRecord

# After a link comes back, or goes, BGP needs this long until every kernel table agrees (hold timers excepted: links lose
# carrier here, so sessions end at once; BIRD's own start-up delay is 5 s).
_CONVERGENCE_NS = 10_000_000_000
_LINK_FAULTS = ("link-down", "link-degrade")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A link of the node was down, or lost packets on purpose, from from_ns to until_ns."""

    node: str
    link: str
    from_ns: int
    until_ns: int


def troubles(plan: Plan, events: Iterable[EventRecord]) -> list[Trouble]:
    """Every trouble of every node that carries an enforcer, from the plan and the fault records."""
    nodes = {placement.node for placement in plan.enforcers}
    ends = {link.name: {link.a.node, link.b.node} & nodes for link in plan.links}
    found = [
        Trouble(node, link.name, -(2**62), 2**62)
        for link in plan.links
        if link.loss_ratio
        for node in sorted(ends[link.name])
    ]
    begun: dict[str, int] = {}
    for event in events:
        data = event.data
        if event.kind == "script" and data.get("action") == "set-link" and data.get("loss_ratio"):
            found += [
                Trouble(node, data["link"], event.t_ns, 2**62) for node in sorted(ends.get(data["link"], ()))
            ]
        if event.kind != "fault" or data.get("kind") not in _LINK_FAULTS:
            continue
        if data["state"] == "begun":
            begun[event.name] = event.t_ns
        elif event.name in begun:
            found += _of_fault(event, ends, begun.pop(event.name), event.t_ns + _CONVERGENCE_NS)
    unhealed = [event for event in plan.events if event.name in begun]
    for event in unhealed:
        for link in event.args.get("at", ()):
            found += [Trouble(node, link, begun[event.name], 2**62) for node in sorted(ends.get(link, ()))]
    return found


def trouble_at(found: Iterable[Trouble], node: str, t_ns: int) -> Trouble | None:
    """The first trouble of the node at that moment."""
    return next((each for each in found if each.node == node and each.from_ns <= t_ns <= each.until_ns), None)


def _of_fault(event: EventRecord, ends: dict[str, set[str]], from_ns: int, until_ns: int) -> list[Trouble]:
    return [
        Trouble(node, link, from_ns, until_ns)
        for link in event.data.get("at", ())
        for node in sorted(ends.get(link, ()))
    ]
