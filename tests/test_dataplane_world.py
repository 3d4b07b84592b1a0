"""The dataplanes with real packets between namespaces."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from enforcer.allowlist import Delta, Removal
from enforcer.dataplanes import TableFull, nft
from enforcer.dataplanes.nfqueue import NfqueueDataplane
from enforcer.dataplanes.nft import NftDataplane
from enforcer.decide import CLEAR, REVOKED
from enforcer.packet import parse
from enforcer.policy import Exemption
from tests import enforcer_packets as make
from tests.dataplane_lab import router, wait_until
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

BOTH = pytest.mark.parametrize("version", [4, 6])

pytestmark = pytest.mark.world


KINDS = {"nft": NftDataplane, "nfqueue": NfqueueDataplane}
NFT_ONLY = pytest.mark.parametrize("kind", ["nft"], indirect=True)  # what nfqueue cannot do: its SHORTCOMINGS


@pytest.fixture(params=KINDS, autouse=True)
def kind(request):
    Dataplane.kind = KINDS[request.param]


@pytest.fixture
def lab():
    with router() as made:
        yield made


class Dataplane:
    """The dataplane in the router's namespace; every call is made there."""

    kind = NftDataplane

    def __init__(self, lab, policy=STRICT, **options):
        self._lab = lab
        with lab.inside():
            self._dataplane = self.kind(policy, **options)

    def __getattr__(self, name):
        def call(*arguments, **named):
            with self._lab.inside():
                return getattr(self._dataplane, name)(*arguments, **named)

        return call


@BOTH
def test_only_the_registered_line_reaches_its_endpoint(lab, version):
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
@pytest.mark.parametrize("port", [51820, 7777])
def test_revocation_cuts_a_live_flow_at_its_next_packet(lab, version, port):
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(version, port, line=line))
        assert delivered(lab, answer(version, port, line=line), from_server=True)
    data, answer_data = (
        wireguard(version, port, data=make.WIREGUARD_DATA),
        answer(version, port, data=make.WIREGUARD_DATA),
    )
    assert delivered(lab, data)

    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))

    assert not delivered(lab, data)
    assert not delivered(lab, answer_data, from_server=True)
    assert delivered(
        lab, wireguard(version, port, data=make.WIREGUARD_DATA, line=OTHER_LINE)
    )  # her neighbour's lives
    dataplane.sweep()
    assert not delivered(lab, answer_data, from_server=True)
    assert not delivered(lab, data)
    assert not delivered(lab, wireguard(version, port))


@BOTH
def test_a_line_registered_again_gets_through_on_the_same_flow(lab, version):
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(version, 7777))
    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))
    assert not delivered(lab, wireguard(version, 7777))

    dataplane.apply(Delta(2, 3, (entry(9),), ()))

    assert delivered(lab, wireguard(version, 7777))
    assert delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA))


@BOTH
def test_a_changed_address_cuts_flows_of_the_old_one_only(lab, version):
    dataplane = Dataplane(lab)
    wide = entry(subscriber_prefixes=("10.0.0.7/32", "10.0.0.8/32", "fd00::7/128", "fd00::8/128"))
    dataplane.load(listing(wide))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(version, 7777, line=line))

    dataplane.apply(Delta(1, 2, (entry(line=OTHER_LINE),), (Removal(7, "changed"),)))

    assert not delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA))
    assert delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))


def test_let_finish_lets_live_flows_go_on_until_they_are_revoked(lab):
    policy = replace(STRICT, live_flows="let-finish", let_finish_ns=1)
    dataplane = Dataplane(lab, policy)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(4))

    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))
    assert delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))
    assert not delivered(lab, wireguard(4, src_port=40001))
    assert dataplane.counters()["finishing"].packets == 1

    dataplane.revoke([7])
    assert not delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))


