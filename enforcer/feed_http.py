"""HTTP/1.1 for one follower of a feed: one connection, kept while it lasts; answers whole, or as their parts come, and each in time.

Small, because it is what an idle enforcer does all day: a part of a running answer costs one system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_CONNECT_S = 2.0
_HEAD_BYTES, _PIECE_BYTES = 1 << 16, 1 << 18


class HttpError(Exception):
    """No answer, or none that is HTTP; the text says how, in the system's words where it has some.

    word: "silent" (nothing came in time), "slow" (something did, but too little), "long" (too much), "broken" (all else).
    """

    def __init__(self, text: str, word: str = "broken") -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an answer may take. Whoever sends a byte now and then is not waited for longer than whoever sends none.

    due_s: from the question to the answer's head, and then between two parts of it. within_s: from the head to the end, besides
    the time that its bytes take at least_bps. by_line: that holds for each line of the answer; between two of them, due_s does.
    """

    due_s: float
    within_s: float = 10.0
    least_bps: int = 1_000_000
    by_line: bool = False


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
        self._path = ""
        self._waiting: _Waiting | None = None

    async def get(
        self,
        path: str,
        query: dict[str, object],
        pace: Pace,
        headers: dict[str, str] | None = None,
        most_bytes: int | None = None,
    ) -> tuple[Head, bytes]:
        """The whole answer. Raises HttpError, also when it has more than most_bytes."""
        async with contextlib.aclosing(self.parts(path, query, pace, headers)) as found:
            head, pieces, left = None, [], most_bytes
            async for part in found:
                if isinstance(part, Head):
                    head = part
                    continue
                pieces.append(part)
                left = None if left is None else left - len(part)
                if left is not None and left < 0:
                    told = f"the answer goes on after {most_bytes} bytes; no more are read"
                    raise HttpError(f"{self._url}{path}: {told}", "long")
        assert head is not None
        return head, b"".join(pieces)

    async def parts(
        self, path: str, query: dict[str, object], pace: Pace, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[Head | bytes, None]:
        """First the head, then the body as it comes. Left before its end, the connection is closed. Raises HttpError."""
        is_whole = False
        self._loop = asyncio.get_running_loop()
        self._path, self._waiting = path, (waiting := _Waiting(pace, self._loop.time))
        try:
            head = await self._ask(path, query, headers or {})
            yield head
            async for piece in self._body(head):
                waiting.note(piece)
                yield piece
                waiting.go_on()
            is_whole = head.headers.get("connection", "").lower() != "close"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            word, reason = "broken", _reason(error)
            if isinstance(error, TimeoutError) and not error.errno:
                word, reason = waiting.told()
            raise HttpError(f"{self._url}{path}: {reason}", word) from error
        finally:
            self._waiting = None
            if not is_whole:
                self.close()

    @property
    def begun(self) -> str:
        """What of an answer (or of a line of it) has come while the rest is waited for; "" when nothing has."""
        return (
            f"{self._url}{self._path}: {self._waiting.came()}"
            if self._waiting and self._waiting.came()
            else ""
        )

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, path: str, query: dict[str, object], headers: dict[str, str]) -> Head:
        words = {"host": self._named, "accept": "*/*", "user-agent": "allowlist-enforcer", **headers}
        target = f"{self._base}{path}" + (f"?{urlencode(query)}" if query else "")
        request = f"GET {target} HTTP/1.1\r\n" + "".join(
            f"{name}: {text}\r\n" for name, text in words.items()
        )
        is_kept = self._streams is not None
        try:
            return await self._exchange(request.encode() + b"\r\n")
        except (ConnectionError, EOFError):
            if not is_kept:
                raise
        self.close()  # the server had ended a connection that was kept: that is no answer to this question
        return await self._exchange(request.encode() + b"\r\n")

    async def _exchange(self, request: bytes) -> Head:
        assert self._waiting is not None
        if self._streams is None:
            context = ssl.create_default_context() if self._is_tls else None
            async with asyncio.timeout(_CONNECT_S):
                self._streams = await asyncio.open_connection(
                    self._host, self._port, ssl=context, limit=_HEAD_BYTES
                )
        reader, writer = self._streams
        self._waiting.ask()
        writer.write(request)
        while True:
            head = _head(await self._in_time(reader.readuntil(b"\r\n\r\n")))
            if head.status >= 200:  # 1xx: there is more to come
                self._waiting.begin()
                return head

    async def _body(self, head: Head) -> AsyncIterator[bytes]:
        if head.status in (204, 304):
            return
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while left := int((await self._line()).partition(b";")[0].strip(), 16):
                async for piece in self._bytes(left):
                    yield piece
                await self._line()
            while await self._line():
                """Trailers."""
            return
        length = int(head.headers.get("content-length", "-1"))
        async for piece in self._bytes(length):
            yield piece
        if length < 0:  # the server closes at the end
            self.close()

    async def _bytes(self, length: int) -> AsyncIterator[bytes]:
        """So many of them, or all to the end of the connection when length is negative."""
        assert self._streams is not None
        reader, left = self._streams[0], length
        while left:
            wanted = _PIECE_BYTES if length < 0 else min(left, _PIECE_BYTES)
            piece = await self._in_time(reader.read(wanted))
            if piece:
                yield piece
            elif length < 0:
                return
            else:
                raise EOFError
            left -= len(piece) if length > 0 else 0

    async def _line(self) -> bytes:
        assert self._streams is not None
        return (await self._in_time(self._streams[0].readuntil(b"\r\n")))[:-2]

    async def _in_time(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """asyncio.timeout asks the kernel for the process's id six times; a sign of life would cost more in them than in itself."""
        assert self._streams is not None and self._waiting is not None and self._loop is not None
        transport, waiting = self._streams[1].transport, self._waiting

        def end() -> None:
            waiting.is_late = True  # also for the read after this one, if a part came in the same moment
            transport.abort()

        timer = self._loop.call_at(waiting.until_s, end)
        try:
            data = await reading
        except (EOFError, ConnectionError):
            if waiting.is_late:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        if waiting.is_late and not data:
            raise TimeoutError
        return data


class _Waiting:
    """Until when the next part of an answer must be there, by the loop's clock."""

    def __init__(self, pace: Pace, now_s: Callable[[], float]) -> None:
        self._pace, self._now_s = pace, now_s
        self._bytes = 0  # of the answer, or of the line that has begun
        self.is_late = False
        self.ask()

    def ask(self) -> None:
        self._begun_s: float | None = None
        self._heard_s = self._now_s()

    def begin(self) -> None:
        """The head is there."""
        self._heard_s = self._now_s()
        if not self._pace.by_line:
            self._begun_s = self._heard_s

    def note(self, piece: bytes) -> None:
        self._heard_s = self._now_s()
        self._bytes += len(piece)
        if not self._pace.by_line:
            return
        rest = len(piece) - 1 - piece.rfind(b"\n")
        if rest < len(piece):  # a line ends here
            self._begun_s, self._bytes = None, rest
        if rest and self._begun_s is None:
            self._begun_s = self._heard_s

    def go_on(self) -> None:
        """What whoever reads did with the last part is not the sender's time."""
        spent_s = self._now_s() - self._heard_s
        self._heard_s += spent_s
        if self._begun_s is not None:
            self._begun_s += spent_s

    @property
    def until_s(self) -> float:
        silent_s = self._heard_s + self._pace.due_s
        return silent_s if self._begun_s is None else min(silent_s, self._slow_s(self._begun_s))

    def told(self) -> tuple[str, str]:
        """What is to be said when it is too late: a word and a sentence."""
        if self._begun_s is None or self._slow_s(self._begun_s) > self._heard_s + self._pace.due_s:
            return "silent", "no answer in time"
        return "slow", f"{self.came()} are too few; no more are waited for"

    def came(self) -> str:
        """Such as: 7 bytes of the answer in 4.2 s."""
        if self._begun_s is None:
            return ""
        what = "a line of the answer" if self._pace.by_line else "the answer"
        return (
            f"{self._bytes} byte{'s' * (self._bytes != 1)} of {what} in {self._now_s() - self._begun_s:.1f} s"
        )

    def _slow_s(self, begun_s: float) -> float:
        return begun_s + self._pace.within_s + 8 * self._bytes / self._pace.least_bps


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
