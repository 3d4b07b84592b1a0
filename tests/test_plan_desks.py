"""The registry's side of a scenario: desks that act by themselves and rules with clocks, played when the plan is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.plan.load import PlanError, check_paths, load_plan
from testbed.plan.plan import Plan
from testbed.session_speed import faster

ROOT = Path(__file__).parents[1]
S = 1_000_000_000
COMPANY, FREELANCER = "company/fra-handshake-wireguard", "freelancer/fra-handshake-wireguard"
_HEAD = f"""\
title: t
description: d
topology: {ROOT}/topologies/minimal.topology.yaml
policy: {ROOT}/enforcer/policies/registered-pairs.policy.yaml
duration: 60s
traffic: [{{group: g, probe: handshake, who: [company, freelancer], to: fra-handshake-wireguard, every: 1s}}]
expect: [{{figure: delivered_ratio, at-least: 1%}}]
"""


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[[str], Plan]:
    def make(text: str, head: str = _HEAD) -> Plan:
        path = tmp_path / "x.scenario.yaml"
        path.write_text(head + text)
        return load_plan(path)

    return make


def acts(plan: Plan, name: str = COMPANY) -> list[tuple[float, str, str]]:
    """(at, action, by whom) of what happens to a registration."""
    return [
        (event.at_ns / S, event.action, event.args.get("by", "script"))
        for event in plan.events
        if event.args.get("registration") == name
    ]


def problems(plan_of: Callable[..., Plan], text: str, head: str = _HEAD) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        plan_of(text, head)
    return [(each.where, f"{each.what}; {each.fix}") for each in caught.value.problems]


APPLY = f"timeline: [{{at: 1s, apply: {COMPANY}}}]\n"


def test_a_desk_answers_in_its_working_time_and_an_officer_after_it(plan_of) -> None:
    text = "providers: [{isp: fixed, answers-after: 4s, works: [{until: 3s}, {from: 20s, until: 21s}, {from: 30s}]}]\n"
    assert acts(plan_of(text + "officer: {decides-after: 2s}\n" + APPLY)) == [
        (1, "apply", "script"),
        (31, "verify", "provider"),  # 2 s before 3 s, 1 s from 20 s, 1 s from 30 s
        (33, "approve", "officer"),
    ]


def test_without_desks_nothing_is_added(plan_of) -> None:
    plan = plan_of(APPLY)
    assert (acts(plan), plan.registry) == ([(1, "apply", "script")], {})


@pytest.mark.parametrize(
    ("desk", "form", "expected"),
    [
        ("", "", "verify"),
        (", wrong: 100%", "", "refuse-verify"),
        ("", ", addresses: 10.77.0.1", "refuse-verify"),
        (", wrong: 100%", ", addresses: 10.77.0.1", "verify"),
    ],
)
def test_a_wrong_answer_is_the_opposite_of_what_is_so(plan_of, desk: str, form: str, expected: str) -> None:
    text = f"registrations: [{{who: company, server: fra-handshake-wireguard{form}}}]\n"
    text += f"providers: [{{isp: fixed, answers-after: 1s{desk}}}]\n"
    assert acts(plan_of(text + APPLY))[1:] == [(2, expected, "provider")]


def test_after_a_refusal_an_officer_waits_or_rejects(plan_of) -> None:
    text = "providers: [{isp: fixed, wrong: 100%%}]\nofficer: {decides-after: 2s%s}\n" + APPLY
    assert len(acts(plan_of(text % ""))) == 2
    assert acts(plan_of(text % ", after-refusal: reject"))[2:] == [(3, "reject", "officer")]


@pytest.mark.parametrize(
    ("silence", "then"),
    [
        ("wait", []),
        ("remind", [(9, "remind", "registry")]),
        ("refuse", [(9, "refuse-verify", "registry")]),
        ("approve", [(9, "verify", "registry"), (10, "approve", "officer")]),
    ],
)
def test_silence_comes_to_what_the_rules_say(plan_of, silence: str, then: list) -> None:
    text = f"rules: {{verification-within: 8s, on-silence: {silence}}}\nofficer: {{decides-after: 1s}}\n"
    text += "providers: [{isp: fixed, silent: 100%}]\n"
    assert acts(plan_of(text + APPLY))[1:] == then


def test_an_answer_in_time_leaves_no_silence(plan_of) -> None:
    text = "rules: {verification-within: 8s, on-silence: approve}\nproviders: [{isp: fixed, answers-after: 7s}]\n"
    assert acts(plan_of(text + APPLY))[1:] == [(8, "verify", "provider")]


def test_a_late_answer_still_counts(plan_of) -> None:
    text = "rules: {verification-within: 8s, on-silence: refuse}\nofficer: {decides-after: 1s}\n"
    text += "providers: [{isp: fixed, answers-after: 20s}]\n"
    assert acts(plan_of(text + APPLY))[1:] == [
        (9, "refuse-verify", "registry"),
        (21, "verify", "provider"),
        (22, "approve", "officer"),
    ]


def test_an_approval_ends_unless_it_is_renewed(plan_of) -> None:
    text = "rules: {validity: 20s, grace: 2s, reminders: [5s]}\nproviders: [{isp: fixed}]\nofficer: {decides-after: 1s}\n"
    assert acts(plan_of(text + APPLY))[2:] == [
        (2, "approve", "officer"),
        (17, "remind", "registry"),
        (24, "expire", "registry"),
    ]
    renewed = APPLY.replace("]\n", f", {{at: 10s, renew: {COMPANY}}}]\n")
    assert acts(plan_of(text + renewed))[3:] == [
        (10, "renew", "script"),
        (25, "remind", "registry"),
        (32, "expire", "registry"),
    ]


def test_what_ended_may_be_expected_and_renewed(plan_of) -> None:
    text = "rules: {validity: 5s}\nproviders: [{isp: fixed}]\nofficer: {decides-after: 1s}\n"
    text += f"timeline: [{{at: 1s, apply: {COMPANY}}}, {{at: 9s, renew: {COMPANY}}}]\n"
    assert acts(plan_of(text))[3:] == [
        (7, "expire", "registry"),
        (9, "renew", "script"),
        (14, "expire", "registry"),
    ]
    told = problems(plan_of, text.replace("validity: 5s", "validity: 40s, renewal-window: 4s"))
    assert told == [
        (
            "timeline[1].renew",
            f"the renewal of {COMPANY} is not open at that time; write a time from '38s' on",
        )
    ]


def test_a_new_address_is_verified_and_decided_again(plan_of) -> None:
    name = "household/fra-handshake-wireguard"
    text = "registrations: [{who: household, server: fra-handshake-wireguard, state: active}]\n"
    text += "providers: [{isp: fixed, answers-after: 2s}]\nofficer: {decides-after: 3s}\nrules: {on-address-change: %s}\n"
    text += f"timeline: [{{at: 1s, change-address: household}}, {{at: 4s, change-address-form: {name}}}]\n"
    assert acts(plan_of(text % "remove"), name)[1:] == [(6, "verify", "provider"), (9, "approve", "officer")]
    assert acts(plan_of(text % "keep"), name)[1:] == [(6, "verify", "provider")]


def test_what_the_timeline_does_first_a_desk_does_not_do_again(plan_of) -> None:
    text = "providers: [{isp: fixed, answers-after: 9s}]\nofficer: {decides-after: 3s}\n"
    text += f"timeline: [{{at: 1s, apply: {COMPANY}}}, {{at: 2s, verify: {COMPANY}}}, {{at: 3s, approve: {COMPANY}}}]\n"
    assert [by for _, _, by in acts(plan_of(text))] == ["script"] * 3


def test_an_approval_before_the_desks_answer_is_a_mistake(plan_of) -> None:
    text = "providers: [{isp: fixed, answers-after: 5s}]\n"
    text += f"timeline: [{{at: 1s, apply: {COMPANY}}}, {{at: %s, approve: {COMPANY}}}]\n"
    told = problems(plan_of, text % "4s")
    assert told == [
        (
            "timeline[1].approve",
            f"the ISP has not verified {COMPANY} at that time; add 'verify: {COMPANY}' before it",
        )
    ]
    assert acts(plan_of(text % "7s"))[-1] == (7, "approve", "script")


def test_the_same_seed_draws_the_same_answers(plan_of) -> None:
    text = "providers: [{isp: [fixed, mobile], answers-after: 1s, spread: 9s, wrong: 30%, silent: 30%}]\n"
    text += f"timeline: [{{at: 1s, apply: [{COMPANY}, {FREELANCER}]}}]\n"
    assert plan_of(text) == plan_of(text)
    drawn = {tuple(acts(plan_of(f"seed: {seed}\n{text}"))) for seed in range(1, 9)}
    assert len(drawn) > 3


def test_the_registry_gets_the_rules_in_its_own_words(plan_of) -> None:
    text = (
        "rules: {validity: 1m30s, reminders: [5s], verification-within: 2 working hours, on-silence: remind, "
    )
    text += 'calendar: {hours: "08:00-16:00", holidays: [2026-03-23]}}\nclock: virtual\n'
    assert plan_of(text).registry == {
        "rules": {
            "validity": "90s",
            "reminders": ["5s"],
            "verification_within": "2 working hours",
            "on_silence": "remind",
            "calendar": {
                "zone": "Asia/Karachi",
                "days": ["monday", "tuesday", "wednesday", "thursday", "friday"],
                "hours": "08:00-16:00",
                "holidays": ["2026-03-23"],
            },
        }
    }


def test_in_virtual_time_desks_work_by_the_calendar(plan_of) -> None:
    text = 'clock: virtual\nstarts-at: "2024-11-15T08:59:40+05:00"\nrules: {calendar: {zone: Asia/Karachi}}\n'
    text += "providers: [{isp: fixed, answers-after: 5s}]\n"
    assert acts(plan_of(text + APPLY))[1:] == [
        (25, "verify", "provider")
    ]  # a Friday, twenty seconds before nine
    sunday = text.replace("11-15", "11-17")
    assert acts(plan_of(sunday + APPLY))[1:] == []


MISTAKES = """\
rules: {grace: 2s, on-silence: refuse, calendar: {hours: "9-5"}, validty: 3s, decision-within: 3 working weeks}
providers:
  - {isp: fixd}
  - {isp: mobile, works: [{from: 5s, until: 3s}, {from: 1s}], wrong: 2}
  - {isp: fixed, answers-after: 5}
