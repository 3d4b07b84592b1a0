"""The shipped scenarios, played in real labs under pytest; and three enforcers broken on purpose, each caught by name."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCENARIOS = ROOT / "scenarios"
_TIMEOUT_S = 240.0
_SIDE_BY_SIDE = 2  # labs at a time: most of a play is waiting, and labs do not disturb each other

Played = tuple[int, str, ElementTree.Element]


def play(scenario: str, results: Path, enforcer: str | None = None) -> Played:
    """`pytest SCENARIO` as a user calls it: exit code, output, the test case in its JUnit file."""
    junit = results / "junit.xml"
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "testbed.pytest_plugin",
        "-p",
        "no:cacheprovider",
        str(SCENARIOS / f"{scenario}.scenario.yaml"),
    ]
    argv += [f"--allowlab-results={results}", f"--junitxml={junit}"]
    if enforcer is not None:
        argv.append(f"--allowlab-enforcer={enforcer}")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    case = ElementTree.parse(junit).getroot().find(".//testcase")
    assert case is not None, done.stdout
    return done.returncode, done.stdout, case


def sabotaged(mode: str) -> str:
    return f"{sys.executable} -m tests.sabotaged_enforcer {mode}"


@pytest.fixture(scope="module")
def played(request, tmp_path_factory) -> Iterator[Callable[[str, str | None], Played]]:
    """The plays of the selected tests, begun in the tests' order, two at a time; each test waits for its own."""
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
    plays: dict[tuple[str, str | None], Future[Played]] = {}
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for each in chosen:
            scenario, mode = each["scenario"], each.get("mode")
            enforcer = sabotaged(mode) if mode else None
            plays[scenario, mode] = pool.submit(play, scenario, tmp_path_factory.mktemp(scenario), enforcer)
        yield lambda scenario, mode=None: plays[scenario, mode].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(_TIMEOUT_S + 30)
@pytest.mark.world(inside=False)
@pytest.mark.parametrize(
    "scenario",
    [
        "registration",
        "revocation",
        "technical-glitch",
        "licensed-providers",
        "shared-address",
        pytest.param("slow-provider", marks=pytest.mark.nightly),
        pytest.param("portless-protocols", marks=pytest.mark.nightly),
    ],
)
def test_a_shipped_scenario_holds(scenario, played):
    code, output, case = played(scenario)

    assert code == 0, output
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert len(properties) > 5, "the figures are JUnit properties"


@pytest.mark.timeout(_TIMEOUT_S + 30)
@pytest.mark.world(inside=False)
@pytest.mark.parametrize(
    ("scenario", "mode", "caught_by"),
    [
        ("minimal-smoke", "allow-everything", "asked: false passes"),
        ("minimal-smoke", "block-everything", "asked: false blocks"),
        ("minimal-revocation", "ignore-revocations", "asked: false passes"),
        pytest.param(
            "licensed-providers", "allow-everything", "asked: false blocks", marks=pytest.mark.nightly
        ),
        pytest.param(
            "shared-address", "ignore-revocations", "asked: false passes", marks=pytest.mark.nightly
        ),
        pytest.param("slow-provider", "allow-everything", "asked: false passes", marks=pytest.mark.nightly),
    ],
)
def test_a_sabotaged_enforcer_is_caught_by_name(scenario, mode, caught_by, played):
    code, output, case = played(scenario, mode)

    assert code == 1, output
    failure = case.find("failure")
    assert failure is not None, output
    text = (failure.get("message") or "") + (failure.text or "")
    assert caught_by in text
    assert f"{scenario}.scenario.yaml:" in text
