"""Datagram sockets of a host that serve one attempt after another, each time from a new source port.

Making a socket in another namespace takes six system calls, letting it go two more; taking its port away and giving it another takes
two. In User-Mode Linux, where virtual time is played, a system call is what costs.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.traffic.attempt import Host

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOWHERE = bytes(16)  # struct sockaddr with sa_family AF_UNSPEC: connect(2) takes the peer and the port away
_MOST_IDLE = 64  # a host; more come only of thousands of attempts at once


@dataclass(slots=True)
class Port:
    """A socket the loop reads for. receive: called with each datagram, or with the error the socket tells; None while it is idle."""

    socket: socket.socket
    receive: Callable[[bytes | OSError], None] | None = None
    has_more: bool = False


@dataclass(slots=True)
class Ports:
    """The sockets of all hosts, by host and family. Everything happens in the loop's thread."""

    _idle: dict[tuple[str, int], list[Port]] = field(default_factory=dict)

    def connected(
        self, host: Host, family: int, to: tuple[str, int], receive: Callable[[bytes | OSError], None]
    ) -> Port:
        """A socket of the host with a new source port, connected. Raises OSError."""
        idle = self._idle.get((host.name, family))
        port = idle.pop() if idle else self._made(host, family)
        if port.has_more:
            _empty(port)
        port.receive = receive
        try:
            port.socket.connect(to)
        except OSError:
            self.close(port)
            raise
        return port

    def give_back(self, host: Host, family: int, port: Port, is_answered: bool) -> None:
        """Another attempt may have it. Its port is free from now on: what still comes is nobody's.

        is_answered: all that was asked. If not, something may have come in this very moment, and is thrown away first.
        """
        port.receive, port.has_more = None, not is_answered
        idle = self._idle.setdefault((host.name, family), [])
        if len(idle) < _MOST_IDLE and _LIBC.connect(port.socket.fileno(), _NOWHERE, len(_NOWHERE)) == 0:
            idle.append(port)
        else:
            self.close(port)

    def close(self, port: Port) -> None:
        """Whatever still comes for it is nobody's."""
        port.receive = None
        asyncio.get_running_loop().remove_reader(port.socket.fileno())
        port.socket.close()

    def close_all(self) -> None:
        for idle in self._idle.values():
            for port in idle:
                self.close(port)
        self._idle.clear()

    def _made(self, host: Host, family: int) -> Port:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with host.inside():
            port = Port(socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        # By its number: asyncio describes a socket object it does not know yet, which asks the kernel for four addresses.
        asyncio.get_running_loop().add_reader(port.socket.fileno(), _read, port)
        return port


def _read(port: Port) -> None:
    try:
        data: bytes | OSError = port.socket.recv(2048)
    except BlockingIOError:
        return
    except OSError as error:
        data = error
    if port.receive is not None:
        port.receive(data)


def _empty(port: Port) -> None:
    port.has_more = False
    while True:
        try:
            port.socket.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            continue
