"""The national topology: what its README and docs promise about paths, people and addresses."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import get_args

import pytest

from enforcer.policy import load_policy
from testbed.lab.bird_paths import best_routes
from testbed.plan.load import load_plan, load_topology_plan
from testbed.plan.plan import Plan, SubscriberKind

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_topology_plan(ROOT / "topologies/national-small.topology.yaml")


_TABLES: dict[tuple[str, ...], dict] = {}  # best_routes takes a while, and the plan is always the same


def _crossed(plan: Plan, cut: tuple[str, ...], start: str, prefix: str) -> list[str]:
    """Routers from `start` to the one that originates the prefix."""
    tables = _TABLES[cut] = _TABLES.get(cut) or best_routes(plan, cut)
    names = {system.number: system.node for system in plan.systems}
    return (
        [start, *(names[number] for number in tables[start][prefix].as_path)]
        if prefix in tables[start]
        else []
    )


def _gateways(path: list[str]) -> list[str]:
    return [node for node in dict.fromkeys(path) if node.startswith("gateway")]


@pytest.mark.parametrize(
    "cut", [(), ("AAE-1",), ("SMW4",), ("TW1",), ("AAE-1", "IMEWE"), ("mobile-a--gateway-a",)]
)
@pytest.mark.parametrize("family", [4, 6])
def test_both_directions_of_a_flow_cross_the_same_gateway_whatever_is_cut(
    plan: Plan, cut: tuple, family: int
) -> None:
    prefix = {s.node: (s.prefixes4 if family == 4 else s.prefixes6) for s in plan.systems}
    isps = [node.name for node in plan.nodes if node.kind == "isp"]
    for isp in isps:
        for place in ("frankfurt", "singapore"):
            out = _gateways(_crossed(plan, cut, isp, prefix[place][0]))
            back = _gateways(_crossed(plan, cut, place, prefix[isp][0]))
            assert len(out) == 1, (isp, place, cut)
            assert out == back, (isp, place, cut)


def test_the_primary_gateway_is_used_while_it_works_and_the_other_when_it_does_not(plan: Plan) -> None:
    prefix = {s.node: s.prefixes4[0] for s in plan.systems if s.prefixes4}
    assert _gateways(_crossed(plan, (), "mobile-a", prefix["frankfurt"])) == ["gateway-a"]
    assert _gateways(_crossed(plan, (), "mobile-b", prefix["frankfurt"])) == ["gateway-b"]
    cut = ("AAE-1", "IMEWE")
    assert _gateways(_crossed(plan, cut, "mobile-a", prefix["frankfurt"])) == ["gateway-b"]


def test_domestic_traffic_crosses_no_gateway(plan: Plan) -> None:
    prefix = {s.node: s.prefixes4[0] for s in plan.systems if s.prefixes4}
    isps = [node.name for node in plan.nodes if node.kind == "isp"]
    for a in isps:
        for b in isps:
            if a != b:
                assert not _gateways(_crossed(plan, (), a, prefix[b]))


@pytest.mark.parametrize("cut", [(), ("business--gateway-a",), ("business--gateway-b",)])
def test_the_registry_and_both_gateways_reach_each_other_without_a_cable(plan: Plan, cut: tuple) -> None:
    """Else one enforcer would learn of each change two cables later than the other."""
    prefix = {s.node: (*s.prefixes4, *s.prefixes6) for s in plan.systems}
    for gateway in ("gateway-a", "gateway-b"):
        for start, end in (("business", gateway), (gateway, "business")):
            for there in prefix[end]:
                path = dict.fromkeys(_crossed(plan, cut, start, there))  # prepending says an AS again
                assert list(path) == [start, end], (start, there)


def test_nobody_goes_abroad_over_the_exchange(plan: Plan) -> None:
    """The gateways are members for themselves and their customers, not a way out for who lost their transit."""
    frankfurt = next(s for s in plan.systems if s.name == "frankfurt")
    tables = best_routes(plan, ("fixed-a--gateway-a", "fixed-a--gateway-b"))
    assert [p for p in (*frankfurt.prefixes4, *frankfurt.prefixes6) if p in tables["fixed-a"]] == []
    for prefix in (*frankfurt.prefixes4, *frankfurt.prefixes6):
        assert tables["fixed-b"][prefix].learned_from == "provider"


def test_an_enforcer_has_the_exchange_on_its_inside_and_every_cable_on_its_outside() -> None:
    plan = load_plan(ROOT / "scenarios/registration.scenario.yaml")
    sides = {placement.node: (placement.inside, placement.outside) for placement in plan.enforcers}
    assert set(sides) == {"gateway-a", "gateway-b"}
    for name, (inside, outside) in sides.items():
        ends = [(link, end) for link in plan.links for end in (link.a, link.b) if end.node == name]
        assert set(outside) == {end.name for link, end in ends if link.kind == "cable"}
        assert set(inside) == {end.name for link, end in ends if link.kind in ("transit", "exchange")}
        assert "exchange" in inside


def test_there_are_people_of_every_kind_on_lines_of_every_kind(plan: Plan) -> None:
    assert len(plan.subscribers) >= 14
    assert {subscriber.kind for subscriber in plan.subscribers} == set(get_args(SubscriberKind))
    assert {subscriber.addressing for subscriber in plan.subscribers} == {"static", "dynamic", "nat"}
    shared = [subscriber.public4 for subscriber in plan.subscribers if subscriber.addressing == "nat"]
    assert len(set(shared)) < len(shared)


def test_no_address_is_there_twice_and_all_are_private(plan: Plan) -> None:
    ends = [end for link in plan.links for end in (link.a, link.b)]
    addresses = [ipaddress.ip_interface(text).ip for end in ends for text in (*end.ipv4, *end.ipv6)]
    addresses += [ipaddress.ip_interface(node.loopback4).ip for node in plan.nodes if node.loopback4]
    assert len(set(addresses)) == len(addresses)
    own = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "100.64.0.0/10", "fd00::/8")]
    assert all(any(a.version == n.version and a in n for n in own) for a in addresses)


def test_port_blocks_behind_one_address_do_not_overlap(plan: Plan) -> None:
    used: dict[tuple[str, int], str] = {}
    for nat in plan.nats:
        for port in range(nat.port_first, nat.port_last + 1, 7):
            assert used.setdefault((nat.public4, port), nat.subscriber) == nat.subscriber


def test_interface_names_fit_the_kernel_and_are_unique_on_their_node(plan: Plan) -> None:
    names = [(end.node, end.name) for link in plan.links for end in (link.a, link.b)]
    assert len(set(names)) == len(names)
    assert all(0 < len(name.encode()) <= 15 for _, name in names)


def test_capacity_lies_at_gateway_a_as_the_published_figures_say(plan: Plan) -> None:
    rates = {"gateway-a": 0, "gateway-b": 0}
    for link in plan.links:
        if link.kind == "cable":
            rates[link.a.node] += link.rate_bps or 0
    share = rates["gateway-a"] / sum(rates.values())
    assert 0.60 <= share <= 0.70


@pytest.mark.parametrize(
    "name", sorted(path.name.partition(".")[0] for path in (ROOT / "enforcer/policies").iterdir())
)
def test_the_policies_exempt_the_wifi_calling_gateway_and_nothing_else_abroad(plan: Plan, name: str) -> None:
    policy = load_policy(ROOT / f"enforcer/policies/{name}.policy.yaml")
    exempt = [ipaddress.ip_network(prefix) for item in policy.exempt for prefix in item.endpoint_prefixes]
    for service in [*plan.services, *plan.servers]:
        for text in filter(None, (service.address4, service.address6)):
            address = ipaddress.ip_address(text)
            inside = any(address.version == net.version and address in net for net in exempt)
            assert inside == (service.name == "fra-epdg"), service.name
