"""From checked files to a plan: everything resolved, nothing left to chance but the seed."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from enforcer.policy import Policy
from enforcer.yamlfile import Document
from testbed.plan.accounts import resolve_accounts
from testbed.plan.desks import check_asked, resolve_desks
from testbed.plan.expectations import resolve_expectations
from testbed.plan.network import Network
from testbed.plan.official import play_ledger
from testbed.plan.people import Resolving
from testbed.plan.plan import EnforcerPlacement, Plan
from testbed.plan.rest import check_names_of_the_rest, long_enough
from testbed.plan.scenario_file import ScenarioFile
from testbed.plan.script import resolve_events
from testbed.plan.traffic import resolve_bulk, resolve_registrations, resolve_streams, resolve_tunnels


def resolve(
    document: Document,
    scenario: ScenarioFile,
    network: Network,
    policy: Policy | None,
    names: tuple[str, str, str, str | None],
    seed: int | None = None,
) -> Plan:
    """The plan. names: the scenario's name, and its, the topology's and the policy's file as the plan shall name them.

    Notes problems in the document; with any, the plan is not to be used.
    """
    if scenario.duration == 0:
        document.add(("duration",), "a scenario of no length", "write for example '30s'")
    resolving = Resolving(
        document,
        scenario,
        network,
        scenario.duration or long_enough(scenario),
        scenario.seed if seed is None else seed,
    )
    _check_start(resolving)
    if scenario.enforcers is not None and scenario.policy is None and policy is None:
        resolving.add(
            ("enforcers",), "there is no policy for them", "add 'policy: FILE', or remove this", True
        )
    if scenario.registrations and network.authority is None:
        what = "the topology has no authority, so nothing can be registered"
        resolving.add(("registrations",), what, "add 'authority: {name: registry, at: ISP}' to it", True)
    enforcers = _enforcers(resolving) if policy else ()
    resolve_registrations(resolving, scenario.registrations)
    resolve_tunnels(resolving, scenario.tunnels)
    streams = resolve_streams(resolving, scenario.traffic)
    bulk = resolve_bulk(resolving, scenario.bulk)
    events = resolve_events(resolving, scenario.timeline, [placement.node for placement in enforcers])
    desks = resolve_desks(resolving)
    events, histories = play_ledger(resolving, events, scenario.timeline, desks)
    check_asked(resolving, desks)
    check_names_of_the_rest(resolving)
    expectations = resolve_expectations(resolving, scenario.expect or [], streams, bulk, histories, names[1])
    return Plan(
        scenario=names[0],
        title=scenario.title,
        description=scenario.description,
        tags=tuple(scenario.tags),
        scenario_file=names[1],
        topology_file=names[2],
        policy_file=names[3],
        seed=resolving.seed,
        starts_at=scenario.starts_at,
        duration_ns=resolving.duration_ns,
        **_of_network(network),
        enforcers=enforcers,
        policy=policy.to_json() if policy else None,
        registrations=tuple(resolving.registrations.values()),
        tunnels=tuple(resolving.tunnels.values()),
        streams=streams,
        bulk=bulk,
        events=events,
        expectations=expectations,
        clock=scenario.clock,
        registry=desks.settings(),
        accounts=resolve_accounts(resolving, scenario.accounts),
    )


def bare_plan(
    name: str,
    title: str,
    network: Network,
    policy: Policy | None,
    files: tuple[str, str | None],
    seed: int = 1,
) -> Plan:
    """A plan in which nothing happens, for a lab that is kept running. files: the topology's and the policy's."""
    gateways = [node.name for node in network.nodes if node.kind == "gateway"]
    return Plan(
        scenario=name,
        title=title,
        description="",
        tags=(),
        scenario_file="",
        topology_file=files[0],
        policy_file=files[1],
        seed=seed,
        starts_at="2024-11-12T10:00:00+05:00",
        duration_ns=0,
        **_of_network(network),
        enforcers=_placements(network, gateways) if policy else (),
        policy=policy.to_json() if policy else None,
        registrations=(),
        tunnels=(),
        streams=(),
        bulk=(),
        events=(),
        expectations=(),
    )


def _of_network(network: Network) -> dict[str, Any]:
    """The fields of a plan that are the network's."""
    lists = ("nodes", "bridges", "links", "systems", "sessions", "nats", "subscribers", "services", "servers")
    return {name: tuple(getattr(network, name)) for name in lists} | {"authority": network.authority}


def _enforcers(resolving: Resolving) -> tuple[EnforcerPlacement, ...]:
    network, wanted = resolving.network, resolving.scenario.enforcers
    if network.authority is None:
        resolving.add(
            ("policy",), "the topology has no authority whose feed an enforcer could follow", "add one to it"
        )
    possible = [node.name for node in network.nodes if node.kind in ("gateway", "isp")]
    if wanted is not None:
        chosen = resolving.names(("enforcers",), wanted, possible, "a gateway or an ISP")
    else:
        chosen = [node.name for node in network.nodes if node.kind == "gateway"]
    return _placements(network, chosen)


def _placements(network: Network, nodes: Iterable[str]) -> tuple[EnforcerPlacement, ...]:
    return tuple(
        EnforcerPlacement(node, tuple(network.inside.get(node, ())), tuple(network.outside.get(node, ())))
        for node in nodes
    )


def _check_start(resolving: Resolving) -> None:
    text = resolving.scenario.starts_at
    try:
        is_aware = datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        is_aware = False
    if not is_aware:
        resolving.add(
            ("starts-at",), f"{text!r} is not a time with its zone", "write '2024-11-12T10:00:00+05:00'"
        )
