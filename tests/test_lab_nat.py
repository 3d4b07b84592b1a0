"""Carrier-grade NAT: which rules a plan gives, and what packets look like on the far side."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.nat import TIMEOUTS_S, block_problems, nat_rules, start_nat
from testbed.lab.ready import intended_pairs, reach
from testbed.lab.routing import start_routing
from testbed.plan.plan import Nat, Plan
from tests.small_plan import small_plan

PUBLIC = "10.0.200.1"  # in the gateway's aggregate, so that everybody has a route to it
BLOCKS = {"alice": ("10.1.1.2", 20000, 20099), "bob": ("10.2.1.2", 20100, 20199)}
SERVER = "10.9.0.10"

GOLDEN = """\
table ip carrier_nat
delete table ip carrier_nat
table ip carrier_nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr != { 10.1.1.2, 10.2.1.2 } return
    meta l4proto { tcp, udp } snat ip to ip saddr map {
      10.1.1.2 : 10.0.200.1 . 20000-20099,
      10.2.1.2 : 10.0.200.1 . 20100-20199
    }
    meta l4proto icmp snat ip to ip saddr map {
      10.1.1.2 : 10.0.200.1 . 20000-20099,
      10.2.1.2 : 10.0.200.1 . 20100-20199
    }
    snat to ip saddr map {
      10.1.1.2 : 10.0.200.1,
      10.2.1.2 : 10.0.200.1
    }
  }
  chain input {
    type filter hook input priority filter; policy accept;
    ip daddr { 10.0.200.1 } meta l4proto != icmp drop
  }
}
"""


def nat_plan() -> Plan:
    """alice and bob behind one public address, translated at the gateway."""
    plan = small_plan()
    nats = tuple(
        Nat("gw", inside, PUBLIC, first, last, name) for name, (inside, first, last) in BLOCKS.items()
    )
    subscribers = tuple(
        dataclasses.replace(
            s, addressing="nat", public4=PUBLIC, port_first=BLOCKS[s.name][1], port_last=BLOCKS[s.name][2]
        )
        for s in plan.subscribers
    )
    return small_plan(nats=nats, subscribers=subscribers)


def test_a_node_s_blocks_are_one_batch_that_can_be_loaded_again():
    assert nat_rules(nat_plan(), "gw") == GOLDEN


@pytest.mark.parametrize(
    ("first", "last", "problem"),
    [
        (20050, 20199, "alice and bob share 10.0.200.1:20050-20099"),
        (0, 10, "bob: ports 0-10 are no block"),
        (30000, 29999, "bob: ports 30000-29999 are no block"),
    ],
)
def test_blocks_that_overlap_or_are_none_are_refused(first, last, problem):
    alice, bob = nat_plan().nats
    assert block_problems(nat_plan()) == []
    assert problem in block_problems(
        small_plan(nats=(alice, dataclasses.replace(bob, port_first=first, port_last=last)))
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with build(nat_plan(), tmp_path_factory.mktemp("nat")) as lab, start_routing(lab) as routing:
        routing.wait(15)
        with server(lab, socket.SOCK_DGRAM) as sock:  # the control: untranslated before
            assert udp_source(lab, sock, "alice", 20010) == ("10.1.1.2", 20010)
        start_nat(lab)
        assert lab.cmd("gw", ["conntrack", "-F"]).returncode == 0
        yield lab


@pytest.mark.world
def test_a_port_inside_the_block_stays_and_the_answer_comes_back(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        assert udp_source(lab, sock, "alice", 20011) == (PUBLIC, 20011)
        assert udp_source(lab, sock, "bob", 20111) == (PUBLIC, 20111)


@pytest.mark.world
def test_a_port_outside_the_block_is_moved_into_it(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        for name in ("alice", "bob"):
            address, port = udp_source(lab, sock, name, 500)  # IKE insists on its own port
            assert address == PUBLIC and BLOCKS[name][1] <= port <= BLOCKS[name][2]


@pytest.mark.world
def test_hosts_take_their_ephemeral_ports_from_their_block(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        address, port = udp_source(lab, sock, "alice", 0)
        assert address == PUBLIC and 20000 <= port <= 20099


@pytest.mark.world
def test_tcp_is_translated_like_udp(lab):
    with server(lab, socket.SOCK_STREAM) as listener:
        listener.listen()
        for port in (20012, 30000):
            with lab.inside("alice"):
                client = socket.socket()
            with client:
                client.settimeout(2)
                client.bind(("", port))
                client.connect((SERVER, listener.getsockname()[1]))
                accepted, (address, seen) = listener.accept()
                with accepted:
                    accepted.sendall(b"hello")
                    assert client.recv(5) == b"hello"
                assert address == PUBLIC and 20000 <= seen <= 20099
                assert seen == port or port == 30000


@pytest.mark.world
def test_echo_identifiers_are_translated_into_the_block(lab):
    with lab.inside("srv"):
        tap = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with tap:
        tap.settimeout(2)
        pairs = [pair for pair in intended_pairs(lab.plan) if pair.address == SERVER]
        pairs = [
            dataclasses.replace(pair, identifier=7) for pair in pairs
        ]  # the same id, outside both blocks
        assert len(reach(lab, pairs, 2)) == 2
        seen = set()
        while len(seen) < 2:
            packet = tap.recv(2048)
            kind, _code, _sum, identifier = struct.unpack_from("!BBHH", packet, 20)
            if kind == 8:
                assert socket.inet_ntoa(packet[12:16]) == PUBLIC
                seen.add(next(n for n, (_, first, last) in BLOCKS.items() if first <= identifier <= last))
        assert seen == {"alice", "bob"}


@pytest.mark.world
def test_whoever_is_not_behind_the_nat_is_left_alone(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        assert udp_source(lab, sock, "reg", 4000) == ("10.1.9.10", 4000)


@pytest.mark.world
def test_nothing_comes_in_unasked_and_nobody_outside_can_hold_a_subscriber_s_port(lab):
    with lab.inside("alice"):
        inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside, server(lab, socket.SOCK_DGRAM) as sock:
        inside.bind(("", 20050))
        inside.settimeout(2)
        sock.sendto(b"unasked", (PUBLIC, 20050))
        inside.sendto(b"asked", sock.getsockname())
        _data, source = sock.recvfrom(100)
        assert source == (PUBLIC, 20050)
        sock.sendto(b"answer", source)
        assert inside.recv(100) == b"answer"  # and not b"unasked"


@pytest.mark.world
def test_timeouts_are_those_the_rfcs_ask_for(lab):
    for name, seconds in TIMEOUTS_S.items():
        assert lab.cmd("gw", ["cat", f"/proc/sys/net/netfilter/{name}"]).stdout.strip() == str(seconds)


@contextlib.contextmanager
def server(lab: Lab, kind: socket.SocketKind) -> Iterator[socket.socket]:
    with lab.inside("srv"):
        sock = socket.socket(socket.AF_INET, kind)
    with sock:
        sock.settimeout(2)
        sock.bind((SERVER, 0))
        yield sock


def udp_source(lab: Lab, server: socket.socket, node: str, port: int) -> tuple[str, int]:
    """Where a datagram of a node comes from, as the server sees it; its answer must come back."""
    with lab.inside(node):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(2)
        client.bind(("", port))
        client.sendto(b"ask", server.getsockname())
        _data, source = server.recvfrom(100)
        server.sendto(b"answer", source)
        assert client.recv(100) == b"answer"
    return source
