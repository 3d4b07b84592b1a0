"""Wrong files: every problem at once, each with its place and what to write. The messages are data/wrong/*.messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enforcer.yamlfile import parse
from testbed.plan.load import PlanError, check_paths, load_plan

ROOT = Path(__file__).parents[1]
WRONG = Path("tests/data/wrong")
NAMES = ["rush.scenario", "knot.topology", "loose.policy", "broken.scenario"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_of_a_file_is_named(name: str) -> None:
    found = "".join(f"{problem}\n" for problem in check_paths([WRONG / f"{name}.yaml"]))
    expected = WRONG / f"{name}.messages"
    if os.environ.get("ALLOWLAB_ACCEPT"):  # after a change of wording: look at the diff before committing it
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")


def test_the_files_that_ship_have_no_problem() -> None:
    assert check_paths(["scenarios", "topologies", "enforcer/policies"]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f:1:1: the file is empty; write 'key: value' lines; see docs/ for an example"),
        (
            "# only a comment\n",
            "f:1:1: the file is empty; write 'key: value' lines; see docs/ for an example",
        ),
        ("- a\n- b\n", "f:1:1: the file is a list, not a mapping; write 'key: value' lines"),
        ("just text\n", "f:1:1: the file is a single value, not a mapping; write 'key: value' lines"),
        ("a:\n\tb: 1\n", "f:2:1: a tab is used to indent; indent with spaces (YAML forbids tabs)"),
        ("a: 1\nb: 2\na: 3\n", "f:3:1: a: the key is there twice (first in line 1); keep one of them"),
        ("a: {b: 1, b: 2}\n", "f:1:11: a.b: the key is there twice (first in line 1); keep one of them"),
        ("a: !secret x\n", "f:1:4: a: the tag !secret means nothing here; write the value without it"),
        ("a: &x [*x]\n", "f:1:4: a[0]: this alias contains itself; write the value out"),
        ("? [a]\n: 1\n", "f:1:3: a key is not a word; write 'key: value'"),
        (
            "a: [1, 2\n",
            "f:2:1: not YAML: expected ',' or ']', but got '<stream end>'; check the quotes, brackets and "
            "indentation just before here",
        ),
    ],
)
def test_what_is_not_a_mapping_in_yaml_is_named_with_its_place(text: str, message: str) -> None:
    assert [str(problem) for problem in parse(text, "f").problems] == [message]


def test_a_tab_inside_a_block_of_text_is_text() -> None:
    document = parse("a: |\n  one\n  \ttwo\nb: 'x\ty'\n", "f")
    assert document.problems == []
    assert document.data == {"a": "one\n\ttwo\n", "b": "x\ty"}


def test_bytes_that_are_not_utf8_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.policy.yaml"
    path.write_bytes(b"policy: caf\xe9\n")
    assert [problem.what for problem in check_paths([path])] == ["byte 11 is not UTF-8"]
    assert [problem.what for problem in check_paths([tmp_path / "none.policy.yaml"])] == [
        "cannot be read (No such file or directory)"
    ]
    assert [problem.what for problem in check_paths([tmp_path / "x.yaml"])] == [
        "its name does not say what it is"
    ]
    (tmp_path / "empty").mkdir()
    assert [problem.what for problem in check_paths([tmp_path / "empty"])] == [
        "there is no file to check in it"
    ]


def test_a_scenario_that_names_no_file_says_which_there_are(tmp_path: Path) -> None:
    text = (
        (ROOT / "scenarios/minimal-smoke.scenario.yaml")
        .read_text()
        .replace("minimal.topology", "minimum.topology")
    )
    path = tmp_path / "scenarios" / "x.scenario.yaml"
    path.parent.mkdir()
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "other.topology.yaml").write_text("")
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert [(problem.where, problem.fix) for problem in caught.value.problems] == [
        ("topology", "there are other.topology.yaml"),
        ("policy", "write the path of a *.policy.yaml file, from this file"),
    ]


def test_a_problem_in_the_topology_is_named_there_when_a_scenario_is_checked(tmp_path: Path) -> None:
    topology = tmp_path / "t.topology.yaml"
    topology.write_text(
        (ROOT / "topologies/minimal.topology.yaml").read_text().replace("rtt: 40ms", "rtt: 40")
    )
    with pytest.raises(PlanError) as caught:
        load_plan(ROOT / "scenarios/minimal-smoke.scenario.yaml", topology=topology)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{topology}:13:61: cables.cable.rtt: '40' has no unit; write '40s' or '40ms'"
    ]
