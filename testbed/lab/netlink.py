"""rtnetlink, written and read directly: messages, batches with one acknowledgement, dumps.

A batch of messages goes to the kernel in one send; only the last asks for an acknowledgement, but the kernel reports
every error with the sequence number of its message, so each is found and named. Formats: rtnetlink(7), netlink(7),
include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h. pyroute2 was measured 200 times dearer (a helper process for
each namespace).
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# One send; well under the default socket send buffer (212,992 bytes, socket(7) wmem_default).
_BATCH_BYTES = 60_000
_RECEIVE_BYTES = 1 << 20


class NetlinkError(OSError):
    """The kernel refused a request. `errno` is the first refusal's; the text names every request refused."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel. `what` names it for errors ("link isp1-gw: create gw/isp1")."""

    kind: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of a dump: its kind and its bytes after the netlink header."""

    kind: int
    body: bytes


class Netlink:
    """A NETLINK_ROUTE socket of the network namespace the calling thread is in when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = itertools.count(1)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def batch(self, requests: Iterable[Request]) -> None:
        """Carry out the requests in order. A refused one does not stop those after it in the same send.

        Raises NetlinkError naming every request the kernel refused.
        """
        refused: list[tuple[Request, int, str]] = []
        for chunk in _chunks(requests):
            refused += self._send(chunk)
        if refused:
            first = refused[0][1]
            text = "; ".join(_refusal(*each) for each in refused[:10])
            if len(refused) > 10:
                text += f"; and {len(refused) - 10} more"
            raise NetlinkError(first, text)

    def dump(self, kind: int, body: bytes) -> list[Answer]:
        """Everything the kernel lists for a request of this kind. Raises NetlinkError."""
        sequence = next(self._sequence)
        self._socket.send(_message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
        answers: list[Answer] = []
        while True:
            for got, _flags, number, payload in self._receive():
                if number != sequence:
                    continue
                if got == _NLMSG_DONE:
                    return answers
                if got == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise NetlinkError(code, f"cannot list (message type {kind}): {os.strerror(code)}")
                answers.append(Answer(got, payload))

    def _send(self, requests: list[Request]) -> list[tuple[Request, int, str]]:
        by_sequence: dict[int, Request] = {}
        parts: list[bytes] = []
        last = 0
        for position, request in enumerate(requests, 1):
            last = next(self._sequence)
            by_sequence[last] = request
            flags = request.flags | NLM_F_REQUEST | (NLM_F_ACK if position == len(requests) else 0)
            parts.append(_message(request.kind, flags, last, request.body))
        self._socket.send(b"".join(parts))
        refused: list[tuple[Request, int, str]] = []
        while True:
            for kind, flags, number, payload in self._receive():
                if kind != _NLMSG_ERROR or number not in by_sequence:
                    continue
                code = -struct.unpack_from("=i", payload)[0]
                if code:
                    refused.append((by_sequence[number], code, _extended(flags, payload)))
                if number == last:
                    return refused

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in data by kind; of a repeated kind the last."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def _chunks(requests: Iterable[Request]) -> Iterator[list[Request]]:
    chunk: list[Request] = []
    size = 0
    for request in requests:
        length = _HEADER.size + len(request.body) + 3
        if chunk and size + length > _BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += length
    if chunk:
        yield chunk


def _extended(flags: int, payload: bytes) -> str:
    """The kernel's own words about an error (NETLINK_EXT_ACK), or nothing."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    # struct nlmsgerr is the error and the request's header; the request's body follows unless capped.
    offset = 4 + _HEADER.size
    if not flags & NLM_F_CAPPED:
        offset = 4 + struct.unpack_from("=I", payload, 4)[0]
    return attributes(payload[offset:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")


def _refusal(request: Request, code: int, words: str) -> str:
    name = errno.errorcode.get(code, str(code))
    return f"{request.what}: {os.strerror(code)} ({name})" + (f": {words}" if words else "")
