"""The plan: everything a run needs, resolved. Frozen; written as plan.json; the same inputs give the same bytes.

Times are integers in nanoseconds from the start of the scenario (`_ns`), rates bits per second (`_bps`),
ratios 0..1 (`_ratio`). Addresses are strings in the form `ipaddress` prints; interface addresses carry a prefix length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = "allowlab.plan/1"

NodeKind = Literal["gateway", "isp", "exchange", "abroad", "subscriber", "server", "authority"]
SubscriberKind = Literal["company", "freelancer", "call-centre", "bank", "hospital", "ngo", "household"]
Addressing = Literal["static", "dynamic", "nat"]
VpnProtocol = Literal["wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "openconnect", "l2tp", "pptp"]
ProbeKind = Literal["dns", "https", "voice", "icmp", "handshake", "tunnel-echo"]
Relation = Literal["customer", "peer", "route-server-client"]


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link. `name` is a kernel name (at most 15 bytes); an end inside a bridge has no address.

    ipv4/ipv6 hold every address of the end with its prefix length, in order; the first is the primary one.
    """

    node: str
    name: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    bridge: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A point-to-point link. delay_ns is one-way; rate_bps limits each direction on its own (None: not limited)."""

    name: str
    kind: Literal["access", "transit", "cable", "exchange", "server", "backbone"]
    a: Interface
    b: Interface
    rate_bps: int | None = None
    delay_ns: int = 0
    jitter_ns: int = 0
    loss_ratio: float = 0.0

    @property
    def is_shaped(self) -> bool:
        return bool(self.rate_bps or self.delay_ns or self.jitter_ns or self.loss_ratio)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge inside a node (an exchange's LAN); its members are the interfaces that name it."""

    node: str
    name: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A route in a node's kernel table; via is the gateway's address, or None for a blackhole."""

    destination: str
    via: str | None
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A network namespace. `forwards` turns on IP forwarding; loopback addresses carry /32 and /128."""

    name: str
    kind: NodeKind
    asn: int
    forwards: bool
    loopback4: str | None = None
    loopback6: str | None = None
    routes: tuple[StaticRoute, ...] = ()
    runs_bgp: bool = False


@dataclass(frozen=True, slots=True)
class AutonomousSystem:
    """prefixes are what the AS originates (announced as aggregates by its router `node`)."""

    number: int
    name: str
    node: str
    prefixes4: tuple[str, ...]
    prefixes6: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BgpSession:
    """One eBGP session over a link. relation says what `a` is to `b`: a customer, a peer, or a client of route server `b`.

    Addresses have no prefix length. preference orders several sessions to the same destination: higher wins
    (LOCAL_PREF inside one relation class; the other side is told by AS-path prepending, `prepend` times).
    """

    link: str
    a: str
    b: str
    a4: str
    b4: str
    a6: str
    b6: str
    relation: Relation
    preference: int = 100
    prepend: int = 0


@dataclass(frozen=True, slots=True)
class Nat:
    """Carrier-grade NAT with one port block per subscriber (RFC 7422): inside address -> public address and ports."""

    node: str
    inside4: str
    public4: str
    port_first: int
    port_last: int
    subscriber: str


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A line with a host behind it. public4/public6 are what a gateway sees; public6 is None without IPv6.

    spare4/spare6 are the addresses a dynamic line gets next, in order, when a `change-address` event says so.
    port_first..port_last bounds the host's ephemeral ports behind a shared address; otherwise None.
    """

    name: str
    node: str
    kind: SubscriberKind
    isp: str
    addressing: Addressing
    public4: str
    public6: str | None
    spare4: tuple[str, ...] = ()
    spare6: tuple[str, ...] = ()
    port_first: int | None = None
    port_last: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """Something a server node answers: name is unique; address4/6 have no prefix length.

    protocol: for kind "handshake", the VPN protocol whose first packets it answers.
    """

    name: str
    node: str
    kind: Literal["dns", "https", "voice", "icmp", "handshake", "bulk"]
    address4: str
    address6: str | None
    port: int
    zone: str | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class VpnServer:
    """A real VPN server. inner4 is the tunnel network; the server answers UDP echo at inner_server4:7 inside it.

    options: strings the protocol's module understands ("keepalive_s", "dpd_s", …).
    """

    name: str
    node: str
    protocol: VpnProtocol
    address4: str
    address6: str | None
    port: int
    inner4: str
    inner_server4: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A real VPN client of a subscriber. Connects at start_ns and stays until stop_ns; family is the outer one."""

    name: str
    subscriber: str
    server: str
    family: Literal[4, 6]
    inner4: str
    start_ns: int
    stop_ns: int


