"""A small plan made by hand, for tests of the lab's parts: two subscribers, two ISPs, one gateway, one place abroad.

alice -- isp1 --+
                +-- gw == fra -- srv (10.9.0.10)      authority: reg, at isp1
bob ---- isp2 --+
"""

from __future__ import annotations

from testbed.plan.plan import (
    Authority,
    AutonomousSystem,
    BgpSession,
    EnforcerPlacement,
    Interface,
    Link,
    Node,
    Plan,
    Service,
    StaticRoute,
    Subscriber,
    VpnServer,
)


def small_plan(**changes) -> Plan:
    """The plan, with the given fields of Plan replaced."""
    values = {
        "scenario": "small",
        "title": "small",
        "description": "",
        "tags": (),
        "scenario_file": "small.scenario.yaml",
        "topology_file": "small.topology.yaml",
        "policy_file": None,
        "seed": 1,
        "starts_at": "2024-11-12T10:00:00+05:00",
        "duration_ns": 10_000_000_000,
        "nodes": (
            _router("isp1", "isp", 65001),
            _router("isp2", "isp", 65002),
            _router("gw", "gateway", 65000),
            _router("fra", "abroad", 65009),
            _host("alice", "subscriber", 65001, "10.1.1.1", "fd00:1:1::1"),
            _host("bob", "subscriber", 65002, "10.2.1.1", "fd00:2:1::1"),
            _host("reg", "authority", 65001, "10.1.9.1", "fd00:1:9::1"),
            _host("srv", "server", 65009, "10.9.0.1", "fd00:9:0::1"),
        ),
        "bridges": (),
        "links": (
            _link(
                "acc-alice",
                "access",
                "alice",
                "eth0",
                "isp1",
                "alice",
                "10.1.1.2/24",
                "10.1.1.1/24",
                "fd00:1:1::2/64",
                "fd00:1:1::1/64",
                20_000_000,
                4_000_000,
            ),
            _link(
                "acc-bob",
                "access",
                "bob",
                "eth0",
                "isp2",
                "bob",
                "10.2.1.2/24",
                "10.2.1.1/24",
                "fd00:2:1::2/64",
                "fd00:2:1::1/64",
                20_000_000,
                4_000_000,
            ),
            _link(
                "acc-reg",
                "server",
                "reg",
                "eth0",
                "isp1",
                "reg",
                "10.1.9.10/24",
                "10.1.9.1/24",
                "fd00:1:9::10/64",
                "fd00:1:9::1/64",
                None,
                0,
            ),
            _link(
                "isp1-gw",
                "transit",
                "isp1",
                "gw",
                "gw",
                "isp1",
                "10.0.0.1/30",
                "10.0.0.2/30",
                "fd00:0:0:1::1/64",
                "fd00:0:0:1::2/64",
                100_000_000,
                1_000_000,
            ),
            _link(
                "isp2-gw",
                "transit",
                "isp2",
                "gw",
                "gw",
                "isp2",
                "10.0.0.5/30",
                "10.0.0.6/30",
                "fd00:0:0:2::1/64",
                "fd00:0:0:2::2/64",
                100_000_000,
                1_000_000,
            ),
            _link(
                "cable",
                "cable",
                "gw",
                "cable",
                "fra",
                "cable",
                "10.0.0.9/30",
                "10.0.0.10/30",
                "fd00:0:0:3::1/64",
                "fd00:0:0:3::2/64",
                100_000_000,
                20_000_000,
            ),
            _link(
                "acc-srv",
                "server",
                "srv",
                "eth0",
                "fra",
                "srv",
                "10.9.0.10/24",
                "10.9.0.1/24",
                "fd00:9:0::10/64",
                "fd00:9:0::1/64",
                None,
                0,
            ),
        ),
        "systems": (
            AutonomousSystem(65001, "isp1", "isp1", ("10.1.0.0/16",), ("fd00:1::/32",)),
            AutonomousSystem(65002, "isp2", "isp2", ("10.2.0.0/16",), ("fd00:2::/32",)),
            AutonomousSystem(65000, "gw", "gw", ("10.0.0.0/16",), ("fd00:0::/32",)),
            AutonomousSystem(65009, "fra", "fra", ("10.9.0.0/16",), ("fd00:9::/32",)),
        ),
        "sessions": (
            BgpSession(
                "isp1-gw", "isp1", "gw", "10.0.0.1", "10.0.0.2", "fd00:0:0:1::1", "fd00:0:0:1::2", "customer"
            ),
            BgpSession(
                "isp2-gw", "isp2", "gw", "10.0.0.5", "10.0.0.6", "fd00:0:0:2::1", "fd00:0:0:2::2", "customer"
            ),
            BgpSession(
                "cable", "gw", "fra", "10.0.0.9", "10.0.0.10", "fd00:0:0:3::1", "fd00:0:0:3::2", "customer"
            ),
        ),
        "nats": (),
        "subscribers": (
            Subscriber("alice", "alice", "company", "isp1", "static", "10.1.1.2", "fd00:1:1::2"),
            Subscriber("bob", "bob", "household", "isp2", "static", "10.2.1.2", "fd00:2:1::2"),
        ),
        "services": (
            Service("dns-fra", "srv", "dns", "10.9.0.10", "fd00:9:0::10", 53, "example."),
            Service("web-fra", "srv", "https", "10.9.0.10", "fd00:9:0::10", 443),
            Service("voice-fra", "srv", "voice", "10.9.0.10", "fd00:9:0::10", 16384),
            Service("ping-fra", "srv", "icmp", "10.9.0.10", "fd00:9:0::10", 0),
            Service("bulk-fra", "srv", "bulk", "10.9.0.10", "fd00:9:0::10", 5201),
        ),
        "servers": (
            VpnServer(
                "fra-wireguard",
                "srv",
                "wireguard",
                "10.9.0.10",
                "fd00:9:0::10",
                51820,
                "10.99.1.0/24",
                "10.99.1.1",
            ),
        ),
        "authority": Authority("reg", "10.1.9.10", "fd00:1:9::10", 8080),
        "enforcers": (EnforcerPlacement("gw", ("isp1", "isp2"), ("cable",)),),
        "policy": None,
        "registrations": (),
        "tunnels": (),
        "streams": (),
        "bulk": (),
        "events": (),
        "expectations": (),
    }
    return Plan(**{**values, **changes})


def _router(name: str, kind, asn: int) -> Node:
    return Node(
        name,
        kind,
        asn,
        forwards=True,
        loopback4=f"10.255.{asn - 65000}.1/32",
        loopback6=f"fd00:ff:{asn - 65000}::1/128",
        runs_bgp=True,
    )


def _host(name: str, kind, asn: int, via4: str, via6: str) -> Node:
    return Node(
        name, kind, asn, forwards=False, routes=(StaticRoute("0.0.0.0/0", via4), StaticRoute("::/0", via6))
    )


def _link(
    name: str,
    kind,
    a: str,
    a_if: str,
    b: str,
    b_if: str,
    a4: str,
    b4: str,
    a6: str,
    b6: str,
    rate_bps: int | None,
    delay_ns: int,
) -> Link:
    return Link(
        name, kind, Interface(a, a_if, (a4,), (a6,)), Interface(b, b_if, (b4,), (b6,)), rate_bps, delay_ns
    )
