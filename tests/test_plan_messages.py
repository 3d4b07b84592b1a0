"""Wrong files: every problem at once, each with its place and what to write. The messages are data/wrong/*.messages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from enforcer.yamlfile import parse
from testbed.plan.load import PlanError, check_paths, load_plan, load_topology_plan

ROOT = Path(__file__).parents[1]
WRONG = Path("tests/data/wrong")
NAMES = [
    "rush.scenario",
    "late.scenario",
    "vain.scenario",
    "knot.topology",
    "loose.policy",
    "broken.scenario",
]


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
        (
            "a: {b 1: {c: 1}, d: e: 2}\n",
            "f:1:22: not YAML: expected ',' or '}', but got ':'; write {key: value, key: value} (is there no ':' or ',' "
            "before?); check the quotes and brackets just before here",
        ),
        (
            "title x\nb: 1\n",
            "f:2:2: not YAML: mapping values are not allowed here; write 'key: value' (is there no ':' after the key "
            "before?), put text that holds ': ' in quotes, or indent the line like the others of its mapping",
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
        (
            "policy",
            "write the path of a *.policy.yaml file, from this file; those that ship are in "
            f"{os.path.relpath(ROOT / 'enforcer/policies', path.parent)}: "
            "licensed-providers-only.policy.yaml, observe-only.policy.yaml, police-unregistered.policy.yaml, "
            "registered-endpoints.policy.yaml, registered-pairs.policy.yaml, registered-subscribers.policy.yaml",
        ),
    ]


def test_a_policy_that_was_shipped_under_another_name_is_named_by_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "scenarios/s.scenario.yaml"
    path.parent.mkdir()
    shutil.copytree(ROOT / "enforcer/policies", tmp_path / "enforcer/policies")
    text = (ROOT / "scenarios/minimal-smoke.scenario.yaml").read_text()
    path.write_text(text.replace("registered-pairs.policy", "strict.policy"))
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    problem = caught.value.problems[-1]
    assert problem.what == "there is no file '../enforcer/policies/strict.policy.yaml' any more"
    assert problem.fix == (
        "'strict' is called 'registered-pairs' now: write ../enforcer/policies/registered-pairs.policy.yaml"
    )


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


def changed(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """The problems of the registration scenario after changes to it, without the file's name."""
    text = (ROOT / "scenarios/registration.scenario.yaml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = folder / "x.scenario.yaml"
    path.write_text(
        text.replace("../topologies/", f"{ROOT}/topologies/").replace("../enforcer/", f"{ROOT}/enforcer/")
    )
    return [str(problem).partition(": ")[2] for problem in check_paths([path])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("duration: 32s", "duration: 32"), "duration: '32' has no unit; write '32s' or '32ms'"),
        (("duration: 32s\n", ""), "'duration' is missing; add 'duration: …'"),
        (("duration: 32s", "duration: 0s"), "duration: a scenario of no length; write for example '30s'"),
        (
            ("at: 8s, refuse", "at: 13s, refuse"),
            "timeline[5].at: it is after the event below (10s); put the events in order of time",
        ),
        (
            ("at: 10s, approve", "at: 5s, approve"),
            "timeline[6].at: it is before the event above (8s); put the events in order of time",
        ),
        (("\ntraffic:", "\ntraffc:"), "traffc: 'traffc' is not a key here; did you mean 'traffic'?"),
        (("\ntunnels:", "\ntunels:"), "tunels: 'tunels' is not a key here; did you mean 'tunnels'?"),
        (("\ntimeline:", "\ntimelin:"), "timelin: 'timelin' is not a key here; did you mean 'timeline'?"),
        (
            ("apply: [softhouse/fra", "apply: [softhous/fra"),
            "timeline[0].apply[0]: 'softhous' is not a subscriber; did you mean 'softhouse'?",
        ),
        (("at: 2s, apply", "at: 2, apply"), "timeline[0].at: '2' has no unit; write '2s' or '2ms'"),
        (
            ("who: softhouse, server", "who: softhous, server"),
            "tunnels[0].who: 'softhous' is not a subscriber; did you mean 'softhouse'?",
        ),
        (
            ("whoever: {isp: [mobile-a, mobile-b]}", "whoever: {kind: vpn}"),
            "traffic[7].whoever.kind: 'vpn' is not a kind of subscriber; write one of company, freelancer, "
            "call-centre, bank, hospital, ngo, household",
        ),
    ],
)
def test_one_mistake_is_one_message(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert changed(tmp_path) == []  # control
    assert changed(tmp_path, change) == [message]


def test_names_in_parts_that_are_wrong_otherwise_are_reported_in_the_same_round(tmp_path: Path) -> None:
    found = changed(
        tmp_path,
        ("duration: 32s\n", ""),
        (
            "probe: dns, whoever: {}, to: [fra-dns, domestic-dns], every: 1s",
            "probe: dns, whoever: {kind: vpn}, to: [fra-dns, fra-dn], every: 500",
        ),
        ("who: bank, server: fra-ikev2, from: 14s", "who: bankk, server: fra-ikev, from: 14"),
        (
            "at: 22s, revoke: ngo/fra-handshake-l2tp",
            "at: 22, revoke: [ngos/fra-handshake-l2tp, ngo/fra-handshak-l2tp]",
        ),
        ("{group: unregistered}, at-most: 0%", "{group: unregisterd}, at-most: 0"),
    )
    assert found == [
        "'duration' is missing; add 'duration: …'",
        "tunnels[1].who: 'bankk' is not a subscriber; did you mean 'bank'?",
        "tunnels[1].server: 'fra-ikev' is not a VPN server; did you mean 'fra-ikev2'?",
        "tunnels[1].from: '14' has no unit; write '14s' or '14ms'",
        "traffic[10].whoever.kind: 'vpn' is not a kind of subscriber; write one of company, freelancer, "
        "call-centre, bank, hospital, ngo, household",
        "traffic[10].to[1]: 'fra-dn' is not a service; did you mean 'fra-dns'?",
        "traffic[10].every: '500' has no unit; write '500s' ('8m20s') or '500ms'",
        "timeline[9].at: '22' has no unit; write '22s' or '22ms'",
        "timeline[9].revoke[0]: 'ngos' is not a subscriber; did you mean 'ngo'?",
        "timeline[9].revoke[1]: 'fra-handshak-l2tp' is not a VPN server or handshake service; did you mean "
        "'fra-handshake-l2tp'?",
        "expect[6].where.group: 'unregisterd' is not a group of traffic; did you mean 'unregistered'?",
        "expect[6].at-most: '0' has no unit; write '0%'",
    ]


def test_a_file_of_another_kind_is_one_message() -> None:
    with pytest.raises(PlanError) as caught:
        load_plan("topologies/minimal.topology.yaml")
    assert str(caught.value) == (
        "topologies/minimal.topology.yaml:1:1: this is a topology file; give a *.scenario.yaml"
    )
    with pytest.raises(PlanError) as caught:
        load_topology_plan("scenarios/minimal-smoke.scenario.yaml", "topologies/minimal.topology.yaml")
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [
        "this is a scenario file; give a *.topology.yaml",
        "this is a topology file; give a *.policy.yaml",
    ]
