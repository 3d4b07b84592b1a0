"""One process that answers for every server node: HTTPS-like over TCP, UDP echo for voice, UDP echo inside tunnels.

    python -m testbed.traffic.responders CONTROL_FD

CONTROL_FD is one end of a stream socket pair. Each line on it is a JSON command, answered by a JSON line:

    {"do": "https" | "udp-echo", "netns": FD, "address": "10.9.0.10", "port": 443}     -> {"ok": true} | {"error": "…"}

FD is an inherited descriptor of a network namespace. The process ends when the other end of the pair closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from typing import Any

from enforcer.thrifty import run
from testbed.lab.namespaces import inside
from testbed.lab.services_https import answer, parse_request

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h
_BACKLOG = 1024
# The loop calls again while there is more. In virtual time (testbed.world.uml.machine sets the variable) datagrams come one by one, and
# finding out that there is no other is one more system call.
_IS_VIRTUAL = os.environ.get("ALLOWLAB_VIRTUAL_TIME") == "1"
_DATAGRAMS_PER_WAKE = 1 if _IS_VIRTUAL else 64
# A client that says nothing is let go: half-open connections of a cut path must not pile up.
_REQUEST_TIMEOUT_S = 10.0


async def serve(control_fd: int) -> None:
    """Obey the control socket until it closes."""
    control = socket.socket(fileno=control_fd)
    reader, writer = await asyncio.open_connection(sock=control)
    responders = Responders()
    async for line in reader:
        try:
            await responders.add(json.loads(line))
            reply: dict[str, Any] = {"ok": True}
        except (OSError, ValueError, KeyError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(reply).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await writer.drain()


class Responders:
    """The open sockets; they close with the process."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._echoes: list[socket.socket] = []

    async def add(self, command: dict[str, Any]) -> None:
        """Raises OSError when the address cannot be bound, ValueError or KeyError for a command that is none."""
        kind, address, port = command["do"], command["address"], command["port"]
        if kind == "https":
            listener = _bound(command["netns"], socket.SOCK_STREAM, address, port)
            self._servers.append(await asyncio.start_server(_https, sock=listener, backlog=_BACKLOG))
        elif kind == "udp-echo":
            sock = _bound(command["netns"], socket.SOCK_DGRAM, address, port)
            self._echoes.append(sock)
            asyncio.get_running_loop().add_reader(sock, _echo, sock)
        else:
            raise ValueError(f"no such service: {kind}")


async def _https(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = b""
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            while (request := parse_request(data)) is None:
                more = await reader.read(4096)
                if not more:
                    return
                data += more
            writer.write(answer(*request))
            await writer.drain()
    except (
        ValueError,
        TimeoutError,
    ):  # not such a client: close without a word, as a TLS server would after its alert
        writer.transport.abort()
    except ConnectionError:
        pass
    finally:
        writer.close()


def _echo(sock: socket.socket) -> None:
    """Send back what came, byte for byte. A reply that cannot be sent is lost like any datagram."""
    for _ in range(_DATAGRAMS_PER_WAKE):
        try:
            data, source = sock.recvfrom(65535)
        except BlockingIOError:
            return
        except OSError:
            continue
        with contextlib.suppress(OSError):
            sock.sendto(data, source)


def _bound(netns: int, kind: int, address: str, port: int) -> socket.socket:
    """A bound socket in the namespace. The address may come later (a tunnel's), hence FREEBIND (ip(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(netns):
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{address} port {port}: {os.strerror(error.errno or 0)}") from None
    return sock


if __name__ == "__main__":
    run(serve(int(sys.argv[1])), is_thrifty=_IS_VIRTUAL)
