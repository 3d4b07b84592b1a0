"""The agent's idea of Unix time: the wall clock, unless somebody sets it. Then time goes on as before until the registry agrees.

Validity windows and the age of the feed must not depend on a clock that was an hour wrong for a minute (a battery, an NTP server,
an administrator).
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_NS = 2_000_000_000  # ntpd slews up to 0.128 s and steps above (ntpd(8)); chrony and people step by more
_AGREES_NS = 60_000_000_000  # a message may be a while under way, and a registry's clock a little off


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(
        time.CLOCK_BOOTTIME
    )  # goes on while the machine sleeps, as the wall clock does


class Clock:
    """now_ns never jumps. wall_ns: Unix time as the system says it; since_boot_ns: a clock that nobody can set."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        since_boot_ns: Callable[[], int] = _since_boot_ns,
    ) -> None:
        self._wall_ns, self.since_boot_ns = wall_ns, since_boot_ns
        self._offset_ns = wall_ns() - since_boot_ns()

    def keep_by(self, now_ns: Callable[[], int]) -> None:
        """From now on the time since boot is what a loop read when it last woke (enforcer.thrifty)."""
        ahead_ns = self.since_boot_ns() - now_ns()
        self.since_boot_ns = lambda: now_ns() + ahead_ns

    def now_ns(self) -> int:
        """Unix time."""
        return self.since_boot_ns() + self._offset_ns

    def jump_ns(self) -> int:
        """By how much the wall clock is ahead of what it should be; 0 when it only drifts, which is followed."""
        ahead_ns = self._wall_ns() - self.now_ns()
        if abs(ahead_ns) >= JUMP_NS:
            return ahead_ns
        self._offset_ns += ahead_ns
        return 0

    def hear(self, issued_ns: int) -> None:
        """A registry's fresh message: when it fits the wall clock and not our own time, the clock was put right, not wrong."""
        ahead_ns = self._wall_ns() - self.now_ns()
        if abs(issued_ns - self._wall_ns()) <= _AGREES_NS < abs(issued_ns - self.now_ns()):
            self._offset_ns += ahead_ns
