"""A run in virtual time says so, and says of each figure it cannot give that it needs a real-time run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from testbed.plan.plan import Expectation
from testbed.report import terminal_summary, write_report
from testbed.score.clock import NEEDS
from tests.synthetic_run import DURATION, synthetic_plan, write_synthetic_run

GOODPUT = Expectation("goodput", "goodput_bps", {}, 0, DURATION, "at_least", 1.0, "x.scenario.yaml", 9, 3)
BLOCKS = replace(GOODPUT, name="blocks", figure="false_block_ratio", comparator="at_most", bound=1.0)


@pytest.fixture(scope="module", params=["real", "virtual"])
def run(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    write_synthetic_run(path, plan=synthetic_plan(clock=request.param, expectations=(GOODPUT, BLOCKS)))
    write_report(path)
    return request.param, path, json.loads((path / "summary.json").read_text())


def test_a_figure_of_processors_is_a_word_and_no_number(run):
    clock, _, summary = run
    is_virtual = clock == "virtual"
    assert summary["clock"] == clock
    names = ["added_latency_ns", "apply_delay_ns", "goodput_bps", "noise", "overload"]
    assert sorted(summary["needs_real_time"]) == (names if is_virtual else [])
    assert [each["goodput_bps"] is None for each in summary["goodput"]] == [is_virtual] * 2
    assert all(bool(each["intervals"]) is not is_virtual for each in summary["goodput"])
    assert (summary["health"]["lag_p99_ns"] is None) is is_virtual
    assert summary["noise"] == []


def test_an_expectation_of_goodput_cannot_be_decided_in_virtual_time(run):
    clock, _, summary = run
    goodput, blocks = summary["expectations"]
    assert blocks["verdict"] == "passed"
    assert (goodput["verdict"], goodput["seen"] is None) == (
        ("inconclusive", True) if clock == "virtual" else ("passed", False)
    )
    assert (goodput["reason"] == NEEDS) is (clock == "virtual")


def test_page_markdown_and_terminal_say_it(run):
    clock, path, _ = run
    page = (path / "report.html").read_text()
    texts = (page, (path / "summary.md").read_text(), "\n".join(terminal_summary(path)))
    assert [NEEDS in text for text in texts] == [clock == "virtual"] * 3
    assert ("What this run cannot say" in page) is (clock == "virtual")
    assert (path / "plots" / "goodput.svg").exists() is (clock == "real")
    assert "<dt>clock</dt>" in page


def test_noise_is_not_a_word_for_virtual_time(tmp_path):
    for clock, said in (("virtual", []), ("real", ["the CPU was never idle"])):
        write_synthetic_run(tmp_path / clock, synthetic_plan(clock=clock), noise=("the CPU was never idle",))
        write_report(tmp_path / clock)
        assert json.loads((tmp_path / clock / "summary.json").read_text())["noise"] == said
        assert ("Noisy" in (tmp_path / clock / "report.html").read_text()) is bool(said)
