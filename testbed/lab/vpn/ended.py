"""Waits for programs to end without looking at them over and over: each look costs real time where time is virtual."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from subprocess import Popen
from typing import Any


class Ended:
    """wait() returns when one of the programs has ended, when wake() was called, or after the time given."""

    def __init__(self) -> None:
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def wake(self) -> None:
        """May be called from any thread, also after close()."""
        if self._woken >= 0:
            os.eventfd_write(self._woken, 1)

    def wait(self, programs: Iterable[Popen[Any]], timeout_s: float | None) -> None:
        """programs: their ends are not reaped here; one that has been reaped already ends the wait at once (pidfd_open(2))."""
        waiting = select.poll()
        waiting.register(self._woken, select.POLLIN)
        opened: list[int] = []
        try:
            for program in programs:
                try:
                    opened.append(os.pidfd_open(program.pid))
                except ProcessLookupError:
                    return
                waiting.register(opened[-1], select.POLLIN)
            found = waiting.poll(None if timeout_s is None else timeout_s * 1000)
        finally:
            for descriptor in opened:
                os.close(descriptor)
        if any(descriptor == self._woken for descriptor, _ in found):
            os.eventfd_read(self._woken)

    def close(self) -> None:
        woken, self._woken = self._woken, -1
        if woken >= 0:
            os.close(woken)
