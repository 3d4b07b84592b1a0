"""The registry's feed over HTTP: messages as they come, not yet checked (enforcer.registry.feed.verify does that)."""

from __future__ import annotations

import httpx


class Unreachable(Exception):
    """The registry did not answer, or not with a message; the text says how."""


class SerialUnknown(Exception):
    """The registry has no delta from our serial on: only a snapshot helps."""


class Feed:
    """url: http://HOST:PORT/feed. Times out: connecting after 2 s, an answer 2 s after it is due, a snapshot after 60 s."""

    def __init__(self, url: str) -> None:
        self._url = url
        # No keep-alive across failures: a connection of before an outage would hang in TCP's back-off.
        self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=1))

    async def snapshot(self) -> bytes:
        """Raises Unreachable."""
        answer = await self._get("/snapshot", {}, read_s=60.0)
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

    async def close(self) -> None:
        await self._client.aclose()

    async def _get(self, path: str, query: dict[str, object], read_s: float) -> httpx.Response:
        timeout = httpx.Timeout(read_s, connect=2.0)
        try:
            return await self._client.get(self._url + path, params=query, timeout=timeout)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise Unreachable(f"{self._url}{path}: {what}") from error
