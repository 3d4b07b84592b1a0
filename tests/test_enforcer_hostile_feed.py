"""An answer of the feed is read no further than a message can be long, whoever sends it: its signature can be checked only afterwards."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest

from enforcer.follow import MOST_SMALL_BYTES, Feed, Unreachable

MOST = 3 * 2**20  # instead of a gigabyte
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
CALLS = {
    "snapshot": (lambda feed: feed.snapshot(), MOST),
    "delta": (lambda feed: feed.delta(7, 5.0), MOST),
    "listen": (lambda feed: _listened(feed), MOST),
    "standing": (lambda feed: feed.standing(), MOST_SMALL_BYTES),
    "rolls": (lambda feed: feed.rolls(), MOST_SMALL_BYTES),
}


async def _listened(feed: Feed) -> object:
    return [line async for line in feed.listen(7, 5.0, 5.0, 10.0)]


async def asked(call: str, answer: Answer) -> tuple[object, int]:
    """What Feed made of the answer, and how many bytes of it the server could send before the enforcer hung up."""
    sent = 0
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        count = writer.write

        def write(data: bytes) -> None:
            nonlocal sent
            sent += len(data)
            count(data)

        writer.write = write  # type: ignore[method-assign]
        try:
            await answer(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            is_over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    feed = Feed(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed", most_list_bytes=MOST)
    try:
        async with asyncio.timeout(20):
            try:
                found: object = await CALLS[call][0](feed)
            except Unreachable as error:
                found = error
            await feed.close()
            await is_over.wait()
    finally:
        server.close()
    return found, sent


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n[")
    while True:
        writer.write(b'"x",' * 16384)
        await writer.drain()


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def promised(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.mark.parametrize("answer", [endless, endless_chunks, promised])
@pytest.mark.parametrize("call", CALLS)
def test_an_endless_answer_is_hung_up_on(call: str, answer: Answer) -> None:
    found, sent = asyncio.run(asked(call, answer))
    assert isinstance(found, Unreachable) and "bytes" in str(found)
    # What the kernel's two buffers and asyncio's hold comes on top of what was read.
    assert sent < CALLS[call][1] + 16 * 2**20


def test_a_small_answer_that_unfolds_to_a_huge_one_is_not_unfolded() -> None:
    packed = gzip.compress(b"x" * 50 * 2**20)

    async def bomb(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        writer.write(head.encode() + packed)
        await writer.drain()

    found, _ = asyncio.run(asked("snapshot", bomb))
    assert found == packed  # no message: the check of its signature refuses it


@pytest.mark.parametrize(
    ("call", "most"), [(name, most) for name, (_, most) in CALLS.items() if name not in ("rolls", "listen")]
)
def test_an_answer_of_just_that_length_is_read(call: str, most: int) -> None:
    async def whole(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {most}\r\nfeed-keys: 3\r\n\r\n".encode())
        writer.write(b"x" * most)
        await writer.drain()

    found, _ = asyncio.run(asked(call, whole))
    assert isinstance(found, bytes) and len(found) == most
