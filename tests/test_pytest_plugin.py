"""Scenarios as pytest tests: what is collected, how a failure reads, what JUnit gets. The lab itself is not built here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testbed import session
from testbed.plan.load import load_plan
from testbed.score import score_run
from tests.synthetic_run import synthetic_plan, write_synthetic_run

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with one real scenario in scenarios/ and a copy below tests/; playing it writes a made-up run."""
    for folder in ("scenarios", "tests/examples"):
        (pytester.path / folder).mkdir(parents=True)
        shutil.copy(
            ROOT / "scenarios/minimal-smoke.scenario.yaml", pytester.path / folder / "smoke.scenario.yaml"
        )
    for folder in ("topologies", "enforcer"):
        for at in ("", "tests/"):
            (pytester.path / at / folder).symlink_to(ROOT / folder)
    shutil.copy(ROOT / "conftest.py", pytester.path / "conftest.py")
    pytester.makeini("[pytest]\naddopts = --strict-markers\ntestpaths = tests\n")
    return pytester


def play(monkeypatch, tmp_path: Path, outcome: str | None = None, **expectations) -> list[session.Options]:
    """Replaces session.run by one that writes the made-up run; returns the options it was called with."""
    asked: list[session.Options] = []

    def run(scenario: Path, options: session.Options) -> session.RunResult:
        asked.append(options)
        load_plan(scenario)
        run_dir = tmp_path / "run"
        write_synthetic_run(run_dir, synthetic_plan(**expectations))
        summary = score_run(run_dir)
        result = outcome or summary["outcome"]
        return session.RunResult(
            result, run_dir, session.EXIT_CODES[result], "the lab fell over", ("one line",)
        )

    monkeypatch.setattr(session, "run", run)
    return asked


def keep(*names: str):
    return tuple(each for each in synthetic_plan().expectations if each.name in names)


def test_a_failure_stands_at_the_line_of_the_broken_expectation(project, monkeypatch, tmp_path):
    play(monkeypatch, tmp_path)
    result = project.runpytest_inprocess("scenarios", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["scenarios/smoke.scenario.yaml:40: failed: asked: false blocks at most 0*seen: 27.9*"]
    )
    result.stdout.fnmatch_lines(["*subscribers lost service they were entitled to*", "Report: *report.html"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert 'name="false_block_k" value="153"' in (project.path / "junit.xml").read_text()


def test_a_run_whose_expectations_hold_passes(project, monkeypatch, tmp_path):
    held = keep("studio is active", "an approval works within 2 s")
    asked = play(monkeypatch, tmp_path, expectations=held)
    result = project.runpytest_inprocess(
        "scenarios", "--allowlab-enforcer", "my enforcer", "--allowlab-results", "out"
    )
    result.assert_outcomes(passed=1)
    assert (asked[0].enforcer, asked[0].results) == ("my enforcer", Path("out"))


@pytest.mark.parametrize("outcome", ["broken", "inconclusive"])
def test_not_knowing_is_not_passing(project, monkeypatch, tmp_path, outcome):
    play(monkeypatch, tmp_path, outcome, expectations=keep("p99 of one line"))
    result = project.runpytest_inprocess("scenarios")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"scenarios/smoke.scenario.yaml:*: {outcome}: *"])


def test_an_interrupted_scenario_interrupts_pytest(project, monkeypatch, tmp_path):
    play(monkeypatch, tmp_path, "interrupted")
    result = project.runpytest_inprocess("scenarios", no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["scenarios"], 1),
        (["scenarios/smoke.scenario.yaml"], 1),
        (["tests/examples/smoke.scenario.yaml"], 1),
        (["tests"], 0),
        (["."], 1),
        ([], 0),
        (["scenarios", "-m", "smoke"], 1),
        (["scenarios", "-m", "scenario and not smoke"], 0),
    ],
)
def test_what_is_collected(project, arguments, count):
    result = project.runpytest_inprocess("--collect-only", "-q", *arguments)
    # A name on a line of its own; "-q" prints nothing else with it.
    assert sum("smoke.scenario.yaml::" in line for line in result.outlines) == count, result.outlines


def test_a_wrong_file_is_a_collection_error_with_every_problem(project):
    path = project.path / "scenarios/smoke.scenario.yaml"
    path.write_text(
        path.read_text().replace("duration: 7s", "duration: 7").replace("at-least: 90%", "at-least: 90")
    )
    result = project.runpytest_inprocess("scenarios")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*smoke.scenario.yaml:*:*: duration: *", "*smoke.scenario.yaml:*:*: expect*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
