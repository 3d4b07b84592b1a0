"""The first sentence of a report: a run that failed begins with what failed, one that broke with why, each thing said once."""

from __future__ import annotations

import pytest

from testbed.report.finding import claims, finding, finding_parts
from testbed.report.words import cause_words
from testbed.score import score_run
from tests.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_synthetic_run(path)
    return score_run(path)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def told(summary, **changes):
    """The made-up run's summary with another false_block, false_pass and causes."""
    table = {
        **summary["all"],
        **{key: changes.pop(key) for key in ("false_block", "false_pass") if key in changes},
    }
    if "causes" in changes:
        table["causes"] = changes.pop("causes")
    return {**summary, "all": table, **changes}


def failing(summary, figure, comparator="at_most"):
    return [{**summary["expectations"][0], "figure": figure, "comparator": comparator, "verdict": "failed"}]


NONE = {"k": 0, "n": 3721, "ratio": 0.0, "low_ratio": 0.0, "high_ratio": 0.001}
ALL = {"k": 560, "n": 560, "ratio": 1.0, "low_ratio": 0.993, "high_ratio": 1.0}
LET_PASS = {"false_block": {}, "false_pass": {"policy": 560}}


def test_a_failed_run_of_false_passes_begins_with_them(summary):
    let = told(
        summary,
        false_block=NONE,
        false_pass=ALL,
        causes=LET_PASS,
        expectations=failing(summary, "false_pass_ratio"),
    )
    headline, more = finding_parts(let)
    assert (
        headline
        == "560 of 560 attempts by people who were not entitled got through, because the policy as written lets them pass."
    )
    assert plain(more).startswith("Nobody who was entitled was blocked: 0 of 3 721 attempts")
    assert "excludes" not in finding(let)


def test_a_policy_that_only_observes_is_said_to(summary):
    let = told(
        summary, outcome="passed", false_block=NONE, false_pass=ALL, causes=LET_PASS, is_observing=True
    )
    assert finding(let).endswith(
        "560 of 560 attempts by people who were not entitled got through, because the policy as written lets them pass: "
        "it only observes. 81 attempts failed elsewhere in the network, which is nobody's blocking."
    )


def test_a_failed_run_whose_harm_is_not_what_failed_begins_with_the_claim(summary):
    asked = failing(summary, "rtt_p95_s")
    headline, more = finding_parts(told(summary, false_block=NONE, false_pass=NONE, expectations=asked))
    assert headline.startswith("This did not hold: round trip, 95th percentile at most ")
    assert ", seen " in headline
    assert more.startswith("Nobody who was entitled was blocked")


def test_two_failed_claims_are_named_and_the_rest_counted(summary):
    asked = failing(summary, "main_cause", "equals") * 4
    headline, _ = finding_parts(told(summary, false_block=NONE, false_pass=NONE, expectations=asked))
    assert headline.startswith("These did not hold: main cause is ")
    assert headline.endswith("; and 2 more.")


def test_harm_that_was_asked_for_is_not_what_failed(summary):
    """A glitch that blocked people as it should, and a false claim about something else."""
    headline, more = finding_parts(
        {**summary, "expectations": failing(summary, "false_block_ratio", "at_least")}
    )
    assert headline.startswith("This did not hold: false blocks at least ")
    assert more.startswith("5 of 6 subscribers lost service")


def test_without_an_enforcer_nothing_is_called_a_policy(summary):
    let = told(summary, outcome="passed", has_enforcer=False, false_pass=ALL)
    assert "got through: no enforcer stood in the way." in finding(let)


@pytest.mark.parametrize(
    ("outcome", "reason", "sentence"),
    [
        ("broken", "BGP did not converge", "The run was broken: BGP did not converge."),
        (
            "interrupted",
            "interrupted 7 s into the scenario",
            "The run was interrupted 7 s into the scenario.",
        ),
        (
            "interrupted",
            "interrupted: the world was killed; what was measured until then is kept",
            "The run was interrupted: the world was killed.",
        ),
        ("broken", None, "The run was broken: no reason was written down."),
    ],
)
def test_the_reason_is_said_once(summary, outcome, reason, sentence):
    broken = {**summary, "outcome": outcome, "broken": {"reason": reason, "details": []}}
    kept = "What was measured until then (1 770 attempts) is kept, and proves nothing."
    assert plain(finding(broken)) == f"{sentence} {kept}"
    nothing = {**broken, "records": {**summary["records"], "attempts": 0}}
    assert finding(nothing) == f"{sentence} Nothing had been measured."
    assert claims(broken) == "None of its 9 expectations could be decided."


@pytest.mark.parametrize(
    ("cause", "outcome", "words"),
    [
        ("policy", "false_block", "the policy as written excludes them"),
        ("policy", "false_pass", "the policy as written lets them pass"),
        ("propagation", "false_pass", "the enforcer's copy of the allowlist was old"),
        ("malfunction", "false_pass", "the enforcer did not do what its own allowlist says"),
    ],
)
def test_causes_are_worded_for_what_they_caused(cause, outcome, words):
    assert cause_words(cause, outcome) == words
