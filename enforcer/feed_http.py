"""HTTP/1.1 for one follower of a feed: one connection, kept while it lasts; answers whole, or as their parts come.

Small, because it is what an idle enforcer does all day: a part of a running answer costs one system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_CONNECT_S = 2.0
_HEAD_BYTES, _PIECE_BYTES = 1 << 16, 1 << 18


class HttpError(Exception):
    """No answer, or none that is HTTP; the text says how, in the system's words where it has some."""


@dataclass(frozen=True, slots=True)
class Head:
    """Header names are in lower case; of several with one name the last counts."""

    status: int
    headers: dict[str, str]


class Http:
    """url: http(s)://HOST[:PORT]/PATH, to which the paths asked for are added. One question at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url, self._base = url, quote(parts.path.rstrip("/"), safe="/%")
        self._host, self._is_tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._named = parts.netloc.rpartition("@")[2]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(
        self,
        path: str,
        query: dict[str, object],
        read_s: float,
        headers: dict[str, str] | None = None,
        most_bytes: int | None = None,
    ) -> tuple[Head, bytes]:
        """The whole answer. read_s: how long each part of it may let wait. Raises HttpError, also when it has more than most_bytes."""
        async with contextlib.aclosing(self.parts(path, query, read_s, headers)) as found:
            head, pieces, left = None, [], most_bytes
            async for part in found:
                if isinstance(part, Head):
                    head = part
                    continue
                pieces.append(part)
                left = None if left is None else left - len(part)
                if left is not None and left < 0:
                    raise HttpError(
                        f"{self._url}{path}: the answer goes on after {most_bytes} bytes; no more are read"
                    )
        assert head is not None
        return head, b"".join(pieces)

    async def parts(
        self, path: str, query: dict[str, object], read_s: float, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[Head | bytes, None]:
        """First the head, then the body as it comes. Left before its end, the connection is closed. Raises HttpError."""
        is_whole = False
        try:
            head = await self._ask(path, query, read_s, headers or {})
            yield head
            async for piece in self._body(head, read_s):
                yield piece
            is_whole = head.headers.get("connection", "").lower() != "close"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise HttpError(f"{self._url}{path}: {_reason(error)}") from error
        finally:
            if not is_whole:
                self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, path: str, query: dict[str, object], read_s: float, headers: dict[str, str]) -> Head:
        words = {"host": self._named, "accept": "*/*", "user-agent": "allowlist-enforcer", **headers}
        target = f"{self._base}{path}" + (f"?{urlencode(query)}" if query else "")
        request = f"GET {target} HTTP/1.1\r\n" + "".join(
            f"{name}: {text}\r\n" for name, text in words.items()
        )
        is_kept = self._streams is not None
        try:
            return await self._exchange(request.encode() + b"\r\n", read_s)
        except (ConnectionError, EOFError):
            if not is_kept:
                raise
        self.close()  # the server had ended a connection that was kept: that is no answer to this question
        return await self._exchange(request.encode() + b"\r\n", read_s)

    async def _exchange(self, request: bytes, read_s: float) -> Head:
        if self._streams is None:
            self._loop = asyncio.get_running_loop()
            context = ssl.create_default_context() if self._is_tls else None
            async with asyncio.timeout(_CONNECT_S):
                self._streams = await asyncio.open_connection(
                    self._host, self._port, ssl=context, limit=_HEAD_BYTES
                )
        reader, writer = self._streams
        writer.write(request)
        while True:
            head = _head(await self._in_time(reader.readuntil(b"\r\n\r\n"), read_s))
            if head.status >= 200:  # 1xx: there is more to come
                return head

    async def _body(self, head: Head, read_s: float) -> AsyncIterator[bytes]:
        if head.status in (204, 304):
            return
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while left := int((await self._line(read_s)).partition(b";")[0].strip(), 16):
                async for piece in self._bytes(left, read_s):
                    yield piece
                await self._line(read_s)
            while await self._line(read_s):
                """Trailers."""
            return
        length = int(head.headers.get("content-length", "-1"))
        async for piece in self._bytes(length, read_s):
            yield piece
        if length < 0:  # the server closes at the end
            self.close()

    async def _bytes(self, length: int, read_s: float) -> AsyncIterator[bytes]:
        """So many of them, or all to the end of the connection when length is negative."""
        assert self._streams is not None
        reader, left = self._streams[0], length
        while left:
            wanted = _PIECE_BYTES if length < 0 else min(left, _PIECE_BYTES)
            piece = await self._in_time(reader.read(wanted), read_s)
            if piece:
                yield piece
            elif length < 0:
                return
            else:
                raise EOFError
            left -= len(piece) if length > 0 else 0

    async def _line(self, read_s: float) -> bytes:
        assert self._streams is not None
        return (await self._in_time(self._streams[0].readuntil(b"\r\n"), read_s))[:-2]

    async def _in_time(self, reading: Coroutine[Any, Any, bytes], read_s: float) -> bytes:
        """asyncio.timeout asks the kernel for the process's id six times; a sign of life would cost more in them than in itself."""
        assert self._streams is not None
        transport, is_late = self._streams[1].transport, False

        def end() -> None:
            nonlocal is_late
            is_late = True
            transport.abort()

        loop = self._loop
        assert loop is not None
        timer = loop.call_at(loop.time() + read_s, end)
        try:
            data = await reading
        except (EOFError, ConnectionError):
            if is_late:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        if is_late and not data:
            raise TimeoutError
        return data


def _head(data: bytes) -> Head:
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise ValueError("the answer is not HTTP")
    fields = (line.partition(":") for line in lines)
    return Head(int(rest[:3]), {name.strip().lower(): text.strip() for name, _, text in fields})


def _reason(error: Exception) -> str:
    """What the system said, where it did."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    if isinstance(error, EOFError):
        return "the connection was closed before the answer was whole"
    if isinstance(error, OSError) and error.errno and error.strerror:
        # asyncio puts a text of its own in the place of connect(2)'s; getaddrinfo(3) has numbers below 0 and its own text
        text = os.strerror(error.errno) if error.errno > 0 else error.strerror
        return text[:1].lower() + text[1:]
    return str(error) or type(error).__name__
