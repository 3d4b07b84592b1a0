"""BIRD configurations from a plan: a pure function, one text per router. The rules are Gao and Rexford's (2001).

Import: LOCAL_PREF puts customers above peers above providers; every route is tagged with where it came from.
Export: customers get everything, peers and providers only our own and our customers' routes. So no valley, and domestic
traffic stays at the exchange. Inbound filters take from each neighbour only what it may announce (its customer cone).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from testbed.plan.plan import AutonomousSystem, BgpSession, Node, Plan

Class = Literal["customer", "peer", "provider"]

# LOCAL_PREF = class + the session's preference, so a preference of 0..999 never lifts a route over its class.
LOCAL_PREF: dict[Class, int] = {"customer": 3000, "peer": 2000, "provider": 1000}
PREFERENCE_MAX = 999
# Large community (own AS, ORIGIN_TAG, where from); RFC 8092, the scheme of RFC 8195 §4.1.1 (relation functions).
ORIGIN_TAG = 1
FROM: dict[Class, int] = {"customer": 1, "peer": 2, "provider": 3}
# Seconds. BIRD's own defaults (connect delay 5, retry 120, error wait 60) would be all the start-up there is. Keepalive
# is hold/3 (RFC 4271 §10); 9 s rides out a queue full of bulk load, a cut cable is seen at once by its carrier.
CONNECT_DELAY_S = 1
CONNECT_RETRY_S = 1
ERROR_WAIT_S = (1, 2)
HOLD_S = 9
# At an exchange carrier says nothing: the router at the far end of a cut port sits behind a bridge. So the session with
# the route server must find out, and its LAN carries no bulk load to ride out.
EXCHANGE_HOLD_S = 5
# In virtual time keepalives are most of what happens at all, and only a link that is struck makes them matter (hold time 0: RFC
# 4271 §4.2). BIRD hears of its kernel's changes as they come; it looks through everything besides, for what it might have missed.
_VIRTUAL_SCAN_S = 86_400
_LINK_FAULTS = frozenset({"link-down", "link-degrade"})


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A BgpSession seen from one of its routers. relation: what the neighbour is to this router."""

    session: BgpSession
    node: str
    asn: int
    relation: Class
    is_route_server: bool  # the neighbour is one
    is_client: bool  # the neighbour is a client of this router, which is a route server
    local: dict[int, str]  # by family
    remote: dict[int, str]

    @property
    def prefers(self) -> int:
        """Only `a` ranks by preference; `b` is told, by AS-path length and MED."""
        return self.session.preference if self.session.b == self.node else 0

    def protocol(self, family: int) -> str:
        return protocol_name(self.session, self.node, family)


def protocol_name(session: BgpSession, neighbour: str, family: int) -> str:
    """BIRD's name of the session towards a neighbour: "cable1.fra.v4"."""
    return f"{session.link}.{neighbour}.v{family}"


def neighbours(plan: Plan, node: str) -> tuple[Neighbour, ...]:
    """The router's sessions, in the plan's order. Raises ValueError for a preference outside 0..999."""
    numbers = {router.name: router.asn for router in plan.nodes}
    found = []
    for session in plan.sessions:
        if not 0 <= session.preference <= PREFERENCE_MAX:
            raise ValueError(
                f"session over {session.link}: preference {session.preference} would outrank "
                f"the relation; write 0 to {PREFERENCE_MAX}"
            )
        a, b = {4: session.a4, 6: session.a6}, {4: session.b4, 6: session.b6}
        is_served = session.relation == "route-server-client"
        is_peer = is_served or session.relation == "peer"
        if session.a == node:
            relation: Class = "peer" if is_peer else "provider"
            found.append(
                Neighbour(
                    session, session.b, numbers[session.b], relation, is_served, False, local=a, remote=b
                )
            )
        if session.b == node:
            relation = "peer" if is_peer else "customer"
            found.append(
                Neighbour(
                    session, session.a, numbers[session.a], relation, False, is_served, local=b, remote=a
                )
            )
    return tuple(found)


