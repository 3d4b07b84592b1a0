"""The loop for virtual time does what asyncio's own does, and reads the clock once a round."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import pytest

from enforcer import thrifty


@pytest.mark.parametrize("is_thrifty", [True, False])
def test_timers_sockets_threads_and_signals(is_thrifty):
    async def play():
        loop, heard = asyncio.get_running_loop(), []
        assert isinstance(loop, thrifty.ThriftyLoop) is is_thrifty
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        loop.add_reader(one, lambda: heard.append(one.recv(9)))
        loop.add_writer(one, lambda: (heard.append("writable"), loop.remove_writer(one)))
        loop.call_later(0.02, other.send, b"x")
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "signal")
        await asyncio.sleep(0.05)
        assert heard == ["writable", b"x"]
        assert await asyncio.to_thread(lambda: 7) == 7
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(0.01)
        assert heard[-1] == "signal"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        loop.remove_reader(one)
        one.close()
        other.close()

    thrifty.run(play(), is_thrifty)


def test_its_timers_are_never_early_even_after_work_that_took_its_time():
    async def play():
        began = time.monotonic()
        time.sleep(0.05)  # such as a program that is waited for
        await asyncio.sleep(0.05)
        assert time.monotonic() - began >= 0.099
        loop = asyncio.get_running_loop()
        before = loop.now_ns()
        assert loop.now_ns() == before and loop.time() == before / 1e9
        await asyncio.sleep(0.001)
        assert before < loop.now_ns() <= time.monotonic_ns()

    thrifty.run(play(), True)


def test_the_clock_is_read_once_a_round(monkeypatch):
    reads = []

    async def play():
        one, other = socket.socketpair()
        one.setblocking(False)
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        rounds = [0]

        def answer():
            one.recv(1)
            rounds[0] += 1
            other.send(b"x") if rounds[0] < 50 else done.set()

        loop.call_later(60, lambda: None)  # there is a timer, as there always is
        loop.add_reader(one, answer)
        original = loop._look
        monkeypatch.setattr(loop._selector, "_woke", lambda: (reads.append(1), original()))
        other.send(b"x")
        await done.wait()
        loop.remove_reader(one)
        one.close()
        other.close()

    thrifty.run(play(), True)
    assert 49 <= len(reads) <= 53
