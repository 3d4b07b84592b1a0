"""Listening to a feed: signs of life, fresh standings and the change over one HTTP answer; what a proxy can do to it; HTTP itself."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette

from enforcer.allowlist import Allowlist
from enforcer.feed_http import Http, Pace
from enforcer.follow import Feed, Line, SerialUnknown, Unreachable
from enforcer.registry.feed import sign, snapshot_body, verify, verify_standing
from enforcer.registry.feed_calls import FeedCalls
from enforcer.registry.ledger import Ledger
from enforcer.registry.signing import SigningKeys
from enforcer.registry.states import Rules, application
from tests.agent_bench import KEY as AGENTS_KEY
from tests.agent_bench import Bench, entry
from tests.test_registry_feed_calls import FORM

KEY = Ed25519PrivateKey.generate()
HEAD = b"HTTP/1.1 200 OK\r\nfeed-keys: 2\r\nfeed-lines: 1\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def heard(answer: bytes, hangs: bool = False, asks=lambda feed: feed.listen(7, 0.2, 60, 290)):
    """What an enforcer hears of a server that says this."""

    async def play():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hangs:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        feed = Feed(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed")
        found, error = [], None
        try:
            async with contextlib.aclosing(asks(feed)) as lines:
                async for line in lines:
                    found.append(line)
        except Exception as caught:
            error = caught
        await feed.close()
        server.close()
        return feed, found, error

    return asyncio.run(play())


def test_lines_come_whole_however_they_are_cut():
    text = b'\nstanding {"a": 1}\n\nchange {"body": "x"}\n'
    for size in (1, 3, 7, len(text)):
        pieces = [chunk(text[at : at + size]) for at in range(0, len(text), size)]
        feed, lines, error = heard(HEAD + b"".join(pieces) + b"0\r\n\r\n")
        assert error is None and feed.announced == 2 and feed.can_listen
        alive = Line("alive")
        assert lines == [alive, Line("standing", b'{"a": 1}'), alive, Line("change", b'{"body": "x"}')]


def test_a_registry_that_falls_silent_is_unreachable_and_listened_to_again():
    feed, lines, error = heard(
        HEAD + chunk(b"\n"), hangs=True, asks=lambda feed: feed.listen(7, -1.8, 60, 290)
    )
    assert lines == [Line("alive")] and isinstance(error, Unreachable) and "no answer in time" in str(error)
    assert feed.can_listen


def test_where_lines_are_kept_back_it_is_asked_in_the_old_way():
    feed, lines, error = heard(HEAD, hangs=True, asks=lambda feed: feed.listen(7, -1.8, 60, 290))
    assert lines == [] and isinstance(error, Unreachable)
    assert not feed.can_listen


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 2\r\n\r\n{}", SerialUnknown),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Unreachable),
        (HEAD + b"zz\r\n\r\n", Unreachable),
        (HEAD + b"5\r\nab", Unreachable),
    ],
)
def test_what_is_no_answer_is_told(answer, kind):
    assert isinstance(heard(answer)[2], kind)


def whole(*answers: bytes) -> list[bytes]:
    """The bodies of one question after another over as many connections as it takes."""

    async def play():
        left = list(answers)

        async def serve(reader, writer):
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while left:
                    await reader.readuntil(b"\r\n\r\n")
                    answer = left.pop(0)
                    writer.write(answer)
                    await writer.drain()
                    if b"content-length" not in answer and b"chunked" not in answer:
                        break
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        http = Http(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed")
        bodies = [(await http.get("/x", {}, Pace(2.0)))[1] for _ in answers]
        http.close()
        server.close()
        return bodies

    return asyncio.run(play())


def test_bodies_by_length_by_chunks_and_to_the_end():
    by_length = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    by_chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"de") + b"0\r\nt: x\r\n\r\n"
    to_the_end = b"HTTP/1.1 200 OK\r\n\r\nfgh"
    assert whole(by_length, by_chunks, by_length, to_the_end, by_length) == [
        b"abc",
        b"de",
        b"abc",
        b"fgh",
        b"abc",
    ]


def test_what_the_registry_says_to_a_listener():
    ledger = Ledger(":memory:", Rules(requires_verification=False))
    number = ledger.apply(application(FORM)).number
    ledger.decide(number, "approve")
    calls = FeedCalls(ledger, KEY)

    async def play():
        lines, since = [], ledger.serial
        async for line in calls.lines(since, 5.0, 0.05, 0.01):
            lines.append(line)
            if len(lines) == 3:
                ledger.decide(number, "revoke")
                calls.wake()
        return lines, since

    lines, since = asyncio.run(play())
    assert lines[0] == "\n" and lines[1].startswith("standing ") and lines[-1].startswith("change ")
    assert verify_standing(lines[1].removeprefix("standing "), KEY.public_key()).serial == since
    assert verify(lines[-1].removeprefix("change "), KEY.public_key(), since).serial == since + 1
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
    assert json.loads(lines[-1].removeprefix("change "))["signature"]


def test_a_listener_is_let_go_in_time_and_when_the_registry_ends():
    calls = FeedCalls(Ledger(":memory:"), KEY)

    async def count(wait_s: float) -> int:
        return len([line async for line in calls.lines(0, wait_s, 0.05, 0)])

    async def play():
        assert 3 <= await count(0.18) <= 5
        waiting = asyncio.create_task(count(60))
        await asyncio.sleep(0.06)
        calls.close()
        return await asyncio.wait_for(waiting, 2)

    assert asyncio.run(play()) >= 1


def test_who_listens_learns_that_the_key_was_rolled_over_and_takes_what_the_new_one_signs(tmp_path):
    """Over real HTTP, the agent's own follower: the roll-over is asked for beside the answer that goes on."""
    bench = Bench(tmp_path)
    (tmp_path / "feed.key").write_text(AGENTS_KEY.private_bytes_raw().hex() + "\n")
    now_ns = bench.now_ns
    keys = SigningKeys(tmp_path / "feed.key", clock=lambda: now_ns)
    ledger = Ledger(":memory:", Rules(requires_verification=False), clock=lambda: now_ns)
    calls = FeedCalls(ledger, keys, lambda: now_ns)
    agent = bench.agent

    def approve() -> None:
        ledger.decide(ledger.apply(application(FORM)).number, "approve")
        calls.wake()

    async def until(is_so):
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.01)

    async def play():
        nonlocal now_ns
        config = uvicorn.Config(
            Starlette(routes=calls.routes()), port=0, lifespan="off", log_level="error", loop="asyncio"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        agent.feed = Feed(f"http://127.0.0.1:{port}/feed")
        approve()
        following = asyncio.create_task(agent._follower().run())
        try:
            await until(lambda: calls.listeners)
            now_ns += 10**9
            keys.roll(now_ns + 100 * 10**9, now_ns + 1000 * 10**9)
            calls.wake()
            await until(lambda: len(agent.intake.ring.all) == 2)
            await until(lambda: calls.listeners)
            now_ns = bench.now_ns = now_ns + 2000 * 10**9  # from here on only the new key counts
            approve()
            await until(lambda: agent.allowlist is not None and agent.allowlist.serial == 2)
            assert agent.feed.can_listen and not agent.feed.unanswered and not agent.failures.refused
        finally:
            following.cancel()
            calls.close()
            server.should_exit = True
            await serving

    asyncio.run(play())


def test_roll_overs_that_are_not_told_keep_no_list_back(tmp_path):
    bench = Bench(tmp_path)
    listing = sign(snapshot_body(Allowlist(1, {7: entry(7)}), bench.now_ns), AGENTS_KEY).encode()

    async def play():
        async def serve(reader, writer):
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                    status, body = (200, listing) if path.endswith(b"/snapshot") else (500, b"")
                    head = f"HTTP/1.1 {status} X\r\nfeed-keys: 1\r\ncontent-length: {len(body)}\r\n\r\n"
                    writer.write(head.encode() + body)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        agent = bench.agent
        agent.feed = Feed(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed")
        following = asyncio.create_task(agent._follower().run())
        async with asyncio.timeout(5):
            while agent.allowlist is None:
                await asyncio.sleep(0.01)
        following.cancel()
        server.close()
        assert agent.feed.unanswered["status"]

    asyncio.run(play())
