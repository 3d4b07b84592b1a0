"""A live flow, to be cut: a process sends its packets all the time, each with the moment it is sent."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

from dataplanes_world import Road

_PATIENCE_S = 5.0
_GAP_NS = 20_000


class Stream:
    """A process that sends a flow's packets all the time, each with the time it is sent; and what arrived of them."""

    def __init__(self, road: Road, index: int, processor: int) -> None:
        self._road, self._index, self._processor = road, index, processor
        self.arrived: list[int] = []
        self._sent: list[int] = []

    def __enter__(self) -> Stream:
        self._receiver = self._road.receiver()
        ours, theirs = os.pipe()
        stop, self._stop = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._stop)
            os.sched_setaffinity(0, {self._processor})
            _send_stamps(self._road, self._index, theirs, stop)
        os.close(theirs)
        os.close(stop)
        self._sent_pipe = ours
        return self

    def reaches(self, packets: int, pump: Callable[[], None]) -> None:
        end = time.monotonic() + _PATIENCE_S
        while len(self.arrived) < packets:
            pump()
            self._read()
            if time.monotonic() > end:
                raise AssertionError(f"the live flow of entry {self._index} does not pass")

    def sends_until(self, moment_ns: int, pump: Callable[[], None]) -> None:
        """Go on until something was sent after this moment."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic_ns() < moment_ns or not self._sent or self._sent[-1] < moment_ns:
            pump()
            self._read()
            data = os.read(self._sent_pipe, 65536)
            self._sent += [stamp for (stamp,) in struct.iter_unpack("=q", data)]
            if time.monotonic() > end:
                raise AssertionError("the sender of the live flow stopped")

    def sent_between(self, start: int, end: int) -> int:
        """How many were."""
        return sum(start <= stamp <= end for stamp in self._sent)

    def __exit__(self, *_: object) -> None:
        os.close(self._stop)
        while os.read(self._sent_pipe, 65536):
            pass
        os.close(self._sent_pipe)
        os.waitpid(self._child, 0)
        self._read()
        self._receiver.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._receiver.recv(2048, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.arrived.append(int.from_bytes(data[28:36], "big"))


def _send_stamps(road: Road, index: int, told: int, stop: int) -> None:
    try:
        opened = road.sender()
        frame = road.frame(index, b"\0" * 18)
        head = frame[:42]
        os.set_blocking(stop, False)
        following = time.monotonic_ns()
        while True:
            try:
                os.read(stop, 1)
                break  # the other end is closed
            except BlockingIOError:
                pass
            now = time.monotonic_ns()
            opened.send(head + now.to_bytes(8, "big") + b"\0" * 10)
            os.write(told, struct.pack("=q", now))
            following += _GAP_NS
            while time.monotonic_ns() < following:
                pass
            following = max(following, time.monotonic_ns() - _GAP_NS)
    finally:
        os._exit(0)
