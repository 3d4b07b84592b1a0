"""The registry's feed over HTTP: messages as they come, not yet checked (enforcer.registry.feed.verify does that)."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from enforcer.feed_http import Head, Http, HttpError, Pace

_GRACE_S = 2.0  # how much later than it is due an answer may come
_SMALL_S, _LIST_S = 10.0, 60.0  # until it begins; a list of a million entries takes a registry half a minute
WITHIN_S = 10.0
LEAST_BPS = 1_000_000
# A message must be there whole before its signature can be checked; until then only its length can be. A million registrations
# of one line and one server each are 310 MB; a roll-over or a sign of life is some 400 bytes.
MOST_LIST_BYTES = 2**30
MOST_SMALL_BYTES = 2**20


WHYS = {
    "silent": "nothing came in time",
    "slow": "an answer had begun, and its rest came too slowly",
    "long": "an answer went on after as many bytes as a message can have",
    "broken": "no connection, or what came is no HTTP",
    "status": "HTTP, but no message: a status such as 500",
}


class Unreachable(Exception):
    """The registry did not answer, or not with a message; the text says how. word: one of WHYS."""

    def __init__(self, text: str, word: str = "status") -> None:
        super().__init__(text)
        self.word = word


class SerialUnknown(Exception):
    """The registry has no delta from our serial on: only a snapshot helps."""


class NotOffered(Exception):
    """The registry does not know this call: it is older than the enforcer."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is heard while listening. "alive": nothing but a sign of life; "standing" and "change" carry a signed message."""

    kind: Literal["alive", "standing", "change"]
    message: bytes = b""


