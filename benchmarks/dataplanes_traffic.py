"""What traffic costs on two roads side by side: packets, round trips, TCP. Every figure comes with plain forwarding beside it."""

from __future__ import annotations

import collections
import itertools
import json
import math
import os
import random
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataplanes_candidate import Candidate
from dataplanes_world import CLIENT_PORT, Burst, ends, inside

_WINDOWS = 6
_BURSTS = 32
FIRST_PACKETS = 2048
_CHUNK, _WINDOW = 128 << 10, 1 << 20  # bytes


@dataclass(frozen=True)
class Spread:
    """A median and an interval that covers it with at least 93 % (order statistics; 5 repeats: smallest to largest)."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    n, drop = len(ordered), 0
    while 2 * (drop + 1) < n and 1 - 2 * sum(math.comb(n, k) for k in range(drop + 2)) / 2**n >= 0.93:
        drop += 1
    return Spread(statistics.median(ordered), ordered[drop], ordered[n - 1 - drop], n)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0..1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def a_and_b(
    plain: Candidate,
    others: Sequence[Candidate],
    repeats: int,
    figures: Mapping[Candidate, Callable[[], Any]],
    give_up: Callable[[Candidate, Exception], None],
) -> dict[str, list[tuple[Any, Any]]]:
    """(plain, candidate) pairs measured one right after the other, all candidates in turn, which of the two first alternating.

    A candidate whose figure fails is given up and not in the result. Raises what plain's figure raises.
    """
    pairs: dict[Candidate, list[tuple[Any, Any]]] = {each: [] for each in others}
    for repeat in range(repeats):
        for other in list(pairs) if repeat % 4 < 2 else list(reversed(pairs)):
            before = figures[plain]() if repeat % 2 == 0 else None
            try:
                value = figures[other]()
            except (OSError, AssertionError) as error:
                del pairs[other]
                give_up(other, error)
                continue
            pairs[other].append((before if repeat % 2 == 0 else figures[plain](), value))
    return {each.name: found for each, found in pairs.items()}


@contextmanager
def known_flow(candidate: Candidate) -> Iterator[Callable[[], float]]:
    """Gives a function that measures packets a second of one registered flow of 64-byte packets: what arrived; the best of six windows of 2,048."""
    index = _udp_index(candidate.size - 1)
    burst = Burst([candidate.road.frame(index)] * 64)

    def measure() -> float:
        return max(_window(candidate, burst) for _ in range(_WINDOWS))

    measure()
    yield measure


@contextmanager
def first_packets(candidate: Candidate, seed: int = 1) -> Iterator[Callable[[], float]]:
    """Gives a function that measures nanoseconds a packet, each the first of its flow, of registrations all over the list; the best of four goes."""
    rng = random.Random(seed)
    indices = [_udp_index(rng.randrange(candidate.size)) for _ in range(FIRST_PACKETS)]
    # Of few registrations some come twice: then from another port, for it must be the first packet of a flow too.
    times: collections.Counter[int] = collections.Counter()
    steps = []
    for index in indices:
        steps.append(times[index])
        times[index] += 1
    groups = [slice(start, start + 64) for start in range(0, FIRST_PACKETS, 64)]
    bursts = [Burst([candidate.road.frame(index) for index in indices[group]]) for group in groups]
    most = max(steps) + 1
    ports = itertools.cycle(range(1024, 33000, most))

    def once() -> float:
        candidate.forget_flows()
        port = next(ports)
        for burst, group in zip(bursts, groups, strict=True):
            burst.come_from([port + step for step in steps[group]])
        before = candidate.road.delivered()
        start = last = time.perf_counter_ns()
        undisturbed, packets = _send_all(candidate, bursts)
        if packets and candidate.road.delivered() - before == FIRST_PACKETS:
            return undisturbed / packets
        arrived = 0
        while arrived < FIRST_PACKETS:  # they wait for a process, which takes its time
            now, count = time.perf_counter_ns(), candidate.road.delivered() - before
            if count > arrived:
                arrived, last = count, now
            elif now - last > 50_000_000:
                break
        return (
            undisturbed / packets
            if arrived == FIRST_PACKETS and packets
            else (last - start) / max(arrived, 1)
        )

    def measure() -> float:
        return min(once() for _ in range(4))

    measure()
    yield measure


@contextmanager
def round_trips(candidate: Candidate, count: int) -> Iterator[Callable[[], list[int]]]:
    """Gives a function that measures so many round trips of a registered flow, in nanoseconds each.

    One thread sends, takes the packet at the server, answers and takes the answer: no process has to be woken on the way.
    Trips during which the thread was put off its processor for another one are left out: they measure that other one.
    """
    index = _udp_index(candidate.size // 2)
    line, endpoint = candidate.road.give_addresses(index)
    with inside(candidate.road.client):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind((line, CLIENT_PORT + 7))
        client.connect((endpoint, ends(index)[2]))
    with inside(candidate.road.server):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((endpoint, ends(index)[2]))
        server.connect((line, CLIENT_PORT + 7))
    client.settimeout(2.0)
    server.settimeout(2.0)
    clock, to_server, at_server = time.perf_counter_ns, client.send, server.recv
    to_client, at_client = server.send, client.recv

    def measure(most: int = count) -> list[int]:
        found: list[int] = []
        tried, put_off = 0, _put_off()
        while len(found) < most and tried < 3 * most:
            tried += 1
            start = clock()
            to_server(b"x" * 18)
            at_server(64)
            to_client(b"x" * 18)
            at_client(64)
            took = clock() - start
            before, put_off = put_off, _put_off()
            if before == put_off:
                found.append(took)
        return found

    try:
        measure(20)
        yield measure
    finally:
        client.close()
        server.close()


@contextmanager
def bulk(candidate: Candidate) -> Iterator[Callable[[], float]]:
    """Gives a function that measures the bits a second of a registered TCP flow, written and read by one thread.

    The kernel carries segments and acknowledgements inside the calls, so it is the processor time TCP takes, without what waking
    another process costs on this machine. The best of 64 windows of 1 MB in which the thread was not put off.
    """
    index = _tcp_index(candidate, 2)
    line, endpoint = candidate.road.give_addresses(index)
    with inside(candidate.road.server):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((endpoint, ends(index)[2]))
        listener.listen(1)
    with inside(candidate.road.client):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.bind((line, 0))
    client.settimeout(5.0)
    client.connect((endpoint, ends(index)[2]))
    server, _ = listener.accept()
    listener.close()
    for opened in (client, server):
        opened.settimeout(5.0)
    data, room = b"\xa5" * _CHUNK, bytearray(_CHUNK)

    def window() -> float:
        before, start = _put_off(), time.perf_counter_ns()
        for _ in range(_WINDOW // _CHUNK):
            client.sendall(data)
            there = 0
            while there < _CHUNK:
                there += server.recv_into(room)
        took = time.perf_counter_ns() - start
        return _WINDOW * 8e9 / took if _put_off() == before else 0.0

    def measure() -> float:
        end = time.monotonic() + 10
        found = [window() for _ in range(64)]
        while not any(found):
            if time.monotonic() > end:
                raise OSError(
                    "the machine is too busy: no 1 MB went through without another process on the processor"
                )
            found.append(window())
        return max(found)

    try:
        for _ in range(32):  # until TCP's window has grown
            window()
        yield measure
    finally:
        client.close()
        server.close()


@contextmanager
def iperf3(candidate: Candidate) -> Iterator[Callable[[], float]]:
    """Gives a function that measures the bits a second of iperf3 over a registered TCP flow (the median of its tenths)."""
    index = _tcp_index(candidate, 3)
    line, endpoint = candidate.road.give_addresses(index)
    port = str(ends(index)[2])
    server_argv = ["nsenter", f"--net={candidate.road.server}", "iperf3", "-s", "-p", port, "-B", endpoint]
    server = subprocess.Popen(server_argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    argv = ["nsenter", f"--net={candidate.road.client}", "iperf3", "-c", endpoint, "-p", port, "-B", line]
    argv += ["-t", "1", "-i", "0.1", "-J", "--connect-timeout", "2000"]
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:  # one each: where the scheduler puts them is half of the spread
        argv += ["-A", f"{processors[0]},{processors[1]}"]

    def measure() -> float:
        deadline = time.monotonic() + 5
        while True:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
            report = json.loads(done.stdout or "{}")
            if "error" not in report and report.get("intervals"):
                return statistics.median(each["sum"]["bits_per_second"] for each in report["intervals"])
            if time.monotonic() > deadline:  # its server may be starting, or not be done with the run before
                raise OSError(f"iperf3 through {candidate.name}: {report.get('error', done.stderr)}")
            time.sleep(0.02)

    try:
        yield measure
    finally:
        server.terminate()
        server.wait()


def _put_off() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _tcp_index(candidate: Candidate, part: int) -> int:
    start = candidate.size // part
    return next(each for each in range(start, candidate.size) if ends(each)[3] == "openvpn-tcp")


def _udp_index(index: int) -> int:
    return index - (ends(index)[3] == "openvpn-tcp")


def _window(candidate: Candidate, burst: Burst) -> float:
    before, start = candidate.road.delivered(), time.perf_counter_ns()
    undisturbed, packets = _send_all(candidate, [burst] * _BURSTS)
    arrived = candidate.road.delivered() - before
    elapsed = time.perf_counter_ns() - start
    if arrived < 0.99 * _BURSTS * burst.count or not packets:  # more than it can take: all of the time counts
        return arrived * 1e9 / elapsed
    return packets * 1e9 / undisturbed


def _send_all(candidate: Candidate, bursts: Sequence[Burst]) -> tuple[int, int]:
    """Nanoseconds and packets of the bursts during which this thread was not put off its processor for another one."""
    nanoseconds = packets = 0
    put_off = _put_off()
    for burst in bursts:
        start = time.perf_counter_ns()
        burst.send(candidate.sender)
        took = time.perf_counter_ns() - start
        before, put_off = put_off, _put_off()
        if before == put_off:
            nanoseconds += took
            packets += burst.count
    return nanoseconds, packets
