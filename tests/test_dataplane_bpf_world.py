"""The bpf dataplane: what every dataplane must do, what decide() says of each packet, and what is its own."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import replace

import pytest

from enforcer.allowlist import Delta, Entry, Removal
from enforcer.dataplanes import DataplaneError, TableFull, bpf_source
from enforcer.dataplanes.bpf import BpfDataplane
from enforcer.dataplanes.bpf_tables import Tables
from enforcer.decide import CLEAR, REVOKED
from enforcer.packet import parse
from tests import enforcer_packets as make
from tests import test_dataplane_differential_world as differential
from tests.dataplane_kinds import Dataplane, lab  # noqa: F401
from tests.dataplane_traffic import (
    LINE,
    OTHER_LINE,
    SERVER,
    STRICT,
    delivered,
    entry,
    listing,
    wireguard,
)
from tests.test_dataplane_broken_world import smallest_disagreement

# What holds of every dataplane. Not among them: reject and police, which are refused, and marks, which are conntrack's.
from tests.test_dataplane_loading_world import (  # noqa: F401
    test_a_dead_agent_is_noticed_by_the_kernel,
    test_a_full_table_changes_nothing,
    test_a_list_loads_in_a_thread_while_everything_else_goes_on,
    test_failure_behaviours_change_everything_at_once_and_end,
    test_no_packet_sees_half_an_update,
)
from tests.test_dataplane_revocation_world import (  # noqa: F401
    test_a_changed_address_cuts_flows_of_the_old_one_only,
    test_a_line_registered_again_gets_through_on_the_same_flow,
    test_let_finish_lets_live_flows_go_on_until_they_are_revoked,
    test_revocation_cuts_a_live_flow_at_its_next_packet,
)
from tests.test_dataplane_world import (  # noqa: F401
    test_blocks_are_counted_exactly_and_reported,
    test_exempt_gateways_are_reached_without_registration,
    test_icmp_errors_and_fragments_pass,
    test_observe_records_and_stops_nothing,
    test_only_the_registered_line_reaches_its_endpoint,
)

pytestmark = pytest.mark.world
BOTH = pytest.mark.parametrize("version", [4, 6])


class OnTheClientSide(BpfDataplane):
    """Small tables: they are made for each test."""

    def __init__(self, policy, most_cells=10_000, most_flows=10_000):
        super().__init__(policy, ("gc",), most_cells, most_flows)


@pytest.fixture(autouse=True)
def kind():
    try:
        OnTheClientSide(STRICT).close()
    except DataplaneError as error:
        if os.geteuid() != 0 or "does not let this user" in str(error) or "clang is not here" in str(error):
            pytest.skip(str(error))
        raise
    Dataplane.kind = OnTheClientSide


def test_a_new_agent_takes_over_what_is_known_of_live_flows(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(4, 7777, line=line))
    dataplane.close()
    assert not delivered(lab, wireguard(4, 7778, line={4: "10.0.0.9"}))  # it stays in force without an agent

    again = Dataplane(lab)
    again.load(listing(entry()))

    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))
    assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))
    again.close(remove=True)


def test_a_classifier_that_was_taken_away_is_noticed_and_put_back(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert dataplane.is_alive()
    lab.run("tc", "filter", "del", "dev", "gc", "ingress")
    assert not dataplane.is_alive()
    assert delivered(lab, wireguard(4, line=OTHER_LINE))  # control: it is really gone

    dataplane.load(listing(entry()))

    assert dataplane.is_alive()
    assert not delivered(lab, wireguard(4, src_port=40001, line=OTHER_LINE))


def test_close_leaves_nothing_behind(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing())
    assert "allowlist" in lab.run("tc", "filter", "show", "dev", "gc", "egress")
    dataplane.close(remove=True)
    for way in ("ingress", "egress"):
        assert lab.run("tc", "filter", "show", "dev", "gc", way) == ""


@BOTH
def test_what_ended_is_swept_to_a_mark_that_stops(lab, version):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(version, 7777))
    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))
    assert dataplane.sweep() == 1
    marks = {flow.mark for flow in dataplane._flow_states()}
    assert REVOKED in marks and 7 not in marks and CLEAR in marks


@pytest.mark.parametrize("action", ["reject", "police"])
def test_what_it_does_not_offer_is_refused_at_start(action):
    with pytest.raises(DataplaneError, match=f"'{action}' is not offered by bpf; use dataplane: nft"):
        BpfDataplane(replace(STRICT, action=action, police_bps=8000), ("gc",))


def test_an_interface_that_is_not_there_is_named(lab):  # noqa: F811
    with lab.inside():
        dataplane = BpfDataplane(STRICT, ("wlan7",), 1000, 1000)
        with pytest.raises(DataplaneError, match="'wlan7' is not there"):
            dataplane.load(listing())
        dataplane.close()
    with pytest.raises(DataplaneError, match="inside"):
        BpfDataplane(STRICT, ())


def test_the_routers_own_traffic_is_nobodys_business(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing())
    lab.run("ip", "addr", "add", "10.255.0.1/32", "dev", "lo")
    lab.client.send(make.udp(LINE[4], "10.255.0.1", 40000, 51820, make.WIREGUARD_INITIATION))
    assert not delivered(lab, wireguard(4))  # control, and it came after
    assert dataplane.counters()["unregistered.wireguard"].packets == 1


def test_a_new_connection_on_the_ports_of_a_closed_one_is_judged(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing())
    ends = (LINE[4], SERVER[4], 40000, 8443)
    data, reset = make.ACK | make.PSH, make.behind_length(make.OPENVPN_RESET)
    assert delivered(lab, make.tcp(*ends, data, b"GET / HTTP/1.1\r\n"))
    assert delivered(lab, make.tcp(*ends, data, reset))  # control: bytes in the middle prove nothing
    assert delivered(lab, make.tcp(*ends, make.ACK | 1))
    assert delivered(lab, make.tcp(*ends, make.SYN))
    assert delivered(lab, make.tcp(*ends, make.SYN))
    assert not delivered(lab, make.tcp(*ends, data, reset))


def test_a_big_update_is_seen_whole(lab):  # noqa: F811
    """200 entries at a time change hands; the line is covered by the first before and by the last after."""
    dataplane = Dataplane(lab)
    others = [
        entry(
            100 + number, subscriber_prefixes=(f"10.1.0.{number}/32",), endpoint_prefixes=("203.0.113.1/32",)
        )
        for number in range(200)
    ]
    moving = [
        entry(number, subscriber_prefixes=(f"{LINE[4]}/32",), endpoint_prefixes=(f"{SERVER[4]}/{bits}",))
        for number, bits in ((7, 32), (8, 32))
    ]
    dataplane.load(listing(moving[0], *others))
    sent = 0
    for step in range(100):
        out, into = moving[step % 2], moving[(step + 1) % 2]
        for _ in range(10):
            lab.client.send(wireguard(4, src_port=20000 + sent))
            sent += 1
        change = [*others[step : step + 100], into]
        removed = [Removal(each.registration, "changed") for each in (*others[step : step + 100], out)]
        dataplane.apply(Delta(1, 2, tuple(change), tuple(removed)))
    assert delivered(lab, wireguard(4, src_port=41999))
    assert len([packet for packet in lab.server.seen if parse(packet).dst_port == 51820]) == sent + 1


def test_ipv6_shapes_are_matched_bit_by_bit(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(
        listing(
            Entry(3, "a", ("fd00:0:0:8000::/49", "10.0.0.6/31"), ("2001:db8:9::8/125", "198.51.100.9/32"))
        )
    )
    for subscriber, server, passes in (
        ("fd00:0:0:8001::1", "2001:db8:9::f", True),
        ("fd00:0:0:8001::1", "2001:db8:9::10", False),
        ("fd00:0:0:8001::1", "2001:db8:9::7", False),
        ("fd00:0:1:8001::1", "2001:db8:9::8", False),
        ("10.0.0.7", "198.51.100.9", True),
        ("10.0.0.8", "198.51.100.9", False),
    ):
        packet = make.udp(subscriber, server, 40000, 51820, make.WIREGUARD_INITIATION)
        assert delivered(lab, packet) is passes, (subscriber, server)


def test_another_list_replaces_the_loaded_one(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(4, 7777, line=line))

    dataplane.load(listing(entry(8, {4: "10.0.0.9", 6: "fd00::9"}), entry(9, LINE)))

    assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))  # 7 is gone
    assert delivered(lab, wireguard(4, 7777))  # its line has 9 now
    assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))  # 8 has moved
    assert delivered(lab, wireguard(4, line={4: "10.0.0.9"}))


def test_an_update_the_kernel_refuses_halfway_changes_nothing(lab, monkeypatch):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    swap = Delta(1, 2, (entry(8, OTHER_LINE),), (Removal(7, "revoked"),))

    def refused(*_):
        raise OSError(errno.E2BIG, "no room")

    with monkeypatch.context() as broken:
        broken.setattr(Tables, "_write_states", refused)  # the cells are written by then
        with pytest.raises(TableFull):
            dataplane.apply(swap)
    assert delivered(lab, wireguard(4))
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))
    dataplane.apply(Delta(1, 2, (entry(9, {4: "10.0.0.9", 6: "fd00::9"}),), ()))  # the same serial to come
    assert not delivered(lab, wireguard(4, src_port=40001, line=OTHER_LINE))

    dataplane.apply(swap)
    assert delivered(lab, wireguard(4, src_port=40001, line=OTHER_LINE))
    assert not delivered(lab, wireguard(4))


def test_loading_again_puts_right_what_somebody_broke_in_the_map(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    cells = dataplane._dataplane._tables._cells[4]
    cells.delete_many(b"".join(cells.keys()))
    assert not delivered(lab, wireguard(4))  # control: it is really broken

    dataplane.load(listing(entry()))

    assert delivered(lab, wireguard(4))


def test_vlan_tags_are_looked_behind(lab):  # noqa: F811
    """Judged, by the counters: many kernels have no VLAN devices to deliver them."""
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    tag = b"\x81\0\0\x0a"
    for tags in (tag, b"\x88\xa8\0\x14" + tag):
        for line in (LINE, OTHER_LINE):
            packet = wireguard(4, line=line)
            lab.client.socket.send(lab.client.router_mac + lab.client.mac + tags + b"\x08\0" + packet)
    assert delivered(lab, make.udp(LINE[4], SERVER[4], 40000, 53, b"after them"))
    counters = dataplane.counters()
    assert (counters["registered"].packets, counters["unregistered.wireguard"].packets) == (2, 2)


@BOTH
def test_merged_datagrams_are_known_by_the_first_of_them(lab, version):  # noqa: F811
    """Two initiations in one segment that the kernel will split (UDP GSO): its UDP header has the length of both."""
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    sender = lab.client.socket.dup()
    sender.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
    for line in (LINE, OTHER_LINE):
        packet = wireguard(version, 7777, data=make.WIREGUARD_INITIATION * 2, line=line)
        start = 14 + len(packet) - 2 * 148 - 8
        # linux/virtio_net.h: needs its checksum, GSO_UDP_L4, header length, segment size, where the checksum begins and goes
        merged = struct.pack("=BBHHHH", 1, 5, start + 8, 148, start, 6)
        kind = b"\x08\0" if version == 4 else b"\x86\xdd"
        sender.send(merged + lab.client.router_mac + lab.client.mac + kind + packet)
    sender.setsockopt(263, 15, 0)
    sender.close()
    assert delivered(lab, make.udp(LINE[version], SERVER[version], 40000, 53, b"after them"))
    counters = dataplane.counters()
    assert (counters["registered"].packets, counters["unregistered.wireguard"].packets) == (1, 1)


def test_only_the_first_fragment_is_judged(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing())
    whole = make.udp(LINE[4], SERVER[4], 40000, 51820, make.WIREGUARD_INITIATION)[20:]
    first = make.ip(LINE[4], SERVER[4], 17, whole[:64], tag=9, fragment=(0, True))
    later = make.ip(LINE[4], SERVER[4], 17, whole[64:], tag=9, fragment=(8, False))
    lab.client.send(first)
    lab.client.send(later)
    assert delivered(lab, make.udp(LINE[4], SERVER[4], 40000, 53, b"after it"))
    counters = dataplane.counters()
    assert (counters["unregistered.wireguard"].packets, counters["fragment"].packets) == (1, 1)


# decide() and the kernel, packet by packet.

POLICIES = {
    name: replace(policy, action="drop") if policy.action == "reject" else policy
    for name, policy in differential.POLICIES.items()
}


@pytest.fixture
def comparison(monkeypatch):
    """Conntrack looks behind an authentication header in IPv6 and so has a flow a packet; here the two ends are the flow."""
    drawn = differential.random_packet

    def random_packet(rng):
        sent = drawn(rng)
        packet = parse(sent.data)
        if packet.protocol == make.AH:
            return replace(sent, flow=(make.AH, *sorted((packet.src, packet.dst))))
        return sent

    random_packet.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(differential, "random_packet", random_packet)
    monkeypatch.setattr(differential, "POLICIES", POLICIES)
    return differential.compare


@pytest.mark.parametrize("name", POLICIES)
def test_bpf_agrees_with_decide(comparison, name):
    comparison(OnTheClientSide, name, seed=20241110, count=500)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_bpf_agrees_with_decide_on_many(comparison):
    differential.on_many(OnTheClientSide)


@pytest.mark.parametrize(
    ("right", "wrong", "port", "payload"),
    [
        ("p->dst_port == 51820 &&", "p->dst_port == 51821 &&", 51820, b""),
        ("p->udp_length == 148", "p->udp_length == 149", None, make.WIREGUARD_INITIATION),
    ],
)
def test_a_broken_rule_is_found_by_its_smallest_packet(monkeypatch, tmp_path, right, wrong, port, payload):
    assert smallest_disagreement(OnTheClientSide, most=60) is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    written = bpf_source.policy_header
    monkeypatch.setattr(bpf_source, "policy_header", lambda policy: written(policy).replace(right, wrong))
    smallest = smallest_disagreement(OnTheClientSide)
    assert smallest is not None
    assert smallest[0] == 4 and smallest[4] == payload and port in (None, smallest[3])


def test_ignored_revocations_are_found(comparison, monkeypatch):
    monkeypatch.setattr(Tables, "change", lambda *_: None)
    with pytest.raises(AssertionError, match="revoked|unregistered"):
        comparison(OnTheClientSide, "strict", seed=20241110, count=500)
