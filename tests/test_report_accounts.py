"""Published accounts beside what was measured, and local time on long scenarios."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from testbed.plan.plan import Account
from testbed.report import terminal_summary, write_report
from testbed.report.accounts import told
from testbed.report.when import When, when_of
from tests.synthetic_run import S, synthetic_plan, write_synthetic_run

# The first false block of the story is at 12 s: an approval not yet followed; see tests/synthetic_run.py.
PRESS = Account(
    "the press", "A <long> trial.", 12 * S, 50 * S, 35 * S, 45 * S, "firms", ("paper.example",), True
)
REGULATOR = Account("the regulator", "A glitch.", None, None, S, 2 * S, "", ("gazette.example",), False)
LATE = replace(PRESS, by="a latecomer", from_ns=50 * S, until_ns=55 * S, least_ns=None, most_ns=None)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_synthetic_run(path, plan=synthetic_plan(accounts=(PRESS, REGULATOR, LATE)))
    write_report(path)
    return path


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def test_what_was_measured_is_beside_each_claim(summary):
    measured, claims = summary["accounts"]["measured"], summary["accounts"]["claims"]
    assert measured["first_block_ns"] == pytest.approx(12 * S, abs=S)
    assert measured["lasted_ns"] == measured["last_block_ns"] - measured["first_block_ns"] > 30 * S
    assert 0 < measured["registrants_hit"] <= measured["registrants"] == 5  # household has no registration
    assert sum(each["of"] for each in measured["by_kind"].values()) == 5
    assert measured["person_ns_lost"] == summary["harm"]["person_ns_lost_to_false_blocks"] > 0
    assert [(each["began"], each["lasted"]) for each in claims] == [
        (True, True),
        (None, False),
        (False, None),
    ]


def test_the_table_is_on_the_page_in_markdown_and_the_sentence_in_the_terminal(run_dir, summary):
    table = told(summary)
    assert table is not None
    assert [cell.mark for cell in {what: cells for what, _, cells in table.rows}["lasted"]] == [
        "✓",
        "✗",
        "",
    ]
    page, text = (run_dir / "report.html").read_text(), (run_dir / "summary.md").read_text()
    for part in (
        "Against the published accounts",
        "the press (contested)",
        "paper.example",
        "A &lt;long&gt; trial.",
    ):
        assert part in page
    assert "the press (contested)" in text and "✗ 1" in text and "A \\<long\\> trial." in text
    terminal = " ".join(terminal_summary(run_dir))
    assert "As long as told by the press" in terminal and "Not as long as told by the regulator" in terminal


def test_without_accounts_there_is_no_such_part(tmp_path):
    write_synthetic_run(tmp_path)
    write_report(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["accounts"] is None
    assert "published accounts" not in (tmp_path / "report.html").read_text()
    assert "published accounts" not in " ".join(terminal_summary(tmp_path))


def test_a_run_without_a_false_block_agrees_with_no_length(tmp_path):
    plan = synthetic_plan(accounts=(PRESS,))
    write_synthetic_run(
        tmp_path, plan=replace(plan, streams=tuple(s for s in plan.streams if s.probe == "dns"))
    )
    write_report(tmp_path)
    measured = json.loads((tmp_path / "summary.json").read_text())["accounts"]
    assert measured["measured"]["first_block_ns"] is None
    assert measured["claims"][0]["lasted"] is False


def of(hours: float, starts_at: str) -> When:
    return when_of({"duration_ns": int(hours * 3600 * S), "starts_at": starts_at})


def test_a_long_scenario_that_says_when_it_starts_is_told_in_local_time():
    when = of(7, "2024-11-10T15:30:00+05:00")
    assert when.moment(30 * 60 * S + 400_000_000) == "16:00:00"
    assert when.claimed(390 * 60 * S) == "22:00"
    assert when.moment(9 * 3600 * S) == "11 Nov 00:30:00"
    assert when.axis_words == "local time, 10 November 2024 (UTC+05:00)"


def test_a_short_one_or_one_without_a_start_counts_from_its_start():
    assert of(0.01, "2024-11-10T15:30:00+05:00").moment(12 * S) == "12.0\u00a0s"
    assert of(7, "2024-11-12T10:00:00+05:00").axis_words == "time from the start of the scenario (h:min)"


def test_ticks_of_a_long_axis_are_whole_hours_of_local_time():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    of(7, "2024-11-10T15:30:00+05:00").draw(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{hour}:00" for hour in range(16, 23)]
    assert list(axes.get_xticks())[0] == 1800
