"""Measures links from inside: sends through given sockets, notes what arrives when. `python -m testbed.lab.calibrate_probe`.

A process of its own, so that nothing else delays its clock readings. One JSON job on stdin, one JSON answer on stdout;
sockets are inherited. All namespaces share CLOCK_MONOTONIC, so a probe's age on arrival is the one-way delay. The clock
is read here and not taken from the kernel's receive stamps: a packet held where it arrives was stamped before it was held.

A job, or a list of them, done one after another:

{"trains": [{"send": FD, "receive": FD, "to": [ADDRESS, PORT], "count": 20, "spacing_ns": …, "offset_ns": …, "wait_ns": …}]}
    → {"trains": [[DELAY_NS or null for each probe]]}
{"floods": [{"send": [FD, …], "receive": FD, "to": […], "frames": 300, "chunk": 8, "skip": 40, "wait_ns": …}]}
    → {"floods": [{"rate_bps": N or null, "frames": COUNTED}]}
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

# A frame of the flood: 1472 bytes of payload make 1500 of IPv4 and 1514 on the wire, which is what the bucket counts.
FLOOD_PAYLOAD_BYTES = 1472
FLOOD_FRAME_BYTES = 1514
_PROBE = struct.Struct("=QI36x")
_SEQUENCE = struct.Struct("=I")
_UDP_SEGMENT, _SOL_UDP, _SO_TIMESTAMPNS = 103, 17, 35
_TIMESPEC = struct.Struct("=qq")
_PR_SET_TIMERSLACK = 29
_STAMPS_ON_S = 0.05


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        # Above the holder's priority: a probe's stamp should wait for nobody.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    jobs = json.load(sys.stdin)
    answers = [_done(job) for job in (jobs if isinstance(jobs, list) else [jobs])]
    json.dump(answers if isinstance(jobs, list) else answers[0], sys.stdout)


def _done(job: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    if "trains" in job:
        answer["trains"] = _trains(job["trains"])
    if "floods" in job:
        answer["floods"] = _floods(job["floods"])
    return answer


def _trains(jobs: list[dict[str, Any]]) -> list[list[int | None]]:
    """Every train at its own pace, all at once, their probes spread evenly."""
    arrived: list[list[int | None]] = [[None] * job["count"] for job in jobs]
    senders = [socket.socket(fileno=job["send"]) for job in jobs]
    receivers: dict[int, tuple[socket.socket, list[int | None]]] = {}
    epoll = select.epoll()
    for job, delays in zip(jobs, arrived, strict=True):
        receiver = socket.socket(fileno=job["receive"])
        receivers[job["receive"]] = receiver, delays
        epoll.register(job["receive"], select.EPOLLIN)
    start_ns = time.monotonic_ns() + 2_000_000
    due = [
        (start_ns + job["offset_ns"] + index * job["spacing_ns"] // (2 * len(jobs)), index, 0)
        for index, job in enumerate(jobs)
    ]
    heapq.heapify(due)
    missing = sum(job["count"] for job in jobs)
    end_ns = max(
        each + job["count"] * job["spacing_ns"] + job["wait_ns"]
        for (each, _, _), job in zip(due, jobs, strict=True)
    )
    sleep_on = [epoll.fileno()]
    while missing:
        now_ns = time.monotonic_ns()
        if now_ns > end_ns:
            break
        if due and due[0][0] <= now_ns:
            at_ns, index, sequence = due[0]
            job = jobs[index]
            senders[index].sendto(_PROBE.pack(time.monotonic_ns(), sequence), tuple(job["to"]))
            if sequence + 1 < job["count"]:
                heapq.heapreplace(due, (at_ns + job["spacing_ns"], index, sequence + 1))
            else:
                heapq.heappop(due)
            ready = epoll.poll(0)
        else:
            until_ns = min(due[0][0], end_ns) if due else end_ns
            select.select(sleep_on, (), (), max(0, until_ns - now_ns) / 1e9)
            ready = epoll.poll(0)
        for fd, _events in ready:
            receiver, delays = receivers[fd]
            while True:
                try:
                    data = receiver.recv(128)
                except BlockingIOError:
                    break
                sent_ns, sequence = _PROBE.unpack(data)
                if delays[sequence] is None:
                    delays[sequence] = time.monotonic_ns() - sent_ns
                    missing -= 1
    return arrived


def _floods(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All at once: each link's own queue is filled, and the kernel's receive stamps show how fast it empties."""
    stamps: list[dict[int, int]] = [{} for _ in jobs]
    epoll = select.epoll()
    receivers: dict[int, tuple[socket.socket, dict[int, int]]] = {}
    outgoing: list[list[tuple[socket.socket, int, int]]] = []
    for job, seen in zip(jobs, stamps, strict=True):
        receiver = socket.socket(fileno=job["receive"])
        receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        receivers[job["receive"]] = receiver, seen
        epoll.register(job["receive"], select.EPOLLIN)
        senders = [socket.socket(fileno=fd) for fd in job["send"]]
        for sender in senders:
            sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, FLOOD_PAYLOAD_BYTES)
        chunks = range(0, job["frames"], job["chunk"])
        outgoing.append(
            [
                (senders[number % len(senders)], first, min(job["chunk"], job["frames"] - first))
                for number, first in enumerate(chunks)
            ][::-1]
        )
    # The kernel turns receive stamps on a little later (net_enable_timestamp defers it); until then it stamps when we read.
    time.sleep(_STAMPS_ON_S)
    filler = bytes(FLOOD_PAYLOAD_BYTES - _SEQUENCE.size)
    end_ns = time.monotonic_ns() + max(job["wait_ns"] for job in jobs)
    while time.monotonic_ns() < end_ns and any(
        left or (job["frames"] - 1) not in seen
        for left, job, seen in zip(outgoing, jobs, stamps, strict=True)
    ):
        # All of it at once, into the link's own queue, which holds it: however slow this process is, the queue never runs
        # dry. What a socket cannot take yet goes when there is room.
        for left, job in zip(outgoing, jobs, strict=True):
            while left:
                sender, first, count = left[-1]
                data = b"".join(_SEQUENCE.pack(first + number) + filler for number in range(count))
                try:
                    sender.sendto(data, tuple(job["to"]))
                except (BlockingIOError, InterruptedError):
                    break
                left.pop()
        for fd, _events in epoll.poll(0.001):
            _drain(*receivers[fd])
    return [_rate(job, seen) for job, seen in zip(jobs, stamps, strict=True)]