def own_prefixes(plan: Plan, node: str, family: int) -> tuple[str, ...]:
    """What the router originates; a route server originates nothing, for it is no hop of any path."""
    if any(neighbour.is_client for neighbour in neighbours(plan, node)):
        return ()
    return tuple(
        prefix for system in plan.systems if system.node == node for prefix in _prefixes(system, family)
    )


def customer_cone(plan: Plan, node: str, family: int) -> tuple[str, ...]:
    """The prefixes a router may announce to its peers and providers: its own and, in turn, its customers'."""
    nodes, todo = set(), [node]
    while todo:
        name = todo.pop()
        if name not in nodes:
            nodes.add(name)
            todo += [s.a for s in plan.sessions if s.b == name and s.relation == "customer"]
    return _in_order({prefix for name in nodes for prefix in own_prefixes(plan, name, family)})


def accepted_prefixes(plan: Plan, neighbour: Neighbour, family: int) -> tuple[str, ...] | None:
    """What may come in over a session: the neighbour's cone, all clients' cones from a route server; None: anything."""
    if neighbour.is_route_server:
        served = neighbour.session
        clients = {
            s.a
            for s in plan.sessions
            if s.b == served.b and s.relation == "route-server-client" and s.a != served.a
        }
        return _in_order({p for client in clients for p in customer_cone(plan, client, family)})
    if neighbour.relation == "provider":
        return None
    return customer_cone(plan, neighbour.node, family)


def router_id(node: Node, plan: Plan) -> str:
    """The router's loopback, else its lowest session address."""
    if node.loopback4:
        return node.loopback4.split("/")[0]
    return min((neighbour.local[4] for neighbour in neighbours(plan, node.name)), key=ipaddress.IPv4Address)


def source_address(plan: Plan, node: Node, family: int) -> str | None:
    """The address a router answers from (ICMP errors): one the world has a route to, its loopback if that is one."""
    ours = [ipaddress.ip_network(prefix) for prefix in own_prefixes(plan, node.name, family)]
    loopback = node.loopback4 if family == 4 else node.loopback6
    ends = [end for link in plan.links for end in (link.a, link.b) if end.node == node.name]
    addresses = [loopback] if loopback else []
    for end in ends:
        addresses += end.ipv4 if family == 4 else end.ipv6
    for address in addresses:
        host = ipaddress.ip_interface(address).ip
        if any(host in prefix for prefix in ours):
            return str(host)
    return None


def bird_conf(plan: Plan, node_name: str) -> str:
    """The whole configuration of one router. Raises KeyError for a node the plan does not have."""
    node = next((n for n in plan.nodes if n.name == node_name), None)
    if node is None:
        raise KeyError(node_name)
    peers = neighbours(plan, node.name)
    is_route_server = any(peer.is_client for peer in peers)
    parts = [
        f"# {node.name}, AS{node.asn}",
        f"router id {router_id(node, plan)};",
        "log stderr all;",
        "debug protocols { states };",
        f"protocol device {{ scan time {_VIRTUAL_SCAN_S}; }}"
        if plan.clock == "virtual"
        else "protocol device {}",
        _definitions(plan, node),
    ]
    for family in (4, 6):
        if not is_route_server:
            parts.append(_aggregates(plan, node, family))
            parts.append(_kernel(plan, node, family))
    for peer in peers:
        for family in (4, 6):
            parts.append(_session(plan, node, peer, family, is_route_server))
    return "\n".join(parts) + "\n"


def is_settled(plan: Plan) -> bool:
    """Whether routing has nothing more to do once it has converged: in virtual time, when the script strikes no link."""
    return plan.clock == "virtual" and not any(
        event.action == "set-link" or (event.action == "fault" and event.args["kind"] in _LINK_FAULTS)
        for event in plan.events
    )


def _definitions(plan: Plan, node: Node) -> str:
    lines = []
    for family in (4, 6):
        prefixes = own_prefixes(plan, node.name, family)
        if prefixes:
            lines.append(f"define OWN{family} = {_set(prefixes)};")
    return "\n".join(lines)


