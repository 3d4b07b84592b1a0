"""Both clocks tell the same story: a plan without jitter played in real and in virtual time, attempt by attempt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.plan.load import load_plan
from testbed.session import Options, run
from testbed.world.uml.store import NoKernel, current
from tests.clock_compare import compare, table

SCENARIOS = Path(__file__).parent.parent / "scenarios"
_NEAR_DIFFERING_RATIO = 0.1  # a change reaches an enforcer a moment later where processors take time
_UNJUDGED_RATIO = 0.01


def cross_check(scenario: str, results: Path) -> None:
    try:
        current()
    except NoKernel as error:
        pytest.skip(str(error))
    path = SCENARIOS / f"{scenario}.scenario.yaml"
    plan = load_plan(path)
    assert not any(link.jitter_ns or link.loss_ratio for link in plan.links), (
        "only a plan without chance can be compared"
    )

    real = run(path, Options(clock="real", results=results, report=False))
    virtual = run(path, Options(clock="virtual", results=results, report=False))
    found = compare(real.run_dir, virtual.run_dir)

    print("\n".join(table([found])))
    assert virtual.outcome == "passed", (virtual.outcome, virtual.reason)
    assert real.outcome in ("passed", "inconclusive"), (
        real.outcome,
        real.reason,
    )  # inconclusive: a busy machine
    assert not found.only_one and found.attempts == sum(len(stream.at_ns) for stream in plan.streams)
    assert not found.differing
    assert found.unjudged <= _UNJUDGED_RATIO * found.attempts, (
        "what neither run could judge agrees in nothing"
    )
    assert found.near_differing <= _NEAR_DIFFERING_RATIO * found.near
    assert found.same > found.attempts / 3, "enough attempts are far from any change"
    # A busy machine only adds: then the tenth that was disturbed least is compared, and nothing may be early.
    tolerance_ms = found.tolerance_ns / 1e6
    is_noisy = bool(json.loads((real.run_dir / "summary.json").read_text())["noise"])
    assert abs(found.quantile_ms(0.1 if is_noisy else 0.5)) <= tolerance_ms
    assert found.quantile_ms(0.01) >= -tolerance_ms


@pytest.mark.nightly
@pytest.mark.world(inside=False)
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "scenario", ["minimal-smoke", "minimal-revocation", "technical-glitch", "registration", "revocation"]
)
def test_each_short_scenario_agrees_between_the_clocks(scenario: str, tmp_path) -> None:
    cross_check(scenario, tmp_path)
