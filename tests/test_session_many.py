"""Several runs of one call: side by side in virtual time, alone in real time, one table, the highest exit code, one Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed import cli_many, session_many
from testbed.cli import main
from testbed.cli_words import Seeds
from testbed.session_many import Played, Wanted, play_all, worst
from tests.synthetic_run import synthetic_plan, write_synthetic_run

SCENARIOS = Path(__file__).parent.parent / "scenarios"

# Stands for `allowlab run`: says what it sees, waits for the file named like its scenario (or a signal), ends as its seed says.
_RUN = """
import json, os, signal, sys, time
from pathlib import Path
scenario, seed = Path(sys.argv[1]), int(sys.argv[sys.argv.index("--seed") + 1])
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
began = time.monotonic()
print("playing", seed, file=sys.stderr, flush=True)
(scenario.parent / f"begun-{seed}").touch()
while not (scenario.parent / "go").exists() and not stopped:
    time.sleep(0.01)
names = {0: "passed", 1: "failed", 3: "inconclusive", 130: "interrupted"}
code = 130 if stopped else seed % 10
if code == 9:
    raise SystemExit("no object")
told = {"outcome": names[code], "exit_code": code, "reason": None, "run": None, "report": None, "headline": None}
cpus = sorted(os.sched_getaffinity(0))
print(json.dumps(told | {"expectations": [], "cpus": cpus, "span": [began, time.monotonic()], "argv": sys.argv[2:]}))
sys.exit(code)
"""


@pytest.fixture
def scenario(tmp_path, monkeypatch) -> Path:
    program = tmp_path / "run.py"
    program.write_text(_RUN)
    monkeypatch.setattr(session_many, "_PROGRAM", [sys.executable, str(program)])
    return tmp_path / "a.scenario.yaml"


def runs(scenario: Path, clock: str, *seeds: int) -> list[Wanted]:
    return [Wanted(f"a seed {seed}", scenario, seed, clock) for seed in seeds]


def overlap(one: Played, other: Played) -> bool:
    (begun, ended), (begun2, ended2) = one.told["span"], other.told["span"]
    return begun < ended2 and begun2 < ended


def go_when_begun(folder: Path, *seeds: int) -> threading.Thread:
    """Lets the runs end once all of these have begun."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not all((folder / f"begun-{seed}").exists() for seed in seeds):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        (folder / "go").touch()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor only")


@needs_two
def test_virtual_runs_go_side_by_side_a_processor_each_and_come_back_in_order(scenario):
    waiting = go_when_begun(scenario.parent, 10, 11)
    lines: list[str] = []
    played = play_all(runs(scenario, "virtual", 10, 11, 13), ["--links", "netem"], 2, lines.append)
    waiting.join()

    assert [each.wanted.seed for each in played] == [10, 11, 13]
    assert overlap(played[0], played[1])
    assert [len(each.told["cpus"]) for each in played] == [1, 1, 1]
    assert played[0].told["cpus"] != played[1].told["cpus"]
    assert "a seed 10 | playing 10" in lines and "a seed 11 | playing 11" in lines
    assert played[0].told["argv"] == ["--json", "--progress", "--links", "netem", "--seed", "10"]
    assert [each.exit_code for each in played] == [0, 1, 3] and worst(played) is played[2]


@needs_two
def test_real_time_runs_are_alone_and_the_reason_is_said(scenario):
    (scenario.parent / "go").touch()
    lines: list[str] = []
    mixed = [*runs(scenario, "real", 20, 30), *runs(scenario, "virtual", 10)]
    played = play_all(mixed, [], 2, lines.append)

    assert not any(overlap(one, other) for one in played for other in played if one is not other)
    assert len(played[0].told["cpus"]) > 1, "it is not kept on one processor"
    assert lines[0].startswith("a seed 20, a seed 30: one after another, alone, for real time")


