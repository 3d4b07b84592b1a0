"""Carrier-grade NAT on a real kernel: what packets look like on the far side, and what comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.nat import TIMEOUTS_S, start_nat
from testbed.lab.ready import intended_pairs, reach
from testbed.lab.routing import start_routing
from tests.test_lab_nat import BLOCKS, PUBLIC, nat_plan

pytestmark = pytest.mark.world
SERVER = "10.9.0.10"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with build(nat_plan(), tmp_path_factory.mktemp("nat")) as lab, start_routing(lab) as routing:
        routing.wait(15)
        with server(lab, socket.SOCK_DGRAM) as sock:  # the control: untranslated before
            assert udp_source(lab, sock, "alice", 20010) == ("10.1.1.2", 20010)
        start_nat(lab)
        assert lab.cmd("gw", ["conntrack", "-F"]).returncode == 0
        yield lab


def test_a_port_inside_the_block_stays_and_the_answer_comes_back(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        assert udp_source(lab, sock, "alice", 20011) == (PUBLIC, 20011)
        assert udp_source(lab, sock, "bob", 20111) == (PUBLIC, 20111)


def test_a_port_outside_the_block_is_moved_into_it(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        for name in ("alice", "bob"):
            address, port = udp_source(lab, sock, name, 500)  # IKE insists on its own port
            assert address == PUBLIC and BLOCKS[name][1] <= port <= BLOCKS[name][2]


def test_hosts_take_their_ephemeral_ports_from_their_block(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        address, port = udp_source(lab, sock, "alice", 0)
        assert address == PUBLIC and 20000 <= port <= 20099


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


def test_whoever_is_not_behind_the_nat_is_left_alone(lab):
    with server(lab, socket.SOCK_DGRAM) as sock:
        assert udp_source(lab, sock, "reg", 4000) == ("10.1.9.10", 4000)


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
