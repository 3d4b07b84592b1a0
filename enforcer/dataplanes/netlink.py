"""Just enough netfilter netlink: messages, attributes, requests. (pyroute2 lacks nft sets with ports, and is 40 times slower here.)"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

NETLINK_NETFILTER = 12  # linux/netlink.h
NLM_REQUEST, NLM_ACK, NLM_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_BUFFER_BYTES = 4 << 20

SUBSYSTEM_CONNTRACK, SUBSYSTEM_QUEUE, SUBSYSTEM_LOG, SUBSYSTEM_NFTABLES = (
    1,
    3,
    4,
    10,
)  # linux/netfilter/nfnetlink.h


class Netfilter:
    """A NETLINK_NETFILTER socket of the network namespace it is made in. Requests raise OSError with the kernel's errno."""

    def __init__(self) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self.socket.bind(
            (0, 0)
        )  # libnftables takes the process id as its port; 0 lets the kernel choose another
        self._sequence = 0
        self._lock = threading.RLock()  # one question at a time: a list may be loading in another thread

    def close(self) -> None:
        self.socket.close()

    def grow_receive_buffer(self, size: int = _BUFFER_BYTES) -> None:
        """A larger receive buffer, past the system's limit where that is permitted."""
        try:
            self.socket.setsockopt(
                socket.SOL_SOCKET, 33, size
            )  # SO_RCVBUFFORCE needs CAP_NET_ADMIN in the first namespace
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def send(
        self, subsystem: int, kind: int, flags: int, family: int, resource: int, attributes: bytes
    ) -> None:
        self._sequence += 1
        head = struct.pack("=BBH", family, 0, socket.htons(resource))
        length = 16 + len(head) + len(attributes)
        header = struct.pack("=IHHII", length, subsystem << 8 | kind, flags | NLM_REQUEST, self._sequence, 0)
        self.socket.send(header + head + attributes)

    def request(
        self, subsystem: int, kind: int, family: int, attributes: bytes, resource: int = 0, flags: int = 0
    ) -> None:
        """One change, acknowledged by the kernel."""
        with self._lock:
            self.send(subsystem, kind, NLM_ACK | flags, family, resource, attributes)
            for _ in self._answers():
                pass

    def dump(self, subsystem: int, kind: int, family: int, attributes: bytes) -> Iterator[tuple[int, bytes]]:
        """Every answer as (family, attributes). Read it to its end."""
        with self._lock:
            self.send(subsystem, kind, NLM_DUMP, family, 0, attributes)
            yield from self._answers()

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            for kind, sequence, body in messages(self.socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield body[0], body[4:]


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The netlink messages in a datagram: type, sequence, body."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if length < 16:
            return
        yield kind, sequence, data[offset + 16 : offset + length]
        offset += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type; nested ones as the bytes to parse again."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found
