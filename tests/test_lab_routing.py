"""The routing a plan implies: BIRD's configurations, and the paths they give, without a network."""

from __future__ import annotations

import dataclasses
import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.lab.bird import bird_conf, customer_cone, neighbours, source_address
from testbed.lab.bird_checks import is_valley_free, path_problems
from testbed.lab.bird_fib import Fib, FibRoute, _parse4, _parse6, differences, forwarding_path
from testbed.lab.bird_paths import Table, best_routes
from testbed.plan.load import load_topology_plan
from testbed.plan.plan import Plan
from tests.small_plan import small_plan

NATIONAL = Path(__file__).parents[1] / "topologies" / "national-small.topology.yaml"

GOLDEN_ISP2 = """\
# isp2, AS65002
router id 10.255.2.1;
log stderr all;
debug protocols { states };
protocol device {}
define OWN4 = [ 10.2.0.0/16 ];
define OWN6 = [ fd00:2::/32 ];
protocol static aggregates4 { ipv4; route 10.2.0.0/16 unreachable; }
protocol kernel kernel4 { scan time 60; ipv4 { import none; export filter { if source = RTS_BGP then krt_prefsrc = 10.2.1.1; accept; }; }; }
protocol static aggregates6 { ipv6; route fd00:2::/32 unreachable; }
protocol kernel kernel6 { scan time 60; ipv6 { import none; export filter { if source = RTS_BGP then krt_prefsrc = fd00:2:1::1; accept; }; }; }
protocol bgp 'isp2-gw.gw.v4' {
  local 10.0.0.5 as 65002;
  neighbor 10.0.0.6 as 65000;
  direct; check link on;
  connect delay time 1; connect retry time 1;
  error wait time 1, 2;
  hold time 9; keepalive time 3;
  graceful restart off;
  ipv4 {
    import filter {
      if net ~ OWN4 then reject;
      bgp_large_community.delete([(65002, *, *)]);
      bgp_large_community.add((65002, 1, 3));
      bgp_local_pref = 1100;
      accept;
    };
    export filter {
      if source = RTS_BGP && !((65002, 1, 1) ~ bgp_large_community) then reject;
      bgp_med = 899;
      accept;
    };
  };
}
protocol bgp 'isp2-gw.gw.v6' {
  local fd00:0:0:2::1 as 65002;
  neighbor fd00:0:0:2::2 as 65000;
  direct; check link on;
  connect delay time 1; connect retry time 1;
  error wait time 1, 2;
  hold time 9; keepalive time 3;
  graceful restart off;
  ipv6 {
    import filter {
      if net ~ OWN6 then reject;
      bgp_large_community.delete([(65002, *, *)]);
      bgp_large_community.add((65002, 1, 3));
      bgp_local_pref = 1100;
      accept;
    };
    export filter {
      if source = RTS_BGP && !((65002, 1, 1) ~ bgp_large_community) then reject;
      bgp_med = 899;
      accept;
    };
  };
}
"""


@pytest.fixture(scope="module")
def national() -> Plan:
    return load_topology_plan(NATIONAL)


def test_a_router_s_configuration_is_this_text():
    assert bird_conf(small_plan(), "isp2") == GOLDEN_ISP2


