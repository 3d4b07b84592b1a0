"""Routing and readiness on real kernels: convergence, failover, and errors that name what is missing."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from testbed.lab.bird_checks import path_problems
from testbed.lab.bird_fib import read_all, read_fib
from testbed.lab.build import Lab, build
from testbed.lab.nat import start_nat
from testbed.lab.ready import Pair, intended_pairs, reach, wait_ready
from testbed.lab.routing import NotReady, Routing, running_routing, start_routing
from testbed.plan.load import load_topology_plan
from tests.small_plan import small_plan

pytestmark = pytest.mark.world
NATIONAL = Path(__file__).parents[1] / "topologies" / "national-small.topology.yaml"
CONVERGED_S = 15  # generous for a loaded machine; about 1 s on a quiet one


@pytest.fixture(scope="module")
def national(tmp_path_factory):
    """A lab of national-small, its routing converged; each test leaves it so."""
    with build(load_topology_plan(NATIONAL), tmp_path_factory.mktemp("national")) as lab:
        start_nat(lab)
        with start_routing(lab) as routing:
            routing.wait(CONVERGED_S)
            yield lab, routing


def test_the_small_plan_converges_and_everybody_reaches_in_both_families(tmp_path):
    with build(small_plan(), tmp_path) as lab, start_routing(lab):
        report = wait_ready(lab, deadline_s=CONVERGED_S)
        assert (report.sessions, report.pairs) == (3, 8)
        assert report.slowest_rtt_s < 1


def test_national_small_is_ready_and_its_paths_keep_their_promises(national):
    lab, routing = national
    report = wait_ready(lab, routing, deadline_s=CONVERGED_S)
    assert report.sessions == len(lab.plan.sessions) == 22
    families = {family: [p for p in intended_pairs(lab.plan) if p.family == family] for family in (4, 6)}
    assert report.pairs == len(families[4]) + len(families[6])
    assert len(families[4]) == len(lab.plan.subscribers) * 7 and families[6]
    assert path_problems(lab.plan, read_all(lab, lab.plan)) == []


@pytest.mark.parametrize(
    "cut", [("AAE-1",), ("AAE-1", "IMEWE", "SMW4"), ("fixed-a--gateway-a",)], ids=lambda cut: "+".join(cut)
)
def test_routing_goes_round_a_cut_and_comes_back(national, cut):
    lab, routing = national
    assert routing.problems() == []
    for link in cut:
        lab.link_down(link)
    try:
        routing.wait(CONVERGED_S, cut)
        assert routing.problems() != []  # the uncut yardstick no longer fits
        reach(lab, intended_pairs(lab.plan), 5)
        assert path_problems(lab.plan, read_all(lab, lab.plan)) == []
    finally:
        for link in cut:
            lab.link_up(link)
    routing.wait(CONVERGED_S)
    reach(lab, intended_pairs(lab.plan), 5)


def test_an_isp_cut_from_the_exchange_reaches_domestic_servers_over_a_gateway(national):
    lab, routing = national
    lab.link_down("fixed-a--exchange")
    try:
        routing.wait(CONVERGED_S, ["fixed-a--exchange"])
        reach(lab, intended_pairs(lab.plan), 5)
        assert any(
            "domestic traffic crosses" in text for text in path_problems(lab.plan, read_all(lab, lab.plan))
        )
    finally:
        lab.link_up("fixed-a--exchange")
    routing.wait(CONVERGED_S)


def test_a_forged_announcement_is_not_believed(tmp_path):
    """isp2 claims isp1's prefix; the provider's filter drops it, and alice is still reached."""
    with build(small_plan(), tmp_path) as lab, start_routing(lab) as routing:
        routing.wait(CONVERGED_S)
        before = {route.prefix: route.gateway for route in read_fib(lab, "gw")}
        forge(lab, routing, "isp2", "10.1.1.0/24")
        forge(lab, routing, "isp2", "10.2.99.0/24")  # its own space, but not the aggregate: strict is exact
        wait_filtered(routing, "gw", "isp2-gw.isp2.v4", 2)
        assert {route.prefix: route.gateway for route in read_fib(lab, "gw")} == before
        reach(lab, intended_pairs(lab.plan), 5)


def test_a_session_that_does_not_come_up_is_named(tmp_path):
    plan = small_plan()
    wrong = dataclasses.replace(plan.sessions[0], b4="10.0.0.99")  # gw has no such address
    with build(small_plan(sessions=(wrong, *plan.sessions[1:])), tmp_path) as lab, start_routing(lab):
        with pytest.raises(NotReady, match=r"within 2 s") as raised:
            wait_ready(lab, deadline_s=2)
    assert [p.partition(":")[0] for p in raised.value.problems] == [
        "BGP session isp1 - gw over isp1-gw (IPv4)",
        "BGP session gw - isp1 over isp1-gw (IPv4)",
    ]


def test_a_pair_that_does_not_reach_is_named_and_only_that(tmp_path):
    with build(small_plan(), tmp_path) as lab, start_routing(lab) as routing:
        routing.wait(CONVERGED_S)
        rule = "table inet t { chain c { type filter hook forward priority 0; ip saddr 10.2.1.2 ip daddr 10.9.0.10 drop; }; }"
        assert lab.cmd("gw", ["nft", rule]).returncode == 0
        with pytest.raises(NotReady) as raised:
            reach(lab, intended_pairs(lab.plan), 1)
        assert raised.value.problems == ("bob > srv (10.9.0.10): no answer",)
        assert lab.cmd("gw", ["nft", "delete table inet t"]).returncode == 0
        reach(lab, intended_pairs(lab.plan), 1)


def test_what_a_router_says_about_an_unreachable_pair_is_passed_on(tmp_path):
    with build(small_plan(), tmp_path) as lab, start_routing(lab) as routing:
        routing.wait(CONVERGED_S)
        nobody = [Pair("alice", "nobody", "10.9.77.1", 4), Pair("alice", "nobody", "fd00:9:77::1", 6)]
        with pytest.raises(NotReady) as raised:
            reach(lab, nobody, 1)
        assert all("unreachable (ICMP code" in text for text in raised.value.problems), raised.value.problems


def test_a_bird_that_died_is_named_with_its_last_words(tmp_path):
    with build(small_plan(), tmp_path) as lab, start_routing(lab) as routing:
        routing.wait(CONVERGED_S)
        victim = next(daemon for daemon in lab.daemons() if daemon.node == "gw")
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        with pytest.raises(NotReady, match="gw: bird ended with -9; see bird-gw.log"):
            routing.wait(5)


def test_the_routing_of_a_lab_is_found_again_or_said_to_be_missing(tmp_path):
    with build(small_plan(), tmp_path) as lab:
        with pytest.raises(NotReady, match="call start_routing first"):
            running_routing(lab)
        with start_routing(lab):
            found = running_routing(lab)
            assert {state.node for state in found.sessions()} == {"isp1", "isp2", "gw", "fra"}
            found.disconnect()


def test_a_static_lab_without_bgp_is_ready_at_once(tmp_path):
    plan = small_plan()
    nodes = tuple(dataclasses.replace(node, runs_bgp=False) for node in plan.nodes)
    alone = small_plan(nodes=nodes, sessions=(), services=(), servers=(), subscribers=plan.subscribers[:1])
    with build(alone, tmp_path) as lab:
        assert wait_ready(lab, deadline_s=2).pairs == 2  # alice and the registry, in both families


def forge(lab: Lab, routing: Routing, node: str, prefix: str) -> None:
    """Let a router announce a prefix that is not in the plan for it, its own export policy notwithstanding."""
    conf = lab.log_dir / f"bird-{node}.conf"
    text = conf.read_text()
    protocol = f"protocol static forged{prefix.count('9')} {{ ipv4; route {prefix} unreachable; }}\n"
    conf.write_text(text + protocol)
    routing.control(node).ask("configure")


def wait_filtered(routing: Routing, node: str, session: str, count: int, timeout_s: float = 5) -> None:
    """Wait until a router has received and filtered out so many routes of a session (BIRD's own statistics)."""
    deadline = time.monotonic() + timeout_s
    while True:
        lines = [text for _code, text in routing.control(node).ask(f"show protocols all '{session}'")]
        updates = next(text for text in lines if "Import updates" in text).split()
        if int(updates[4]) >= count:  # Import updates: received rejected filtered ignored accepted
            return
        assert time.monotonic() < deadline, updates
        time.sleep(0.02)