officer: {works: []}
"""


def test_every_mistake_is_named_with_its_place_and_what_to_write(plan_of) -> None:
    told = dict(problems(plan_of, MISTAKES + APPLY))
    assert told == {
        "rules.calendar.hours": "'9-5' are no hours; write such as 09:00-17:00",
        "rules.calendar": "the clock is real, so what it does would depend on the day of the run; "
        "write 'clock: virtual', or 'works' at the desks instead",
        "rules.validty": "'validty' is not a key here; did you mean 'validity'?",
        "rules.decision-within": "'3 working weeks' is no promise; write '10 working hours', '3 working days' or '8s'",
        "providers[0].isp": "'fixd' is not an ISP; did you mean 'fixed'?",
        "providers[1].wrong": "'2' has no unit; write '2%'",
        "providers[1].works[0].until": "it is not after 'from'; write more than '5s'",
        "providers[1].works[1].from": "the time before lasts until '3s'; put them in order, apart from each other",
        "providers[2].answers-after": "'5' has no unit; write '5s' or '5ms'",
        "officer": "'decides-after' is missing; add 'decides-after: …'",
        "officer.works": "it is empty; write at least one",
    }


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        (
            "rules: {grace: 2s}\n",
            "rules.grace",
            "it is about the end of an approval, and approvals have none; add 'validity: 20s'",
        ),
        (
            "rules: {on-silence: refuse}\n",
            "rules.on-silence",
            "there is no time after which silence counts; add 'verification-within: 8s'",
        ),
        ("rules: {validity: 1500ms}\n", "rules.validity", "'1500ms' is not possible here; write whole seconds, such as '2s': the registry counts them"),
        (
            "rules: {calendar: {}}\n",
            "rules.calendar",
            "the clock is real, so what it does would depend on the day of the run; write 'clock: virtual', or 'works' at the desks instead",
        ),
        (
            "providers: [{isp: mobile}]\n",
            "providers[0].isp",
            "it is never asked anything; add 'apply: SUBSCRIBER/SERVER' of a subscriber of mobile to the timeline, or remove this",
        ),
        (
            "providers: [{isp: fixed}, {isp: fixed}]\n",
            "providers[1].isp",
            "fixed has two desks; keep one of them",
        ),
        (
            "registrations: [{who: household, server: fra-handshake-wireguard, state: pending}]\nrules: {verification-within: 5s}\n",
            "rules.verification-within",
            "household/fra-handshake-wireguard: it is pending at the start, so until when its provider's answer was promised is not "
            "known; apply for it in the timeline",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_told(plan_of, text: str, where: str, told: str) -> None:
    assert problems(plan_of, text + APPLY) == [(where, told)]


def test_rules_with_times_cannot_be_played_faster(plan_of) -> None:
    plan = plan_of("rules: {validity: 20s}\n" + APPLY)
    with pytest.raises(ValueError, match="does not go faster; leave --speed out"):
        faster(plan, 2)
    assert faster(plan, 1) is plan
    assert faster(plan_of("rules: {requires-verification: false}\n" + APPLY), 2).duration_ns == 30 * S


def test_a_providers_registration_entitles_everybody_to_its_server(tmp_path: Path) -> None:
    """So attempts of its customers can be blocked falsely, and cannot pass falsely while it holds."""
    text = _HEAD.replace("delivered_ratio", "false_block_ratio").replace("at-least: 1%", "at-most: 0%")
    text += "registrations: [{who: household, server: fra-handshake-wireguard, state: active, category: CATEGORY}]\n"
    path = tmp_path / "x.scenario.yaml"
    path.write_text(text.replace("CATEGORY", "provider"))
    assert check_paths([path]) == []
    path.write_text(text.replace("CATEGORY", "company"))
    assert [each.what for each in check_paths([path])] == ["none of them is ever entitled"]


def test_an_appeal_has_its_own_clock_and_a_late_answer_is_reminded_of(plan_of) -> None:
    text = "rules: {appeal-within: 8s}\nproviders: [{isp: fixed}]\nofficer: {decides-after: 1s}\n"
    for answer_s, then in ((12, []), (14, [(13, "remind", "registry")])):
        events = f", {{at: 5s, complain: {COMPANY}}}, {{at: {answer_s}s, grant-appeal: {COMPANY}}}]\n"
        found = acts(plan_of(text + APPLY.replace("]\n", events)))[3:]
        assert found == sorted([(5, "complain", "script"), *then, (answer_s, "grant-appeal", "script")])


def test_an_appeals_clock_is_working_time(plan_of) -> None:
    text = 'clock: virtual\nstarts-at: "2024-11-15T15:59:00+05:00"\n'  # a Friday
    text += "rules: {appeal-within: 1 working hours, calendar: {zone: Asia/Karachi}}\n"
    text += "registrations: [{who: company, server: fra-handshake-wireguard, state: active}]\n"
    text += f"timeline: [{{at: 10s, complain: {COMPANY}}}]\n"
    assert plan_of(text).registry["rules"]["appeal_within"] == "1 working hours"


def test_whoever_asks_for_the_renewal_is_not_reminded_of_it_and_it_ends_all_the_same(plan_of) -> None:
    text = "rules: {validity: 20s, renewal-window: 15s, reminders: [5s]}\nproviders: [{isp: fixed}]\n"
    text += "officer: {decides-after: 1s}\n"
    asked = APPLY.replace("]\n", f", {{at: 10s, ask-renewal: {COMPANY}}}]\n")
    assert acts(plan_of(text + asked))[3:] == [(10, "ask-renewal", "script"), (22, "expire", "registry")]
    assert (17, "remind", "registry") in acts(plan_of(text + APPLY))  # control