def _aggregates(plan: Plan, node: Node, family: int) -> str:
    """Unreachable, not blackhole: an address nobody has is answered by ICMP and not mistaken for a block."""
    routes = "".join(f" route {prefix} unreachable;" for prefix in own_prefixes(plan, node.name, family))
    return f"protocol static aggregates{family} {{ ipv{family};{routes} }}"


def _kernel(plan: Plan, node: Node, family: int) -> str:
    source = source_address(plan, node, family)
    prefer = f" if source = RTS_BGP then krt_prefsrc = {source};" if source else ""
    return (
        f"protocol kernel kernel{family} {{ scan time {_VIRTUAL_SCAN_S if plan.clock == 'virtual' else 60}; "
        f"ipv{family} {{ import none; export filter {{{prefer} accept; }}; }}; }}"
    )


def _session(plan: Plan, node: Node, peer: Neighbour, family: int, is_route_server: bool) -> str:
    options = " rs client;" if peer.is_client else ""
    hold_s = EXCHANGE_HOLD_S if peer.is_client or peer.is_route_server else HOLD_S
    timers = f"hold time {hold_s}; keepalive time {hold_s // 3};"
    if is_settled(plan):
        timers = "hold time 0;"
    return f"""protocol bgp '{peer.protocol(family)}' {{
  local {peer.local[family]} as {node.asn};
  neighbor {peer.remote[family]} as {peer.asn};{options}
  direct; check link on;
  connect delay time {CONNECT_DELAY_S}; connect retry time {CONNECT_RETRY_S};
  error wait time {ERROR_WAIT_S[0]}, {ERROR_WAIT_S[1]};
  {timers}
  graceful restart off;
  ipv{family} {{
    import filter {{
{_import(plan, node, peer, family, is_route_server)}    }};
    export filter {{
{_export(node, peer, is_route_server)}    }};
  }};
}}"""


def _import(plan: Plan, node: Node, peer: Neighbour, family: int, is_route_server: bool) -> str:
    lines = []
    if own_prefixes(plan, node.name, family):
        lines.append(f"if net ~ OWN{family} then reject;")
    accepted = accepted_prefixes(plan, peer, family)
    if accepted is not None:
        lines.append(f"if !(net ~ {_set(accepted)}) then reject;" if accepted else "reject;")
    if not is_route_server:
        lines.append(f"bgp_large_community.delete([({node.asn}, *, *)]);")
        lines.append(f"bgp_large_community.add(({node.asn}, {ORIGIN_TAG}, {FROM[peer.relation]}));")
        lines.append(f"bgp_local_pref = {LOCAL_PREF[peer.relation] + peer.prefers};")
    return _body(lines)


def _export(node: Node, peer: Neighbour, is_route_server: bool) -> str:
    if is_route_server:
        return _body(["if source != RTS_BGP then reject;"])
    lines = []
    if peer.relation != "customer":
        customers = f"({node.asn}, {ORIGIN_TAG}, {FROM['customer']})"
        lines.append(f"if source = RTS_BGP && !({customers} ~ bgp_large_community) then reject;")
    if (
        peer.session.b == peer.node
    ):  # this router is `a`: it tells `b` which session it would rather be reached by
        lines += [f"bgp_path.prepend({node.asn});"] * peer.session.prepend
        lines.append(f"bgp_med = {med(peer.session)};")
    return _body(lines)


def med(session: BgpSession) -> int:
    """`a` tells `b` its preference among parallel sessions; lower wins (RFC 4271 §9.1.2.2 c)."""
    return PREFERENCE_MAX - session.preference


def _prefixes(system: AutonomousSystem, family: int) -> tuple[str, ...]:
    return system.prefixes4 if family == 4 else system.prefixes6


def _in_order(prefixes: set[str]) -> tuple[str, ...]:
    return tuple(sorted(prefixes, key=lambda p: (int(ipaddress.ip_network(p).network_address), p)))


def _set(prefixes: tuple[str, ...]) -> str:
    return f"[ {', '.join(prefixes)} ]"


def _body(lines: list[str]) -> str:
    return "".join(f"      {line}\n" for line in (*lines, "accept;"))
