"""What passes, what is stopped, and how that shows, with real packets between namespaces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enforcer.allowlist import Delta, Removal
from enforcer.packet import parse
from enforcer.policy import Exemption
from tests import enforcer_packets as make
from tests.dataplane_kinds import BOTH, Dataplane, kind, lab  # noqa: F401
from tests.dataplane_lab import wait_until
from tests.dataplane_traffic import (
    LINE,
    OTHER_LINE,
    SERVER,
    STRICT,
    answer,
    delivered,
    entry,
    listing,
    wireguard,
)

pytestmark = pytest.mark.world


@BOTH
def test_only_the_registered_line_reaches_its_endpoint(lab, version):  # noqa: F811
    assert delivered(lab, wireguard(version, src_port=1))  # control: no dataplane, no block
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))

    assert delivered(lab, wireguard(version))
    assert delivered(lab, answer(version), from_server=True)
    assert not delivered(lab, wireguard(version, line=OTHER_LINE))
    assert delivered(lab, make.udp(OTHER_LINE[version], SERVER[version], 40000, 53, b"hello"))

    dataplane.close(remove=True)
    assert delivered(lab, wireguard(version, line=OTHER_LINE))


@BOTH
def test_reject_tells_the_sender(lab, version):  # noqa: F811
    dataplane = Dataplane(lab, replace(STRICT, action="reject"))
    dataplane.load(listing())
    lab.run("ip", "addr", "add", "10.255.0.1/32" if version == 4 else "fd00:255::1/128", "dev", "lo")

    assert not delivered(lab, wireguard(version))
    protocol, icmp_type, code = (1, 3, 13) if version == 4 else (58, 1, 1)  # administratively prohibited

    def told():
        parsed = [(parse(packet), packet) for packet in lab.client.collect()]
        return any(
            packet.protocol == protocol
            and raw[(20 if version == 4 else 40) :][:2] == bytes((icmp_type, code))
            for packet, raw in parsed
        )

    wait_until(told)
    syn = make.tcp(LINE[version], SERVER[version], 40000, 1194, make.SYN)
    assert not delivered(lab, syn)
    wait_until(
        lambda: any(
            parse(packet).protocol == 6 and parse(packet).tcp_flags & make.RST
            for packet in lab.client.collect()
        )
    )


@BOTH
def test_police_slows_a_flow_down_and_lets_it_live(lab, version):  # noqa: F811
    dataplane = Dataplane(lab, replace(STRICT, action="police", police_bps=8000))
    dataplane.load(listing())
    big = wireguard(version, data=make.WIREGUARD_DATA + b"\0" * 900)

    assert delivered(lab, big)  # within the burst
    outcomes = [delivered(lab, big) for _ in range(6)]
    assert not all(outcomes)
    other = wireguard(version, src_port=40001)
    assert delivered(lab, other)  # another flow has its own rate
    assert dataplane.counters()["unregistered.wireguard"].packets == 8


@BOTH
def test_observe_records_and_stops_nothing(lab, version):  # noqa: F811
    dataplane = Dataplane(lab, replace(STRICT, mode="observe"))
    dataplane.load(listing())
    assert delivered(lab, wireguard(version, 7777))
    assert delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA))
    counters = dataplane.counters()
    assert counters["unregistered.wireguard"].packets == 1
    assert counters["unregistered.unseen"].packets == 1
    (first, second) = wait_until(lambda: read_stops(dataplane, 2))
    assert (first.reason, first.protocol, first.src, first.dst_port) == (
        "unregistered",
        "wireguard",
        LINE[version],
        7777,
    )
    assert second.protocol is None


def read_stops(dataplane, count, found=None):
    read_stops.found = [*getattr(read_stops, "found", []), *dataplane.events()] if count else []
    if len(read_stops.found) >= count:
        found, read_stops.found = read_stops.found, []
        return found
    return None


@BOTH
def test_blocks_are_counted_exactly_and_reported(lab, version):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing())
    for number in range(20):
        assert not delivered(lab, wireguard(version, src_port=41000 + number))
    assert dataplane.counters()["unregistered.wireguard"].packets == 20
    stops = wait_until(lambda: read_stops(dataplane, 20))
    assert [stop.src_port for stop in stops] == list(range(41000, 41020))
    assert {(stop.transport, stop.reason, stop.protocol) for stop in stops} == {
        ("udp", "unregistered", "wireguard")
    }


@BOTH
def test_icmp_errors_and_fragments_pass(lab, version):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(version))
    error = b"\3\4\0\0\0\0\5\x78" if version == 4 else b"\2\0\0\0\0\0\5\x78"
    inner = answer(version)[:64]
    protocol = 1 if version == 4 else 58
    body = bytearray(error + inner)
    if version == 4:
        body[2:4] = make.checksum(bytes(body)).to_bytes(2, "big")
    else:
        pseudo = make._pseudo(LINE[6], SERVER[6], 58, len(body))
        body[2:4] = make.checksum(pseudo + bytes(body)).to_bytes(2, "big")
    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))
    assert delivered(lab, make.ip(LINE[version], SERVER[version], protocol, bytes(body)))


def test_exempt_gateways_are_reached_without_registration(lab):  # noqa: F811
    policy = replace(
        STRICT, exempt=(Exemption("epdg", "", ("ikev2", "esp"), (f"{SERVER[4]}/32",), (500, 4500), ()),)
    )
    dataplane = Dataplane(lab, policy)
    dataplane.load(listing())
    assert delivered(lab, make.udp(LINE[4], SERVER[4], 500, 500, make.IKE_SA_INIT))
    assert delivered(lab, make.ip(LINE[4], SERVER[4], 50, b"\0\0\1\1" + b"x" * 40))
    assert not delivered(lab, wireguard(4))
    assert not delivered(lab, make.udp(LINE[4], "198.51.100.10", 500, 500, make.IKE_SA_INIT))
