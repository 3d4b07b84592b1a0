"""A registry, or what stands before it, that sends a byte now and then is not waited for: an answer has a time, and a line of a running one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from enforcer.follow import Feed, Line, Unreachable
from enforcer.metrics import render as render_metrics
from enforcer.status import render, status
from tests.agent_bench import Bench

HEAD = b"HTTP/1.1 200 OK\r\nfeed-lines: 1\r\n"
WITHIN_S = 0.4
Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def listened(feed: Feed, longest_s: float = 60.0) -> object:
    return [line async for line in feed.listen(7, 1.0, 60.0, longest_s)]


CALLS = {
    "snapshot": lambda feed: feed.snapshot(),
    "delta": lambda feed: feed.delta(7, 1.0),
    "listen": listened,
    "standing": lambda feed: feed.standing(),
    "rolls": lambda feed: feed.rolls(),
}


def asked(ask: Callable[[Feed], Awaitable[object]], serve: Serve, **more: float) -> tuple[object, float]:
    """What Feed made of the server's answer, and after how many seconds."""

    async def play() -> tuple[object, float]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await serve(writer)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed"
        feed = Feed(url, within_s=more.get("within_s", WITHIN_S), least_bps=int(more.get("least_bps", 8_000)))
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(10):
                found: object = await ask(feed)
        except Unreachable as error:
            found = error
        took_s = time.monotonic() - began_s
        assert feed.begun == ""
        await feed.close()
        server.close()
        return found, took_s

    return asyncio.run(play())


async def drip(
    writer: asyncio.StreamWriter, begin: bytes, piece: bytes = b" ", every_s: float = 0.05
) -> None:
    writer.write(begin)
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(every_s)


DRIPS = {
    "of known length": (HEAD + b"content-length: 5000\r\n\r\n{", b" "),
    "to the end": (HEAD + b"\r\n{", b" "),
    "in chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"),
    "in a chunk's head": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"0"),
}


@pytest.mark.parametrize("how", DRIPS)
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_drips_is_not_waited_for(call: str, how: str) -> None:
    found, took_s = asked(CALLS[call], lambda writer: drip(writer, *DRIPS[how]))
    assert isinstance(found, Unreachable) and found.word == "slow", found
    assert "too few" in str(found) and " byte" in str(found)
    assert WITHIN_S * 0.9 < took_s < 2


def test_trailers_without_end_are_an_answer_that_drips() -> None:
    begin = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    found, took_s = asked(CALLS["snapshot"], lambda writer: drip(writer, begin, b"a: b\r\n"))
    assert isinstance(found, Unreachable) and found.word == "slow" and took_s < 2


@pytest.mark.parametrize("piece", [b"a", b"a: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_that_drips_is_no_answer_in_time(piece: bytes) -> None:
    begin = b"" if piece.startswith(b"HTTP") else HEAD
    found, took_s = asked(lambda feed: feed.delta(7, -1.6), lambda writer: drip(writer, begin, piece))
    assert isinstance(found, Unreachable) and found.word == "silent" and 0.3 < took_s < 2


def test_a_long_answer_may_take_as_long_as_its_bytes_do() -> None:
    """Control: five times within_s, at more than the least rate; and the same is refused where more is wanted."""

    async def steady(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 40000\r\n\r\n")
        for _ in range(40):
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.05)

    found, took_s = asked(CALLS["snapshot"], steady)
    assert isinstance(found, bytes) and len(found) == 40_000 and took_s > 4 * WITHIN_S
    found, took_s = asked(CALLS["snapshot"], steady, least_bps=10_000_000)
    assert isinstance(found, Unreachable) and found.word == "slow" and took_s < 1.5


def test_signs_of_life_may_go_on_but_a_line_that_has_begun_must_end() -> None:
    async def signs_then_a_drip(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        for _ in range(12):
            writer.write(b"\n")
            await asyncio.sleep(0.1)
        await drip(writer, b"standing ")

    lines = []

    async def ask(feed: Feed) -> None:
        async for line in feed.listen(7, 1.0, 60.0, 60.0):
            lines.append(line)

    found, took_s = asked(ask, signs_then_a_drip)
    assert lines == [Line("alive")] * 12  # for three times as long as a line may take
    assert isinstance(found, Unreachable) and found.word == "slow" and took_s < 3
    assert "of a line of the answer" in str(found)


def test_whoever_sends_signs_of_life_for_ever_is_asked_anew_in_the_end() -> None:
    found, took_s = asked(
        lambda feed: listened(feed, longest_s=-1.5), lambda writer: drip(writer, HEAD + b"\r\n", b"\n")
    )
    assert isinstance(found, list) and len(found) > 3 and 0.4 < took_s < 2


def test_what_a_listener_does_with_a_line_is_not_the_registrys_time() -> None:
    async def two(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n\nstan")
        await writer.drain()
        await asyncio.sleep(1.0)  # the listener is busy with the first line until then
        writer.write(b"ding {}\n")
        await writer.drain()

    async def ask(feed: Feed) -> list[Line]:
        lines = []
        async for line in feed.listen(7, -1.7, 60.0, 60.0):
            lines.append(line)
            if line.kind == "alive":
                await asyncio.sleep(1.1)
        return lines

    found, _ = asked(ask, two)
    assert found == [Line("alive"), Line("standing", b"{}")]


def test_while_it_drips_the_condition_counts_and_status_and_metrics_name_it(tmp_path) -> None:
    """The agent's own questions to a server that drips, with its clock set by hand."""

    async def play() -> None:
        bench = Bench(tmp_path)
        agent, asked_for = bench.agent, 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked_for
            asked_for += 1
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await drip(writer, *DRIPS["to the end"])
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed"
        agent.feed = Feed(url, within_s=WITHIN_S)
        following = asyncio.create_task(agent._follower().run())
        try:
            await until(lambda: bool(agent.feed.begun))
            bench.pass_time(agent.policy.on_failure.registry_unreachable_after_ns / 1e9 + 1)
            assert "registry-unreachable" in agent.conditions.lasting
            assert "of the answer in" in bench.lines("failure")[-1]["text"]
            found = status(agent)
            assert "/snapshot: " in found["waits_for"] and found["waits_for"] in render(found)
            await until(lambda: agent.feed.unanswered["slow"] > 0)
            found = status(agent)
            assert "too few" in found["waits_for"] and "slow 1" in render(found)
            slow = b'allowlist_unanswered_questions_total{why="slow"} 1.0'
            assert slow in render_metrics(found)
        finally:
            following.cancel()
            server.close()

    asyncio.run(play())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.01)
