"""Jobs at exact times on an asyncio loop: a timerfd, for epoll's own time-out is rounded up to a whole millisecond."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os
import struct
import time
from collections.abc import Callable

from enforcer.thrifty import ThriftyLoop

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000


class Job:
    """Something to be done at a time, unless it is cancelled before."""

    __slots__ = ("_do",)

    def __init__(self, do: Callable[[], None]) -> None:
        self._do: Callable[[], None] | None = do

    def cancel(self) -> None:
        self._do = None

    @property
    def is_cancelled(self) -> bool:
        return self._do is None

    def run(self) -> None:
        do, self._do = self._do, None
        if do is not None:
            do()


class Ticker:
    """Runs callables at absolute CLOCK_MONOTONIC times (nanoseconds), in order, each once.

    now_ns: that clock. One ticker serves any number of jobs; `due` jobs run in one go, so a burst costs one wake-up, and nobody wakes for a cancelled one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # In virtual time the loop reads the clock once each time it wakes, and nothing passes in between.
        self.now_ns: Callable[[], int] = loop.now_ns if isinstance(loop, ThriftyLoop) else time.monotonic_ns
        self._jobs: list[tuple[int, int, Job]] = []
        self._count = 0
        self._armed_ns = 0
        self._is_running = False
        self._fd = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._fire)

    def at(self, when_ns: int, do: Callable[[], None]) -> Job:
        """Run it at when_ns, or as soon as possible if that is past."""
        self._count += 1
        job = Job(do)
        heapq.heappush(self._jobs, (when_ns, self._count, job))
        if not self._is_running and (self._armed_ns == 0 or when_ns < self._armed_ns):
            self._arm(when_ns)
        return job

    def close(self) -> None:
        """Forget all jobs and release the timer; may be called twice."""
        self._jobs.clear()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        self._is_running = True
        jobs, now_ns, self._armed_ns = self._jobs, self._armed_ns, 0
        try:
            while jobs:
                if jobs[0][2].is_cancelled:
                    heapq.heappop(jobs)
                    continue
                if jobs[0][0] > now_ns and jobs[0][0] > (now_ns := self.now_ns()):
                    break
                heapq.heappop(jobs)[2].run()
        finally:
            self._is_running = False
            if self._fd >= 0:
                self._rest()

    def _rest(self) -> None:
        """Setting the timer takes its readiness back, so it is read only when it is not set again (timerfd_create(2))."""
        if self._jobs:
            self._arm(self._jobs[0][0])
        else:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 8)

    def _arm(self, when_ns: int) -> None:
        self._armed_ns = max(when_ns, 1)
        value = struct.pack("@qqqq", 0, 0, *divmod(self._armed_ns, 1_000_000_000))
        if _LIBC.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, value, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
