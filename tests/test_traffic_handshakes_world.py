"""Handshakes over a network: real daemons answer the probes, and the responder answers for every address that is asked."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.vpn.sockets import is_bound
from testbed.plan.plan import VpnServer
from testbed.traffic import handshakes_raw
from testbed.traffic.handshake_responder import ResponderKeys
from testbed.traffic.handshakes import PROBES, HandshakeProbe
from tests.test_lab_vpn_world import running, server, tunnel, vpn_plan

REAL = (
    server(1, "wireguard", "wireguard", 51820),
    server(2, "plain", "openvpn-udp", 1194, wrap="none"),
    server(3, "wrapped", "openvpn-udp", 1195),
    server(4, "tcp", "openvpn-tcp", 1194),
    server(5, "ike", "ikev2", 500),
)
DESTINATIONS = {socket.AF_INET: "10.9.0.10", socket.AF_INET6: "fd00:9::10"}


@pytest.mark.world
def test_real_daemons_answer_the_probes(tmp_path):
    peer = tunnel(REAL[0])
    with running(tmp_path, vpn_plan((peer,), REAL)) as (lab, servers):
        known = servers.wireguard_client_key(peer).private
        public = servers.wireguard_public_key("wireguard")
        for each, probe in (
            (REAL[0], HandshakeProbe("wireguard", wireguard_server=public, wireguard_private=known)),
            (REAL[1], HandshakeProbe("openvpn-udp")),
            (REAL[2], HandshakeProbe("openvpn-udp", tls_crypt=servers.tls_crypt_key("wrapped"))),
            (REAL[3], HandshakeProbe("openvpn-tcp", tls_crypt=servers.tls_crypt_key("tcp"))),
            (REAL[4], HandshakeProbe("ikev2")),
        ):
            for number in range(8):  # more than charon's limit of half-open associations of one address
                assert probe.is_answer(ask(lab, probe, number, each), number), (each.name, number)
                time.sleep(
                    0.03 if each.protocol == "wireguard" else 0
                )  # it drops a peer's second within 20 ms
        # Control: who has not the key gets nothing out of them.
        stranger = HandshakeProbe("wireguard", wireguard_server=public)
        assert ask(lab, stranger, 0, REAL[0]) == b""
        assert ask(lab, HandshakeProbe("openvpn-udp"), 0, REAL[2]) == b""


@pytest.mark.world
@pytest.mark.parametrize("family", DESTINATIONS)
def test_the_responder_answers_each_protocol_from_the_address_that_was_asked(tmp_path, family):
    keys = ResponderKeys.new()
    many = {socket.AF_INET: "10.9.200.0/24", socket.AF_INET6: "fd00:9:0:200::/64"}
    asked = {socket.AF_INET: "10.9.200.77", socket.AF_INET6: "fd00:9:0:200::4d"}
    with responding(tmp_path, keys) as (lab, counts):
        assert lab.cmd("srv", ["ip", "route", "add", "local", many[family], "dev", "lo"]).returncode == 0
        to_many = ["ip", "route", "add", many[family], "via", DESTINATIONS[family]]
        assert lab.cmd("fra", to_many).returncode == 0
        for name in PROBES:
            probe = HandshakeProbe(name, wireguard_server=keys.wireguard_public)
            assert probe.is_answer(exchange(lab, probe, 3, family, asked[family], probe.port), 3), name
        # Both kinds of GRE come to both of its sockets; each ignores the other.
        assert counts() == {"answered": len(PROBES), "ignored": 2}


@pytest.mark.world
def test_the_responder_says_what_it_cannot_have(tmp_path):
    with build(vpn_plan((), ()), tmp_path) as lab:
        argv = [sys.executable, "-m", "testbed.traffic.handshake_responder", "--udp", "1194"]
        with lab.inside("srv"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("", 1194))
            done = lab.cmd("srv", argv)
        assert (done.returncode, done.stderr) == (
            3,
            "handshake responder: UDP port 1194: Address already in use\n",
        )


@contextmanager
def responding(log_dir: Path, keys: ResponderKeys) -> Iterator[tuple[Lab, Callable[[], dict[str, int]]]]:
    """A lab whose node srv runs a responder of all protocols; counts() ends it and reads what it says at its end."""
    keys.save(log_dir / "keys")
    ports = {kind: sorted({p for t, p in PROBES.values() if t == kind}) for kind in ("udp", "tcp")}
    argv = [sys.executable, "-m", "testbed.traffic.handshake_responder", "--keys", str(log_dir / "keys")]
    for kind, numbers in ports.items():
        argv += [f"--{kind}", ",".join(map(str, numbers))]
    with build(vpn_plan((), ()), log_dir) as lab:
        process = lab.spawn("srv", [*argv, "--raw", ",".join(handshakes_raw.PROTOCOLS)], "responder")
        end = time.monotonic() + 10
        while not all(is_bound(process.pid, kind, p) for kind in ports for p in ports[kind]):
            assert process.poll() is None, (log_dir / "responder.log").read_text()
            assert time.monotonic() < end, "the responder does not listen"
            time.sleep(0.01)

        def counts() -> dict[str, int]:
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
            ready, said = (log_dir / "responder.log").read_text().splitlines()
            assert ready == "ready"
            return json.loads(said)

        yield lab, counts


def ask(lab: Lab, probe: HandshakeProbe, number: int, to: VpnServer) -> bytes:
    return exchange(lab, probe, number, socket.AF_INET, to.address4, to.port)


def exchange(
    lab: Lab, probe: HandshakeProbe, number: int, family: int, address: str, port: int, node: str = "alice"
) -> bytes:
    """Send one request from the node; the answer, which has to come from the address that was asked; b"" for none in 0.5 s."""
    kinds = {"udp": (socket.SOCK_DGRAM, 0), "tcp": (socket.SOCK_STREAM, 0)}
    raw = socket.SOCK_RAW, handshakes_raw.PROTOCOLS.get(probe.transport, 0)
    with lab.inside(node):
        sock = socket.socket(family, *kinds.get(probe.transport, raw))
    with sock:
        sock.settimeout(0.5)
        sock.connect((address, port))  # so an answer from another address is never received
        sock.send(probe.request(number))
        data = b""
        try:
            while True:
                more = sock.recv(2048)
                data += more
                if probe.transport != "tcp" or not more or probe.is_answer(data, number):
                    break
        except TimeoutError:
            return b""
        is_raw4 = probe.transport not in kinds and family == socket.AF_INET
        return data[20:] if is_raw4 else data  # an IPv4 raw socket hands over the IP header
