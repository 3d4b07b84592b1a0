"""Faults on real kernels: each strikes what it says, leaves its neighbours alone, and is healed. Before, during, after."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from enforcer.allowlist import Allowlist, Delta, Entry
from enforcer.dataplanes.nft import NftDataplane
from enforcer.decide import OBSERVED
from enforcer.policy import load_policy
from testbed import faults
from testbed.faults.allowlist_ignored import JUDGE_AGAIN
from testbed.lab.build import Lab, build
from testbed.lab.links import Links
from testbed.lab.nat import start_nat
from testbed.lab.ready import Pair, reach
from testbed.lab.routing import start_routing
from testbed.lab.services import start_services
from testbed.plan.load import load_topology_plan
from testbed.timeline.enforcers import Enforcers
from tests.small_plan import small_plan

pytestmark = pytest.mark.world

ROOT = Path(__file__).parents[1]
ALICE = Entry(1, "alice", ("10.1.1.2/32",), ("10.9.0.10/32",), (51820,), ("wireguard",))
BOB = Entry(2, "bob", ("10.2.1.2/32",), ("10.9.0.10/32",), (51820,), ("wireguard",))


def site(lab, links=None, enforcers=None):
    return SimpleNamespace(lab=lab, links=links, enforcers=enforcers)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    with build(small_plan(), tmp_path_factory.mktemp("faults")) as lab, start_routing(lab) as routing:
        routing.wait(15)
        services = start_services(lab)
        services.add_echo("srv", "10.9.0.10", 51820)
        services.add_echo("srv", "10.9.0.10", 5000)
        yield lab
        services.close()


def test_a_cut_cable_carries_nothing_until_it_is_mended(lab):
    pairs = [Pair("alice", "srv", "10.9.0.10", 4), Pair("alice", "srv", "fd00:9::10", 6)]
    domestic = [Pair("bob", "reg", "10.1.9.10", 4)]
    reach(lab, pairs + domestic, 5)
    with faults.begin(site(lab), {"kind": "link-down", "at": ["cable"]}):
        for pair in pairs:
            with pytest.raises(RuntimeError, match="did not reach"):
                reach(lab, [pair], 0.3)
        reach(lab, domestic, 5)  # control: only the cable
    reach(lab, pairs, 15)


def test_bgp_goes_round_a_cut_cable(tmp_path):
    plan = load_topology_plan(ROOT / "topologies" / "national-small.topology.yaml")
    with build(plan, tmp_path) as lab, start_routing(lab) as routing:
        start_nat(lab)
        routing.wait(15)
        far = [
            Pair(
                "hospital", "fra-services", next(s for s in plan.services if s.name == "fra-icmp").address4, 4
            )
        ]
        with faults.begin(site(lab), {"kind": "link-down", "at": ["AAE-1", "IMEWE"]}):
            routing.wait(15, ["AAE-1", "IMEWE"])
            reach(lab, far, 5)
        routing.wait(15)
        reach(lab, far, 5)


def test_a_degraded_link_goes_back_to_what_it_was(tmp_path):
    pair = Pair("alice", "srv", "10.9.0.10", 4)
    planned_s = 2 * (0.004 + 0.001 + 0.020)
    with build(small_plan(), tmp_path) as lab, start_routing(lab) as routing:
        links = Links(lab)
        links.start()
        routing.wait(15)

        def rtt_s() -> float:
            return min(reach(lab, [pair], 5)[pair] for _ in range(5))

        try:
            assert rtt_s() == pytest.approx(planned_s, abs=0.010)
            links.change("cable", direction="ab", delay_ns=25_000_000)  # as a set-link would have done
            before = rtt_s()
            args = {"kind": "link-degrade", "at": ["cable"], "delay_ns": 120_000_000, "rate_bps": 1_000_000}
            with faults.begin(site(lab, links), args):
                assert rtt_s() == pytest.approx(planned_s + 0.200, abs=0.015)
                assert links.shape("cable", "ab").rate_bps == 1_000_000
            assert rtt_s() == pytest.approx(before, abs=0.010)
            assert [links.shape("cable", d).delay_ns for d in ("ab", "ba")] == [25_000_000, 20_000_000]
            assert links.shape("cable", "ba").rate_bps == 100_000_000
        finally:
            links.close()


def test_an_unreachable_registry_is_silent_to_the_network_and_runs_on(lab):
    with serving(lab, "reg", 8080):
        assert asks(lab, "alice") and asks(lab, "reg")
        with faults.begin(site(lab), {"kind": "registry-unreachable", "at": ["reg"]}):
            assert not asks(lab, "alice") and not asks(lab, "alice", "fd00:1:9::10")
            assert asks(lab, "reg")
            reach(lab, [Pair("alice", "reg", "10.1.9.10", 4)], 5)  # the host itself is there
        assert asks(lab, "alice") and asks(lab, "alice", "fd00:1:9::10")
    assert "fault" not in lab.cmd("reg", ["nft", "list", "ruleset"]).stdout


def test_a_crashed_enforcer_is_dead_and_then_started_again(lab, tmp_path):
    enforcers = Enforcers(
        lab, lab.plan, "", tmp_path, tmp_path, command=["sh", "-c", "exec sleep 1000", "sh"]
    )
    enforcers.start()
    try:
        before = enforcers.running["gw"].process
        with faults.begin(site(lab, enforcers=enforcers), {"kind": "enforcer-crash", "at": ["gw"]}):
            assert before is not None and before.returncode == -9
            assert enforcers.running["gw"].process is None
            assert enforcers.dead() == []  # its death is the script's, not its own
        after = enforcers.running["gw"].process
        assert after is not None and after.poll() is None and after.pid != before.pid
    finally:
        enforcers.stop()


def test_an_ignored_allowlist_stops_registered_tunnels_and_nothing_else(lab):
    with (
        enforcing(lab, {1: ALICE}) as dataplane,
        flow(lab, "alice", 51820) as tunnel,
        flow(lab, "alice", 5000) as web,
    ):
        assert tunnel() and web()
        registered = dataplane.counters()["registered"]
        with faults.begin(glitch_at(lab), {"kind": "allowlist-ignored", "at": ["gw"]}):
            assert not tunnel()  # a live flow is judged anew
            assert web()
            with flow(lab, "alice", 51820) as fresh:
                assert not fresh()
            assert dataplane.is_alive()
            seen = {(stop.reason, stop.protocol) for stop in stops(lab, dataplane)}
            assert ("unregistered", "wireguard") in seen
            assert seen <= {("unregistered", "wireguard"), ("unregistered", "unseen")}
            assert dataplane.counters()["registered"] == registered
        assert tunnel() and web()
        assert "fault" not in lab.cmd("gw", ["nft", "list", "ruleset"]).stdout


def test_an_ignored_allowlist_outlasts_updates_and_these_hold_afterwards(lab):
    """A registration approved meanwhile, of a shape that makes the enforcer write its lookups anew, is ignored too."""
    wider = dataclasses.replace(BOB, endpoint_prefixes=("10.9.0.0/24",))
    with enforcing(lab, {1: ALICE}) as dataplane, flow(lab, "bob", 51820) as tunnel:
        assert not tunnel()  # control: bob is not registered yet
        with faults.begin(glitch_at(lab), {"kind": "allowlist-ignored", "at": ["gw"]}):
            with lab.inside("gw"):
                dataplane.apply(Delta(1, 2, (wider,)))
            ignored(tunnel, within_s=3)
        assert tunnel()


def test_the_mark_that_has_flows_judged_again_is_the_enforcer_s():
    assert JUDGE_AGAIN == OBSERVED


def test_an_enforcer_without_lookups_cannot_ignore_its_allowlist(lab):
    with pytest.raises(RuntimeError, match="gw: table inet allowlist has no chain allow-"):
        faults.begin(glitch_at(lab), {"kind": "allowlist-ignored", "at": ["gw"]})


def glitch_at(lab: Lab):
    return site(lab, enforcers=SimpleNamespace())


@contextlib.contextmanager
def enforcing(lab: Lab, entries: dict[int, Entry]) -> Iterator[NftDataplane]:
    """The strict policy and these registrations in the gateway's kernel."""
    policy = load_policy(ROOT / "enforcer" / "policies" / "registered-pairs.policy.yaml")
    with lab.inside("gw"):
        dataplane = NftDataplane(policy)
        dataplane.load(Allowlist(1, entries))
    try:
        yield dataplane
    finally:
        with lab.inside("gw"):
            dataplane.close(remove=True)


