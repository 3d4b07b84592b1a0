"""Three promises of the routing, checked hop by hop in the kernels' tables: domestic stays at home, no valleys, one gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from testbed.lab.bird_fib import Fib, forwarding_path
from testbed.plan.plan import Plan

Step = Literal["up", "across", "down", "inside"]


def path_problems(plan: Plan, fibs: Mapping[str, Fib]) -> list[str]:
    """What is wrong with the paths between subscribers and everything they use, as sentences; both directions, both families.

    Between two ISPs at one exchange no gateway and no place abroad may be crossed; no path may go down and up again
    (Gao 2001, valley-free); both directions must cross the same gateways, for their enforcers keep state.
    """
    wrong = []
    gateways = {node.name for node in plan.nodes if node.kind == "gateway"}
    abroad = {node.name for node in plan.nodes if node.kind == "abroad"}
    for here, there, at_home in _ends(plan):
        try:
            forth = forwarding_path(plan, fibs, here[0], there[1])
            back = forwarding_path(plan, fibs, there[0], here[1])
        except LookupError as error:
            wrong.append(str(error.args[0]))
            continue
        if at_home:
            for path in (forth, back):
                if foreign := [name for name in path if name in gateways | abroad]:
                    wrong.append(f"{' > '.join(path)}: domestic traffic crosses {', '.join(foreign)}")
        wrong += [f"{' > '.join(path)}: a valley" for path in (forth, back) if not is_valley_free(plan, path)]
        crossed = [[name for name in path if name in gateways] for path in (forth, back)]
        if crossed[0] != crossed[1][::-1]:
            wrong.append(
                f"{' > '.join(forth)}: back through {', '.join(crossed[1]) or 'no gateway'} ({' > '.join(back)})"
            )
    return wrong


def is_valley_free(plan: Plan, path: Sequence[str]) -> bool:
    """Up to providers, at most once across to a peer, down to customers; a step inside an AS counts for nothing."""
    rank = {"up": 0, "across": 1, "down": 2}
    last = -1
    for here, there in zip(path, path[1:], strict=False):
        step = _step(plan, here, there)
        if step == "inside":
            continue
        if rank[step] < last or (step == "across" and last == rank["across"]):
            return False
        last = rank[step]
    return True


def _step(plan: Plan, here: str, there: str) -> Step:
    """What a hop is. Raises ValueError for one between systems that have no session."""
    numbers = {node.name: node.asn for node in plan.nodes}
    if numbers[here] == numbers[there]:
        return "inside"
    for session in plan.sessions:
        if {session.a, session.b} == {here, there}:
            if session.relation == "customer":
                return "up" if session.a == here else "down"
            return "across"
    if _exchanges(plan, here) & _exchanges(plan, there):
        return "across"
    raise ValueError(f"{here} > {there}: they have no session with each other")


def _exchanges(plan: Plan, router: str) -> set[str]:
    return {s.b for s in plan.sessions if s.a == router and s.relation == "route-server-client"}


def _ends(plan: Plan) -> Iterator[tuple[tuple[str, str], tuple[str, str], bool]]:
    """((subscriber's node, its public address), (server's node, its address), whether both meet at an exchange)."""
    routers = {system.number: system.node for system in plan.systems}
    numbers = {node.name: node.asn for node in plan.nodes}
    targets: dict[str, str] = {}
    for end in (*plan.services, *plan.servers, *([plan.authority] if plan.authority else [])):
        for address in (end.address4, end.address6):
            if address:
                targets[address] = end.node
    for line in plan.subscribers:
        for address, node in targets.items():
            own = line.public6 if ":" in address else line.public4
            if own:
                routers_at = [routers[numbers[name]] for name in (line.node, node)]
                is_same = routers_at[0] == routers_at[1]
                meet = bool(_exchanges(plan, routers_at[0]) & _exchanges(plan, routers_at[1]))
                yield (line.node, own), (node, address), is_same or meet
