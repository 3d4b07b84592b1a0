"""plan.json: the same plan gives the same bytes, and reading what was written gives the same plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.plan.load import load_plan
from testbed.plan.plan import Event, Expectation, Link, Nat, Node, Registration, Stream, Subscriber, Tunnel
from testbed.plan.store import parse_plan, read_plan, render_plan, write_plan
from tests.small_plan import small_plan

ROOT = Path(__file__).parents[1]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.scenario.yaml"))

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_EVENTS = st.builds(
    Event,
    st.text(),
    st.integers(0),
    st.text(),
    st.dictionaries(st.text(), _JSON, max_size=3),
    st.integers(0),
    st.integers(0),
)
_EXPECTATIONS = st.builds(Expectation, bound=_FLOATS | st.text())
_LINKS = st.builds(Link, loss_ratio=_FLOATS)


def _some(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(strategy, max_size=2).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "title": st.text(),
            "tags": st.lists(st.text(), max_size=3).map(tuple),
            "policy": st.none() | st.dictionaries(st.text(), _JSON, max_size=3),
            "nodes": _some(st.builds(Node)),
            "links": _some(_LINKS),
            "nats": _some(st.builds(Nat)),
            "subscribers": _some(st.builds(Subscriber)),
            "registrations": _some(st.builds(Registration)),
            "tunnels": _some(st.builds(Tunnel)),
            "streams": _some(st.builds(Stream)),
            "events": _some(_EVENTS),
            "expectations": _some(_EXPECTATIONS),
        }
    )
)
def test_what_is_written_is_read_back(changes: dict) -> None:
    plan = small_plan(**changes)
    assert parse_plan(render_plan(plan)) == plan


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_planning_twice_gives_the_same_bytes(scenario: Path, tmp_path: Path) -> None:
    write_plan(load_plan(scenario), tmp_path / "first.json")
    write_plan(load_plan(scenario), tmp_path / "second.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert read_plan(tmp_path / "first.json") == load_plan(scenario)


def test_another_folder_and_another_way_to_name_the_files_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for checkout in ("one", "two"):
        for folder in ("scenarios", "topologies", "enforcer/policies"):
            shutil.copytree(ROOT / folder, tmp_path / checkout / folder)
    name = "scenarios/minimal-smoke.scenario.yaml"
    first = render_plan(load_plan(tmp_path / "one" / name))
    monkeypatch.chdir(tmp_path / "two")
    assert render_plan(load_plan(name)) == first
    assert str(tmp_path) not in first


def test_the_seed_moves_the_attempts_and_nothing_else() -> None:
    scenario = ROOT / "scenarios/minimal-smoke.scenario.yaml"
    one, two = load_plan(scenario, seed=1), load_plan(scenario, seed=2)
    assert [stream.at_ns for stream in one.streams] != [stream.at_ns for stream in two.streams]
    assert one.nodes == two.nodes
    assert one.registrations == two.registrations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a plan: "),
        ("[]", "not a plan of schema"),
        ('{"schema": "allowlab.plan/0"}', "not a plan of schema allowlab.plan/1: 'allowlab.plan/0'"),
        ('{"schema": "allowlab.plan/1"}', "not a whole plan: "),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="make it again|not a plan") as caught:
        parse_plan(text)
    assert message in str(caught.value)
