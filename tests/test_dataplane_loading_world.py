"""Lists that are loaded, grow and do not fit, and what holds when nobody loads any, with real packets between namespaces."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from enforcer.allowlist import Delta, Removal
from enforcer.dataplanes import TableFull, nft
from enforcer.packet import parse
from tests import enforcer_packets as make
from tests.dataplane_kinds import NFT_ONLY, Dataplane, kind, lab  # noqa: F401
from tests.dataplane_lab import wait_until
from tests.dataplane_traffic import LINE, OTHER_LINE, SERVER, STRICT, delivered, entry, listing, wireguard

pytestmark = pytest.mark.world


def test_a_full_table_changes_nothing(lab):  # noqa: F811
    dataplane = Dataplane(lab, most_cells=4)
    dataplane.load(listing(entry()))
    with pytest.raises(TableFull):
        dataplane.apply(Delta(1, 2, (entry(8, OTHER_LINE),), ()))
    with pytest.raises(TableFull):
        dataplane.load(listing(entry(), entry(8, OTHER_LINE)))
    assert delivered(lab, wireguard(4))
    assert not delivered(lab, wireguard(4, line=OTHER_LINE))


@NFT_ONLY
def test_loading_again_keeps_counters_and_live_flows_and_cuts_what_is_gone(lab):  # noqa: F811
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


def test_a_list_loads_in_a_thread_while_everything_else_goes_on(lab):  # noqa: F811
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
def test_a_delta_that_outgrows_the_kernels_sets_gets_larger_ones(lab, monkeypatch, live_flows):  # noqa: F811
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
def test_no_packet_sees_half_an_update(lab):  # noqa: F811
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


def test_failure_behaviours_change_everything_at_once_and_end(lab):  # noqa: F811
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
def test_a_dead_agent_is_noticed_by_the_kernel(lab, behaviour, registered, stranger):  # noqa: F811
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
