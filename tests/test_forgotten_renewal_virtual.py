"""Three days of a shipped scenario in virtual time: a renewal forgotten on a Friday, and an appeal answered within its own clock on Monday."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import session
from testbed.score.reading import read_records
from testbed.world.uml import store

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "forgotten-renewal.scenario.yaml"


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_forgotten_renewal_and_an_appeal_hold_their_own_clocks(tmp_path):
    try:
        store.current()
    except store.NoKernel as error:
        pytest.skip(str(error))
    result = session.run(SCENARIO, session.Options(results=tmp_path))
    assert result.outcome == "passed", result.reason
    ledger = [
        event for event in read_records(result.run_dir).events if event.kind == "ledger" and event.t_ns >= 0
    ]
    hours = [
        (event.data["registration"].partition("/")[0], event.data["action"], event.t_ns / 3600e9)
        for event in ledger
    ]
    assert [(who, round(at, 1)) for who, action, at in hours if action == "expire"] == [
        ("company", 24.5),
        ("freelancer", 26.5),
    ]
    assert [(who, round(at, 1)) for who, action, at in hours if action == "remind"] == [
        ("company", 6.5),
        ("freelancer", 8.5),
    ]  # nobody is reminded of the appeal: it is answered half an hour before its four working hours are over
    assert [(who, round(at, 1)) for who, action, at in hours if action == "answer-appeal"] == [
        ("household", 68.0)
    ]
