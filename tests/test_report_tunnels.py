"""What a report says of tunnels that were brought down: by which rule, when they were back, and where audit and taps disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.plan.figures import OUTCOMES as OUTCOMES_TO_EXPECT
from testbed.report.finding import finding
from testbed.report.markdown import markdown
from testbed.report.plot_figures import _WORST_FIRST
from testbed.report.style import OUTCOME_LOOKS
from testbed.report.tables import tiles
from testbed.report.tunnels import audit_words, disagreement, tunnels_down
from testbed.report.words import OUTCOME_HEADS, OUTCOME_WORDS
from testbed.score import score
from testbed.score.outcomes import OUTCOMES
from tests.test_score_parts import PLAN, S
from tests.test_score_tunnels import APPLIED, run_of_a_glitch


@pytest.fixture
def summary() -> dict:
    return score(replace(PLAN, duration_ns=200 * S), run_of_a_glitch())


def test_every_outcome_has_its_words_its_look_and_its_figure():
    for known in (OUTCOMES_TO_EXPECT, _WORST_FIRST, OUTCOME_LOOKS, OUTCOME_HEADS, OUTCOME_WORDS):
        assert set(known) == set(OUTCOMES)


def test_a_tunnel_that_was_down_is_told_with_its_rule_and_its_way_back(summary):
    [row] = tunnels_down(summary)
    assert (row.tunnel, row.down, row.over) == ("alice-fra", "21.0\u00a0s", "2:00")
    assert row.back == "2:35, 35\u00a0s later"
    assert (row.stopped, row.through, row.not_back) == ("1", "9", "3")
    assert row.rule == "gw: unregistered wireguard"
    assert row.registration == "registration 1 (alice/fra-wireguard), active"
    assert (row.packets, row.agrees) == ("2, 2", True)
    assert (
        "| alice-fra | 21.0\u00a0s | 2:00 | 2:35, 35\u00a0s later | 1 | 9 | 3 | gw: unregistered wireguard |"
        in markdown(summary)
    )


def test_the_finding_tells_blocks_and_what_came_after_them_apart(summary):
    text = finding(summary)
    assert (
        "10 of 16 attempts (62.5\u00a0%, 95 % interval 38.6\u00a0% to 81.5\u00a0%) were blocked by mistake"
        in text
    )
    assert "9 of them are attempts through a tunnel that the block had brought down before." in text
    assert (
        "After the block was over 3 more attempts failed; 1 tunnel came back by its client's own timers"
        in text
    )
    assert "1 attempt failed elsewhere in the network, which is nobody's blocking." in text
    assert "34\u00a0s of it after the block, until tunnels were back" in tiles(summary)[3][2]


def test_an_audit_that_disagrees_with_the_taps_is_a_reason_to_doubt(summary):
    assert disagreement(summary) == ""
    assert audit_words(summary).endswith("the enforcers' audits name all of them.")
    records = replace(run_of_a_glitch(), audit=[APPLIED])
    other = score(replace(PLAN, duration_ns=200 * S), records)
    assert "the enforcers' audits name no block for 10 of 10 attempts" in disagreement(other)
    assert "another number of packets for alice-fra" in disagreement(other)
    assert disagreement(other | {"outcome": "interrupted"}) == ""
    [row] = tunnels_down(other)
    assert (row.rule, row.agrees) == ("gw: not in its audit", False)
    assert row.registration.endswith("the audit names no registration")


def test_a_page_without_such_tunnels_says_nothing_of_them(summary):
    quiet = summary | {"tunnels_down": [], "audit": {"blocked": 0, "in_audit": 0}}
    assert (tunnels_down(quiet), disagreement(quiet), audit_words(quiet)) == ([], "", "")


def test_a_tunnel_that_did_not_come_back_is_not_said_to_have(summary):
    for row in summary["tunnels_down"]:
        row["back_ns"] = None
    text = finding(summary)
    assert "After the block was over 3 more attempts failed." in text and "client's own timers" not in text
