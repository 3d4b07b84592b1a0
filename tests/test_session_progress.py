"""How far a run has got: seconds of a short scenario, hours, pace and what is left of a long one."""

from __future__ import annotations

from testbed.session_progress import Pace


def test_a_short_scenario_counts_seconds():
    assert Pace().words(12.4, 36.0, 100.0) == "12 of 36 s"
    assert Pace().words(None, None, 100.0) == ""


def test_a_long_one_tells_its_pace_and_what_is_left_once_it_knows():
    pace = Pace()
    assert pace.words(0.0, 25200.0, 100.0) == "0:00:00 of 7:00:00"
    assert pace.words(60.0, 25200.0, 101.0) == "0:01:00 of 7:00:00"
    assert pace.words(3600.0, 25200.0, 160.0) == "1:00:00 of 7:00:00, 60 times real time, about 0:06:00 left"


def test_real_time_is_not_called_fast():
    pace = Pace()
    pace.words(0.0, 1200.0, 0.0)
    assert pace.words(60.0, 1200.0, 60.0) == "0:01:00 of 0:20:00, about 0:19:00 left"
