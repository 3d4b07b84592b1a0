"""Attempts over TCP: connect, send a request, read the whole answer. HTTPS-like, and handshakes of VPNs over TCP."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from testbed.traffic.attempt import Attempt, failure_of


class TcpAttempt(Attempt):
    """Connects, sends `request(self)`, and is delivered when `is_complete(self, data so far)` says True.

    is_complete may raise ValueError for a wrong answer. A close by the far end before that is `connection_reset`.
    """

    transport = "tcp"

    def __init__(
        self, *args, request: Callable[[Attempt], bytes], is_complete: Callable[[Attempt, bytes], bool]
    ) -> None:
        super().__init__(*args)
        self._request = request
        self._is_complete = is_complete
        self._data = bytearray()
        self._socket: socket.socket | None = None

    def _send(self) -> None:
        family = socket.AF_INET if self.stream.family == 4 else socket.AF_INET6
        with self.host.inside():
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._mark_sent(self.ticker.now_ns())
        code = sock.connect_ex((self.target.address, self.target.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        self.src, self.src_port = sock.getsockname()[:2]
        asyncio.get_running_loop().add_writer(sock, self._connected)

    def _connected(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._socket)
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(failure_of(OSError(code, "connect")))
            return
        try:
            self._socket.send(self._request(self))  # a request is far below a fresh socket's send buffer
        except OSError as error:
            self._failed(failure_of(error))
            return
        loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(failure_of(error))
            return
        if not data:
            self._failed("connection_reset")
            return
        self._data += data
        try:
            is_complete = self._is_complete(self, bytes(self._data))
        except ValueError:
            self._failed("wrong_answer")
            return
        if is_complete:
            self._answered()

    def _release(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._socket)
        loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
