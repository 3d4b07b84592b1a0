"""Listening and serving one portal until it is told to stop: what `registry serve` and `enforcer portal` share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from typing import Any


class CannotListen(OSError):
    """The address or port is not to be had; the message says which and what to write instead."""


def listen(address: str, port: int) -> socket.socket:
    """A listening TCP socket of either family. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"cannot listen on {address} port {port}: {error.strerror}; write another bind or port"
        ) from error
    # A national deadline brings everybody at once; the kernel caps this at net.core.somaxconn.
    listener.listen(4096)
    listener.setblocking(False)
    return listener


async def serve(
    application: Any,
    sockets: Sequence[socket.socket],
    desk: Any,
    started: Callable[[], None],
    proxies: Sequence[str] = (),
    certificate: tuple[str, str] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then returns, so that its caller closes its files; calls `started` when it accepts connections.

    proxies: addresses whose X-Forwarded-For and -Proto are believed; nobody else's are. certificate: files of a chain and its key.
    """
    import uvicorn

    loop, ending = asyncio.get_running_loop(), asyncio.Event()

    # A waiting delta request would hold the shutdown up for its whole wait; the desk lets them go first.
    class Server(uvicorn.Server):
        # uvicorn's own looks ten times a second whether it is to end, and what date it is.
        async def main_loop(self) -> None:
            await self.on_tick(0)
            await ending.wait()

        def handle_exit(self, sig: int, frame: Any) -> None:
            super().handle_exit(sig, frame)
            loop.call_soon_threadsafe(ending.set)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            desk.close()
            await super().shutdown(sockets)

        # uvicorn's own raises the signal again after serving, which would end the process before its files are closed.
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    config = uvicorn.Config(
        _dated(application),
        http="h11",
        loop="asyncio",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        ssl_certfile=certificate[0] if certificate else None,
        ssl_keyfile=certificate[1] if certificate else None,
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(list(sockets)))
    while not server.started and not task.done():
        await asyncio.sleep(0.005)
    if server.started:
        started()
    await task


def _dated(application: Any) -> Any:
    """The application with the time in each answer's header (RFC 9110 section 6.6.1)."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_dated(message: Any) -> None:
            if message["type"] == "http.response.start":
                date = (b"date", formatdate(time.time(), usegmt=True).encode())
                message = message | {"headers": [date, *message.get("headers", ())]}
            await send(message)

        await application(scope, receive, send_dated if scope["type"] == "http" else send)

    return answer
