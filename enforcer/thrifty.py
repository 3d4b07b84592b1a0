"""An event loop that reads the clock once each time it wakes, for kernels in which a system call is dear.

In User-Mode Linux, where virtual time is played, a clock reading is a system call of some ten microseconds, and no time passes while
a program runs: asyncio's own loop reads it three times a round. x86-64 only, as that kernel is.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import select
import selectors
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_EVENT = struct.Struct(
    "=IQ"
)  # struct epoll_event, packed on x86-64; Python puts the descriptor into the data
_MOST = 256


def run(main: Coroutine[Any, Any, _Result], is_thrifty: bool) -> _Result:
    """As asyncio.run."""
    with asyncio.Runner(loop_factory=ThriftyLoop if is_thrifty else None) as runner:
        return runner.run(main)


class ThriftyLoop(asyncio.SelectorEventLoop):
    """now_ns: CLOCK_MONOTONIC when the loop last woke, or a timer was last set by its distance."""

    def __init__(self) -> None:
        self._now_ns = time.monotonic_ns()
        super().__init__(_Selector(self._look))

    def now_ns(self) -> int:
        return self._now_ns

    def time(self) -> float:
        return self._now_ns / 1e9

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        self._look()  # whatever runs now may have waited for something before
        return super().call_later(delay, callback, *args, context=context)

    def _look(self) -> None:
        self._now_ns = time.monotonic_ns()


class _Selector(selectors.EpollSelector):
    """epoll_wait(2) by itself: select.epoll reads the clock for its time-out, twice."""

    def __init__(self, woke: Callable[[], None]) -> None:
        super().__init__()
        self._woke = woke
        self._wait = ctypes.CDLL(None, use_errno=True).epoll_wait
        self._events = ctypes.create_string_buffer(_EVENT.size * _MOST)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        wait_ms = -1 if timeout is None else max(0, math.ceil(timeout * 1e3))
        count = self._wait(self.fileno(), self._events, _MOST, wait_ms)
        if wait_ms:
            self._woke()
        ready = []
        for number in range(count):  # none at all when a signal came
            kinds, data = _EVENT.unpack_from(self._events, number * _EVENT.size)
            key = self.get_map().get(data & 0xFFFFFFFF)
            if key is None:
                continue
            events = (selectors.EVENT_WRITE if kinds & ~select.EPOLLIN else 0) | (
                selectors.EVENT_READ if kinds & ~select.EPOLLOUT else 0
            )
            if events & key.events:
                ready.append((key, events & key.events))
        return ready
