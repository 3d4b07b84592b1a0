"""Sockets that serve one attempt after another, each from a new port; a ticker that wakes for nobody's job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

from testbed.traffic.attempt import Host
from testbed.traffic.ports import Ports
from testbed.traffic.ticker import Ticker

HOST = Host("host", contextlib.nullcontext, "127.0.0.1", None)


def server() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(5)
    return made


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_socket_serves_again_from_another_port():
    async def play():
        ports, far, heard = Ports(), server(), []
        one = ports.connected(HOST, 4, far.getsockname(), heard.append)
        first = one.socket.getsockname()
        one.socket.send(b"a")
        assert far.recvfrom(9) == (b"a", first)
        far.sendto(b"A", first)
        await until(lambda: heard)
        ports.give_back(HOST, 4, one, True)
        far.sendto(b"late", first)  # nobody's any more
        other = ports.connected(HOST, 4, far.getsockname(), heard.append)
        assert other is one
        second = other.socket.getsockname()
        assert second != first and second[1] != 0
        other.socket.send(b"b")
        assert far.recvfrom(9) == (b"b", second)
        far.sendto(b"B", second)
        await until(lambda: len(heard) == 2)
        assert heard == [b"A", b"B"]
        assert ports.connected(HOST, 4, far.getsockname(), heard.append) is not one  # it is in use
        ports.close(other)
        ports.close_all()
        far.close()

    asyncio.run(play())


def test_what_a_socket_is_told_reaches_its_attempt_alone():
    async def play():
        ports, far, heard = Ports(), server(), []
        nobody = far.getsockname()
        far.close()
        port = ports.connected(HOST, 4, nobody, heard.append)
        port.socket.send(b"x")
        await until(lambda: heard)
        assert isinstance(heard[0], ConnectionRefusedError)
        ports.close(port)
        ports.close_all()

    asyncio.run(play())


def test_what_came_for_one_attempt_is_not_the_next_ones():
    async def play():
        ports, far, heard = Ports(), server(), []
        one = ports.connected(HOST, 4, far.getsockname(), heard.append)
        far.sendto(b"late", one.socket.getsockname())  # the loop has no time to read it
        ports.give_back(HOST, 4, one, False)
        assert ports.connected(HOST, 4, far.getsockname(), heard.append) is one
        far.sendto(b"mine", one.socket.getsockname())
        await until(lambda: heard)
        assert heard == [b"mine"]
        ports.close(one)
        far.close()

    asyncio.run(play())


def test_a_cancelled_job_is_not_run_and_wakes_nobody(monkeypatch):
    async def play():
        ticker, done, woken = Ticker(asyncio.get_running_loop()), [], []
        now_ns = time.monotonic_ns()
        for number in range(4):
            ticker.at(now_ns + (number + 1) * 10_000_000, lambda number=number: done.append(number))
        ticker.at(now_ns + 15_000_000, lambda: done.append("cancelled")).cancel()
        armed = ticker._arm
        monkeypatch.setattr(ticker, "_arm", lambda when_ns: (woken.append(when_ns - now_ns), armed(when_ns)))
        await until(lambda: len(done) == 4)
        await asyncio.sleep(0.02)
        ticker.close()
        assert done == [0, 1, 2, 3]
        assert woken == [20_000_000, 30_000_000, 40_000_000]

    asyncio.run(play())


def test_an_idle_ticker_is_not_ready():
    async def play():
        ticker, done = Ticker(asyncio.get_running_loop()), []
        ticker.at(time.monotonic_ns(), lambda: done.append(1))
        await until(lambda: done)
        with contextlib.suppress(BlockingIOError):
            assert not os.read(ticker._fd, 8)
        ticker.at(time.monotonic_ns() + 1_000_000, lambda: done.append(2))
        await until(lambda: len(done) == 2)
        ticker.close()

    asyncio.run(play())
