"""Signs of life are not signed: whoever sends them keeps registry-unreachable off, never feed-stale; and is not asked without end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from enforcer.follow import Feed
from enforcer.registry.feed import Standing, sign, standing_body
from tests.agent_bench import KEY, Bench, S, entry
from tests.test_enforcer_dripping_feed import HEAD, until

NOTHING = b"HTTP/1.1 204 No Content\r\nfeed-lines: 1\r\n\r\n"
SAME = b"HTTP/1.1 304 Not Modified\r\nfeed-lines: 1\r\n\r\n"
NOT_THERE = b"HTTP/1.1 404 Not Found\r\nfeed-lines: 1\r\ncontent-length: 0\r\n\r\n"


class Forger:
    """Stands before the registry without its key. signs: whether it sends newlines to whoever listens, or hangs up at once."""

    def __init__(self, standing: bytes, signs: bool = True) -> None:
        """standing: the answer to /serial."""
        self.standing, self.signs, self.is_silent, self.asked = standing, signs, False, 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            self.asked += 1
            if b"/serial" in path:
                writer.write(self.standing)
            elif b"/snapshot" in path:
                writer.write(SAME)
            elif b"sign=" not in path:
                writer.write(NOTHING)
            else:
                writer.write(HEAD + b"\r\n\n")
                while self.signs and not self.is_silent:
                    writer.write(b"\n")
                    await writer.drain()
                    await asyncio.sleep(0.005)
        writer.close()


@contextlib.asynccontextmanager
async def followed(bench: Bench, forger: Forger) -> AsyncIterator[None]:
    server = await asyncio.start_server(forger.answer, "127.0.0.1", 0)
    bench.agent.feed = Feed(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed", within_s=0.4)
    following = asyncio.create_task(bench.agent._follower().run())
    try:
        yield
    finally:
        following.cancel()
        server.close()


def replayed(bench: Bench) -> bytes:
    """A sign of life that was signed once, sent again and again."""
    body = sign(standing_body(Standing(1, bench.now_ns)), KEY).encode()
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def test_newlines_keep_unreachable_off_and_stale_tells(tmp_path) -> None:
    async def play() -> None:
        bench = Bench(tmp_path)
        bench.snapshot(1, entry(7))
        agent, forger = bench.agent, Forger(NOT_THERE)
        async with followed(bench, forger):
            stale_s = agent.policy.on_failure.feed_stale_after_ns / 1e9
            await until(lambda: agent.feed.can_listen)
            for _ in range(round(stale_s / 2) + 2):
                bench.pass_time(2)
                await until(lambda: agent.answered_ns == agent.clock.since_boot_ns())
            begun = [line["condition"] for line in bench.lines("failure") if line["state"] == "begun"]
            assert "feed-stale" in begun and "registry-unreachable" not in begun
            forger.is_silent = True  # control: then it is unreachable
            await asyncio.sleep(0)
            bench.pass_time(agent.policy.on_failure.registry_unreachable_after_ns / 1e9 + 1)
            assert "registry-unreachable" in agent.conditions.lasting

    asyncio.run(play())


@pytest.mark.parametrize(
    ("how", "most_in_vain", "least", "most"),
    [
        ("replayed", 8, 2, 20),
        ("not there", 8, 2, 20),
        ("replayed", 10**9, 100, 10**9),  # control
    ],
)
def test_whoever_answers_at_once_with_nothing_new_is_not_asked_as_fast_as_it_answers(
    tmp_path, monkeypatch, how, most_in_vain, least, most
) -> None:
    monkeypatch.setattr("enforcer.following._MOST_IN_VAIN", most_in_vain)

    async def play() -> None:
        bench = Bench(tmp_path)
        bench.snapshot(1, entry(7))
        forger = Forger(replayed(bench) if how == "replayed" else NOT_THERE, signs=False)
        bench.now_ns += bench.agent.policy.on_failure.feed_stale_after_ns + S
        async with followed(bench, forger):
            await until(lambda: bench.agent.answered_ns == bench.agent.clock.since_boot_ns())
            bench.pass_time(0.1)
            assert "feed-stale" in bench.agent.conditions.lasting
            began_s, before = time.monotonic(), forger.asked
            await until(lambda: time.monotonic() - began_s > 1.5)
        assert least <= forger.asked - before < most, forger.asked
        assert "feed-stale" in bench.agent.conditions.lasting

    asyncio.run(play())
