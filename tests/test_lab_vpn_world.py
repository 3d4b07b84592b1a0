"""Real VPN servers and clients between namespaces of a small lab: each comes up, carries an echo, is cut and recovers.

Run as a program, this file brings all of them up once, for a world with no more rights than a user namespace gives.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.nat import start_nat
from testbed.lab.vpn import VpnClient, VpnFailed, VpnServers
from testbed.lab.vpn.echo import InnerEcho
from testbed.plan.plan import Nat, Plan, StaticRoute, Tunnel, VpnServer
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


def tunnel(server: VpnServer, subscriber: str = "alice", host: int = 2, family: Literal[4, 6] = 4) -> Tunnel:
    inner4 = server.inner4.rpartition(".")[0] + f".{host}"
    return Tunnel(f"{subscriber}/{server.name}-{family}", subscriber, server.name, family, inner4, 0, 10**10)


@pytest.mark.world
def test_each_protocol_carries_an_echo_over_both_families(tmp_path):
    tunnels = (*(tunnel(s) for s in SERVERS), *(tunnel(s, "bob", 3, 6) for s in SERVERS))
    with running(tmp_path, vpn_plan(tunnels)) as (_lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        for each in tunnels:
            flow = servers.client(each).outer_flow()
            assert flow is not None
            assert flow[1] == {4: "10.1.1.2", 6: "fd00:2:1::2"}[each.family], flow


@pytest.mark.world
def test_each_protocol_runs_with_no_more_rights_than_a_user_namespace_gives():
    prepare = "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; ip link set lo up; exec "
    spaces = [
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    argv = ["unshare", *spaces, "sh", "-ec", prepare + '"$@"', "sh", sys.executable, "-m", __name__]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.world
def test_a_tunnel_stops_when_its_outer_flow_is_dropped_and_comes_back_after(tmp_path):
    tunnels = (*(tunnel(s) for s in SERVERS), *(tunnel(s, "bob", 3) for s in SERVERS))
    with running(tmp_path, vpn_plan(tunnels)) as (lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        flows = [servers.client(t).outer_flow() for t in tunnels if t.subscriber == "alice"]
        assert None not in flows
        rules = "".join(
            f"ip saddr {src} ip daddr {dst} {kind} sport {sport} {kind} dport {dport} drop; "
            for kind, src, sport, dst, dport in filter(None, flows)
        )
        nft(lab, f"table inet cut {{ chain c {{ type filter hook forward priority 0; {rules} }}; }}")
        for each in tunnels:
            answered = echoes(lab, each, count=4)
            assert bool(answered) == (each.subscriber == "bob"), (each.name, answered)
        nft(lab, "delete table inet cut")
        for each in tunnels:
            recovered(lab, each, within_s=20)


@pytest.mark.world
def test_two_clients_behind_one_address_share_a_server(tmp_path):
    blocks = {"alice": ("10.1.1.2", 20000, 20499), "bob": ("10.2.1.2", 20500, 20999)}
    plan = small_plan()
    subscribers = tuple(
        dataclasses.replace(
            s,
            addressing="nat",
            public4="100.70.0.1",
            port_first=blocks[s.name][1],
            port_last=blocks[s.name][2],
        )
        for s in plan.subscribers
    )
    # Both lines are translated at the gateway: one public address, a block of ports for each.
    nats = tuple(
        Nat("gw", inside, "10.0.0.9", first, last, name) for name, (inside, first, last) in blocks.items()
    )
    tunnels = (*(tunnel(s) for s in SERVERS), *(tunnel(s, "bob", 3) for s in SERVERS))
    with running(tmp_path, vpn_plan(tunnels, nats=nats, subscribers=subscribers), start_nat) as (
        _lab,
        servers,
    ):
        asyncio.run(connect_all(servers, tunnels))
        for each in tunnels:
            flow = servers.client(each).outer_flow()
            assert flow is not None
            inside, first, last = blocks[each.subscriber]
            assert flow[1] == inside
            assert first <= flow[2] <= last, flow


@pytest.mark.world
def test_no_inner_packet_leaves_in_clear_before_the_tunnel_is_up(tmp_path):
    tunnels = tuple(tunnel(s) for s in SERVERS)
    with running(tmp_path, vpn_plan(tunnels)) as (lab, servers):
        rules = "ip daddr 10.99.0.0/16 counter; ip saddr 10.1.1.2 drop"
        nft(
            lab, f"table inet leak {{ chain c {{ type filter hook forward priority 0; {rules}; }}; }}", "isp1"
        )
        assert leaked(lab) == 0
        for each in tunnels:
            echoes(lab, each, count=1)
        assert leaked(lab) == len(tunnels)  # control: without a client they do leave
        for each in tunnels:
            servers.client(each).start()
        for each in tunnels:
            assert echoes(lab, each, count=5) == 0
        assert leaked(lab) == len(tunnels)
        nft(lab, "delete table inet leak", "isp1")
        asyncio.run(connect_all(servers, tunnels))


@pytest.mark.world
def test_a_server_or_client_that_dies_is_named_with_its_log(tmp_path):
    wireguard, openvpn = SERVERS[:2]
    tunnels = (tunnel(wireguard), tunnel(openvpn))
    with running(tmp_path, vpn_plan(tunnels, SERVERS[:2]), is_healthy=False) as (lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        assert servers.health() == []
        client = servers.client(tunnels[1])
        kill(lab, "vpn-alice-fra-openvpn-4")
        until(lambda: client.restarts == 1, 5)
        recovered(lab, tunnels[1], within_s=20)
        assert "alice/fra-openvpn-4 on alice: client ended with code -9" in servers.health()[0]
        kill(lab, "vpn-fra-wireguard")
        until(lambda: len(servers.health()) == 2, 5)
        assert servers.health()[0].startswith("fra-wireguard on srv: server ended with code -9: ")
        assert "no log" not in servers.health()[0]
        servers.start_server("fra-wireguard")  # and it can be had back, for a client that begins anew
        assert echoes(lab, tunnels[0], 2) == 0
        servers.client(tunnels[0]).stop()
        asyncio.run(connect_all(servers, tunnels[:1]))
        assert len(servers.health()) == 1


@pytest.mark.world
def test_a_client_that_gives_up_is_started_again_until_it_gets_through(tmp_path):
    each = tunnel(SERVERS[4])
    with running(tmp_path, vpn_plan((each,), SERVERS[4:5])) as (lab, servers):
        client = servers.client(each)
        nft(lab, "table inet cut { chain c { type filter hook forward priority 0; tcp dport 443 reject; }; }")
        client.start()
        until(lambda: client.restarts >= 1, 20)
        nft(lab, "delete table inet cut")
        asyncio.run(client.up(20))
        assert (
            servers.health() == []
        )  # giving up is how openconnect says "could not connect", not a fault of the lab


@pytest.mark.world
def test_a_server_that_cannot_start_is_an_error_that_names_it(tmp_path):
    with build(vpn_plan((), SERVERS[1:4]), tmp_path) as lab:
        with lab.inside("srv"):
            taken = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            taken.bind(("::", 1194))
            taken.listen()
        with taken, pytest.raises(VpnFailed, match=r"^fra-openvpn-tcp on srv: ended with code 1 .*in use"):
            VpnServers(lab).__enter__()


@contextmanager
def running(
    log_dir: Path, plan: Plan, *more: Callable[[Lab], None], is_healthy: bool = True
) -> Iterator[tuple[Lab, VpnServers]]:
    with build(plan, log_dir) as lab:
        for start in more:
            start(lab)
        began = time.monotonic()
        with VpnServers(lab) as servers:
            print(f"{len(plan.servers)} servers up in {time.monotonic() - began:.3f} s")
            echo = InnerEcho(lab, servers.echo_endpoints())
            yield lab, servers
            assert not is_healthy or servers.health() == [], servers.health()
            echo.close()


async def connect_all(servers: VpnServers, tunnels: tuple[Tunnel, ...]) -> None:
    async def connect(client: VpnClient) -> None:
        await asyncio.to_thread(client.start)
        took_s = await client.up(15)
        print(f"{client.tunnel.name}: up after {took_s:.3f} s, outer flow {client.outer_flow()}")
        assert client.state == "up"

    await asyncio.gather(*(connect(servers.client(each)) for each in tunnels))


def echoes(lab: Lab, each: Tunnel, count: int) -> int:
    """How many of count echoes through the tunnel came back, each given a quarter of a second."""
    server = next(s for s in lab.plan.servers if s.name == each.server)
    answered = 0
    with lab.inside(each.subscriber), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.25)
        for number in range(count):
            try:
                probe.sendto(bytes((number,)), (server.inner_server4, 7))
                answered += probe.recv(16) == bytes((number,))
            except OSError:
                continue
    return answered


def recovered(lab: Lab, each: Tunnel, within_s: float) -> None:
    until(lambda: echoes(lab, each, 1) == 1, within_s, each.name)


def until(is_so: Callable[[], bool], within_s: float, what: str = "") -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"{what} not within {within_s} s"
        time.sleep(0.02)


def nft(lab: Lab, command: str, node: str = "gw") -> None:
    done = lab.cmd(node, ["nft", command])
    assert done.returncode == 0, done.stderr


def leaked(lab: Lab) -> int:
    listing = lab.cmd("isp1", ["nft", "list", "table", "inet", "leak"]).stdout
    return int(listing.partition("counter packets ")[2].split()[0])


def kill(lab: Lab, log: str) -> None:
    next(d for d in reversed(lab.daemons()) if d.name == log).process.kill()


if __name__ == "__main__":
    test_each_protocol_carries_an_echo_over_both_families(Path(tempfile.mkdtemp()))