def _drain(receiver: socket.socket, seen: dict[int, int]) -> None:
    while True:
        try:
            data, extra, _flags, _address = receiver.recvmsg(FLOOD_PAYLOAD_BYTES, 64)
        except BlockingIOError:
            return
        seconds, nanoseconds = _TIMESPEC.unpack(extra[0][2])
        seen[_SEQUENCE.unpack_from(data)[0]] = seconds * 1_000_000_000 + nanoseconds


def _rate(job: dict[str, Any], seen: dict[int, int]) -> dict[str, Any]:
    """Bits a second between two chunks' arrivals, the bucket's first free ride left out.

    A chunk leaves when the bucket holds enough for all of it: the time between two is what those after the first took.
    Sequence numbers count, not arrivals, so that packets lost on the way (as asked) do not slow the rate.
    """
    first = next(
        (sequence for sequence in sorted(seen) if sequence >= job["skip"] and sequence % job["chunk"] == 0),
        None,
    )
    last = max(seen, default=None)
    if first is None or last is None or seen[last] <= seen[first] or last - first < 2 * job["chunk"]:
        return {"rate_bps": None, "frames": len(seen)}
    frames = last // job["chunk"] * job["chunk"] - first
    last_stamp = seen.get(last // job["chunk"] * job["chunk"], seen[last])
    # To the last chunk's beginning: all frames of one chunk carry one stamp when it stayed whole.
    duration_ns = last_stamp - seen[first]
    bits = frames * FLOOD_FRAME_BYTES * 8
    return {"rate_bps": bits * 1_000_000_000 // max(1, duration_ns), "frames": len(seen)}


if __name__ == "__main__":
    main()
