"""What a change of the list does to flows that are under way, with real packets between namespaces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enforcer.allowlist import Delta, Removal
from enforcer.decide import CLEAR, REVOKED
from tests import enforcer_packets as make
from tests.dataplane_kinds import BOTH, NFT_ONLY, Dataplane, kind, lab  # noqa: F401
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
@pytest.mark.parametrize("port", [51820, 7777])
def test_revocation_cuts_a_live_flow_at_its_next_packet(lab, version, port):  # noqa: F811
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
def test_a_line_registered_again_gets_through_on_the_same_flow(lab, version):  # noqa: F811
    dataplane = Dataplane(lab)
    dataplane.load(listing(entry()))
    assert delivered(lab, wireguard(version, 7777))
    dataplane.apply(Delta(1, 2, (), (Removal(7, "revoked"),)))
    assert not delivered(lab, wireguard(version, 7777))

    dataplane.apply(Delta(2, 3, (entry(9),), ()))

    assert delivered(lab, wireguard(version, 7777))
    assert delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA))


@BOTH
def test_a_changed_address_cuts_flows_of_the_old_one_only(lab, version):  # noqa: F811
    dataplane = Dataplane(lab)
    wide = entry(subscriber_prefixes=("10.0.0.7/32", "10.0.0.8/32", "fd00::7/128", "fd00::8/128"))
    dataplane.load(listing(wide))
    for line in (LINE, OTHER_LINE):
        assert delivered(lab, wireguard(version, 7777, line=line))

    dataplane.apply(Delta(1, 2, (entry(line=OTHER_LINE),), (Removal(7, "changed"),)))

    assert not delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA))
    assert delivered(lab, wireguard(version, 7777, data=make.WIREGUARD_DATA, line=OTHER_LINE))


def test_let_finish_lets_live_flows_go_on_until_they_are_revoked(lab):  # noqa: F811
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


@NFT_ONLY
def test_loading_again_cuts_flows_of_what_is_not_in_the_list_or_has_moved(lab):  # noqa: F811
    dataplane = Dataplane(lab)
    third = {4: "10.0.0.9", 6: "fd00::9"}
    dataplane.load(listing(entry(), entry(8, OTHER_LINE), entry(9, third)))
    for line in (LINE, OTHER_LINE, third):
        assert delivered(lab, wireguard(4, 7777, line=line))

    dataplane.load(listing(entry(), entry(9, {4: "10.0.0.10", 6: "fd00::10"})))

    assert delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA))
    for line in (OTHER_LINE, third):
        assert not delivered(lab, wireguard(4, 7777, data=make.WIREGUARD_DATA, line=line))


def test_marks_in_the_kernel_name_the_registration(lab):  # noqa: F811
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
