"""Moments as people read them: seconds of a short scenario, local time of a long one that says when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from testbed.plan.scenario_file import STARTS_AT
from testbed.report.words import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From this length on nobody counts seconds from the start.
_LONG_S = 600
_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_MOST_TICKS = 10


@dataclass(frozen=True, slots=True)
class When:
    """start: what the local clock said at time 0, None where moments count from the start of the scenario."""

    duration_s: float
    start: datetime | None = None

    def moment(self, t_ns: int) -> str:
        """12.3 s, 4:05, or 16:00:20 (with the day where it is not the first)."""
        if self.start is None:
            return clock(t_ns)
        then = self._rounded(t_ns)
        return then.strftime("%H:%M:%S") if self._is_first_day(then) else then.strftime("%d %b %H:%M:%S")

    def span(self, from_ns: int, until_ns: int) -> str:
        """From one moment to another, both in the unit of the later one."""
        if self.start is not None:
            return f"{self.moment(from_ns)} to {self.moment(until_ns)}"
        return f"{clock(from_ns, until_ns)} to {clock(until_ns)}"

    def claimed(self, t_ns: int) -> str:
        """The same for what was published: to the minute where it is one."""
        return self.moment(t_ns).removesuffix(":00") if self.start is not None else clock(t_ns)

    @property
    def axis_words(self) -> str:
        """What stands at a time axis."""
        if self.start is None:
            unit = "h:min" if self.duration_s >= _LONG_S else "s"
            return f"time from the start of the scenario ({unit})"
        day = f"{self.start.day} {self.start.strftime('%B %Y')}"
        zone = self.start.strftime("%z")
        return f"local time, {day} (UTC{zone[:3]}:{zone[3:]})"

    def draw(self, axes: Axes) -> None:
        """Limits, ticks and words of an x axis in seconds of the scenario."""
        axes.set_xlim(0, self.duration_s)
        axes.set_xlabel(self.axis_words)
        if self.duration_s < _LONG_S:
            return
        step_s = next((step for step in _STEPS_S if self.duration_s / step <= _MOST_TICKS), _STEPS_S[-1])
        since_midnight_s = 0
        if self.start is not None:
            since_midnight_s = self.start.hour * 3600 + self.start.minute * 60 + self.start.second
        first_s = -since_midnight_s % step_s
        ticks = list(range(first_s, int(self.duration_s) + 1, step_s))
        axes.set_xticks(ticks, [self._tick(tick, since_midnight_s) for tick in ticks])

    def _tick(self, at_s: int, since_midnight_s: int) -> str:
        hours, minutes = divmod((at_s + since_midnight_s) // 60, 60)
        return f"{hours % 24:02}:{minutes:02}" if self.start is not None else f"{hours}:{minutes:02}"

    def _rounded(self, t_ns: int) -> datetime:
        assert self.start is not None
        return self.start + timedelta(seconds=round(t_ns / 1e9))

    def _is_first_day(self, then: datetime) -> bool:
        return self.start is not None and then.date() == self.start.date()


def when_of(summary: dict[str, Any]) -> When:
    """How moments of this run are written."""
    duration_s = summary["duration_ns"] / 1e9
    text = summary.get("starts_at") or STARTS_AT
    if duration_s < _LONG_S or text == STARTS_AT:
        return When(duration_s)
    return When(duration_s, datetime.fromisoformat(text))