@pytest.mark.skipif(shutil.which("bird") is None, reason="bird is not installed")
def test_bird_itself_accepts_every_configuration(national, tmp_path):
    for node in national.nodes:
        if node.runs_bgp:
            conf = tmp_path / f"{node.name}.conf"
            conf.write_text(bird_conf(national, node.name))
            done = subprocess.run(["bird", "-p", "-c", conf], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_a_provider_takes_from_a_customer_only_the_customer_s_own_prefixes():
    conf = bird_conf(small_plan(), "gw")
    session = conf.partition("'isp1-gw.isp1.v4'")[2].partition("protocol bgp")[0]
    assert "if !(net ~ [ 10.1.0.0/16 ]) then reject;" in session
    assert "10.2.0.0/16" not in session


def test_a_customer_s_customers_belong_to_its_cone():
    assert customer_cone(small_plan(), "fra", 4) == (
        "10.0.0.0/16",
        "10.1.0.0/16",
        "10.2.0.0/16",
        "10.9.0.0/16",
    )
    assert customer_cone(small_plan(), "isp1", 4) == ("10.1.0.0/16",)


def test_the_route_server_is_transparent_and_originates_nothing(national):
    conf = bird_conf(national, "exchange")
    assert conf.count("rs client;") == 14
    assert "protocol static" not in conf and "protocol kernel" not in conf and "bgp_med" not in conf


def test_a_router_answers_from_its_loopback_where_that_is_announced(national):
    fixed = next(node for node in national.nodes if node.name == "fixed-a")
    assert fixed.loopback4 and source_address(national, fixed, 4) == fixed.loopback4.split("/")[0]
    gw = next(node for node in small_plan().nodes if node.name == "gw")  # its loopback is in nobody's prefix
    assert source_address(small_plan(), gw, 4) == "10.0.0.2"


def test_a_preference_may_not_outrank_the_relation():
    plan = small_plan()
    sessions = (dataclasses.replace(plan.sessions[0], preference=1000), *plan.sessions[1:])
    with pytest.raises(ValueError, match="session over isp1-gw: preference 1000 .*write 0 to 999"):
        neighbours(small_plan(sessions=sessions), "gw")


def test_every_domestic_router_gets_a_route_to_every_prefix_and_nobody_is_transit_between_places(national):
    tables = best_routes(national)
    announced = {str(ipaddress.ip_network(p)) for s in national.systems for p in (*s.prefixes4, *s.prefixes6)}
    kinds = {node.name: node.kind for node in national.nodes}
    for name, table in tables.items():
        if kinds[name] in ("isp", "gateway"):
            assert set(table) == announced, name
    assert announced - set(tables["frankfurt"]) == {"10.202.0.0/16", "fd00:202::/32"}  # singapore


def test_domestic_routes_go_over_the_exchange_and_foreign_ones_do_not(national):
    table = best_routes(national)["fixed-a"]
    business, frankfurt = (
        next(s for s in national.systems if s.name == name) for name in ("business", "frankfurt")
    )
    assert table[business.prefixes4[0]].learned_from == "peer"
    assert table[business.prefixes4[0]].as_path == (business.number,)
    assert table[frankfurt.prefixes4[0]].learned_from == "provider"


def test_no_path_has_a_valley_whatever_link_is_cut(national):
    names = {system.number: system.node for system in national.systems}
    for cut in (None, *(session.link for session in national.sessions)):
        for start, table in best_routes(national, [cut] if cut else []).items():
            for route in table.values():
                path = [start, *(names[number] for number in dict.fromkeys(route.as_path))]
                assert is_valley_free(national, path) or start == "exchange", (cut, path)


def test_a_valley_is_recognised(national):
    assert is_valley_free(national, ["fixed-a", "gateway-a", "frankfurt"])
    assert is_valley_free(national, ["fixed-a", "business", "domestic"])
    assert not is_valley_free(national, ["gateway-a", "fixed-a", "gateway-b"])  # a customer as transit
    assert not is_valley_free(national, ["fixed-b", "fixed-a", "gateway-a"])  # a peer as transit
    with pytest.raises(ValueError, match="no session"):
        is_valley_free(national, ["fixed-a", "frankfurt"])


def test_parallel_cables_are_used_in_order_of_preference_by_both_ends(national):
    frankfurt = next(s for s in national.systems if s.name == "frankfurt").prefixes4[0]
    hospital_s = next(s for s in national.systems if s.name == "fixed-a").prefixes4[0]
    order = ("AAE-1", "IMEWE")
    for cut, expected in (((), "AAE-1"), (("AAE-1",), "IMEWE")):
        tables = best_routes(national, cut)
        assert tables["gateway-a"][frankfurt].link == expected
        assert tables["frankfurt"][hospital_s].link == expected
    tables = best_routes(national, (*order, "SMW4"))
    assert tables["fixed-a"][frankfurt].link == "fixed-a--gateway-b"  # the other gateway takes over


def test_without_prepending_parallel_sessions_are_told_apart_by_med():
    plan = small_plan()
    second = dataclasses.replace(
        plan.sessions[2],
        link="cable2",
        a4="10.0.0.13",
        b4="10.0.0.14",
        a6="fd00:0:0:4::1",
        b6="fd00:0:0:4::2",
    )
    for preferences, winner in (((100, 90), "cable"), ((90, 100), "cable2")):
        both = (
            dataclasses.replace(plan.sessions[2], preference=preferences[0]),
            dataclasses.replace(second, preference=preferences[1]),
        )
        tables = best_routes(small_plan(sessions=(*plan.sessions[:2], *both)))
        assert tables["gw"]["10.9.0.0/16"].link == winner
        assert tables["fra"]["10.1.0.0/16"].link == winner


def test_a_table_that_lacks_a_route_or_sends_it_elsewhere_is_named():
    table = best_routes(small_plan())["isp1"]
    fib = fib_of(table)
    assert differences(table, fib) == []
    without = tuple(route for route in fib if route.prefix != "10.9.0.0/16")
    assert differences(table, without) == ["no route to 10.9.0.0/16, wanted via 10.0.0.2"]
    astray = tuple(
        dataclasses.replace(r, gateway="10.0.0.99") if r.prefix == "10.9.0.0/16" else r for r in fib
    )
    assert differences(table, astray) == ["10.9.0.0/16 goes via 10.0.0.99, wanted via 10.0.0.2"]


def test_paths_follow_the_tables_and_say_where_they_end():
    plan = small_plan()
    fibs = whole_fibs(plan)
    assert forwarding_path(plan, fibs, "alice", "10.9.0.10") == ("alice", "isp1", "gw", "fra", "srv")
    assert forwarding_path(plan, fibs, "srv", "fd00:2:1::2") == ("srv", "fra", "gw", "isp2", "bob")
    with pytest.raises(LookupError, match="alice > isp1: no route to 10.77.0.1"):
        forwarding_path(plan, fibs, "alice", "10.77.0.1")
    circle = {**fibs, "gw": (FibRoute("10.9.0.0/16", "10.0.0.1", "isp1", 0, False),)}
    with pytest.raises(LookupError, match="alice > isp1 > gw > isp1: a circle"):
        forwarding_path(plan, circle, "alice", "10.9.0.10")


def test_the_path_checks_hold_for_the_implied_tables_and_catch_broken_ones(national):
    fibs = whole_fibs(national)
    assert path_problems(national, fibs) == []
    business = next(s for s in national.systems if s.name == "business").prefixes4[0]
    abroad = next(r for r in fibs["fixed-a"] if r.interface == "fixed-a--gateway-a").gateway
    leak = (FibRoute(business, abroad, "x", 0, False), *(r for r in fibs["fixed-a"] if r.prefix != business))
    found = path_problems(national, {**fibs, "fixed-a": leak})
    assert any("domestic traffic crosses gateway-a" in text for text in found)
    other = next(
        r
        for r in best_routes(national, ["fixed-a--gateway-a"])["fixed-a"].values()
        if r.link == "fixed-a--gateway-b"
    )
    moved = tuple(
        dataclasses.replace(r, gateway=other.next_hop)
        if r.interface == "fixed-a--gateway-a" and ":" not in r.prefix
        else r
        for r in fibs["fixed-a"]
    )
    assert any(
        "back through gateway-a" in text for text in path_problems(national, {**fibs, "fixed-a": moved})
    )


def test_the_kernel_s_tables_are_read_as_they_are_written():
    four = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t0000000A\t0100000A\t0003\t0\t0\t32\t0000FFFF\t0\t0\t0\n"
        "*\t0000020A\t00000000\t0200\t0\t0\t32\t0000FFFF\t0\t0\t0\n"
    )
    assert _parse4(four) == [
        FibRoute("10.0.0.0/16", "10.0.0.1", "eth0", 32, False),
        FibRoute("10.2.0.0/16", None, "*", 32, True),
    ]
    zero = "0" * 32
    gateway = "fd000009000000000000000000000001"
    six = (
        f"{zero} 00 {zero} 00 {gateway} 00000400 00000002 00000000 00000003     eth0\n"
        f"fd000002{'0' * 24} 20 {zero} 00 {zero} 00000020 00000001 00000000 00200200       lo\n"
        f"fe800000{'0' * 24} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    )
    assert _parse6(six) == [
        FibRoute("::/0", "fd00:9::1", "eth0", 1024, False),
        FibRoute("fd00:2::/32", None, "lo", 32, True),
    ]


def fib_of(table: Table) -> Fib:
    """A kernel's table as it would be with exactly these routes."""
    return tuple(
        FibRoute(r.prefix, r.next_hop, r.link or "lo", 32, r.next_hop is None) for r in table.values()
    )


def whole_fibs(plan: Plan) -> dict[str, Fib]:
    """All nodes' tables when routing has converged: connected networks, the plan's routes, BGP's."""
    tables = best_routes(plan)
    fibs: dict[str, Fib] = {}
    for node in plan.nodes:
        routes = [
            FibRoute(str(ipaddress.ip_interface(address).network), None, end.name, 0, False)
            for link in plan.links
            for end in (link.a, link.b)
            if end.node == node.name
            for address in (*end.ipv4, *end.ipv6)
        ]
        routes += [FibRoute(r.destination, r.via, "", 0, r.via is None) for r in node.routes]
        fibs[node.name] = (*routes, *fib_of(tables.get(node.name, {})))
    return fibs
