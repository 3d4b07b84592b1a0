"""Between an enforcer and its registry: a proxy that tells the truth until a test has it lie."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.registry.feed import sign

_THIEF = Ed25519PrivateKey.from_private_bytes(b"t" * 32)


class Proxy:
    """mode: "honest", "silent" (connections are closed), "hanging", "old" (what was recorded when the mode was set, for ever),
    "replayed" (the first snapshot ever seen), "empty", "truncated", "forged" (signed anew by somebody else), "dripping" (an answer, or a
    line for whoever listens, a byte each tenth of a second; a connection that has begun so goes on so, whatever the mode is then).

    Make it inside the network namespace in which it is to listen and ask.
    """

    def __init__(self, port: int, registry_port: int) -> None:
        self.mode = "honest"
        self.asked = 0
        self.listeners = 0
        self.offers_lines = self._is_over = False
        self.first: bytes = b""
        self._last: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self._registry_port = registry_port
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.asked += 1
                proxy._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.mode, self._is_over = "silent", True
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        kind = handler.path.partition("?")[0].rpartition("/")[2]
        if self.mode == "dripping":
            self._drip(handler, "sign=" in handler.path)
            return
        if self.mode == "honest" and "sign=" in handler.path:
            self._stream(handler)
            return
        began = self.mode
        answer = self._ask(handler) if began in ("honest", "forged", "truncated") else (204, {}, b"")
        if self.mode != began:  # whatever was waited for, it is too late to say it
            answer = (204, {}, b"") if self.mode in ("honest", "old") else answer
        mode = self.mode
        if mode == "dripping":
            self._drip(handler, "sign=" in handler.path)
            return
        if mode == "silent" or answer is None:
            handler.close_connection = True
            return
        if mode == "hanging":
            while self.mode == "hanging":
                time.sleep(0.05)
            handler.close_connection = True
            return
        status, headers, body = answer
        if mode == "honest":
            if status == 200:
                self._last[kind] = answer
                if kind == "snapshot" and not self.first:
                    self.first = body
        elif mode == "old":
            time.sleep(0.2)
            status, headers, body = (
                self._last.get(kind, (204, {}, b"")) if kind != "deltas" else (204, {}, b"")
            )
        else:
            body = {
                "empty": lambda: b"",
                "replayed": lambda: self.first,
                "truncated": lambda: (body if body else self._last["snapshot"][2])[:-40],
                "forged": lambda: _forged(body or self._last["snapshot"][2]),
            }[mode]()
            status, headers = 200, {}
            time.sleep(0.05)
        handler.send_response(status)
        if self.offers_lines:
            headers = headers | {"feed-lines": "1"}
        for name, value in headers.items():
            handler.send_header(name, value)
        if status not in (204, 304):
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        if status not in (204, 304):
            handler.wfile.write(body)

    def _drip(self, handler: BaseHTTPRequestHandler, is_listened_to: bool) -> None:
        handler.send_response(200)
        if self.offers_lines:
            handler.send_header("feed-lines", "1")
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(b"standing " if is_listened_to else b"{")
            while not self._is_over:
                handler.wfile.write(b" ")
                time.sleep(0.1)

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        """The registry's lines as they come, as long as the proxy is honest."""
        handler.close_connection = True
        asking = http.client.HTTPConnection("127.0.0.1", self._registry_port, timeout=15)
        try:
            asking.request("GET", handler.path)
            response = asking.getresponse()
            handler.send_response(response.status)
            handler.send_header("feed-lines", "1")
            handler.end_headers()
            self.listeners += 1
            while self.mode == "honest" and (piece := response.read1()):
                handler.wfile.write(piece)
        except (OSError, http.client.HTTPException):
            return
        finally:
            asking.close()

    def _ask(self, handler: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes] | None:
        asking = http.client.HTTPConnection("127.0.0.1", self._registry_port, timeout=15)
        tags = {name: value for name, value in handler.headers.items() if name.lower() == "if-none-match"}
        try:
            asking.request("GET", handler.path, headers=tags)
            response = asking.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            asking.close()
        kept = {name: value for name in ("etag", "feed-keys") if (value := response.getheader(name))}
        return response.status, kept, body


def _forged(message: bytes) -> bytes:
    """The same with everybody revoked, signed by somebody who is not the registry."""
    said = json.loads(message)
    if isinstance(said, list):
        return json.dumps([json.loads(_signed_by_a_thief(one)) for one in said]).encode()
    return _signed_by_a_thief(said).encode()


def _signed_by_a_thief(message: dict[str, str]) -> str:
    body = json.loads(message["body"])
    if "serial" in body:
        body["serial"] += 1
    return sign(json.dumps(body | ({"entries": []} if "entries" in body else {})), _THIEF)
