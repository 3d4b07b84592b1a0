"""Only registrations of the policy's categories count: in decide, in what an agent loads, and in what it says of a stopped packet."""

from __future__ import annotations

import random
from dataclasses import replace
from importlib.resources import files

import pytest

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import Index
from enforcer.dataplanes import Stop
from enforcer.dataplanes.prefix_index import PrefixIndex
from enforcer.decide import Flow, counted, decide
from enforcer.packet import parse
from enforcer.policy import parse_policy
from tests import enforcer_packets as make
from tests.agent_bench import STRICT, Bench, S, entry

LICENSED = parse_policy(
    (files("enforcer") / "policies" / "licensed-providers-only.policy.yaml").read_text("utf-8")
)
CATEGORIES = ("", "company", "freelancer", "call-centre", "bank", "provider", "other")


def some_entries(rng: random.Random) -> list[Entry]:
    return [
        Entry(
            number,
            f"r{number}",
            (f"10.0.0.{rng.randrange(4) * 64}/26",),
            (f"198.51.100.{rng.randrange(4)}/32",),
            category=rng.choice(CATEGORIES),
        )
        for number in range(1, 8)
    ]


@pytest.mark.parametrize("match", ["subscriber", "endpoint", "subscriber+endpoint"])
def test_lookups_of_what_counts_decide_like_the_whole_list(match):
    rng = random.Random(20251113)
    policy = replace(LICENSED, match=match, exempt=())
    passed = 0
    for _ in range(300):
        whole = Allowlist(1, {each.registration: each for each in some_entries(rng)})
        counting = counted(whole, policy).entries.values()
        src, dst = f"10.0.0.{rng.randrange(256)}", f"198.51.100.{rng.randrange(4)}"
        packet = parse(make.udp(src, dst, 40000, 51820, make.WIREGUARD_INITIATION))
        marked = Flow(rng.choice((0, 0, 1, 2)))
        straight = decide(packet, marked, whole, policy, 5)
        for lookup in (Index(match, counting), PrefixIndex(match, counting)):
            assert decide(packet, marked, lookup, policy, 5) == straight
        passed += straight.reason == "registered"
        if straight.registration is not None and straight.reason == "registered":
            assert whole.entries[straight.registration].category == "provider"
    assert 10 < passed < 290  # both happen


def test_an_agent_loads_only_what_counts_and_a_change_of_category_cuts(tmp_path):
    bench = Bench(tmp_path, LICENSED)
    provider = entry(7, category="provider")
    bench.snapshot(1, provider, entry(8, category="company"), entry(9))
    assert set(bench.dataplane.held) == {7}

    bench.delta(1, 2, add=[entry(8, category="provider"), replace(provider, category="company")])
    assert set(bench.dataplane.held) == {8}
    assert bench.agent.enforced.knowledge.ended()[0].state == "not-counted"
    assert bench.lines("applied")[-1]["entries"] == 1


def test_a_registration_that_does_not_count_is_not_loaded_when_its_time_comes(tmp_path):
    bench = Bench(tmp_path, LICENSED)
    later = bench.now_ns + 2 * S
    bench.snapshot(1, entry(7, valid_from_ns=later, category="provider"), entry(8, valid_from_ns=later))
    bench.pass_time(3)
    assert set(bench.dataplane.held) == {7}


def stop(bench: Bench, **changes) -> Stop:
    values = {"time_ns": bench.now_ns, "reason": "unregistered", "protocol": "wireguard", "transport": "udp"}
    values |= {"src": "10.0.0.7", "src_port": 40000, "dst": "198.51.100.9", "dst_port": 51820}
    return Stop(**(values | changes))


def blocks(bench: Bench, *stops: Stop) -> list[tuple[int | None, str | None]]:
    before = len(bench.lines("block"))
    bench.dataplane.stops = list(stops)
    bench.agent._read_stops()
    return [(line["registration"], line["registration_state"]) for line in bench.lines("block")[before:]]


def test_a_stop_of_what_the_list_covers_is_said_to_be_one(tmp_path):
    """The kernel's table differs from the list: a "technical glitch", and no revocation."""
    bench = Bench(tmp_path, STRICT)
    bench.snapshot(1, entry(7))
    early = stop(bench)
    bench.pass_time(10)
    assert blocks(bench, stop(bench)) == [(7, "active")]
    assert blocks(bench, stop(bench, src="10.0.0.8")) == [(None, None)]  # control: nobody's
    assert blocks(bench, stop(bench, src_port=1, protocol=None)) == [
        (None, None)
    ]  # a flow older than the list
    assert blocks(bench, replace(early, src_port=2)) == [(None, None)]  # perhaps before the list had it

    bench.delta(1, 2, add=[entry(9)])
    assert blocks(bench, stop(bench, src="10.0.0.9")) == [(None, None)]  # perhaps before it was registered
    bench.pass_time(3)
    assert blocks(bench, stop(bench, src="10.0.0.9", src_port=3)) == [(9, "active")]