def test_a_run_that_says_nothing_is_broken(scenario):
    (scenario.parent / "go").touch()
    [played] = play_all(runs(scenario, "virtual", 9), [], 1, lambda _: None)
    assert (played.told["outcome"], played.exit_code, played.told["reason"]) == ("broken", 3, "no object")


def test_ctrl_c_ends_every_run_and_begins_no_other(scenario):
    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not (scenario.parent / "begun-10").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    played = play_all(runs(scenario, "virtual", 10, 11), [], 1, lambda _: None)
    thread.join()

    assert [each.told["outcome"] for each in played] == ["interrupted", "interrupted"]
    assert [each.told["reason"] for each in played] == [None, session_many.NEVER_BEGUN]
    assert worst(played).exit_code == 130 and not (scenario.parent / "begun-11").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_table_and_the_object_of_several_runs(tmp_path):
    write_synthetic_run(tmp_path / "run", synthetic_plan())
    from testbed.session import score_and_report

    score_and_report(tmp_path / "run")
    nothing = {"report": None, "headline": None, "expectations": [], "reason": None}
    good = {"outcome": "passed", "exit_code": 0, "run": str(tmp_path / "run"), **nothing}
    bad = good | {"outcome": "broken", "exit_code": 3, "run": None, "reason": "the lab\nfell"}
    played = [
        Played(Wanted("a seed 1", Path("a.scenario.yaml"), 1, "virtual"), good, 125.0),
        Played(Wanted("b", Path("b.scenario.yaml"), None, "virtual"), bad, 1.0),
    ]

    lines = cli_many.table(played)
    assert lines[1].split("  ")[0] == "a seed 1" and " of " in lines[1] and "2\u00a0min 05\u00a0s" in lines[1]
    assert lines[-2:] == ["b: the lab", "2 runs: 1 broken, 1 passed"]
    told = cli_many.told(played)
    assert (told["outcome"], told["exit_code"]) == ("broken", 3)
    assert [(each["seed"], each["clock"], each["outcome"]) for each in told["runs"]] == [
        (1, "virtual", "passed"),
        (None, "virtual", "broken"),
    ]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1-5", (1, 2, 3, 4, 5)), ("4", (4,)), ("1,4,7-9", (1, 4, 7, 8, 9)), ("2,1-3", (2, 1, 3))],
)
def test_seeds(text, seeds):
    assert Seeds().convert(text, None, None) == seeds


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "5-1"], "'5-1' is no seed and no range of them: write 1-5, or 1,4,7-9"),
        (["--seeds", "1-99999"], "no range of them"),
        (["-j", "0"], "'0' is no number of runs: write 2, or auto"),
        (["--seed", "1", "--seeds", "1-2"], "--seed and --seeds are both there: keep one of them"),
        (
            ["--seeds", "1-2", "--clock", "virtual", "--world", "namespaces"],
            "--world namespaces has the host's clock",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(arguments, says):
    done = CliRunner().invoke(main, ["run", str(SCENARIOS / "minimal-smoke.scenario.yaml"), *arguments])
    assert done.exit_code == 2 and says in done.output and "Traceback" not in done.output


def test_a_mistake_in_one_file_stops_all_before_anything_is_played(tmp_path, scenario):
    wrong = tmp_path / "wrong.scenario.yaml"
    wrong.write_text("title: [\n")
    good = str(SCENARIOS / "minimal-smoke.scenario.yaml")
    done = CliRunner().invoke(main, ["run", good, str(wrong), "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["problems"][0]["file"] == str(wrong)
    assert not list(tmp_path.glob("begun-*"))


def test_options_are_handed_to_each_run():
    given = {"seed": None, "policy": Path("p.yaml"), "speed": 2.0, "clock": "virtual", "enforcer": "a b"}
    found = cli_many.arguments(["gw:80"], True, given)
    assert found == ["--policy", "p.yaml", "--speed", "2.0", "--clock", "virtual", "--enforcer", "a b", "--capture", "gw:80", "--no-report"]  # fmt: skip
