"""The terminal's summary: figures are never cut, a broken run claims nothing and says why, noise says what to do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from testbed.report import terminal_summary
from testbed.score import score_run
from tests.synthetic_run import synthetic_plan, write_synthetic_run


def summary_of(run_dir, **changes):
    """The terminal's lines of a made-up run whose summary.json was changed."""
    if not (run_dir / "plan.json").exists():
        write_synthetic_run(run_dir, changes.pop("plan", synthetic_plan()), noise=changes.pop("noise", ()))
    summary = score_run(run_dir) | changes
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return [line.replace("\u00a0", " ").replace("\u202f", " ") for line in terminal_summary(run_dir)]


def test_no_report_is_named_that_was_not_drawn(tmp_path):
    assert not any(line.startswith("Report:") for line in summary_of(tmp_path))
    (tmp_path / "report.html").write_text("drawn")
    assert summary_of(tmp_path)[-1] == f"Report: {tmp_path / 'report.html'}"


def test_a_long_selection_is_cut_and_the_figure_stays(tmp_path):
    plan = synthetic_plan()
    where = {
        "subscriber": [person.name for person in plan.subscribers],
        "protocol": ["wireguard", "https", "dns"],
    }
    asked = replace(plan.expectations[0], where=where)
    lines = summary_of(tmp_path, plan=replace(plan, expectations=(asked,)))
    [line] = [line for line in lines if line.startswith("  ✗")]
    assert line.startswith("  ✗ false blocks at most 0 % [protocol: wireguard, https, dns; subscriber: ")
    assert "…]: " in line and line.endswith("n 153 of 1 610)") and len(line) <= 110


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_broken_run_has_its_first_details_and_no_list_of_undecided_claims(tmp_path, count):
    write_synthetic_run(tmp_path)
    details = [f"event {number} could\nnot be carried out" for number in range(count)]
    reason = "5 event(s) of the script could not be carried out"
    (tmp_path / "broken.json").write_text(json.dumps({"reason": reason, "details": details}))
    lines = summary_of(tmp_path)
    assert " ".join(lines).startswith(
        f"BROKEN: The run was broken: {reason}. What was measured until then (1 770 attempts) is kept, and proves nothing. "
        "None of its 9 expectations could be decided."
    )
    shown = [line for line in lines if line.startswith("  ")]
    assert shown[:2] == [f"  event {number} could not be carried out" for number in range(min(count, 2))]
    assert shown[2:] == (["  … and 3 more in broken.json"] if count == 5 else [])
    assert not any("inconclusive" in line for line in lines)


def test_noise_says_what_it_means_and_what_to_do(tmp_path):
    lines = summary_of(
        tmp_path, noise=("probes left 9.0 ms late at the 99th percentile (limit 5 ms)", "second")
    )
    assert " ".join(lines).endswith(
        "Noisy: probes left 9.0 ms late at the 99th percentile (limit 5 ms). Round trips and goodput of this run are not "
        "claimed, waits only far from their bound; close other programs and run again."
    )
    assert len(lines) <= 15
    (tmp_path / "broken.json").write_text(json.dumps({"reason": "x", "details": []}))
    assert not any("Noisy" in line for line in summary_of(tmp_path))
