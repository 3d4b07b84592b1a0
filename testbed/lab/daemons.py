"""The programs a lab started, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program started on a node. name is its log's name without ".log"."""

    node: str
    name: str
    argv: tuple[str, ...]
    process: subprocess.Popen[Any]


class Daemons:
    """Programs in the order they were started."""

    def __init__(self) -> None:
        self._all: list[Daemon] = []

    def add(self, daemon: Daemon) -> None:
        self._all.append(daemon)

    def all(self) -> list[Daemon]:
        return list(self._all)

    def close(self, deadline_s: float) -> None:
        """Ask every program to end (SIGTERM), the last started first; kill the sessions of those that did not."""
        running = [daemon.process for daemon in reversed(self._all) if daemon.process.poll() is None]
        for process in running:
            process.terminate()
        _wait(running, deadline_s)
        for daemon in self._all:
            # A program that ended may have left children of its session behind.
            _kill_session(daemon.process.pid)
        for process in running:
            process.wait()
        self._all.clear()


def end_programs(processes: Iterable[subprocess.Popen[Any] | None], patience_s: float = 2.0) -> None:
    """Ask them all to end (SIGTERM), wait together, kill what is left. None and what has ended are passed over."""
    running = [process for process in processes if process is not None and process.poll() is None]
    for process in running:
        process.terminate()
    _wait(running, patience_s)
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait(running: Sequence[subprocess.Popen[Any]], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    for process in running:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
