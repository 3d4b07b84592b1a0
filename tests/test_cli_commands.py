"""The command line: exit codes, messages without tracebacks, and a plan played faster."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from testbed import cli_told, session_folder
from testbed.cli import main
from testbed.plan.load import load_plan
from testbed.report.finding import finding
from testbed.session import RunResult, _outcome, finish_killed, score_and_report
from testbed.session_speed import faster
from tests.synthetic_run import write_synthetic_run

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "scenarios" / "registration.scenario.yaml"


def allowlab(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_imports_none_of_the_heavy_modules() -> None:
    code = "import sys; from testbed.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("\n[")[2]

    assert "'click'" in loaded  # control
    assert not [
        name for name in ("pydantic", "numpy", "matplotlib", "rich", "ruamel") if f"'{name}'" in loaded
    ]


def test_help_has_the_test_command_and_it_runs_pytest_in_the_projects_folder(monkeypatch) -> None:
    assert "  test    Run pytest: the tool's own tests, or `test scenarios`.\n" in allowlab("--help").output

    called: list[list[str]] = []
    monkeypatch.setattr("testbed.cli.os.execv", lambda _, argv: called.append(argv))
    monkeypatch.setattr("testbed.cli.os.chdir", lambda folder: called.append([str(folder)]))
    allowlab("test", "scenarios", "-k", "smoke", "--help")

    assert called == [[str(ROOT)], [sys.executable, "-m", "pytest", "scenarios", "-k", "smoke", "--help"]]


def test_the_test_command_has_a_help_of_its_own_and_a_way_to_pytests(monkeypatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr("testbed.cli.os.execv", lambda _, argv: called.append(argv[3:]))
    monkeypatch.setattr("testbed.cli.os.chdir", lambda _: None)
    for word in ("-h", "--help"):
        told = allowlab("test", word).output
        assert (
            "--pytest-help" in told
            and "-k kill" in told
            and "-m smoke" in told
            and len(told.splitlines()) < 20
        )
    assert called == []
    allowlab("test", "--pytest-help")
    assert called == [["--help"]]


def test_run_help_has_examples_and_the_exit_codes() -> None:
    told = " ".join(allowlab("run", "--help").output.split())
    assert "allowlab run scenarios/registration.scenario.yaml" in told
    assert "0 passed, 1 failed" in told and "3 broken or inconclusive, 130 interrupted" in told


@pytest.mark.parametrize(
    "group", ["testbed.cli:main", "enforcer.cli:main", "enforcer.registry.__main__:main"]
)
def test_no_line_of_a_list_of_commands_is_cut(group: str) -> None:
    module, _, name = group.partition(":")

    def check(command: click.Command, words: list[str]) -> None:
        if isinstance(command, click.Group):
            told = CliRunner().invoke(top, [*words, "--help"], terminal_width=80).output
            assert not [line for line in told.partition("Commands:")[2].splitlines() if line.endswith("...")]
            for each, inner in command.commands.items():
                check(inner, [*words, each])

    top = getattr(importlib.import_module(module), name)
    check(top, [])


def test_check_names_every_problem_and_exits_with_2(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.topology.yaml"
    wrong.write_text("title: [\n")

    result = allowlab("check", wrong)

    assert result.exit_code == 2
    assert f"{wrong}:" in result.output and "Traceback" not in result.output


def test_check_without_a_path_finds_the_projects_files_well() -> None:
    assert allowlab("check").exit_code == 0


def test_check_without_problems_says_what_it_has_read() -> None:
    result = allowlab("check", ROOT / "scenarios" / "minimal-smoke.scenario.yaml")

    assert result.output == "no problems in 1 scenario file, 1 topology file, 1 policy file\n"
    count = len(list((ROOT / "topologies").glob("*.topology.yaml")))
    assert allowlab("check", ROOT / "topologies").output == f"no problems in {count} topology files\n"


def test_check_warns_of_what_a_scenarios_policy_probably_does_not_mean_and_does_not_fail(
    tmp_path: Path,
) -> None:
    text = (ROOT / "enforcer/policies/registered-pairs.policy.yaml").read_text()
    policy = tmp_path / "p.policy.yaml"
    scenario = tmp_path / "s.scenario.yaml"
    scenario.write_text(
        (ROOT / "scenarios/minimal-smoke.scenario.yaml")
        .read_text()
        .replace("../topologies", str(ROOT / "topologies"))
        .replace("../enforcer/policies/registered-pairs.policy.yaml", "p.policy.yaml")
    )
    policy.write_text(text)
    assert "warning" not in allowlab("check", scenario).output  # control

    policy.write_text(
        text.replace(
            "registry-unreachable: {after: 5s, do: keep}", "registry-unreachable: {after: 5s, do: block}"
        )
    )
    result = allowlab("check", scenario)

    line = next(
        n for n, each in enumerate(policy.read_text().splitlines(), 1) if "registry-unreachable" in each
    )
    assert result.exit_code == 0
    assert f"warning: {policy}:{line}:41: on-failure.registry-unreachable.do: " in result.output
    assert result.output.endswith(
        "1 warning and no problems in 1 scenario file, 1 topology file, 1 policy file\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "no-such.scenario.yaml"), "does not exist"),
        (("run", SCENARIO, "--speed", "0"), "--speed"),
        (("check", "no-such-folder"), "no-such-folder: there is no such file or folder"),
        (("report", ROOT / "docs"), "is not a run folder"),
        (("schema", "scenery"), "scenery"),
        (("exec", "gateway"), "Missing argument"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence_and_exit_code_2(arguments, says: str) -> None:
    result = allowlab(*arguments)

    assert result.exit_code == 2
    assert says in result.output and "Traceback" not in result.output


def test_a_results_folder_that_cannot_be_written_is_named_before_anything_starts(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()

    result = allowlab("run", SCENARIO, "--results", occupied / "below")

    assert result.exit_code == 2
    assert f"--results {occupied / 'below'}: Not a directory; name a folder you may write to" in result.output


def test_a_mistake_in_a_file_is_a_json_object_where_json_is_wanted(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.scenario.yaml"
    wrong.write_text("title: [\n")

    result = allowlab("run", wrong, "--json")

    told = json.loads(result.stdout)
    assert result.exit_code == 2
    assert (told["outcome"], told["exit_code"], told["run"], told["report"]) == ("mistake", 2, None, None)
    assert [(each["file"], each["line"]) for each in told["problems"]] == [(str(wrong), 2)]
    assert told["reason"] == allowlab("check", wrong).output.rstrip("\n")


def test_the_json_of_a_run_has_headline_report_and_each_verdict(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path)
    score_and_report(tmp_path)

    told = cli_told.result(RunResult("failed", tmp_path, 1))

    assert told["report"] == str(tmp_path / "report.html") and told["run"] == str(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert told["headline"] == finding(summary) != ""
    assert [each["verdict"] for each in told["expectations"]] == [
        each["verdict"] for each in summary["expectations"]
    ]
    assert told["expectations"] and {"name", "bound", "seen", "reason"} <= told["expectations"][0].keys()


def test_the_json_of_a_run_without_a_report_says_so(tmp_path: Path) -> None:
    told = cli_told.result(RunResult("broken", tmp_path, 3, "no room"))

    assert told == {
        "outcome": "broken",
        "exit_code": 3,
        "reason": "no room",
        "run": str(tmp_path),
        "report": None,
        "headline": None,
        "expectations": [],
    }


def test_a_run_folder_of_somebody_else_says_whose_it_is_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.json").write_text("{}")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "summary.json"))

    monkeypatch.setattr("testbed.session.score_and_report", refuse)
    result = allowlab("report", tmp_path, "--quiet")

    owner = tmp_path.owner()
    assert result.exit_code == 2
    assert result.output == (
        f"{tmp_path / 'summary.json'}: cannot be written by you: it belongs to {owner}; call this as {owner}, or copy "
        f"the folder and name the copy: cp -r {tmp_path} /tmp/run && ./allowlab report /tmp/run\n"
    )


def test_schemas_are_json_schemas_of_each_kind() -> None:
    for kind in ("scenario", "topology", "policy"):
        assert json.loads(allowlab("schema", kind).output)["$id"] == f"allowlab.{kind}/1"


def test_a_faster_plan_divides_the_script_and_leaves_the_network_alone() -> None:
    plan = load_plan(SCENARIO)

    fast = faster(plan, 2)

    assert [event.at_ns * 2 for event in fast.events] == pytest.approx(
        [event.at_ns for event in plan.events], abs=2
    )
    assert fast.links == plan.links
    assert [stream.deadline_ns for stream in fast.streams] == [stream.deadline_ns for stream in plan.streams]
    assert faster(plan, 1) is plan
    with pytest.raises(ValueError, match="write a number above 0"):
        faster(plan, 0)


def test_latest_points_to_the_newest_run(tmp_path: Path) -> None:
    now = datetime(2024, 11, 12, 5, 0, tzinfo=UTC)
    one, two = (session_folder.make_run_folder(tmp_path, "small", now) for _ in range(2))

    assert one != two and one.name.startswith("20241112T050000Z-")
    assert (tmp_path / "small" / "latest").resolve() == two


def test_a_full_disk_is_a_sentence_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_folder, "_MIN_FREE_BYTES", 2**62)

    with pytest.raises(session_folder.FolderError, match="MiB are free and a run needs"):
        session_folder.make_run_folder(tmp_path, "small")


def test_a_killed_run_gets_its_outcome_later_and_a_live_one_does_not(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    dead = {"outcome": "running", "process": {"pid": int(ended.stdout), "start_ticks": 1}, "host": {}}
    mine = session_folder._start_ticks(os.getpid())
    alive = {"outcome": "running", "process": {"pid": os.getpid(), "start_ticks": mine}, "host": {}}

    session_folder.write_state(tmp_path, alive)
    assert not finish_killed(tmp_path)
    session_folder.write_state(tmp_path, dead)
    assert finish_killed(tmp_path)

    state = session_folder.read_state(tmp_path)
    assert state is not None and state["outcome"] == "interrupted"
    assert not finish_killed(tmp_path)


def test_an_inside_that_crashes_is_broken_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "inside.log").write_text("Traceback …\nMemoryError: no more\n")

    outcome, reason = _outcome(tmp_path, 1)

    assert outcome == "broken" and "MemoryError: no more" in reason and "inside.log" in reason
    assert _outcome(tmp_path, 137)[0] == "interrupted"
    assert _outcome(tmp_path, 0) == ("", "")
