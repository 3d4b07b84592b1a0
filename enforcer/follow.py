"""The registry's feed over HTTP: messages as they come, not yet checked (enforcer.registry.feed.verify does that)."""

from __future__ import annotations

import json
import os

import httpx


class Unreachable(Exception):
    """The registry did not answer, or not with a message; the text says how."""


class SerialUnknown(Exception):
    """The registry has no delta from our serial on: only a snapshot helps."""


class NotOffered(Exception):
    """The registry does not know this call: it is older than the enforcer."""


class Feed:
    """url: http://HOST:PORT/feed. Times out: connecting after 2 s, an answer 2 s after it is due, a snapshot after 60 s.

    announced: how many key roll-overs the last answer said there are. Nothing vouches for it.
    """

    def __init__(self, url: str) -> None:
        self.announced = 0
        self._url = url
        # No keep-alive across failures: a connection of before an outage would hang in TCP's back-off.
        self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=1))

    async def snapshot(self, tag: str | None = None) -> bytes | None:
        """None when the list is still the one that has this entity tag. Raises Unreachable."""
        headers = {"if-none-match": tag} if tag else {}
        answer = await self._get("/snapshot", {}, read_s=60.0, headers=headers)
        if answer.status_code == 304 and tag:
            return None
        if answer.status_code != 200:
            raise Unreachable(f"/snapshot was answered with HTTP {answer.status_code}")
        return answer.content

    async def delta(self, since: int, wait_s: float) -> bytes | None:
        """The delta from serial `since` on, waiting for one; None when nothing came. Raises Unreachable, SerialUnknown."""
        answer = await self._get("/deltas", {"since": since, "wait": f"{wait_s:.3f}"}, read_s=wait_s + 2.0)
        if answer.status_code == 204:
            return None
        if answer.status_code in (404, 410):
            raise SerialUnknown(f"the registry has no delta from serial {since} on")
        if answer.status_code != 200:
            raise Unreachable(f"/deltas was answered with HTTP {answer.status_code}")
        return answer.content

    async def standing(self) -> bytes:
        """The message that says where the registry stands. Raises Unreachable, NotOffered."""
        return (await self._small("/serial")).content

    async def rolls(self) -> list[str]:
        """The key roll-overs the registry publishes, oldest first. Raises Unreachable, NotOffered."""
        answer = await self._small("/keys")
        try:
            return [json.dumps(each) for each in list(answer.json())]
        except (ValueError, TypeError, RecursionError) as error:
            raise Unreachable(f"/keys was not answered with a list: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _small(self, path: str) -> httpx.Response:
        answer = await self._get(path, {}, read_s=10.0)
        if answer.status_code == 404:
            raise NotOffered(f"{self._url}{path} is not there")
        if answer.status_code != 200:
            raise Unreachable(f"{path} was answered with HTTP {answer.status_code}")
        return answer

    async def _get(
        self, path: str, query: dict[str, object], read_s: float, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        timeout = httpx.Timeout(read_s, connect=2.0)
        try:
            answer = await self._client.get(self._url + path, params=query, timeout=timeout, headers=headers)  # type: ignore[arg-type]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self._url}{path}: {_reason(error)}") from error
        keys = answer.headers.get("feed-keys", "")
        self.announced = int(keys) if keys.isdecimal() and len(keys) < 7 else 0
        return answer


def _reason(error: BaseException) -> str:
    """What the system said, where it did: httpx calls every refusal "All connection attempts failed"."""
    deepest: BaseException | None = error
    while deepest is not None:
        if isinstance(deepest, BaseExceptionGroup):
            deepest = deepest.exceptions[0]
        if isinstance(deepest, OSError) and deepest.errno and deepest.strerror:
            # asyncio puts a text of its own in the place of connect(2)'s; getaddrinfo(3) has numbers below 0 and its own text
            text = os.strerror(deepest.errno) if deepest.errno > 0 else deepest.strerror
            return text[:1].lower() + text[1:]
        deepest = deepest.__cause__ or deepest.__context__
    return str(error) or type(error).__name__
