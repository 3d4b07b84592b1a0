"""From a scenario to a plan: who does what when, and what is written on the forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.plan.load import PlanError, json_schema, load_plan, load_topology_plan
from testbed.plan.plan import Plan

ROOT = Path(__file__).parents[1]
S = 1_000_000_000

_HEAD = f"""
title: t
description: d
topology: {ROOT}/topologies/minimal.topology.yaml
policy: {ROOT}/enforcer/policies/registered-pairs.policy.yaml
duration: 20s
"""
_EXPECT = "expect: [{figure: registration_state, where: {subscriber: company}, equals: active}]\n"
_COMPANY = "registrations: [{who: company, server: fra-wireguard, state: active}]\n"


@pytest.fixture
def plan_of(tmp_path: Path):
    def make(text: str, **options) -> Plan:
        path = tmp_path / "x.scenario.yaml"
        whole = _HEAD + text
        whole += "" if "registrations:" in text else _COMPANY
        whole += "" if "expect:" in text else _EXPECT
        path.write_text(whole)
        return load_plan(path, **options)

    return make


def problems(plan_of, text: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        plan_of(text)
    return [f"{problem.where}: {problem.what}" for problem in caught.value.problems]


def test_attempts_are_evenly_spaced_whatever_became_of_the_earlier_ones(plan_of) -> None:
    plan = plan_of(
        "traffic: [{group: g, probe: dns, who: company, to: fra-dns, every: 250ms, from: 2s, until: 12s}]\n"
    )
    [stream] = plan.streams
    assert len(stream.at_ns) == 40
    assert {b - a for a, b in zip(stream.at_ns, stream.at_ns[1:], strict=False)} == {250_000_000}
    assert 2 * S <= stream.at_ns[0] < 2 * S + 250_000_000


def test_streams_of_a_group_do_not_fire_all_at_once(plan_of) -> None:
    plan = plan_of("traffic: [{group: g, probe: dns, whoever: {}, to: fra-dns, every: 1s}]\n")
    assert len({stream.at_ns[0] for stream in plan.streams}) == len(plan.subscribers)


def test_without_until_the_last_attempt_can_still_be_completed(plan_of) -> None:
    plan = plan_of(
        "traffic: [{group: g, probe: https, whoever: {}, to: fra-https, every: 100ms, deadline: 3s}]\n"
    )
    assert all(stream.at_ns[-1] + stream.deadline_ns <= plan.duration_ns for stream in plan.streams)


def test_a_selection_takes_those_who_fit_every_key(plan_of) -> None:
    text = "traffic: [{group: g, probe: dns, whoever: {isp: mobile, except: freelancer}, to: fra-dns, every: 1s}]\n"
    assert [stream.subscriber for stream in plan_of(text).streams] == ["neighbour"]


def test_a_selection_leaves_out_who_has_no_ipv6(plan_of) -> None:
    text = "traffic: [{group: g, probe: dns, whoever: {}, to: fra-dns, every: 1s, family: 6}]\n"
    assert [stream.subscriber for stream in plan_of(text).streams] == ["company", "household"]


def test_a_form_holds_what_a_gateway_will_see(plan_of) -> None:
    plan = plan_of("registrations: [{who: [company, freelancer], server: fra-wireguard, state: active}]\n")
    company, freelancer = plan.registrations
    assert company.subscriber_prefixes == ("10.21.100.2/32", "fd00:21:1000::2/128")
    assert company.endpoint_prefixes == ("10.201.17.10/32", "fd00:201:17::10/128")
    assert (company.endpoint_ports, company.protocols) == ((51820,), ("wireguard",))
    [shared] = {nat.public4 for nat in plan.nats}
    assert freelancer.subscriber_prefixes == (f"{shared}/32",)


def test_neighbours_behind_one_address_have_ports_of_their_own(plan_of) -> None:
    lines = {line.name: line for line in plan_of("").subscribers}
    freelancer, neighbour = lines["freelancer"], lines["neighbour"]
    assert freelancer.public4 == neighbour.public4
    assert freelancer.port_last is not None
    assert neighbour.port_first == freelancer.port_last + 1


def test_ikev2_is_registered_with_esp_and_both_ports() -> None:
    plan = load_plan(ROOT / "scenarios/registration.scenario.yaml")
    [bank] = [item for item in plan.registrations if item.name == "bank/fra-ikev2"]
    assert (bank.protocols, bank.endpoint_ports, bank.initial) == (("ikev2", "esp"), (500, 4500), None)


def test_protocols_without_ports_are_registered_without_and_told_lines_apart_by_address(
    tmp_path: Path,
) -> None:
    topology = (ROOT / "topologies/portless.topology.yaml").read_text()
    text = (ROOT / "scenarios/portless-protocols.scenario.yaml").read_text()
    text = text.replace("../enforcer", str(ROOT / "enforcer")).replace("../topologies/portless", "p")
    (tmp_path / "p.topology.yaml").write_text(topology)
    path = tmp_path / "x.scenario.yaml"
    path.write_text(text)
    plan = load_plan(path)
    forms = {each.server: (each.protocols, each.endpoint_ports) for each in plan.registrations}
    assert forms == {"fra-esp": (("esp",), ()), "fra-ah": (("ah",), ()), "fra-gre": (("pptp",), ())}
    assert {s.registration for s in plan.streams if s.group == "look-alike"} == {None}

    mobile = topology.replace("kind: fixed\n", "kind: mobile\n    cgnat: {lines-per-address: 4}\n", 1)
    mobile = mobile.replace("isp: fixed, address: dynamic, ipv6: true", "isp: fixed, address: nat")
    (tmp_path / "p.topology.yaml").write_text(mobile)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    [*_, problem] = caught.value.problems
    assert problem.what == "household shares an address, and gre-0 has no ports to tell lines apart by"


def test_vpn_attempts_are_judged_by_a_registration_even_when_nobody_applied(plan_of) -> None:
    text = "traffic: [{group: g, probe: handshake, who: household, to: fra-handshake-wireguard, every: 1s}]\n"
    plan = plan_of(text)
    assert plan.streams[0].registration == "household/fra-handshake-wireguard"
    assert plan.streams[0].protocol == "wireguard"
    assert {item.name: item.initial for item in plan.registrations}[
        "household/fra-handshake-wireguard"
    ] is None


def test_everybody_is_entitled_to_the_wifi_calling_gateway_and_to_what_is_not_vpn() -> None:
    plan = load_plan(ROOT / "scenarios/registration.scenario.yaml")
    free = {stream.group for stream in plan.streams if stream.registration is None}
    assert free == {"wifi-calling", "plain", "calls"}


def test_a_tunnel_has_its_own_inner_address_and_its_echo_the_protocol_of_its_server(plan_of) -> None:
    plan = plan_of(
        "tunnels: [{who: [company, household], server: fra-wireguard, from: 1s}]\n"
        "traffic: [{group: g, probe: tunnel-echo, whoever: {}, every: 1s, from: 3s}]\n"
    )
    assert [tunnel.name for tunnel in plan.tunnels] == ["company-fra-wireguard", "household-fra-wireguard"]
    assert [tunnel.inner4 for tunnel in plan.tunnels] == ["10.99.0.10", "10.99.0.11"]
    assert {stream.protocol for stream in plan.streams} == {"wireguard"}
    assert [stream.target for stream in plan.streams] == [tunnel.name for tunnel in plan.tunnels]


def test_a_fault_ends_where_it_says_and_has_units_in_its_arguments(plan_of) -> None:
    text = "timeline: [{at: 5s, fault: {kind: link-degrade, at: cable, for: 3s, loss: 2%, delay: 30ms}}]\n"
    [event] = plan_of(text).events
    assert event.name == "fault:link-degrade"
    assert event.args == {
        "kind": "link-degrade",
        "at": ["cable"],
        "until_ns": 8 * S,
        "delay_ns": 30_000_000,
        "loss_ratio": 0.02,
    }
    assert event.line > 0


def test_enforcers_stand_at_every_gateway_or_where_the_scenario_says(plan_of) -> None:
    [gateway] = plan_of("").enforcers
    assert (gateway.node, gateway.inside, gateway.outside) == ("gateway", ("fixed", "mobile"), ("cable",))
    [isp] = plan_of("enforcers: mobile\n").enforcers
    assert (isp.node, isp.inside, isp.outside) == (
        "mobile",
        ("freelancer", "neighbour"),
        ("gateway", "exchange"),
    )


def test_another_policy_topology_and_seed_can_stand_in(plan_of) -> None:
    plan = plan_of("", policy=ROOT / "enforcer/policies/observe-only.policy.yaml", seed=7)
    assert plan.seed == 7
    assert plan.policy is not None
    assert plan.policy["mode"] == "observe"
    assert plan.policy_file == "enforcer/policies/observe-only.policy.yaml"


def test_bounds_are_in_the_unit_of_their_figure(plan_of) -> None:
    plan = plan_of(
        "tunnels: [{who: company, server: fra-wireguard}]\n"
        "traffic: [{group: g, probe: tunnel-echo, who: company, every: 100ms, from: 3s}]\n"
        "bulk: [{who: company, service: fra-vpn-bulk, through: fra-wireguard, at: 5s, for: 3s}]\n"
        "expect:\n"
        "  - {figure: false_block_ratio, where: {}, at-most: 5%}\n"
        "  - {figure: rtt_p99_s, where: {}, at-most: 150ms}\n"
        "  - {figure: goodput_bps, where: {}, at-least: 2Mbit}\n"
        "  - {figure: person_minutes_lost, where: {}, at-most: 30s}\n"
        "  - {figure: sessions_cut, where: {}, at-most: 0}\n"
        "  - {figure: outcome_count, outcome: false_block, where: {}, at-most: 3}\n"
    )
    assert [item.bound for item in plan.expectations] == [0.05, 0.15, 2e6, 0.5, 0.0, 3.0]
    assert plan.expectations[-1].figure == "outcome_count:false_block"
    assert plan.bulk[0].via == "company-fra-wireguard"


@pytest.mark.parametrize(
    ("timeline", "problem"),
    [
        (
            "[{at: 1s, approve: household/fra-wireguard}]",
            "approve: household/fra-wireguard is not applied for at that time",
        ),
        (
            "[{at: 1s, verify: household/fra-wireguard}]",
            "verify: household/fra-wireguard is not applied for at that time",
        ),
        (
            "[{at: 1s, apply: household/fra-wireguard}, {at: 2s, approve: household/fra-wireguard}]",
            "approve: the ISP has not verified household/fra-wireguard at that time",
        ),
        (
            "[{at: 1s, revoke: company/fra-wireguard}, {at: 2s, suspend: company/fra-wireguard}]",
            "suspend: company/fra-wireguard is revoked at that time",
        ),
        ("[{at: 1s, apply: company/fra-wireguard}]", "apply: company/fra-wireguard is active at that time"),
    ],
)
def test_what_the_registry_would_refuse_is_refused_now(plan_of, timeline: str, problem: str) -> None:
    [found] = problems(plan_of, f"timeline: {timeline}\n")
    assert found.endswith(problem)


def test_a_whole_life_of_a_registration_is_possible(plan_of) -> None:
    name = "household/fra-wireguard"
    steps = [
        "apply",
        "refuse-verify",
        "verify",
        "approve",
        "suspend",
        "renew",
        "revoke",
        "apply",
        "verify",
        "approve",
    ]
    timeline = ", ".join(f"{{at: {1 + index}s, {step}: {name}}}" for index, step in enumerate(steps))
    plan = plan_of(f"timeline: [{timeline}]\n")
    assert [event.action for event in plan.events] == steps
    assert len({event.name for event in plan.events}) == len(steps)


def test_a_changed_address_must_be_verified_and_approved_again(plan_of) -> None:
    name = "household/fra-wireguard"
    registrations = "registrations: [{who: [company, household], server: fra-wireguard, state: active}]\n"
    moves = f"{{at: 1s, change-address: household}}, {{at: 2s, change-address-form: {name}}}"
    plan_of(registrations + f"timeline: [{moves}, {{at: 3s, verify: {name}}}, {{at: 4s, approve: {name}}}]\n")
    [found] = problems(plan_of, registrations + f"timeline: [{moves}, {{at: 4s, approve: {name}}}]\n")
    assert "the ISP has not verified" in found


def test_a_line_can_only_move_as_often_as_it_has_addresses(plan_of) -> None:
    times = ", ".join(f"{{at: {index + 1}s, change-address: household}}" for index in range(13))
    [found] = problems(plan_of, f"timeline: [{times}]\n")
    assert found == "timeline[12].change-address: household has no further address"


def test_a_shared_address_does_not_change(plan_of) -> None:
    static, shared = problems(plan_of, "timeline: [{at: 1s, change-address: [company, freelancer]}]\n")
    assert (
        "freelancer is behind NAT: its public address is its provider's and never changes" in static + shared
    )
    assert "a subscriber with a dynamic line" in static + shared


def test_a_topology_alone_gives_a_plan_in_which_nothing_happens() -> None:
    plan = load_topology_plan(
        ROOT / "topologies/minimal.topology.yaml", ROOT / "enforcer/policies/registered-pairs.policy.yaml"
    )
    assert plan.duration_ns == 0
    assert not plan.streams
    assert [placement.node for placement in plan.enforcers] == ["gateway"]


@pytest.mark.parametrize("kind", ["scenario", "topology", "policy"])
def test_each_kind_of_file_has_a_schema_whose_keys_are_described(kind) -> None:
    schema = json_schema(kind)
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    shapes = [schema, *schema["$defs"].values()]
    described = [
        ("description" in item or "$ref" in item)
        for shape in shapes
        for item in shape.get("properties", {}).values()
    ]
    assert sum(described) > 0.5 * len(described)


def test_the_schema_writes_keys_and_units_as_files_do() -> None:
    text = json.dumps(json_schema("scenario"))
    assert '"at-most"' in text
    assert '"from"' in text
    assert "at_most" not in text
    assert "Mbit" in text
    assert json_schema("policy")["$defs"]["TimedFallbackFile"]["properties"]["after"]["pattern"]


@pytest.mark.parametrize(
    ("bulk", "problem"),
    [
        (
            "{who: company, service: fra-bulk, through: fra-wireguard, at: 5s, for: 3s}",
            "bulk[0].service: it is not on fra-vpn, where the tunnel ends",
        ),
        (
            "{who: company, service: fra-vpn-bulk, through: fra-wireguard, at: 1s, for: 3s}",
            "bulk[0].at: the tunnel's client does not run then",
        ),
        (
            "{who: household, service: fra-vpn-bulk, through: fra-wireguard, at: 5s, for: 3s}",
            "bulk[0].through: 'fra-wireguard' is not a server household has a tunnel to",
        ),
        ("{who: company, service: fra-bulk, at: 19s, for: 3s}", "bulk[0].for: it goes on past the end"),
    ],
)
def test_a_bulk_phase_that_cannot_be_played_is_refused(plan_of, bulk: str, problem: str) -> None:
    tunnels = "tunnels: [{who: company, server: fra-wireguard, from: 2s}]\n"
    assert problems(plan_of, f"{tunnels}bulk: [{bulk}]\n") == [problem]


def test_enforcers_without_a_policy_and_registrations_without_an_authority_are_refused(
    tmp_path: Path,
) -> None:
    topology = (ROOT / "topologies/minimal.topology.yaml").read_text()
    (tmp_path / "t.topology.yaml").write_text(topology.replace("authority: {name: registry, at: fixed}", ""))
    path = tmp_path / "x.scenario.yaml"
    head = "title: t\ndescription: d\ntopology: t.topology.yaml\nduration: 20s\nenforcers: gateway\n"
    path.write_text(head + _COMPANY + _EXPECT)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert [f"{problem.where}: {problem.what}" for problem in caught.value.problems] == [
        "enforcers: there is no policy for them",
        "registrations: the topology has no authority, so nothing can be registered",
    ]
