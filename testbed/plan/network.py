"""From a checked topology to the network part of a plan: nodes, links, addresses, BGP sessions, NAT, services."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from testbed.plan.addressing import SERVER_SUBNETS, Block, Pair, bare, spares, tunnel_network
from testbed.plan.plan import (
    Authority,
    AutonomousSystem,
    BgpSession,
    Bridge,
    Interface,
    Link,
    Nat,
    Node,
    Service,
    StaticRoute,
    Subscriber,
    VpnServer,
)
from testbed.plan.topology_check import CUSTOMARY_PORT, NO_VPN
from testbed.plan.topology_file import IspFile, LineFile, RouterFile, ServerFile, SubscriberFile, TopologyFile

# Shared addresses leave the well-known ports out (RFC 7422 §2 suggests 1024 and up).
_FIRST_PORT, _LAST_PORT = 1024, 65535


@dataclass(slots=True)
class Network:
    """The network part of a plan, in the plan's order."""

    nodes: list[Node] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    systems: list[AutonomousSystem] = field(default_factory=list)
    sessions: list[BgpSession] = field(default_factory=list)
    nats: list[Nat] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    servers: list[VpnServer] = field(default_factory=list)
    authority: Authority | None = None
    open_services: set[str] = field(default_factory=set)  # handshake services nobody registers for
    outside: dict[str, list[str]] = field(default_factory=dict)  # node -> interfaces towards abroad
    inside: dict[str, list[str]] = field(default_factory=dict)  # node -> interfaces towards subscribers


def build_network(topology: TopologyFile) -> Network:
    """Raises IndexError (what there is room for) when the topology is larger than its address blocks."""
    return _Builder(topology).build()


