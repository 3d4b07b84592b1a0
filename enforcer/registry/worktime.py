"""Working time: clocks that run in an office's hours only. Pure; times are Unix nanoseconds, days and hours the zone's own.

"8 to 10 working hours" and "3 working days" are promises in working time: an application of Friday evening is not late on
Monday morning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_PAUSE_DAYS = 400  # a year without a working day is a mistake in the calendar, not a holiday


@dataclass(frozen=True, slots=True)
class WorkCalendar:
    """When an office works: every day of `days` (0 is Monday) that is no holiday, from opens_minute to closes_minute.

    Minutes of the day by the zone's clock; 0 to 1440 is around the clock. Raises ValueError when it never works.
    """

    zone: str = "UTC"
    days: frozenset[int] = frozenset(range(7))
    opens_minute: int = 0
    closes_minute: int = 1440
    holidays: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        ZoneInfo(self.zone)
        if not self.days or not self.days <= set(range(7)):
            raise ValueError("days: write at least one day of the week")
        if not 0 <= self.opens_minute < self.closes_minute <= 1440:
            raise ValueError("hours: write when it opens and closes on one day, such as 09:00-17:00")

    @property
    def day_ns(self) -> int:
        """One working day: what "a working day" of a deadline is worth."""
        return (self.closes_minute - self.opens_minute) * 60 * 10**9


ALWAYS = WorkCalendar()
# Pakistan's federal offices: Monday to Friday, 09:00 to 17:00. Holidays are the configuration's: they move with the moon.
PAKISTAN = WorkCalendar("Asia/Karachi", frozenset(range(5)), 9 * 60, 17 * 60)


def is_working(calendar: WorkCalendar, at_ns: int) -> bool:
    """Whether the office works at that moment; the closing minute is closed."""
    return any(
        start <= at_ns < end for start, end in takewhile(lambda s: s[0] <= at_ns, _spans(calendar, at_ns))
    )


def add_working(calendar: WorkCalendar, start_ns: int, working_ns: int) -> int:
    """The first moment by which working_ns of working time have passed since start_ns. Raises ValueError when it never comes."""
    if working_ns < 0:
        raise ValueError("working_ns: write 0 or more")
    if calendar == ALWAYS:
        return start_ns + working_ns
    left = working_ns
    if left == 0:
        return start_ns
    for start, end in _spans(calendar, start_ns):
        worked = end - max(start, start_ns)
        if left <= worked:
            return max(start, start_ns) + left
        left -= worked
    raise ValueError(f"the calendar has no working day in {_LONGEST_PAUSE_DAYS} days; write fewer holidays")


def working_between(calendar: WorkCalendar, start_ns: int, end_ns: int) -> int:
    """How much of the time from start to end was working time; 0 when end is not after start."""
    if calendar == ALWAYS:
        return max(0, end_ns - start_ns)
    return sum(
        max(0, min(end, end_ns) - max(start, start_ns))
        for start, end in takewhile(lambda span: span[0] < end_ns, _spans(calendar, start_ns))
    )


def _spans(calendar: WorkCalendar, from_ns: int) -> Iterator[tuple[int, int]]:
    """Working spans that end after from_ns, in order, for ever; ends when there is none for too long."""
    day = (_EPOCH + timedelta(microseconds=from_ns // 1000)).astimezone(ZoneInfo(calendar.zone)).date()
    day -= timedelta(days=1)
    pause = 0
    while pause <= _LONGEST_PAUSE_DAYS:
        pause += 1
        if day.weekday() in calendar.days and day not in calendar.holidays:
            start, end = _span(calendar, day)
            if end > max(from_ns, start):  # hours that a change of clocks took away are no span
                pause = 0
                yield start, end
        day += timedelta(days=1)


@lru_cache(maxsize=4096)
def _span(calendar: WorkCalendar, day: date) -> tuple[int, int]:
    return _moment(calendar, day, calendar.opens_minute), _moment(calendar, day, calendar.closes_minute)


def _moment(calendar: WorkCalendar, day: date, minute: int) -> int:
    days, minute = divmod(minute, 1440)
    wall = datetime.combine(
        day + timedelta(days=days), time(minute // 60, minute % 60), ZoneInfo(calendar.zone)
    )
    return (wall.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) * 1000
