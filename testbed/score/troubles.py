"""When a gateway's own links were in trouble: then a packet that went in and did not come out proves no block by itself.

A gateway without a route, or whose own rate limiter's queue is full, loses packets between its two taps just as an enforcer
would (docs/witnesses.md). The test-bed knows when it did that, so it says so instead of blaming the enforcer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from testbed.plan.plan import Plan
from testbed.records import EventRecord

# After a link comes back, or goes, BGP needs this long until every kernel table agrees (hold timers excepted: links lose
# carrier here, so sessions end at once; BIRD's own start-up delay is 5 s).
_CONVERGENCE_NS = 10_000_000_000
_EVER = 2**62


@dataclass(frozen=True, slots=True)
class Trouble:
    """A link of the node that made it lose packets from from_ns to until_ns; what: in words."""

    node: str
    link: str
    from_ns: int
    until_ns: int
    what: str


def troubles(plan: Plan, events: Sequence[EventRecord]) -> list[Trouble]:
    """Every trouble of every node that carries an enforcer, from the plan, the fault records and the links' counters."""
    nodes = {placement.node for placement in plan.enforcers}
    ends = {link.name: {link.a.node, link.b.node} & nodes for link in plan.links}
    found = _full_queues(plan, events, nodes)
    if _may_lose_between_taps(events):
        found += _lossy(plan, events, ends)
    begun: dict[str, tuple[int, list[str]]] = {}
    for event in events:
        if event.kind != "fault" or event.data.get("kind") != "link-down":
            continue
        if event.data["state"] == "begun":
            begun[event.name] = (event.t_ns, list(event.data.get("at", ())))
        elif event.name in begun:
            found += _down(ends, *begun.pop(event.name), event.t_ns + _CONVERGENCE_NS)
    for from_ns, links in begun.values():
        found += _down(ends, from_ns, links, _EVER)
    return found


def trouble_at(found: Iterable[Trouble], node: str, t_ns: int) -> Trouble | None:
    """The first trouble of the node at that moment."""
    return next((each for each in found if each.node == node and each.from_ns <= t_ns <= each.until_ns), None)


def _down(ends: dict[str, set[str]], from_ns: int, links: list[str], until_ns: int) -> list[Trouble]:
    return [
        Trouble(node, link, from_ns, until_ns, "was down, or routing had not settled yet")
        for link in links
        for node in sorted(ends.get(link, ()))
    ]


def _full_queues(plan: Plan, events: Iterable[EventRecord], nodes: set[str]) -> list[Trouble]:
    """The counters say that a queue overflowed, not when: so it counts for the whole run."""
    links = {link.name: link for link in plan.links}
    found = []
    for event in events:
        counters = event.data.get("links", {}) if event.kind == "health" else {}
        for name, counts in counters.get("links", {}).items():
            link_name, _, direction = name.rpartition("/")
            link = links.get(link_name)
            if link is None or not counts.get("rate_dropped"):
                continue
            sender = link.a.node if direction == "ab" else link.b.node
            if sender in nodes:
                found.append(
                    Trouble(sender, link_name, -_EVER, _EVER, "was full and its queue dropped packets")
                )
    return found


def _may_lose_between_taps(events: Iterable[EventRecord]) -> bool:
    """Emulated loss is made at the links' other ends (docs/links.md), except by netem, which sits before the tap."""
    backends = [event.data.get("links", {}).get("backend") for event in events if event.kind == "health"]
    return not backends or any(backend != "nfqueue" for backend in backends)


def _lossy(plan: Plan, events: Iterable[EventRecord], ends: dict[str, set[str]]) -> list[Trouble]:
    what = "loses packets on purpose"
    found = [
        Trouble(node, link.name, -_EVER, _EVER, what)
        for link in plan.links
        if link.loss_ratio
        for node in sorted(ends[link.name])
    ]
    for event in events:
        data = event.data
        is_set = event.kind == "script" and data.get("action") == "set-link" and data.get("loss_ratio")
        is_degraded = event.kind == "script" and data.get("kind") == "link-degrade" and data.get("loss_ratio")
        links = [data["link"]] if is_set else list(data.get("at", ())) if is_degraded else []
        until_ns = int(data["until_ns"]) + _CONVERGENCE_NS if is_degraded else _EVER
        for link in links:
            found += [Trouble(node, link, event.t_ns, until_ns, what) for node in sorted(ends.get(link, ()))]
    return found
