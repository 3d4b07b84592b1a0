"""Real VPN servers and clients between namespaces of a small lab: each comes up, carries an echo, is cut and recovers.

Inside the world the scripts below run as `python -m tests.test_lab_vpn_world NAME`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.lab.build import Lab, build
from testbed.lab.vpn import VpnClient, VpnServers
from testbed.lab.vpn.echo import InnerEcho
from testbed.plan.plan import Plan, StaticRoute, Tunnel, VpnServer
from tests.small_plan import small_plan

BOUNDED = {"timers": "bounded"}


def server(number: int, name: str, protocol, port: int, **options: str) -> VpnServer:
    inner = f"10.99.{number}"
    return VpnServer(
        name, "srv", protocol, "10.9.0.10", "fd00:9:0::10", port, f"{inner}.0/24", f"{inner}.1", options
    )


SERVERS = (
    server(1, "fra-wireguard", "wireguard", 51820),
    server(2, "fra-openvpn", "openvpn-udp", 1194, **BOUNDED),
    server(3, "fra-openvpn-tcp", "openvpn-tcp", 1194, **BOUNDED),
    server(4, "fra-ikev2", "ikev2", 500, **BOUNDED),
    server(5, "fra-openconnect", "openconnect", 443, transport="tls"),
    server(6, "fra-openconnect-dtls", "openconnect", 8443),
)


def vpn_plan(tunnels: tuple[Tunnel, ...], servers: tuple[VpnServer, ...] = SERVERS, **changes) -> Plan:
    """The small plan with static routes for BGP's, VPN servers and tunnels."""
    plan = small_plan(servers=servers, tunnels=tunnels, **changes)
    routes = {
        "isp1": [("0.0.0.0/0", "10.0.0.2"), ("::/0", "fd00:0:0:1::2")],
        "isp2": [("0.0.0.0/0", "10.0.0.6"), ("::/0", "fd00:0:0:2::2")],
        "gw": [
            ("10.1.0.0/16", "10.0.0.1"),
            ("fd00:1::/32", "fd00:0:0:1::1"),
            ("10.2.0.0/16", "10.0.0.5"),
            ("fd00:2::/32", "fd00:0:0:2::1"),
            ("0.0.0.0/0", "10.0.0.10"),
            ("::/0", "fd00:0:0:3::2"),
        ],
        "fra": [("0.0.0.0/0", "10.0.0.9"), ("::/0", "fd00:0:0:3::1")],
    }
    nodes = tuple(
        dataclasses.replace(
            node, routes=tuple(StaticRoute(*route) for route in routes.get(node.name, [])) or node.routes
        )
        for node in plan.nodes
    )
    return dataclasses.replace(plan, nodes=nodes)


def tunnel(server: VpnServer, subscriber: str = "alice", host: int = 2, family=4) -> Tunnel:
    inner4 = server.inner4.rpartition(".")[0] + f".{host}"
    return Tunnel(f"{subscriber}/{server.name}-{family}", subscriber, server.name, family, inner4, 0, 10**10)


@contextmanager
def running(plan: Plan) -> Iterator[tuple[Lab, VpnServers]]:
    with build(plan, Path(tempfile.mkdtemp())) as lab:
        began = time.monotonic()
        with VpnServers(lab) as servers:
            print(f"{len(plan.servers)} servers up in {time.monotonic() - began:.3f} s")
            echo = InnerEcho(lab, servers.echo_endpoints())
            yield lab, servers
            assert servers.health() == [], servers.health()
            echo.close()


async def connect(client: VpnClient) -> float:
    await asyncio.to_thread(client.start)
    took_s = await client.up(10)
    print(f"{client.tunnel.name}: up after {took_s:.3f} s, outer flow {client.outer_flow()}")
    return took_s


def each_comes_up() -> None:
    plan = vpn_plan(
        (
            *(tunnel(s) for s in SERVERS),
            *(tunnel(s, "bob", 3, 6) for s in SERVERS),
        )
    )

    async def play(servers: VpnServers) -> None:
        clients = [servers.client(t) for t in plan.tunnels]
        results = await asyncio.gather(*(connect(c) for c in clients), return_exceptions=True)
        for client, result in zip(clients, results, strict=True):
            if isinstance(result, BaseException):
                print("FAILED", client.tunnel.name, result)

    with running(plan) as (_lab, servers):
        asyncio.run(play(servers))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