@dataclass(frozen=True, slots=True)
class Registration:
    """What a person asks for: VPN use of one line towards one server. name is "subscriber/server".

    initial is the state the ledger is seeded with before the scenario starts; None: nothing yet, an `apply` event will.
    subscriber_prefixes are the addresses written on the form (public ones at planning time). category: the registry's, on the
    form; None: the subscriber's kind, or "other". A "provider" (a licence) entitles everybody to its server while it is active.
    """

    name: str
    subscriber: str
    server: str
    protocols: tuple[str, ...]
    subscriber_prefixes: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...]
    initial: Literal["pending", "active", "suspended", "expired", "revoked", "rejected"] | None
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Flow attempts of one subscriber to one target: attempt k of stream s has id f"{s.name}#{k}" and starts at at_ns[k].

    target is a Service name, or a Tunnel name for `tunnel-echo`. protocol is the class counted in the report:
    "dns", "https", "voice", "icmp", or a VPN protocol. packets/spacing_ns: packets an attempt sends (voice; else 1).
    An attempt fails when it is not complete deadline_ns after its scheduled time. registration: the Registration that
    decides whether a VPN attempt is entitled; None for traffic that is not VPN (always entitled).
    """

    name: str
    group: str
    subscriber: str
    probe: ProbeKind
    protocol: str
    target: str
    family: Literal[4, 6]
    at_ns: tuple[int, ...]
    deadline_ns: int
    packets: int = 1
    spacing_ns: int = 0
    payload_bytes: int = 64
    registration: str | None = None


@dataclass(frozen=True, slots=True)
class Bulk:
    """An iperf3 phase: download to the subscriber from a `bulk` service, or through a tunnel when via names one."""

    name: str
    subscriber: str
    service: str
    via: str | None
    start_ns: int
    duration_ns: int
    direction: Literal["down", "up"] = "down"


@dataclass(frozen=True, slots=True)
class Event:
    """Something the script does. action and args:

    apply, verify, refuse-verify, approve, reject, revoke, suspend, renew, complain, grant-appeal, deny-appeal, ask-renewal
                     {"registration": NAME}
    change-address   {"subscriber": NAME}
    connect, disconnect   {"tunnel": NAME}
    fault   {"kind": KIND, "at": [NODE or LINK, …], "until_ns": N, …}
    set-link   {"link": NAME, "delay_ns": …, "loss_ratio": …, "rate_bps": …}
    What no event of the file says has "by" in its args: "provider" or "officer" (a desk acts by itself: verify, refuse-verify, approve,
    reject), or "registry" (it acts because time passes, and the script only waits for it: expire, remind, verify, refuse-verify).
    file/line/column say where it stands in the scenario.
    """

    name: str
    at_ns: int
    action: str
    args: dict[str, Any]
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Expectation:
    """A claim the run is judged by: figure over the attempts `where` selects, between from_ns and until_ns.

    where keys (all optional, lists of allowed values): subscriber, kind, isp, stream, group, protocol, server.
    comparator is one of "at_most", "at_least", "equals"; bound is a number (SI units) or a word.
    """

    name: str
    figure: str
    where: dict[str, list[str]]
    from_ns: int
    until_ns: int
    comparator: Literal["at_most", "at_least", "equals"]
    bound: float | str
    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Account:
    """What somebody published about the event a scenario plays; the report sets it beside what was measured.

    from_ns..until_ns: when it is said to have been, on the scenario's clock (negative: before its start). least_ns..most_ns: how
    long it is said to have lasted. None: not claimed. hit: who is said to have been hit, in words ("": not claimed).
    """

    by: str
    says: str
    from_ns: int | None
    until_ns: int | None
    least_ns: int | None
    most_ns: int | None
    hit: str
    sources: tuple[str, ...]
    is_contested: bool


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a measured link may be from what was asked before the run is `broken`."""

    delay_floor_ns: int = 500_000
    delay_ratio: float = 0.03
    rate_ratio: float = 0.05
    loss_confidence: float = 0.99


@dataclass(frozen=True, slots=True)
class EnforcerPlacement:
    """An enforcer inline on a node: traffic crosses it between inside (domestic) and outside (cable) interfaces."""

    node: str
    inside: tuple[str, ...]
    outside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Authority:
    """Where the registry runs, and how long an ISP takes to verify by default."""

    node: str
    address4: str
    address6: str | None
    port: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One scenario on one topology under one policy. policy is the checked policy document as plain data (None: no enforcer).

    registry: what of the registry's configuration file (docs/registry.md) the scenario says, such as {"rules": {"validity": "20s"}}.
    """

    scenario: str
    title: str
    description: str
    tags: tuple[str, ...]
    scenario_file: str
    topology_file: str
    policy_file: str | None
    seed: int
    starts_at: str
    duration_ns: int
    nodes: tuple[Node, ...]
    bridges: tuple[Bridge, ...]
    links: tuple[Link, ...]
    systems: tuple[AutonomousSystem, ...]
    sessions: tuple[BgpSession, ...]
    nats: tuple[Nat, ...]
    subscribers: tuple[Subscriber, ...]
    services: tuple[Service, ...]
    servers: tuple[VpnServer, ...]
    authority: Authority | None
    enforcers: tuple[EnforcerPlacement, ...]
    policy: dict[str, Any] | None
    registrations: tuple[Registration, ...]
    tunnels: tuple[Tunnel, ...]
    streams: tuple[Stream, ...]
    bulk: tuple[Bulk, ...]
    events: tuple[Event, ...]
    expectations: tuple[Expectation, ...]
    tolerances: Tolerances = field(default_factory=Tolerances)
    ready_deadline_ns: int = 30_000_000_000
    clock: Literal["real", "virtual"] = "real"
    accounts: tuple[Account, ...] = ()
    registry: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA
