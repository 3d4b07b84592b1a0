"""The services on real kernels: each answers, stops answering, and is missed by name."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
import time

import pytest

from testbed.lab.build import build
from testbed.lab.routing import NotReady, start_routing
from testbed.lab.services import start_services
from testbed.lab.services_https import https_request, is_https_complete
from testbed.plan.plan import Service
from testbed.traffic.bulk import run_bulk
from testbed.traffic.handshake_responder import ResponderKeys
from testbed.traffic.handshakes import HandshakeProbe
from tests.small_plan import small_plan
from tests.test_lab_services import DOWN, Attempt

pytestmark = pytest.mark.world
HANDSHAKES = (
    Service("hs-wireguard", "srv", "handshake", "10.9.0.10", "fd00:9:0::10", 51820, None, "wireguard"),
    Service("hs-ike", "srv", "handshake", "10.9.0.10", "fd00:9:0::10", 500, None, "ikev2"),
    Service("hs-pptp", "srv", "handshake", "10.9.0.10", "fd00:9:0::10", 1723, None, "pptp"),
)


def full_plan():
    plan = small_plan()
    return small_plan(services=(*plan.services, *HANDSHAKES), servers=())


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with build(full_plan(), tmp_path_factory.mktemp("services")) as lab, start_routing(lab) as routing:
        routing.wait(15)
        services = start_services(lab)
        yield lab, services
        services.close()


def ask(lab, node, address, port, question, timeout_s=2.0):
    """Send a datagram and return its answer. Raises TimeoutError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.inside(node):
        sock = socket.socket(family, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        sock.send(question)
        return sock.recv(4096)


def dns(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.strip(".").split("."))
    return struct.pack("!6H", 99, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


@pytest.mark.parametrize("address", ["10.9.0.10", "fd00:9:0::10"])
def test_the_resolver_answers_in_its_zone_and_refuses_elsewhere(running, address):
    lab, _services = running
    reply = ask(lab, "alice", address, 53, dns("alice-dns-17.example."))
    _id, flags, _questions, answers = struct.unpack_from("!4H", reply)
    assert (flags & 0xF, answers, reply[-4:]) == (0, 1, socket.inet_aton("10.9.0.10"))
    reply = ask(lab, "alice", address, 53, dns("elsewhere.org."))
    assert struct.unpack_from("!4H", reply)[1] & 0xF == 5  # REFUSED


@pytest.mark.parametrize("address", ["10.9.0.10", "fd00:9:0::10"])
def test_https_gives_what_was_asked_for_and_closes_on_others(running, address):
    lab, _services = running
    attempt = Attempt(payload_bytes=200_000)
    assert is_https_complete(attempt, exchange(lab, address, https_request(attempt)))
    assert exchange(lab, address, b"GET / HTTP/1.1\r\n\r\n") == b""


def exchange(lab, address, request: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.inside("alice"):
        sock = socket.socket(family, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(2)
        sock.connect((address, 443))
        sock.sendall(request)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65536):
                data += more
        return data


def test_voice_packets_come_back_as_they_were(running):
    lab, _services = running
    for address in ("10.9.0.10", "fd00:9:0::10"):
        for payload in (b"", b"x" * 160, bytes(1400)):
            assert ask(lab, "alice", address, 16384, payload) == payload


def test_an_echo_inside_a_tunnel_answers_once_its_address_is_there(running):
    lab, services = running
    services.add_echo("srv", "10.99.1.1")
    route = ["ip", "route", "add", "10.99.1.1", "via", "10.9.0.10"]
    assert (
        lab.cmd("fra", route).returncode == 0
        and lab.cmd("isp1", ["ip", "route", "add", "10.99.1.1", "via", "10.0.0.2"]).returncode == 0
    )
    assert lab.cmd("gw", ["ip", "route", "add", "10.99.1.1", "via", "10.0.0.10"]).returncode == 0
    with pytest.raises(TimeoutError):
        ask(lab, "alice", "10.99.1.1", 7, b"early", 0.2)
    assert lab.cmd("srv", ["ip", "address", "add", "10.99.1.1/32", "dev", "lo"]).returncode == 0
    assert ask(lab, "alice", "10.99.1.1", 7, b"later") == b"later"
    with pytest.raises(RuntimeError, match=r"udp-echo on srv: .*10.99.1.1 port 7: Address already in use"):
        services.add_echo("srv", "10.99.1.1")


def test_handshake_responders_answer_the_probes_that_have_their_key(running):
    lab, services = running
    public = ResponderKeys.load(services.handshake_keys["srv"]).wireguard_public
    for protocol, port in (("wireguard", 51820), ("ikev2", 500)):
        probe = HandshakeProbe(protocol, "t", wireguard_server=public)
        for address in ("10.9.0.10", "fd00:9:0::10"):
            assert probe.is_answer(ask(lab, "alice", address, port, probe.request(0)), 0)
    other = HandshakeProbe("wireguard", "t", wireguard_server=ResponderKeys.new().wireguard_public)
    with pytest.raises(TimeoutError):
        ask(lab, "alice", "10.9.0.10", 51820, other.request(0), 0.2)


def test_a_service_that_stops_answering_is_missed_by_name(running):
    lab, services = running
    assert services.problems() == []
    rule = "table inet t { chain c { type filter hook input priority 0; udp dport 16384 drop; }; }"
    assert lab.cmd("srv", ["nft", rule]).returncode == 0
    assert services.problems() == [
        f"voice-fra (voice) on srv, {address} port 16384: timed out"
        for address in ("10.9.0.10", "fd00:9:0::10")
    ]
    assert lab.cmd("srv", ["nft", "delete table inet t"]).returncode == 0
    assert services.problems() == []


def test_bulk_has_figures_for_each_direction(running):
    lab, _services = running
    for direction in ("down", "up"):
        figures = run_bulk(lab, dataclasses.replace(DOWN, direction=direction))
        assert figures["failure"] is None and figures["direction"] == direction
        assert figures["goodput_bps"] > 1e6 and figures["intervals"]
        assert figures["received_bytes"] * 8e9 / figures["duration_ns"] == pytest.approx(
            figures["goodput_bps"], rel=0.01
        )


def test_bulk_that_is_cut_off_ends_in_time_with_a_word_and_what_it_measured(running):
    lab, _services = running
    began = time.monotonic()
    cut = threading.Timer(0.4, lambda: lab.link_down("acc-alice"))
    cut.start()
    try:
        figures = run_bulk(lab, DOWN)
    finally:
        cut.join()
        lab.link_up("acc-alice")
    assert figures["failure"] == "timeout"
    assert figures["received_bytes"] > 0
    assert time.monotonic() - began < 20


def test_a_program_that_ended_is_named(tmp_path):
    with build(small_plan(), tmp_path) as lab:
        services = start_services(lab)
        try:
            victim = next(daemon for daemon in lab.daemons() if daemon.name == "unbound-srv")
            victim.process.kill()
            victim.process.wait()
            assert services.health() == ["unbound-srv ended with -9; see logs/unbound-srv.log"]
            assert any(
                text.startswith("dns-fra (dns) on srv, 10.9.0.10 port 53:") for text in services.problems()
            )
        finally:
            services.close()


def test_services_that_cannot_start_are_named(tmp_path):
    with build(small_plan(), tmp_path) as lab:
        with lab.inside("srv"):
            taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taken:
            taken.bind(("10.9.0.10", 16384))
            with pytest.raises(
                RuntimeError, match="udp-echo on srv: .*10.9.0.10 port 16384: Address already in use"
            ):
                start_services(lab)
        with lab.inside("srv"):
            taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taken:
            taken.bind(("10.9.0.10", 53))
            with pytest.raises(NotReady, match="services did not answer within 1 s") as raised:
                start_services(lab, deadline_s=1)
    assert any("unbound-srv ended with" in text for text in raised.value.problems)
