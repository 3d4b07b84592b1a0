"""Links out of tolerance: a warning for a lab to look around in, the end of a run that shall give figures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from testbed.lab import inspection, interactive
from testbed.lab.calibrate import CalibrationFailed
from testbed.lab.calibrate_judge import CalibrationRow
from testbed.timeline import stage
from testbed.timeline.progress import Progress
from testbed.timeline.stage import Broken, Stage, StageOptions
from tests.small_plan import small_plan

MISS = (
    "link cable/a-to-b (cable, IPv4): delay asked 20.000 ms, measured 23.100 ms "
    "(tolerated 19.000 ms to 21.000 ms; 15 samples, 3 tries)"
)


def row(*, is_within: bool) -> CalibrationRow:
    measured = 20e6 if is_within else 23.1e6
    return CalibrationRow(
        "cable",
        "a-to-b",
        "cable",
        "delay",
        20e6,
        measured,
        19e6,
        21e6,
        15,
        is_within,
        4,
        1 if is_within else 3,
    )


def calibrated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[CalibrationRow], *, must_hold: bool
) -> Stage:
    """A stage that has been as far as its links' calibration, which found these rows."""

    def calibrate(*_: Any) -> list[CalibrationRow]:
        if all(each.is_within for each in rows):
            return rows
        raise CalibrationFailed(rows)

    monkeypatch.setattr(stage, "calibrate", calibrate)
    options = StageOptions(calibration_must_hold=must_hold)
    found: Any = Stage(small_plan(), folder, options, Progress())
    found.lab = found.links = None
    asyncio.run(found._calibrate())
    return found


def test_a_miss_ends_a_run_and_says_that_the_machine_was_probably_busy(tmp_path, monkeypatch) -> None:
    with pytest.raises(Broken) as caught:
        calibrated(tmp_path, monkeypatch, [row(is_within=True), row(is_within=False)], must_hold=True)

    assert str(caught.value) == (
        "links are not what the plan asks for: 1 of 2 link figures are out of tolerance; the others are within it, "
        "so the machine was probably busy: try again when it is idle"
    )
    assert caught.value.details == [MISS]


def test_where_every_link_misses_it_does_not_guess_that_the_machine_was_busy(tmp_path, monkeypatch) -> None:
    with pytest.raises(Broken) as caught:
        calibrated(tmp_path, monkeypatch, [row(is_within=False)], must_hold=True)

    assert str(caught.value).endswith(": 1 of 1 link figures are out of tolerance")


def test_a_miss_is_a_warning_for_a_kept_lab(tmp_path, monkeypatch) -> None:
    rows = [row(is_within=True), row(is_within=False)]

    assert calibrated(tmp_path, monkeypatch, rows, must_hold=False).calibration_misses == [MISS]
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert [each["is_within"] for each in written] == [True, False]
    assert calibrated(tmp_path, monkeypatch, rows[:1], must_hold=False).calibration_misses == []  # control


def test_the_warning_lists_the_numbers_and_is_shown_by_ps(tmp_path: Path) -> None:
    assert interactive.warning(tmp_path) == ""  # control

    (tmp_path / interactive.MISSES_FILE).write_text(json.dumps([MISS]))

    expected = (
        "warning: these links are out of tolerance (the machine was probably busy while they were measured):\n"
        f"  {MISS}"
    )
    assert interactive.warning(tmp_path) == expected
    found = {"nodes": [], "links": [], "died": [], "warning": expected}
    assert inspection.render(found).endswith("\n\n" + expected)
    assert "warning" not in inspection.render(found | {"warning": ""})


def test_delays_are_said_to_be_one_way() -> None:
    plan = small_plan()
    told = [inspection.describe(link) for link in plan.links if link.delay_ns]

    assert told and all(" ms one way" in each for each in told)
