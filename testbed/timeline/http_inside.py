"""HTTP from inside a node's namespace: one request, one connection, JSON both ways."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class HttpFailed(Exception):
    """The other end answered with an error; `status` and the text it gave."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


def request_json(
    inside: Callable[[], AbstractContextManager[None]],
    address: tuple[str, int],
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    source: str | None = None,
    timeout_s: float = 5.0,
) -> Any:
    """The decoded JSON answer, None when it has no body; see request_bytes."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    text = None if body is None else json.dumps(body)
    data = request_bytes(inside, address, method, path, text, headers, source=source, timeout_s=timeout_s)
    return json.loads(data) if data else None


def request_bytes(
    inside: Callable[[], AbstractContextManager[None]],
    address: tuple[str, int],
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    source: str | None = None,
    timeout_s: float = 5.0,
) -> bytes:
    """The answer's body. source: the address to send from, where a node has several.

    Blocks, so call it in a thread of its own: only the thread that opens the socket enters the namespace.
    Raises HttpFailed for a status of 400 or more, OSError when the other end cannot be reached in time.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with inside():
        sock = socket.socket(family, socket.SOCK_STREAM)
    connection = http.client.HTTPConnection(address[0], address[1], timeout=timeout_s)
    try:
        sock.settimeout(timeout_s)
        if source is not None:
            sock.bind((source, 0))
        sock.connect(address)
        connection.sock = sock
        connection.request(method, path, body, {"Connection": "close", **(headers or {})})
        answer = connection.getresponse()
        data = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"broken HTTP answer: {error!r}") from error
    finally:
        connection.close()
        sock.close()
    if answer.status >= 400:
        raise HttpFailed(answer.status, data.decode("utf-8", "replace")[:500])
    return data