class Feed:
    """url: http://HOST:PORT/feed. Times out: connecting after 2 s; what is heard of it 2 s after it is due, a snapshot after 60 s; and
    an answer, or a line of a running one, within_s after it has begun and as long as its bytes take at least_bps.

    announced: how many key roll-overs the last answer said there are. Nothing vouches for it. unanswered: questions by WHYS.
    """

    def __init__(
        self,
        url: str,
        most_list_bytes: int = MOST_LIST_BYTES,
        within_s: float = WITHIN_S,
        least_bps: int = LEAST_BPS,
    ) -> None:
        """most_list_bytes: an answer that goes on after them is none; MOST_SMALL_BYTES where no list is asked for."""
        self.announced = 0
        self.unanswered: Counter[str] = Counter()
        self._url, self._most_list_bytes = url, most_list_bytes
        self._within_s, self._least_bps = within_s, least_bps
        self._http = Http(url)
        self._offers_lines = False
        self._lines_failed = self._lines_came = False

    @property
    def can_listen(self) -> bool:
        """Whether the registry offers `listen`, and nothing on the way has kept its lines back."""
        return self._offers_lines and not self._lines_failed

    @property
    def begun(self) -> str:
        """What of an answer has come while the rest of it is waited for; "" when nothing has."""
        return self._http.begun

    async def snapshot(self, tag: str | None = None) -> bytes | None:
        """None when the list is still the one that has this entity tag. Raises Unreachable."""
        headers = {"if-none-match": tag} if tag else {}
        head, body = await self._get("/snapshot", {}, _LIST_S, headers=headers)
        if head.status == 304 and tag:
            return None
        if head.status != 200:
            raise Unreachable(f"/snapshot was answered with HTTP {head.status}")
        return body

    async def delta(self, since: int, wait_s: float) -> bytes | None:
        """The delta from serial `since` on, waiting for one; None when nothing came. Raises Unreachable, SerialUnknown."""
        query: dict[str, object] = {"since": since, "wait": f"{wait_s:.3f}"}
        head, body = await self._get("/deltas", query, wait_s + _GRACE_S)
        _check_delta(head, since)
        return None if head.status == 204 else body

    async def listen(
        self, since: int, sign_s: float, fresh_s: float, longest_s: float
    ) -> AsyncGenerator[Line, None]:
        """A sign of life at least each sign_s, a signed standing each fresh_s, and at last the delta from serial `since` on.

        Ends without one after longest_s, or when the registry wants to be asked anew. Raises Unreachable, SerialUnknown.
        """
        until_s = time.monotonic() + longest_s + _GRACE_S
        pace = self._pace(sign_s + _GRACE_S, by_line=True)
        query: dict[str, object] = {"since": since, "wait": f"{longest_s:.3f}", "sign": f"{sign_s:.3f}"}
        query["fresh"] = f"{fresh_s:.3f}"
        begun: list[bytes] = []  # of a line, whose end has not come
        length = 0
        try:
            async with contextlib.aclosing(self._http.parts("/deltas", query, pace)) as parts:
                async for part in parts:
                    if isinstance(part, Head):
                        self._note(part)
                        _check_delta(part, since)
                        continue
                    self._lines_came = True
                    *ends, rest = part.split(b"\n")
                    for end in ends:
                        yield _line(b"".join((*begun, end)))
                        begun.clear()
                        length = 0
                    begun += [rest] if rest else []
                    length += len(rest)
                    if length > self._most_list_bytes:
                        told = f"a line of the answer goes on after {self._most_list_bytes} bytes; no more are read"
                        raise HttpError(f"{self._url}/deltas: {told}", "long")
                    if not begun and time.monotonic() > until_s:
                        return
        except HttpError as error:
            # A proxy that keeps parts of an answer back until it is whole: then nothing is heard, though the registry lives.
            self._lines_failed = not self._lines_came
            raise Unreachable(str(error), error.word) from error

    async def standing(self) -> bytes:
        """The message that says where the registry stands. Raises Unreachable, NotOffered."""
        return await self._small("/serial")

    async def rolls(self) -> list[str]:
        """The key roll-overs the registry publishes, oldest first. Raises Unreachable, NotOffered."""
        http = Http(self._url)  # of its own: the other may be in the middle of an answer
        try:
            answer = await self._small("/keys", http)
        finally:
            http.close()
        try:
            return [json.dumps(each) for each in list(json.loads(answer))]
        except (ValueError, TypeError, RecursionError) as error:
            raise Unreachable(f"/keys was not answered with a list: {error}") from error

    async def close(self) -> None:
        self._http.close()

    async def _small(self, path: str, http: Http | None = None) -> bytes:
        head, body = await self._get(path, {}, _SMALL_S, most_bytes=MOST_SMALL_BYTES, http=http)
        if head.status == 404:
            raise NotOffered(f"{self._url}{path} is not there")
        if head.status != 200:
            raise Unreachable(f"{path} was answered with HTTP {head.status}")
        return body

    async def _get(
        self,
        path: str,
        query: dict[str, object],
        due_s: float,
        headers: dict[str, str] | None = None,
        most_bytes: int | None = None,
        http: Http | None = None,
    ) -> tuple[Head, bytes]:
        try:
            head, body = await (http or self._http).get(
                path, query, self._pace(due_s), headers, most_bytes or self._most_list_bytes
            )
        except HttpError as error:
            raise Unreachable(str(error), error.word) from error
        if http is None:
            self._note(head)
        return head, body

    def _pace(self, due_s: float, by_line: bool = False) -> Pace:
        return Pace(due_s, self._within_s, self._least_bps, by_line)

    def _note(self, head: Head) -> None:
        keys = head.headers.get("feed-keys", "")
        self.announced = int(keys) if keys.isdecimal() and len(keys) < 7 else 0
        self._offers_lines = head.headers.get("feed-lines") == "1"


def _check_delta(head: Head, since: int) -> None:
    if head.status in (404, 410):
        raise SerialUnknown(f"the registry has no delta from serial {since} on")
    if head.status not in (200, 204):
        raise Unreachable(f"/deltas was answered with HTTP {head.status}")


def _line(line: bytes) -> Line:
    """`standing MESSAGE`, `change MESSAGE`, or nothing."""
    word, _, message = line.partition(b" ")
    if word == b"standing":
        return Line("standing", message)
    return Line("change", message) if word == b"change" else Line("alive")
