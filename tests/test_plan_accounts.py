"""Accounts and complaints of a scenario file: put on the scenario's clock, and told with their place when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.plan.load import check_paths, load_plan
from testbed.plan.store import parse_plan, render_plan

ROOT = Path(__file__).parent.parent
S = 1_000_000_000
_WHOLE = f"""
title: For accounts
description: A glitch.
topology: {ROOT}/topologies/minimal.topology.yaml
policy: {ROOT}/enforcer/policies/registered-pairs.policy.yaml
starts-at: "2024-11-10T15:30:00+05:00"
duration: 20s
registrations: [{{who: household, server: fra-wireguard, state: active}}]
traffic: [{{group: web, probe: https, whoever: {{}}, to: fra-https, every: 1s}}]
expect: [{{figure: delivered_ratio, where: {{group: web}}, at-least: 90%}}]
"""
PRESS = 'accounts: [{by: press, says: six hours, from: "2024-11-10T16:00:00+05:00", until: "2024-11-10T22:00:00+05:00", source: paper}]'


def scenario(folder: Path, more: str) -> Path:
    path = folder / "x.scenario.yaml"
    path.write_text(f"{_WHOLE}{more}\n")
    return path


def problems(folder: Path, more: str) -> list[str]:
    return [f"{each.where}: {each.what}; {each.fix}" for each in check_paths([scenario(folder, more)])]


def test_published_times_are_put_on_the_scenarios_clock(tmp_path):
    plan = load_plan(scenario(tmp_path, PRESS))
    [account] = plan.accounts
    assert (account.from_ns, account.until_ns) == (1800 * S, 390 * 60 * S)
    assert account.least_ns == account.most_ns == 6 * 3600 * S
    assert parse_plan(render_plan(plan)) == plan


def test_a_length_alone_a_list_of_sources_and_a_time_in_another_zone_before_the_start(tmp_path):
    more = 'accounts: [{by: a, says: b, lasted: [30m, 60m], source: [c, d]}, {by: e, says: f, from: "2024-11-10T10:00:00+00:00", source: g}]'
    one, two = load_plan(scenario(tmp_path, more)).accounts
    assert (one.least_ns, one.most_ns, one.sources) == (1800 * S, 3600 * S, ("c", "d"))
    assert two.from_ns == -1800 * S and two.least_ns is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("22:00:00+05:00", "15:00:00+05:00"), "accounts[0].until: it ended before it began; write an 'until' after 'from'"),
        (("22:00:00+05:00", "22:00:00"), "accounts[0].until: '2024-11-10T22:00:00' is not a time with its zone; write '2024-11-10T16:00:00+05:00'"),
        (("source: paper", "source: paper, lasted: [60m, 30m]"), "accounts[0].lasted: the longer time is written first; write [30m, 60m]"),
        (("source: paper", "source: paper, lasted: 6"), "accounts[0].lasted: '6' has no unit; write '6s' or '1m30s'"),
        ((", source: paper", ""), "accounts[0]: 'source' is missing; add 'source: …'"),
    ],
)  # fmt: skip
def test_a_wrong_account_is_told_with_its_place(tmp_path, change, problem):
    assert problems(tmp_path, PRESS) == []
    [told] = problems(tmp_path, PRESS.replace(*change))
    assert told.startswith(problem.partition(" or ")[0][:60])


def timeline(*events: str) -> str:
    return "timeline:\n" + "".join(f"  - {{{event}}}\n" for event in events)


def test_whoever_was_registered_may_complain_once(tmp_path):
    assert problems(tmp_path, timeline("at: 5s, complain: household/fra-wireguard")) == []
    after = ("at: 4s, revoke: household/fra-wireguard", "at: 5s, complain: household/fra-wireguard")
    assert problems(tmp_path, timeline(*after)) == []
    twice = ("at: 5s, complain: household/fra-wireguard", "at: 6s, complain: household/fra-wireguard")
    [told] = problems(tmp_path, timeline(*twice))
    assert "household/fra-wireguard has complained already, and nobody answered; remove this event" in told
    answered = timeline(
        twice[0],
        "at: 6s, deny-appeal: household/fra-wireguard",
        "at: 7s, complain: household/fra-wireguard",
        "at: 8s, grant-appeal: household/fra-wireguard",
    )
    assert problems(tmp_path, answered) == []
    [told] = problems(tmp_path, timeline("at: 6s, deny-appeal: household/fra-wireguard"))
    assert "has no appeal that waits for an answer; add 'complain: household/fra-wireguard'" in told


def test_whoever_never_was_cannot(tmp_path):
    events = ("at: 4s, apply: company/fra-wireguard", "at: 5s, complain: company/fra-wireguard")
    [told] = problems(tmp_path, timeline(*events))
    assert "company/fra-wireguard was never approved: a block of it is not false" in told


def test_goodput_is_refused_in_virtual_time_only(tmp_path):
    goodput = _WHOLE.replace("expect: [", "expect: [{figure: goodput_bps, at-least: 1Mbit}, ")
    goodput += "bulk: [{who: household, service: fra-bulk, at: 5s, for: 3s}]\n"
    path = tmp_path / "x.scenario.yaml"
    path.write_text(goodput)
    assert check_paths([path]) == []
    path.write_text(f"{goodput}clock: virtual\n")
    [told] = check_paths([path])
    assert told.where == "expect[0].figure" and "processors are infinitely fast" in told.what
