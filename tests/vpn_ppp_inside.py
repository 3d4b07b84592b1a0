"""Real L2TP and PPTP between namespaces of a small lab, in a kernel that has PPP: `python -m tests.vpn_ppp_inside FOLDER`.

tests/test_vpn_ppp_kernel.py runs it in the lab's own kernel. Each check is named as it passes; the first that fails ends it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from testbed.lab.nat import start_nat
from testbed.lab.vpn import VpnServers
from testbed.lab.vpn.ppp import MTU
from testbed.plan.plan import Nat, Tunnel
from testbed.traffic.handshakes import HandshakeProbe
from tests.small_plan import small_plan
from tests.test_lab_vpn_world import connect_all, echoes, kill, nft, running, server, tunnel, until, vpn_plan

L2TP = server(1, "fra-l2tp", "l2tp", 1701, timers="bounded")
PPTP = server(2, "fra-pptp", "pptp", 1723, timers="bounded")
SERVERS = (L2TP, PPTP)
PROGRAMS = {"xl2tpd", "pptpd", "pptpctrl", "pptp", "pppd"}
# The longest recovery with bounded timers, measured: a session found dead after 4 s, a try every 5 s, and one round of LCP.
RECOVERED_S = 12.0


def both_carry_echoes_and_stop_when_cut(folder: Path) -> None:
    tunnels = (*(tunnel(s) for s in SERVERS), *(tunnel(s, "bob", 3) for s in SERVERS))
    with running(folder, vpn_plan(tunnels, SERVERS)) as (lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        flows = {each.name: servers.client(each).outer_flow() for each in tunnels}
        assert flows["alice/fra-l2tp-4"] == ("udp", "10.1.1.2", 1701, "10.9.0.10", 1701), flows
        assert flows["alice/fra-pptp-4"] == ("gre", "10.1.1.2", 0, "10.9.0.10", 0), flows
        for each in tunnels:
            assert echoes(lab, each, 3) == 3, each.name
            interface = servers.client(each).inner_interface
            mtu = MTU - (4 if each.server == "fra-pptp" else 0)  # MPPE's header (RFC 3078 §3)
            assert f"mtu {mtu} " in lab.cmd(each.subscriber, ["ip", "link", "show", interface]).stdout
        assert "Using l2tp kernel support" in log(folder, "fra-l2tp")
        assert "MPPE 128-bit stateless compression enabled" in log(folder, "fra-pptp")

        for what in ("udp dport 1701", "ip protocol gre"):
            drop = f"ip saddr 10.1.1.2 {what} drop"
            nft(lab, f"table inet cut {{ chain c {{ type filter hook forward priority 0; {drop}; }}; }}")
            for each in tunnels:
                is_cut = each.subscriber == "alice" and (each.server == "fra-l2tp") == ("1701" in what)
                assert echoes(lab, each, 4) == (0 if is_cut else 4), (each.name, what)
            nft(lab, "delete table inet cut")
        for each in tunnels:
            until(lambda each=each: echoes(lab, each, 1) == 1, RECOVERED_S, each.name)
    nothing_is_left()


def what_is_dropped_for_long_comes_back(folder: Path) -> None:
    tunnels = tuple(tunnel(s) for s in SERVERS)
    with running(folder, vpn_plan(tunnels, SERVERS)) as (lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        nft(
            lab,
            "table inet cut { chain c { type filter hook forward priority 0; ip saddr 10.1.1.2 drop; }; }",
        )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert sum(echoes(lab, each, 1) for each in tunnels) == 0
            time.sleep(0.5)
        nft(lab, "delete table inet cut")
        for each in tunnels:
            until(lambda each=each: echoes(lab, each, 1) == 1, RECOVERED_S, each.name)
        assert all(servers.client(each).restarts for each in tunnels)


def a_wrong_password_gets_nothing(folder: Path) -> None:
    tunnels = (*(tunnel(s) for s in SERVERS), *(tunnel(s, "bob", 3) for s in SERVERS))
    with running(folder, vpn_plan(tunnels, SERVERS)) as (_lab, servers):
        right, wrong = tunnels[:2], tunnels[2:]
        for each in wrong:
            servers._passwords[each.name] = "wrong"
        asyncio.run(connect_all(servers, right))
        for each in wrong:
            servers.client(each).start()
        for each in wrong:
            assert is_late(servers, each), each.name
        for each in wrong:
            assert "CHAP authentication failed" in log(folder, each.name.replace("/", "-"))


def l2tp_goes_through_a_shared_address(folder: Path) -> None:
    blocks = {"alice": ("10.1.1.2", 20000, 20499), "bob": ("10.2.1.2", 20500, 20999)}
    nats = tuple(
        Nat("gw", inside, "10.0.0.9", first, last, name) for name, (inside, first, last) in blocks.items()
    )
    subscribers = tuple(
        dataclasses.replace(
            each,
            addressing="nat",
            public4="10.0.0.9",
            port_first=blocks[each.name][1],
            port_last=blocks[each.name][2],
        )
        for each in small_plan().subscribers
    )
    tunnels = (tunnel(L2TP), tunnel(L2TP, "bob", 3))
    plan = vpn_plan(tunnels, (L2TP,), nats=nats, subscribers=subscribers)
    with running(folder, plan, start_nat) as (_lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        for each in tunnels:
            flow = servers.client(each).outer_flow()
            assert flow is not None
            assert blocks[each.subscriber][1] <= flow[2] <= blocks[each.subscriber][2], flow


def the_servers_answer_first_packets(folder: Path) -> None:
    with running(folder, vpn_plan((), SERVERS)) as (lab, _servers):
        probe = HandshakeProbe("l2tp", "alice")
        with lab.inside("alice"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.settimeout(2)
            end.sendto(probe.request(1), ("10.9.0.10", 1701))
            assert probe.is_answer(end.recv(2048), 1)
        probe = HandshakeProbe("pptp", "alice")
        with lab.inside("alice"), socket.create_connection(("10.9.0.10", 1723), 2) as end:
            end.sendall(probe.request(1))
            data = b""
            while not probe.is_answer(data, 1):
                more = end.recv(2048)
                assert more, data
                data += more


def a_server_that_dies_is_named(folder: Path) -> None:
    tunnels = tuple(tunnel(s) for s in SERVERS)
    with running(folder, vpn_plan(tunnels, SERVERS), is_healthy=False) as (lab, servers):
        asyncio.run(connect_all(servers, tunnels))
        assert servers.health() == []
        for each in SERVERS:
            kill(lab, f"vpn-{each.name}")
        until(lambda: len(servers.health()) == 2, 5)
        assert all("server ended with code -9" in each for each in servers.health()), servers.health()
    nothing_is_left()


def is_late(servers: VpnServers, each: Tunnel) -> bool:
    try:
        asyncio.run(servers.client(each).up(8))
    except TimeoutError:
        return True
    return False


def nothing_is_left() -> None:
    running_now = {path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}
    assert not running_now & PROGRAMS, running_now & PROGRAMS


def log(folder: Path, name: str) -> str:
    return (folder / f"vpn-{name}.log").read_text(errors="replace")


CHECKS: tuple[Callable[[Path], None], ...] = (
    both_carry_echoes_and_stop_when_cut,
    what_is_dropped_for_long_comes_back,
    a_wrong_password_gets_nothing,
    l2tp_goes_through_a_shared_address,
    the_servers_answer_first_packets,
    a_server_that_dies_is_named,
)

if __name__ == "__main__":
    for check in CHECKS:
        place = Path(sys.argv[1]) / check.__name__
        place.mkdir()
        check(place)
        print(f"ok {check.__name__}", flush=True)
