"""The shipped scenarios, played in real labs under pytest; and three enforcers broken on purpose, each caught by name."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCENARIOS = ROOT / "scenarios"
_TIMEOUT_S = 240.0


def play(scenario: str, results: Path, enforcer: str | None = None) -> tuple[int, str, ElementTree.Element]:
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


@pytest.mark.timeout(_TIMEOUT_S + 30)
@pytest.mark.world(inside=False)
@pytest.mark.parametrize("scenario", ["registration", "revocation", "technical-glitch"])
def test_a_shipped_scenario_holds(scenario, tmp_path):
    code, output, case = play(scenario, tmp_path)

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
    ],
)
def test_a_sabotaged_enforcer_is_caught_by_name(scenario, mode, caught_by, tmp_path):
    code, output, case = play(scenario, tmp_path, sabotaged(mode))

    assert code == 1, output
    failure = case.find("failure")
    assert failure is not None, output
    text = (failure.get("message") or "") + (failure.text or "")
    assert caught_by in text
    assert f"{scenario}.scenario.yaml:" in text
