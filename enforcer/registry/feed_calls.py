"""The feed's HTTP calls: the public key, signed snapshots, and signed deltas with a long poll. For enforcers, not for people."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enforcer.registry import feed
from enforcer.registry.ledger import Ledger, UnknownSerial

# In a quiet time an enforcer tells a living registry from a stale copy of its feed by a fresh signature.
SNAPSHOT_AGE_NS = 5_000_000_000
MAX_WAIT_S = 300.0  # proxies and NATs drop quiet connections after some minutes


class FeedCalls:
    """Serves one ledger's feed. `wake` tells whoever waits that the ledger may have changed; `close` lets them all go."""

    def __init__(
        self, ledger: Ledger, key: Ed25519PrivateKey, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._ledger, self._key, self._clock = ledger, key, clock
        self._changed = asyncio.Event()
        self._is_closing = False
        self._held: tuple[int, int, str] | None = None

    def routes(self) -> list[Route]:
        """GET /feed/key, /feed/snapshot, /feed/deltas."""
        return [
            Route("/feed/key", self._get_key, methods=["GET"]),
            Route("/feed/snapshot", self._get_snapshot, methods=["GET"]),
            Route("/feed/deltas", self._get_deltas, methods=["GET"]),
        ]

    def snapshot(self) -> str:
        """The signed snapshot of the newest serial; signed again when the serial is new or the signature SNAPSHOT_AGE_NS old."""
        now_ns, serial, held = self._clock(), self._ledger.serial, self._held
        if held is None or held[0] != serial or now_ns - held[1] >= SNAPSHOT_AGE_NS:
            body = feed.snapshot_body(self._ledger.allowlist(), now_ns)
            held = self._held = (serial, now_ns, feed.sign(body, self._key))
        return held[2]

    async def delta(self, since: int, wait_s: float) -> str | None:
        """The signed delta, waiting for one if need be; None when nothing came in wait_s."""
        delta = self._ledger.delta(since)
        if delta is None and wait_s > 0 and not self._is_closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, MAX_WAIT_S)):
                    while self._ledger.serial == since and not self._is_closing:
                        await self._changed.wait()
            delta = self._ledger.delta(since)
        return None if delta is None else feed.sign(feed.delta_body(delta, self._clock()), self._key)

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        self._is_closing = True
        self.wake()

    async def _get_key(self, _: Request) -> Response:
        return PlainTextResponse(feed.public_hex(self._key.public_key()))

    async def _get_snapshot(self, _: Request) -> Response:
        return Response(self.snapshot(), media_type="application/json")

    async def _get_deltas(self, request: Request) -> Response:
        try:
            since = _number(request, "since", None)
            wait_s = _number(request, "wait", 0.0)
            message = await self.delta(int(since), wait_s)
        except UnknownSerial as error:
            return JSONResponse({"error": f"{error}; ask for /feed/snapshot"}, 410)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 422)
        return (
            Response(status_code=204) if message is None else Response(message, media_type="application/json")
        )


def _number(request: Request, name: str, default: float | None) -> float:
    text = request.query_params.get(name)
    try:
        value = default if text is None else float(int(text) if name == "since" else float(text))
        if value is None or not 0 <= value < 2**53:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: write a number from 0, such as ?since=7&wait=20") from None
    return value
