"""Working time: an office's hours, weekends and holidays, in its own time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.registry.rules_file import CalendarConfig, promise_ns
from enforcer.registry.worktime import (
    ALWAYS,
    PAKISTAN,
    WorkCalendar,
    add_working,
    is_working,
    working_between,
)

HOUR = 3600 * 10**9
WITH_HOLIDAY = WorkCalendar("Asia/Karachi", frozenset(range(5)), 540, 1020, frozenset({date(2024, 11, 18)}))
LONDON = WorkCalendar("Europe/London", frozenset(range(7)), 0, 1440)
CALENDARS = (
    ALWAYS,
    PAKISTAN,
    WITH_HOLIDAY,
    LONDON,
    WorkCalendar("America/New_York", frozenset({6}), 90, 150),
)


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("calendar", "start", "promise", "end"),
    [
        (PAKISTAN, "2024-11-12T10:00+05:00", "2 working hours", "2024-11-12T12:00+05:00"),
        (
            PAKISTAN,
            "2024-11-12T10:00+05:00",
            "10 working hours",
            "2024-11-13T12:00+05:00",
        ),  # eight hours a day
        (PAKISTAN, "2024-11-15T16:00+05:00", "10 working hours", "2024-11-19T10:00+05:00"),  # over a weekend
        (PAKISTAN, "2024-11-16T12:00+05:00", "1 working day", "2024-11-18T17:00+05:00"),  # from a Saturday
        (PAKISTAN, "2024-11-15T09:00+05:00", "3 working days", "2024-11-19T17:00+05:00"),
        (WITH_HOLIDAY, "2024-11-15T16:00+05:00", "2 working hours", "2024-11-19T10:00+05:00"),
        (LONDON, "2025-03-30T00:00+00:00", "23 working hours", "2025-03-30T23:00+00:00"),  # a day of 23 hours
        (ALWAYS, "2024-11-16T12:00+00:00", "1 working day", "2024-11-17T12:00+00:00"),
    ],
)
def test_a_promise_ends_in_the_offices_own_hours(calendar, start, promise, end):
    working_ns = promise_ns(promise, calendar)
    assert working_ns is not None
    assert add_working(calendar, moment(start), working_ns) == moment(end)
    assert working_between(calendar, moment(start), moment(end)) == working_ns


@given(
    calendar=st.sampled_from(CALENDARS),
    start=st.integers(moment("2024-01-01T00:00+00:00"), moment("2026-12-31T00:00+00:00")),
    working=st.integers(0, 400 * HOUR),
    more=st.integers(0, 100 * HOUR),
)
def test_laws_of_working_time(calendar, start, working, more):
    end = add_working(calendar, start, working)
    assert end >= start + working  # working time is never longer than time
    assert working_between(calendar, start, end) == working
    assert add_working(calendar, end, more) == add_working(calendar, start, working + more) or working == 0
    if working:
        assert is_working(calendar, end - 1)
    assert working_between(calendar, start, end + more) >= working


def test_a_calendar_that_never_works_is_refused():
    with pytest.raises(ValueError, match="at least one day"):
        WorkCalendar(days=frozenset())
    with pytest.raises(ValueError, match="opens and closes"):
        WorkCalendar(opens_minute=600, closes_minute=600)
    holidays = frozenset(date.fromordinal(date(2024, 11, 1).toordinal() + day) for day in range(500))
    with pytest.raises(ValueError, match="fewer holidays"):
        add_working(WorkCalendar(holidays=holidays), moment("2024-11-12T00:00+00:00"), 1)


def test_the_configuration_writes_it_in_words():
    config = CalendarConfig.model_validate({"holidays": ["2024-11-18"]})
    assert config.calendar() == WITH_HOLIDAY
    for wrong in (
        {"zone": "Asia/Nowhere"},
        {"hours": "17:00-09:00"},
        {"hours": "9-5"},
        {"days": ["caturday"]},
    ):
        with pytest.raises(ValueError, match="zone|hours|days"):
            CalendarConfig.model_validate(wrong)
