"""What the links' pure parts promise: order and times of held packets, where links are held, how measurements are judged."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.lab.calibrate import CalibrationFailed
from testbed.lab.calibrate_judge import (
    CalibrationRow,
    judge_delay,
    judge_jitter,
    judge_loss,
    judge_rate,
    loss_probes,
)
from testbed.lab.holder_fifo import Fifo
from testbed.lab.holder_placement import held_links, places
from testbed.lab.links import burst_bytes, queue_bytes
from testbed.plan.plan import Event, Interface, Link, Node, Tolerances
from tests.small_plan import small_plan

MS = 1_000_000


def fifo(**settings: float) -> Fifo:
    made = Fifo("line/ab", 1, "seed")
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def verdicts(messages: bytes) -> list[tuple[int, int, int]]:
    """(message type, decision, packet id) of each verdict."""
    found = []
    for start in range(0, len(messages), 32):
        kind = struct.unpack_from("=H", messages, start + 4)[0] & 0xFF
        decision = struct.unpack_from(">I", messages, start + 24)[0]
        found.append((kind, decision, struct.unpack_from("=I", messages, start + 28)[0]))
    return found


def test_packets_leave_when_their_delay_is_over_and_not_before():
    line = fifo(delay_ns=20 * MS)
    line.put(0, [1, 2])
    line.put(5 * MS, [3])

    assert line.take(20 * MS - 1, []) == b""
    assert verdicts(line.take(20 * MS, [])) == [(3, 1, 2)]  # one batch verdict: everything up to 2
    assert line.waiting == 1
    assert verdicts(line.take(25 * MS, [])) == [(3, 1, 3)]


def test_a_lost_packet_is_dropped_in_its_turn_and_counted():
    line = fifo(delay_ns=MS, loss_ratio=1.0)
    line.put(0, [7, 8])
    assert verdicts(line.take(MS, [])) == [(1, 0, 7), (1, 0, 8)]
    assert (line.packets, line.lost) == (2, 2)

    line.loss_ratio = 0.0  # control
    line.put(2 * MS, [9])
    assert verdicts(line.take(3 * MS, [])) == [(3, 1, 9)]


def test_the_same_seed_loses_the_same_packets():
    def fates(seed: str) -> bytes:
        line = Fifo("line/ab", 1, seed)
        line.loss_ratio = 0.3
        line.put(0, list(range(1, 200)))
        return line.take(0, [])

    assert fates("1/line/ab") == fates("1/line/ab")
    assert fates("1/line/ab") != fates("2/line/ab")


@given(
    st.lists(
        st.tuples(st.integers(0, 30 * MS), st.integers(0, 50 * MS), st.integers(0, 20 * MS)), max_size=30
    ),
    st.floats(0, 1),
)
def test_no_packet_overtakes_another_whatever_changes(steps: list[tuple[int, int, int]], loss: float):
    line = fifo(loss_ratio=loss)
    now_ns, sent, released = 0, 0, []
    for wait_ns, delay_ns, jitter_ns in steps:
        now_ns += wait_ns
        line.delay_ns, line.jitter_ns = delay_ns, jitter_ns
        line.put(now_ns, [sent, sent + 1])
        sent += 2
        released += verdicts(line.take(now_ns, []))
    released += verdicts(line.take(1 << 60, []))
    ids = [packet_id for _, _, packet_id in released]
    assert ids == sorted(ids)
    assert line.waiting == 0
    if sent:
        assert ids[-1] == sent - 1


def test_jitter_spreads_evenly_around_the_delay():
    line = fifo(delay_ns=20 * MS, jitter_ns=5 * MS)
    for number in range(2000):
        line.put(number * 20 * MS, [number])
    delays = [entry[0] - number * 20 * MS for number, entry in enumerate(line.entries)]
    assert min(delays) >= 15 * MS and max(delays) <= 25 * MS
    assert judge_delay(20 * MS, 5 * MS, delays, Tolerances()).is_within
    assert judge_jitter(20 * MS, 5 * MS, delays, Tolerances()).is_within
    assert not judge_jitter(20 * MS, 4 * MS, delays, Tolerances()).is_within
    assert not judge_jitter(20 * MS, 0, delays, Tolerances()).is_within


def test_a_router_holds_for_its_hosts_and_never_a_host_what_it_sends():
    plan = replace(small_plan(), enforcers=())
    nodes = {node.name: node for node in plan.nodes}
    where = {place.name: (place.interface.node, place.way) for place in places(held_links(plan), nodes)}
    assert where["acc-alice/ab"] == ("isp1", "arriving")
    assert where["acc-alice/ba"] == ("isp1", "leaving")
    assert where["cable/ab"] == ("fra", "arriving")
    assert where["cable/ba"] == ("gw", "arriving")


def test_an_enforcing_node_holds_nothing_between_its_taps():
    plan = small_plan()
    nodes = {node.name: node for node in plan.nodes}
    found = places(held_links(plan), nodes, {"gw"})
    assert "gw" not in {place.interface.node for place in found}
    assert {place.name: place.way for place in found}["cable/ba"] == "leaving"


def test_the_end_outside_a_bridge_holds_both_ways():
    nodes = {"ix": Node("ix", "exchange", 1, True), "isp": Node("isp", "isp", 2, True)}
    link = Link("port", "exchange", Interface("isp", "ix"), Interface("ix", "p0", bridge="lan"), delay_ns=MS)
    assert {(place.interface.node, place.way) for place in places([link], nodes)} == {
        ("isp", "leaving"),
        ("isp", "arriving"),
    }
    both = replace(link, a=Interface("ix", "p1", bridge="lan"))
    with pytest.raises(ValueError, match="both ends are in bridges"):
        places([both], nodes)


def test_links_that_events_name_are_held_though_they_have_no_delay_yet():
    event = Event("slow", 0, "set-link", {"link": "acc-srv", "delay_ns": MS})
    fault = Event("cut", 0, "fault", {"kind": "link-loss", "at": ["acc-reg"], "until_ns": 1})
    held = {link.name for link in held_links(small_plan(events=(event, fault)))}
    assert {"acc-srv", "acc-reg"} <= held
    assert "acc-srv" not in {link.name for link in held_links(small_plan())}


@pytest.mark.parametrize(
    ("asked", "measured", "is_within"),
    [(20 * MS, 20.5 * MS, True), (20 * MS, 20.7 * MS, False), (20 * MS, 19.3 * MS, False), (0, 0.05 * MS, True),
     (100 * MS, 102.9 * MS, True), (100 * MS, 103.1 * MS, False)],
)  # fmt: skip
def test_delay_may_differ_by_half_a_millisecond_or_three_percent(
    asked: int, measured: float, is_within: bool
):
    assert judge_delay(asked, 0, [int(measured)] * 15, Tolerances()).is_within is is_within


def test_nothing_arrived_is_never_within():
    tolerances = Tolerances()
    assert not judge_delay(0, 0, [], tolerances).is_within
    assert not judge_rate(10**6, None, 0, tolerances).is_within
    assert not judge_loss(0.0, 15, 15, tolerances).is_within


def test_loss_must_be_inside_the_interval_of_what_was_seen():
    tolerances = Tolerances()
    assert judge_loss(0.02, 20, 1000, tolerances).is_within
    assert judge_loss(0.02, 12, 1000, tolerances).is_within
    assert not judge_loss(0.02, 45, 1000, tolerances).is_within
    assert not judge_loss(0.02, 0, 1000, tolerances).is_within
    assert not judge_loss(0.0, 1, 15, tolerances).is_within
    assert (loss_probes(0.01), loss_probes(0.5), loss_probes(0.0001)) == (2000, 300, 4000)


def test_rate_may_differ_by_five_percent():
    assert judge_rate(10**8, 104_900_000, 100, Tolerances()).is_within
    assert not judge_rate(10**8, 105_100_000, 100, Tolerances()).is_within
    assert not judge_rate(10**8, 94_900_000, 100, Tolerances()).is_within


def test_a_miss_is_told_with_its_numbers():
    row = CalibrationRow(
        "cable", "ab", "cable", "delay", 20 * MS, 50_000, 19.4 * MS, 20.6 * MS, 15, False, 4, 3
    )
    fine = CalibrationRow("cable", "ab", "cable", "loss", 0, 0, 0, 0.1, 15, True, 4)
    text = str(CalibrationFailed([row, fine]))
    assert text.splitlines() == [
        "1 of 2 link figures are out of tolerance",
        "link cable/ab (cable, IPv4): delay asked 20.000 ms, measured 0.050 ms "
        "(tolerated 19.400 ms to 20.600 ms; 15 samples, 3 tries)",
    ]


def test_the_queue_is_a_tenth_of_a_second_and_the_bucket_two_milliseconds():
    assert queue_bytes(358_000_000) == 4_475_000
    assert queue_bytes(1_000_000) == 32 * 1514
    assert burst_bytes(358_000_000) == 89_500
    assert burst_bytes(1_000_000) == 2 * 1514
