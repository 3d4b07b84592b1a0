"""The feed's HTTP calls: the keys, signed snapshots, and signed deltas with a long poll. For enforcers, not for people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from enforcer.registry import feed
from enforcer.registry.ledger import Ledger, UnknownSerial
from enforcer.registry.signing import SigningKeys

# In a quiet time an enforcer tells a living registry from a stale copy of its feed by a fresh signature.
SNAPSHOT_AGE_NS = 5_000_000_000
MAX_WAIT_S = 300.0  # proxies and NATs drop quiet connections after some minutes


class FeedCalls:
    """Serves one ledger's feed. `wake` tells whoever waits that the ledger may have changed; `close` lets them all go."""

    def __init__(self, ledger: Ledger, key: feed.Signer, clock: Callable[[], int] = time.time_ns) -> None:
        self._ledger, self._key, self._clock = ledger, key, clock
        self._changed = asyncio.Event()
        self._waiters: dict[asyncio.Future[bool], None] = {}  # in the order they came, which a rerun repeats
        self._is_closing = False
        self.look_s = 1.0  # how often to look for what another process has written
        self._held: tuple[int, int, bytes, str] | None = None
        self._rolls = key.rolls if isinstance(key, SigningKeys) else list

    def routes(self) -> list[Route]:
        """GET /feed/key, /feed/keys, /feed/serial, /feed/snapshot, /feed/deltas."""
        return [
            Route("/feed/key", self._get_key, methods=["GET"]),
            Route("/feed/keys", self._get_keys, methods=["GET"]),
            Route("/feed/serial", self._get_serial, methods=["GET"]),
            Route("/feed/snapshot", self._get_snapshot, methods=["GET"]),
            Route("/feed/deltas", self._get_deltas, methods=["GET"]),
        ]

    def snapshot(self) -> str:
        """The signed snapshot of the newest serial; signed again when the serial is new or the signature SNAPSHOT_AGE_NS old."""
        now_ns, serial, held = self._clock(), self._ledger.serial, self._held
        signer = self._key.public_key().public_bytes_raw()
        if (
            held is None
            or (held[0], held[2]) != (serial, signer)
            or now_ns - held[1] >= SNAPSHOT_AGE_NS
            or now_ns < held[1]
        ):
            body = feed.snapshot_body(self._ledger.allowlist(), now_ns, self._ledger.mark(serial))
            held = self._held = (serial, now_ns, signer, feed.sign(body, self._key))
        return held[3]

    def serial(self) -> str:
        """The signed message that says where the registry stands now: a sign of life that costs no list."""
        serial = self._ledger.serial
        standing = feed.Standing(serial, self._clock(), self._ledger.mark(serial))
        return feed.sign(feed.standing_body(standing), self._key)

    async def delta(self, since: int, wait_s: float) -> str | None:
        """The signed delta, waiting for one if need be; None when nothing came in wait_s."""
        delta = self._ledger.delta(since)
        if delta is None and wait_s > 0 and not self._is_closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, MAX_WAIT_S)):
                    while self._ledger.serial == since and not self._is_closing:
                        await self._changed.wait()
            delta = self._ledger.delta(since)
        if delta is None:
            return None
        marks = (self._ledger.mark(delta.from_serial), self._ledger.mark(delta.serial))
        return feed.sign(feed.delta_body(delta, self._clock(), *marks), self._key)

    async def lines(self, since: int, wait_s: float, sign_s: float, fresh_s: float) -> AsyncIterator[str]:
        """What an enforcer hears that listens: each sign_s an empty line, or every fresh_s `standing` and a signed message, and at
        last `change` and the signed delta. Ends without one after wait_s, and when the keys were rolled over."""
        began_s = time.monotonic()
        until_s, looked_s, fresh_at_s, sign_at_s = (
            began_s + min(wait_s, MAX_WAIT_S),
            began_s,
            began_s + fresh_s,
            began_s,
        )
        rolls, is_changed = len(self._rolls()), True
        while True:
            now_s = time.monotonic()
            if is_changed or now_s - looked_s >= self.look_s:
                looked_s = now_s
                if (message := await self.delta(since, 0)) is not None:
                    yield f"change {message}\n"
                    return
            if now_s >= until_s or self._is_closing or len(self._rolls()) != rolls:
                return
            if now_s >= sign_at_s:
                sign_at_s, text = self._next_sign_s(now_s, sign_s), "\n"
                if fresh_s and now_s >= fresh_at_s:
                    fresh_at_s, text = now_s + fresh_s, f"standing {self.serial()}\n"
                yield text
            is_changed = await self.changed(max(0.001, min(sign_at_s, until_s) - now_s))

    def _next_sign_s(self, now_s: float, sign_s: float) -> float:
        """In virtual time, where waking costs, all that ask for signs equally often get them at once."""
        return now_s + sign_s if self.look_s <= 1 else (now_s // sign_s + 1) * sign_s

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for waiter in list(self._waiters):
            _end(waiter, True)

    async def changed(self, within_s: float) -> bool:
        """Waits for the next wake, but at most so long; whether there was one."""
        # Many wait so all day, and asyncio.timeout would ask the kernel for the process's id four times each time.
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(loop.time() + within_s, _end, waiter, False)
        self._waiters[waiter] = None
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    @property
    def listeners(self) -> int:
        """How many wait for the next change just now."""
        return len(self._waiters)

    def close(self) -> None:
        self._is_closing = True
        self.wake()

    async def _get_key(self, _: Request) -> Response:
        return PlainTextResponse(feed.public_hex(self._key.public_key()))

    async def _get_keys(self, _: Request) -> Response:
        return JSONResponse([json.loads(message) for message in self._rolls()])

    async def _get_serial(self, _: Request) -> Response:
        return self._answer(self.serial())

    async def _get_snapshot(self, request: Request) -> Response:
        # Weak: the list is the same, its signature may be fresher (RFC 9110 section 8.8.1); /feed/serial is the sign of life.
        serial = self._ledger.serial
        tag = feed.snapshot_tag(serial, self._ledger.mark(serial))
        asked = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
        if tag in asked or "*" in asked:
            return self._answer(None, 304, {"etag": tag})
        return self._answer(self.snapshot(), headers={"etag": tag})

    async def _get_deltas(self, request: Request) -> Response:
        try:
            since = _number(request, "since", None)
            wait_s = _number(request, "wait", 0.0)
            sign_s, fresh_s = _number(request, "sign", 0.0), _number(request, "fresh", 0.0)
            if sign_s:
                self._ledger.delta(int(since))  # an unknown serial is told before anything else is
                lines = self.lines(int(since), wait_s, sign_s, fresh_s)
                return StreamingResponse(lines, headers=self._headers(), media_type="text/plain")
            message = await self.delta(int(since), wait_s)
        except UnknownSerial as error:
            return JSONResponse({"error": f"{error}; ask for /feed/snapshot"}, 410)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 422)
        return self._answer(message, 204 if message is None else 200)

    def _answer(
        self, message: str | None, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        headers = self._headers() | (headers or {})
        return Response(message, status, headers, media_type="application/json" if message else None)

    def _headers(self) -> dict[str, str]:
        # How many roll-overs there are is not signed: it only tells an enforcer that asking for them is worth while.
        return {"feed-keys": str(len(self._rolls())), "feed-lines": "1"}


def _end(waiter: asyncio.Future[bool], is_changed: bool) -> None:
    if not waiter.done():
        waiter.set_result(is_changed)


def _number(request: Request, name: str, default: float | None) -> float:
    text = request.query_params.get(name)
    try:
        value = default if text is None else float(int(text) if name == "since" else float(text))
        if value is None or not 0 <= value < 2**53:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: write a number from 0, such as ?since=7&wait=20") from None
    return value