@BOTH
def test_reject_tells_the_sender(lab, version):
    dataplane = Dataplane(lab, replace(STRICT, action="reject"))
    dataplane.load(listing())
    lab.run("ip", "addr", "add", "10.255.0.1/32" if version == 4 else "fd00:255::1/128", "dev", "lo")

    assert not delivered(lab, wireguard(version))
    protocol, kind, code = (1, 3, 13) if version == 4 else (58, 1, 1)  # administratively prohibited

    def told():
        parsed = [(parse(packet), packet) for packet in lab.client.collect()]
        return any(
            packet.protocol == protocol and raw[(20 if version == 4 else 40) :][:2] == bytes((kind, code))
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
def test_police_slows_a_flow_down_and_lets_it_live(lab, version):
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
def test_observe_records_and_stops_nothing(lab, version):
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
def test_blocks_are_counted_exactly_and_reported(lab, version):
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
def test_icmp_errors_and_fragments_pass(lab, version):
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


def test_exempt_gateways_are_reached_without_registration(lab):
    policy = replace(
        STRICT, exempt=(Exemption("epdg", "", ("ikev2", "esp"), (f"{SERVER[4]}/32",), (500, 4500), ()),)
    )
    dataplane = Dataplane(lab, policy)
    dataplane.load(listing())
    assert delivered(lab, make.udp(LINE[4], SERVER[4], 500, 500, make.IKE_SA_INIT))
    assert delivered(lab, make.ip(LINE[4], SERVER[4], 50, b"\0\0\1\1" + b"x" * 40))
    assert not delivered(lab, wireguard(4))
    assert not delivered(lab, make.udp(LINE[4], "198.51.100.10", 500, 500, make.IKE_SA_INIT))


def test_failure_behaviours_change_everything_at_once_and_end(lab):
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(4))
    stranger = wireguard(4, 7777, line=OTHER_LINE)

    dataplane.set_fallback("block")
    assert not delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))
    dataplane.set_fallback("allow")
    assert delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))
    assert delivered(lab, stranger)
    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))
    dataplane.set_fallback("keep")
    assert delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))
    assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))


@NFT_ONLY
@pytest.mark.parametrize(
    ("behaviour", "registered", "stranger"), [("block", False, False), ("allow", True, True)]
)
def test_a_dead_agent_is_noticed_by_the_kernel(lab, behaviour, registered, stranger):
    failure = replace(STRICT.on_failure, agent_dead=behaviour, agent_dead_after_ns=1_000_000_000)
    dataplane = Dataplane(lab, replace(STRICT, on_failure=failure))
    dataplane.load(listing(entry()))
    dataplane.beat()
    assert delivered(lab, wireguard(4))
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))

    wait_until(lambda: delivered(lab, wireguard(4, line=OTHER_LINE)) is stranger
               and delivered(lab, wireguard(4, data=make.WIREGUARD_DATA)) is registered)  # fmt: skip

    dataplane.beat()
    assert delivered(lab, wireguard(4, data=make.WIREGUARD_DATA))
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))


def test_a_full_table_changes_nothing(lab):
    dataplane = Dataplane(lab, most_cells=4)
    dataplane.load(listing(entry()))
    with pytest.raises(TableFull):
        dataplane.apply(Delta(1, 2, (entry(8, OTHER_LINE),), ()))
    with pytest.raises(TableFull):
        dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    assert delivered(lab, wireguard(4))
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))


@NFT_ONLY
def test_loading_again_keeps_counters_and_live_flows_and_cuts_what_is_gone(lab):
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(4, 7777, line=line))
    dataplane.close()

    again = Dataplane(lab)  # a new agent on what an old one left
    again.load(listing(entry()))

    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))
    assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))
    assert again.counters()["registered"].packets == 3
    assert again.is_alive()
    lab.run("nft", "delete", "table", "inet", "allowlist")
    assert not again.is_alive()
    again.load(listing(entry()))
    assert again.is_alive()
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))