class _Builder:
    def __init__(self, topology: TopologyFile) -> None:
        self._topology = topology
        self._network = Network()
        self._blocks: dict[str, Block] = {}
        self._count: Counter[tuple[str, str]] = Counter()
        self._names: dict[str, set[str]] = {}

    def build(self) -> Network:
        topology = self._topology
        for kind, routers in (
            ("gateway", topology.gateways),
            ("exchange", topology.exchange),
            ("abroad", topology.places),
            ("isp", topology.isps),
        ):
            for name, router in routers.items():
                self._router(name, kind, router)
        parallel = self._cables()
        for name, isp in topology.isps.items():
            self._transit(name, isp, parallel)
        self._exchange()
        for name, subscriber in topology.subscribers.items():
            self._subscriber(name, subscriber)
        for name, server in topology.servers.items():
            self._server(name, server)
        self._authority()
        return self._network

    def _router(self, name: str, kind, router: RouterFile) -> None:
        block = self._blocks[name] = Block(router.asn)
        self._network.nodes.append(
            Node(name, kind, router.asn, True, block.loopback4, block.loopback6, runs_bgp=True)
        )
        # An exchange's LAN is not announced (RFC 7454 §6.1.5), and it has nothing else.
        own = ((), ()) if kind == "exchange" else ((block.prefix4,), (block.prefix6,))
        self._network.systems.append(AutonomousSystem(router.asn, name, name, *own))

    def _cables(self) -> int:
        """Returns how many cables at most lie between the same two ends."""
        ends: Counter[tuple[str, str]] = Counter()
        for name, cable in self._topology.cables.items():
            rank = ends[cable.from_, cable.to]
            ends[cable.from_, cable.to] += 1
            link = self._link(
                name, "cable", (cable.from_, name), (cable.to, name), self._pair(cable.to), cable
            )
            self._session(link, "customer", rank, rank)
            self._network.outside.setdefault(cable.from_, []).append(link.a.name)
        return max(ends.values(), default=1)

    def _transit(self, name: str, isp: IspFile, parallel: int) -> None:
        for rank, transit in enumerate(isp.transit):
            pair = self._pair(transit.gateway)
            link = self._link(
                f"{name}--{transit.gateway}",
                "transit",
                (name, transit.gateway),
                (transit.gateway, name),
                pair,
                transit,
            )
            # A backup way must look longer from abroad than the primary gateway's last cable does.
            self._session(link, "customer", rank, rank * parallel)
            self._network.inside.setdefault(transit.gateway, []).append(link.b.name)
            self._network.outside.setdefault(name, []).append(link.a.name)

    def _exchange(self) -> None:
        for exchange in self._topology.exchange:
            block = self._blocks[exchange]
            lan4, lan6 = block.lan(None)
            self._network.bridges.append(Bridge(exchange, "lan", (lan4,), (lan6,)))
            self._names.setdefault(exchange, set()).add("lan")
            # To a gateway the exchange is home, to an ISP it is the way to others.
            home, away = self._network.inside, self._network.outside
            members = [(name, away) for name, isp in self._topology.isps.items() if isp.exchange]
            members += [(name, home) for name, gateway in self._topology.gateways.items() if gateway.exchange]
            for index, (name, side) in enumerate(members):
                own4, own6 = block.lan(index)
                a = Interface(name, self._interface(name, exchange), (own4,), (own6,))
                b = Interface(exchange, self._interface(exchange, name), bridge="lan")
                link = Link(f"{name}--{exchange}", "exchange", a, b)
                self._network.links.append(link)
                self._network.sessions.append(
                    BgpSession(
                        link.name,
                        name,
                        exchange,
                        bare(own4),
                        bare(lan4),
                        bare(own6),
                        bare(lan6),
                        "route-server-client",
                    )
                )
                side.setdefault(name, []).append(a.name)

    def _subscriber(self, name: str, subscriber: SubscriberFile) -> None:
        isp = self._topology.isps[subscriber.isp]
        block = self._blocks[subscriber.isp]
        is_nat = subscriber.address == "nat"
        index = self._next(subscriber.isp, "line")
        nat_index = self._next(subscriber.isp, "nat") if is_nat else 0
        if is_nat:
            pair = block.inside_line(
                self._nat_isps().index(subscriber.isp), nat_index, index, subscriber.ipv6
            )
        else:
            pair = block.line(index, subscriber.ipv6)
        link = self._host(name, "subscriber", subscriber.isp, pair, "access", subscriber.access or isp.access)
        self._network.inside.setdefault(subscriber.isp, []).append(link.b.name)
        public4, first, last = bare(pair.a4), None, None
        if is_nat:
            public4, first, last = self._nat(name, isp, subscriber.isp, bare(pair.a4), nat_index)
        is_dynamic = subscriber.address == "dynamic"
        public6 = bare(pair.a6) or None
        self._network.subscribers.append(
            Subscriber(
                name,
                name,
                subscriber.kind,
                subscriber.isp,
                subscriber.address,
                public4,
                public6,
                spares(public4) if is_dynamic else (),
                spares(public6) if is_dynamic and public6 else (),
                first,
                last,
            )
        )

    def _nat(self, name: str, isp: IspFile, node: str, inside4: str, index: int) -> tuple[str, int, int]:
        assert isp.cgnat is not None
        share = isp.cgnat.lines_per_address
        size = (_LAST_PORT - _FIRST_PORT + 1) // share
        public4 = self._blocks[node].shared(index // share)
        first = _FIRST_PORT + size * (index % share)
        self._network.nats.append(Nat(node, inside4, public4, first, first + size - 1, name))
        return public4, first, first + size - 1

    def _nat_isps(self) -> list[str]:
        return [name for name, isp in self._topology.isps.items() if isp.cgnat]

    def _server(self, name: str, server: ServerFile) -> None:
        pair = self._blocks[server.at].server(self._subnet(server.at, server.subnet))
        self._host(name, "server", server.at, pair, "server", LineFile())
        address4, address6 = bare(pair.a4), bare(pair.a6)
        for title, service in server.services.items():
            port = CUSTOMARY_PORT[service.protocol or service.kind] if service.port is None else service.port
            if service.open or service.protocol in NO_VPN:
                self._network.open_services.add(title)
            zone = (service.zone or "example.") if service.kind == "dns" else None
            self._network.services.append(
                Service(title, name, service.kind, address4, address6, port, zone, service.protocol)
            )
        for title, vpn in server.vpn.items():
            network, inner = tunnel_network(len(self._network.servers))
            port = vpn.port or CUSTOMARY_PORT[vpn.protocol]
            self._network.servers.append(
                VpnServer(
                    title, name, vpn.protocol, address4, address6, port, network, inner, dict(vpn.options)
                )
            )

    def _authority(self) -> None:
        authority = self._topology.authority
        if authority is None:
            return
        pair = self._blocks[authority.at].server(self._subnet(authority.at, None))
        self._host(authority.name, "authority", authority.at, pair, "server", LineFile())
        self._network.authority = Authority(authority.name, bare(pair.a4), bare(pair.a6), authority.port)

    def _subnet(self, at: str, wanted: int | None) -> int:
        if wanted is not None:
            return wanted
        taken = {server.subnet for server in self._topology.servers.values() if server.at == at}
        free = [number for number in SERVER_SUBNETS if number not in taken]
        return free[self._next(at, "server")]

    def _host(self, name: str, kind, router: str, pair: Pair, link_kind, line: LineFile) -> Link:
        routes = [StaticRoute("0.0.0.0/0", bare(pair.b4))]
        if pair.b6:
            routes.append(StaticRoute("::/0", bare(pair.b6)))
        self._network.nodes.append(Node(name, kind, self._blocks[router].asn, False, routes=tuple(routes)))
        return self._link(f"{name}--{router}", link_kind, (name, "eth0"), (router, name), pair, line)

    def _link(
        self, name: str, kind, a: tuple[str, str], b: tuple[str, str], pair: Pair, line: LineFile
    ) -> Link:
        link = Link(
            name,
            kind,
            Interface(a[0], self._interface(*a), (pair.a4,), (pair.a6,) if pair.a6 else ()),
            Interface(b[0], self._interface(*b), (pair.b4,), (pair.b6,) if pair.b6 else ()),
            line.rate,
            line.rtt // 2,
            line.jitter,
            line.loss,
        )
        self._network.links.append(link)
        return link

    def _session(self, link: Link, relation, rank: int, prepend: int) -> None:
        a, b = link.a, link.b
        self._network.sessions.append(
            BgpSession(
                link=link.name,
                a=a.node,
                b=b.node,
                a4=bare(a.ipv4[0]),
                b4=bare(b.ipv4[0]),
                a6=bare(a.ipv6[0]),
                b6=bare(b.ipv6[0]),
                relation=relation,
                preference=max(0, 100 - 10 * rank),
                prepend=prepend,
            )
        )

    def _pair(self, provider: str) -> Pair:
        return self._blocks[provider].link(self._next(provider, "link"))

    def _next(self, node: str, what: str) -> int:
        self._count[node, what] += 1
        return self._count[node, what] - 1

    def _interface(self, node: str, wanted: str) -> str:
        """A kernel name of at most 15 bytes, unique on the node: the wanted one, or its head and a hash of the whole."""
        taken = self._names.setdefault(node, {"lo"})
        name = wanted.lower()
        if len(name) > 15 or name in taken:
            name = f"{name[:10]}-{hashlib.sha256(wanted.encode()).hexdigest()[:4]}"
        for number in range(1000):
            unique = name if number == 0 else f"{name[:11]}-{number}"
            if unique not in taken:
                taken.add(unique)
                return unique
        raise IndexError(f"there is no free interface name for {wanted} on {node}")
