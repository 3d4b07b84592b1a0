"""What the policies of testbed.lab.bird imply: each router's best route to each prefix, computed without a network.

This is the yardstick for kernels: the lab is converged when every forwarding table holds these routes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from testbed.lab.bird import (
    FROM,
    LOCAL_PREF,
    Class,
    Neighbour,
    accepted_prefixes,
    med,
    neighbours,
    own_prefixes,
    router_id,
)
from testbed.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Route:
    """A route in a router's table. next_hop is None for what the router originates; as_path is nearest first."""

    prefix: str
    family: int
    next_hop: str | None
    as_path: tuple[int, ...]
    learned_from: Class | None
    link: str | None
    local_pref: int = 0
    med: int = 0
    tie_break: tuple[int, int] = (0, 0)


Table = dict[str, Route]


def best_routes(plan: Plan, cut: Collection[str] = ()) -> dict[str, Table]:
    """The stable state of BGP with the links named in `cut` down: router -> prefix (as ipaddress prints it) -> route.

    Raises ValueError when the relations have no stable state within as many rounds as could ever be needed
    (a customer-provider cycle; Gao and Rexford 2001, theorem 5.1).
    """
    routers = [node.name for node in plan.nodes if node.runs_bgp]
    tables: dict[str, Table] = {name: _originated(plan, name) for name in routers}
    peers = {
        name: [n for n in neighbours(plan, name) if n.session.link not in cut and n.node in tables]
        for name in routers
    }
    accepts = {
        (name, index, family): accepted_prefixes(plan, peer, family)
        for name in routers
        for index, peer in enumerate(peers[name])
        for family in (4, 6)
    }
    numbers = {node.name: node.asn for node in plan.nodes}
    identities = {
        node.name: int(ipaddress.IPv4Address(router_id(node, plan))) for node in plan.nodes if node.runs_bgp
    }
    for _round in range(2 * len(routers) + 2):
        heard: dict[str, list[Route]] = {name: [] for name in routers}
        for name in routers:
            for index, peer in enumerate(peers[name]):
                sender = next(p for p in peers[peer.node] if p.session is peer.session)
                for route in tables[peer.node].values():
                    accepted = accepts[name, index, route.family]
                    if accepted is not None and route.prefix not in _normal(accepted):
                        continue
                    sent = _exported(route, sender, numbers[peer.node])
                    if sent is not None and numbers[name] not in sent[0]:
                        heard[name].append(_imported(route, sent, peer, identities[peer.node]))
        after = {name: _choose(_originated(plan, name), heard[name]) for name in routers}
        if after == tables:
            return tables
        tables = after
    raise ValueError("the BGP relations have no stable state: is somebody a customer of its own customer?")


def _originated(plan: Plan, name: str) -> Table:
    return {
        prefix: Route(prefix, family, None, (), None, None)
        for family in (4, 6)
        for prefix in _normal(own_prefixes(plan, name, family))
    }


def _exported(route: Route, to: Neighbour, own_asn: int) -> tuple[tuple[int, ...], int, str] | None:
    """What a router tells a neighbour of a route: (AS path, MED, next hop); None: nothing."""
    if to.is_client:  # a route server is no hop: path, MED and next hop stay (RFC 7947 §2.2)
        return (route.as_path, route.med, route.next_hop or "") if route.link != to.session.link else None
    is_ours = route.learned_from is None or FROM[route.learned_from] == FROM["customer"]
    if to.relation != "customer" and not is_ours:
        return None
    is_a = to.session.b == to.node
    times = 1 + (to.session.prepend if is_a else 0)
    return (own_asn,) * times + route.as_path, med(to.session) if is_a else 0, to.local[route.family]


def _imported(route: Route, sent: tuple[tuple[int, ...], int, str], peer: Neighbour, identity: int) -> Route:
    as_path, metric, next_hop = sent
    local_pref = 100 if peer.is_client else LOCAL_PREF[peer.relation] + peer.prefers
    remote = int(ipaddress.ip_address(peer.remote[route.family]))
    return Route(
        route.prefix,
        route.family,
        next_hop,
        as_path,
        peer.relation,
        peer.session.link,
        local_pref,
        metric,
        (identity, remote),
    )


def _choose(own: Table, heard: list[Route]) -> Table:
    """BIRD's order for eBGP (bgp_rte_better): LOCAL_PREF, path length, MED within a neighbour AS, router id, address."""
    table = dict(own)
    by_prefix: dict[str, list[Route]] = {}
    for route in heard:
        if route.prefix not in own:
            by_prefix.setdefault(route.prefix, []).append(route)
    for prefix, routes in by_prefix.items():
        best = min((-route.local_pref, len(route.as_path)) for route in routes)
        routes = [route for route in routes if (-route.local_pref, len(route.as_path)) == best]
        lowest: dict[int, int] = {}
        for route in routes:
            lowest[route.as_path[0]] = min(route.med, lowest.get(route.as_path[0], route.med))
        routes = [route for route in routes if route.med == lowest[route.as_path[0]]]
        table[prefix] = min(routes, key=lambda route: route.tie_break)
    return table


def _normal(prefixes: Collection[str]) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(prefix)) for prefix in prefixes)