def test_a_list_loads_in_a_thread_while_everything_else_goes_on(lab):
    dataplane = Dataplane(lab, most_cells=20_000)
    dataplane.load(listing(entry()))
    many = [
        entry(
            100 + number,
            subscriber_prefixes=(f"10.1.{number >> 8}.{number & 255}/32",),
            endpoint_prefixes=(f"{SERVER[4]}/32",),
            protocols=("wireguard",),
        )
        for number in range(8000)
    ]
    lines = [LINE, {4: "10.1.31.63", 6: LINE[6]}, OTHER_LINE]
    failures = []

    def load():
        try:
            dataplane.load(listing(entry(), *many))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    rounds = 0
    while thread.is_alive() or not rounds:
        dataplane.beat()
        assert dataplane.is_alive() and dataplane.counters() and not dataplane.lost_events()
        dataplane.events()
        rounds += 1
    thread.join()
    assert not failures
    assert [delivered(lab, wireguard(4, line=line)) for line in lines] == [True, True, False]


@NFT_ONLY
@pytest.mark.parametrize("live_flows", ["cut", "let-finish"])
def test_a_delta_that_outgrows_the_kernels_sets_gets_larger_ones(lab, monkeypatch, live_flows):
    monkeypatch.setattr(nft, "_LEAST_ROOM", 2)
    monkeypatch.setattr(nft, "_MANY", 9)
    dataplane = Dataplane(lab, replace(STRICT, live_flows=live_flows, let_finish_ns=1))
    lines = [{4: f"10.0.0.{number}", 6: f"fd00::{number}"} for number in range(20, 32)]
    others = [entry(number, line) for number, line in enumerate(lines, 20)]
    dataplane.load(listing(entry()))
    for number, other in enumerate(others, 1):
        dataplane.apply(Delta(number, number + 1, (other,), ()))
    for line in (LINE, *lines):
        assert delivered(lab, wireguard(4, 7777, line=line))
    assert not delivered(lab, wireguard(4, 7777, line=OTHER_LINE))

    dataplane.apply(Delta(20, 21, (), tuple(Removal(each.registration, "revoked") for each in others)))
    for line in lines:
        assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=line)) == (
            live_flows != "cut"
        )
        assert not delivered(lab, wireguard(4, 7778, line=line))
    dataplane.revoke([each.registration for each in others])
    for line in lines:
        assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=line))
    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))


@NFT_ONLY
def test_loading_again_cuts_flows_of_what_is_not_in_the_list_or_has_moved(lab):
    dataplane = Dataplane(lab)
    third = {4: "10.0.0.9", 6: "fd00::9"}
    dataplane.load(listing(entry(), entry(8, OTHER_LINE), entry(9, third)))
    for line in (LINE, OTHER_LINE, third):
        assert delivered(lab, wireguard(4, 7777, line=line))

    dataplane.load(listing(entry(), entry(9, {4: "10.0.0.10", 6: "fd00::10"})))

    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))
    for line in (OTHER_LINE, third):
        assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=line))


@NFT_ONLY
def test_no_packet_sees_half_an_update(lab):
    """The entry moves between registrations 7 and 8 while its packets flow: covered before and after, covered throughout."""
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    numbers, sent = (7, 8), 0
    for step in range(150):
        out, into = numbers[step % 2], numbers[(step + 1) % 2]
        for number in range(4):
            lab.client.send(wireguard(4, src_port=20000 + (sent + number) % 20000))
        sent += 4
        dataplane.apply(Delta(1, 2, (entry(into),), (Removal(out, "revoked"),)))
    assert delivered(lab, wireguard(4, src_port=41999))
    passed = [packet for packet in lab.server.seen if parse(packet).dst_port == 51820]
    assert len(passed) == sent + 1


def test_marks_in_the_kernel_name_the_registration(lab):
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry(1234)))
    assert delivered(lab, wireguard(4))
    assert delivered(lab, make.udp(OTHER_LINE[4], SERVER[4], 40000, 53, b"hello"))
    marks = lab.run("conntrack", "-L", "-p", "udp")
    assert "mark=1234" in marks and f"mark={CLEAR}" in marks
    dataplane.apply(Delta(1, 2, (), (Removal(1234, "revoked"),)))
    dataplane.sweep()
    marks = lab.run("conntrack", "-L", "-p", "udp")
    assert "mark=1234" not in marks and f"mark={REVOKED}" in marks
