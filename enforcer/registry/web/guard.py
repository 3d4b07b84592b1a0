"""Around every answer: security headers, and no request body longer than its path may have. Plain ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

MAX_BODY_BYTES = 256 * 1024  # a form with 1,024 prefixes of each kind is about 100 kB
MAX_BULK_BYTES = 8 * 1024 * 1024  # 10,000 rows of 800 bytes
BULK_PATHS = ("/bulk", "/applications/bulk")

_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",  # for browsers that do not know frame-ancestors
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    # Whatever does not say otherwise is somebody's own.
    b"cache-control": b"no-store",
}
_TLS_HEADERS = {b"strict-transport-security": b"max-age=31536000"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BodyTooLong(HTTPException):
    """Raised out of `receive`: 413, in the words of whoever reads the body. The rest of it is not read."""

    def __init__(self) -> None:
        super().__init__(413, headers={"connection": "close"})


class Guard:
    """Middleware."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = MAX_BULK_BYTES if scope["path"] in BULK_PATHS else MAX_BODY_BYTES
        headers = _HEADERS | (_TLS_HEADERS if scope.get("scheme") == "https" else {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in headers.items() if name not in given),
                ]
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        received = int(length) if length.isdigit() and int(length) > limit else 0

        async def receive_no_more() -> Message:
            nonlocal received
            if received > limit:
                raise BodyTooLong
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLong
            return message

        await self._app(scope, receive_no_more, send_with_headers)
