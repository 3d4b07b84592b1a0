"""What a plan of the virtual clock leaves out, and what not: keepalives, scans, servers nobody asks, packets that say the same again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.lab import calibrate
from testbed.lab.bird import bird_conf, is_settled
from testbed.lab.services import used_services
from testbed.plan.plan import Event, Stream
from tests.small_plan import small_plan


def virtual(**changes):
    return replace(small_plan(**changes), clock="virtual")


def struck(plan, action, **args):
    event = Event(0, "e", action, args, 1)
    return replace(plan, events=(*plan.events, event))


def router(plan):
    return next(node.name for node in plan.nodes if node.runs_bgp)


def test_routers_send_no_keepalives_where_no_link_is_struck():
    plan = replace(virtual(), events=())
    assert is_settled(plan)
    text = bird_conf(plan, router(plan))
    assert "hold time 0;" in text and "keepalive" not in text and "scan time 86400" in text


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("fault", {"kind": "link-down", "at": ["x"], "until_ns": 1}),
        ("fault", {"kind": "link-degrade", "at": ["x"], "until_ns": 1}),
        ("set-link", {"link": "x"}),
    ],
)
def test_where_one_is_struck_they_find_out_as_in_real_time(action, args):
    plan = struck(replace(virtual(), events=()), action, **args)
    assert not is_settled(plan)
    text = bird_conf(plan, router(plan))
    assert "hold time 9; keepalive time 3;" in text


def test_other_faults_leave_routing_alone_and_real_time_leaves_nothing_out():
    plan = struck(replace(virtual(), events=()), "fault", kind="allowlist-ignored", at=["x"], until_ns=1)
    assert is_settled(plan)
    real = replace(plan, clock="real")
    assert not is_settled(real) and used_services(real) == real.services


def test_only_services_that_are_asked_are_started():
    plan = virtual()
    assert used_services(plan) == ()
    wanted = plan.services[0]
    stream = Stream("s", "g", "x", "dns", "dns", wanted.name, 4, (0,), 1)
    started = used_services(replace(plan, streams=(stream,)))
    assert wanted in started and len(started) < len(plan.services)
    assert {(each.node, each.kind) for each in started} == {(wanted.node, wanted.kind)}


def test_a_flood_still_outlasts_the_bucket_and_what_is_random_is_measured_as_often():
    for rate_bps in (1_000_000, 13_100_000, 358_000_000, 1_000_000_000):
        shape = calibrate.Shape(rate_bps=rate_bps, delay_ns=0, jitter_ns=0, loss_ratio=0.0)
        job = calibrate._flood(shape, is_virtual=True)
        assert job["frames"] - job["skip"] >= 3 * job["chunk"]
        assert job["frames"] <= calibrate._flood(shape, is_virtual=False)["frames"]
