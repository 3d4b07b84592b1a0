"""At which end of each link its packets are held, so that few namespaces need a queue. Pure.

A packet can be held where it arrives (before anything else in that node sees it) or where it leaves (after everything else).
Arriving is the better place, for the sender's socket no longer counts the packet: a TCP sender stops after about a
millisecond's worth of data that is still its own (TCP small queues), so a host never holds what it sends itself. And a node
with an enforcer holds nothing if the other end can: what is lost or late on a line must not happen between a witness's taps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from testbed.plan.plan import Interface, Link, Node, Plan

Direction = Literal["ab", "ba"]
Way = Literal["arriving", "leaving"]
DIRECTIONS: tuple[Direction, Direction] = ("ab", "ba")


@dataclass(frozen=True, slots=True)
class Place:
    """Packets of `link` in this direction are held at `interface` ("ab": those a sends)."""

    link: str
    direction: Direction
    interface: Interface
    way: Way

    @property
    def name(self) -> str:
        return f"{self.link}/{self.direction}"


def held_links(plan: Plan) -> list[Link]:
    """The links that have, or by an event of the plan may get, a delay, jitter or loss."""
    named: set[str] = set()
    for event in plan.events:
        if event.action == "set-link":
            named.add(event.args["link"])
        elif event.action == "fault":
            named.update(event.args.get("at", ()))
    return [
        link
        for link in plan.links
        if link.delay_ns or link.jitter_ns or link.loss_ratio or link.name in named
    ]


def places(links: Iterable[Link], nodes: Mapping[str, Node], enforcing: Collection[str] = ()) -> list[Place]:
    """Two for each link, one a direction. enforcing: nodes with an enforcer. Raises ValueError when both ends are in bridges.

    An end in a bridge passes frames, not IP packets: the other end holds both ways. So does the router of a router and a
    host, which makes one queue socket out of a thousand. Otherwise each direction is held where it arrives.
    """
    found: list[Place] = []
    for link in links:
        if link.a.bridge and link.b.bridge:
            raise ValueError(
                f"link {link.name}: both ends are in bridges, where IP packets cannot be held; "
                "give delay, jitter and loss to the members' links instead"
            )
        fitness = _fitness(link.a, nodes, enforcing), _fitness(link.b, nodes, enforcing)
        if fitness[0] > fitness[1]:
            found += [Place(link.name, "ab", link.a, "leaving"), Place(link.name, "ba", link.a, "arriving")]
        elif fitness[0] < fitness[1]:
            found += [Place(link.name, "ab", link.b, "arriving"), Place(link.name, "ba", link.b, "leaving")]
        else:
            found += [Place(link.name, "ab", link.b, "arriving"), Place(link.name, "ba", link.a, "arriving")]
    return found


def _fitness(interface: Interface, nodes: Mapping[str, Node], enforcing: Collection[str]) -> int:
    """How well this end can hold both directions."""
    if interface.bridge:
        return 0
    if not nodes[interface.node].forwards:
        return 1
    return 2 if interface.node in enforcing else 3