@contextlib.contextmanager
def flow(lab: Lab, node: str, port: int) -> Iterator[Callable[[], bool]]:
    """One UDP flow of a node to the server's echo; calling it says whether a packet comes back."""
    with lab.inside(node):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect(("10.9.0.10", port))
        count = 0

        def echoes() -> bool:
            nonlocal count
            count += 1
            message = count.to_bytes(4)
            sock.settimeout(0.4)
            sock.send(message)
            try:
                while sock.recv(100) != message:
                    continue
            except TimeoutError:
                return False
            return True

        yield echoes


def ignored(tunnel: Callable[[], bool], within_s: float) -> None:
    """Wait until the flow is stopped, and see that it stays so over two rounds of the fault's watch."""
    deadline = time.monotonic() + within_s
    while tunnel():
        assert time.monotonic() < deadline, "the update undid the fault"
    assert not tunnel()


def stops(lab: Lab, dataplane: NftDataplane):
    with lab.inside("gw"):
        return dataplane.events()


@contextlib.contextmanager
def serving(lab: Lab, node: str, port: int) -> Iterator[None]:
    """A listener in place of the registry."""

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6  # dual stack

    with lab.inside(node):
        server = Server(("::", port), socketserver.BaseRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asks(lab: Lab, node: str, address: str = "10.1.9.10") -> bool:
    """Whether the registry's port takes a connection of a node."""
    with lab.inside(node):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with sock:
        sock.settimeout(0.4)
        try:
            sock.connect((address, 8080))
        except TimeoutError:
            return False
        return True
