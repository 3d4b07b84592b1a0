"""nfnetlink, written and read directly: requests with their errors named, nft transactions, NFQUEUE configuration and verdicts.

Formats: include/uapi/linux/netfilter/{nfnetlink,nf_tables,nf_tables_compat,nfnetlink_queue}.h. Numbers inside nfnetlink
attributes are big-endian, netlink's own are the machine's. A socket belongs to the namespace the calling thread is in when it is made.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.lab.netlink import attribute

NLM_F_REQUEST, NLM_F_ACK, NLM_F_APPEND = 0x1, 0x4, 0x800
NLM_F_CREATE, NLM_F_EXCL = 0x400, 0x200
SUBSYSTEM_QUEUE, SUBSYSTEM_NFTABLES = 3, 10

NF_DROP, NF_ACCEPT = 0, 1
_NETLINK_NETFILTER = 12
_NLMSG_ERROR = 2
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_MSG_VERDICT, _MSG_CONFIG, _MSG_VERDICT_BATCH = 1, 2, 3
_NFQA_VERDICT_HDR = 2
_NFQA_CFG_CMD, _NFQA_CFG_PARAMS, _NFQA_CFG_QUEUE_MAXLEN, _NFQA_CFG_MASK, _NFQA_CFG_FLAGS = 1, 2, 3, 4, 5
_CFG_CMD_BIND = 1
_COPY_META = 1
_CFG_F_GSO = 4
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
# nlmsghdr, nfgenmsg (queue number as read: big-endian), attribute header, verdict (big-endian), packet id as read.
_VERDICT = struct.Struct("=IHHIIBBHHHII")
_VERDICT_KIND = SUBSYSTEM_QUEUE << 8 | _MSG_VERDICT
_VERDICT_BATCH_KIND = SUBSYSTEM_QUEUE << 8 | _MSG_VERDICT_BATCH
_ANSWER_TIMEOUT_S = 10.0


class NfnetlinkError(OSError):
    """The kernel refused a request. `errno` is the first refusal's; the text names every request refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message: kind is SUBSYSTEM << 8 | message, family an NFPROTO, resource the res_id (a queue number). `what` names it."""

    kind: int
    flags: int
    family: int
    body: bytes
    what: str
    resource: int = 0


class Nfnetlink:
    """A NETLINK_NETFILTER socket of the namespace the calling thread is in when it is made."""

    def __init__(self) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self.socket.bind((0, 0))
        self.socket.settimeout(_ANSWER_TIMEOUT_S)
        self._sequence = itertools.count(1)

    def __enter__(self) -> Nfnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def request(self, requests: Sequence[Request]) -> None:
        """Carry out each request on its own, all in one send. Raises NfnetlinkError."""
        self._exchange([self._message(each) for each in requests], requests)

    def transaction(self, requests: Sequence[Request]) -> None:
        """Carry out nf_tables requests all or none. Raises NfnetlinkError, and then nothing was changed."""
        begin = Request(_BATCH_BEGIN, 0, 0, b"", "begin", SUBSYSTEM_NFTABLES)
        end = Request(_BATCH_END, 0, 0, b"", "commit", SUBSYSTEM_NFTABLES)
        first = self._message(begin)
        messages = [self._message(each) for each in requests]
        self._exchange(messages, requests, first, self._message(end))

    def _message(self, request: Request) -> tuple[int, bytes]:
        number = next(self._sequence)
        body = _GENERIC.pack(request.family, 0, socket.htons(request.resource)) + request.body
        # NLM_F_ACK is set on the last message only, by _exchange.
        head = _HEADER.pack(_HEADER.size + len(body), request.kind, request.flags | NLM_F_REQUEST, number, 0)
        return number, head + body + bytes(-len(body) % 4)

    def _exchange(
        self,
        messages: list[tuple[int, bytes]],
        requests: Sequence[Request],
        before: tuple[int, bytes] = (0, b""),
        after: tuple[int, bytes] = (0, b""),
    ) -> None:
        if not messages:
            return
        last, text = messages[-1]
        flags = struct.unpack_from("=H", text, 6)[0] | NLM_F_ACK
        messages[-1] = last, text[:6] + struct.pack("=H", flags) + text[8:]
        what = {number: request.what for (number, _), request in zip(messages, requests, strict=True)}
        what[before[0]], what[after[0]] = "begin", "commit"
        data = before[1] + b"".join(text for _, text in messages) + after[1]
        if len(data) > 150_000:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(data))
        try:
            self.socket.send(data)
        except OSError as error:
            size = f"{len(requests)} requests, {len(data)} bytes"
            raise NfnetlinkError(error.errno, f"nfnetlink: {size}: {error.strerror}") from error
        self._read_answers(last, what)

    def _read_answers(self, last: int, what: dict[int, str]) -> None:
        refused: list[tuple[str, int]] = []
        is_done = False
        while not is_done:
            try:
                data = self.socket.recv(1 << 18)
            except TimeoutError as error:
                raise NfnetlinkError(errno.ETIMEDOUT, "nfnetlink: the kernel did not answer") from error
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _flags, number, _port = _HEADER.unpack_from(data, offset)
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
                    if code:
                        refused.append((what.get(number, "?"), code))
                    # A refusal of the whole transaction carries the number of its first or last message.
                    is_done = is_done or number == last or what.get(number) in ("begin", "commit")
                offset += (length + 3) & ~3
        if refused:
            words = "; ".join(f"{name}: {os.strerror(code)}" for name, code in refused[:5])
            raise NfnetlinkError(refused[0][1], words)


def queue_bind(number: int, max_packets: int, *, keeps_segments: bool, what: str) -> Request:
    """Bind this socket to an NFQUEUE: metadata only, at most max_packets held, else the kernel drops (never fail-open).

    keeps_segments: offloaded TCP segments arrive whole; otherwise the kernel cuts them into packets first.
    """
    body = attribute(_NFQA_CFG_CMD, struct.pack(">BxH", _CFG_CMD_BIND, 0))
    body += attribute(_NFQA_CFG_PARAMS, struct.pack(">IB", 0, _COPY_META))
    body += attribute(_NFQA_CFG_QUEUE_MAXLEN, struct.pack(">I", max_packets))
    body += _segment_flags(keeps_segments)
    return Request(SUBSYSTEM_QUEUE << 8 | _MSG_CONFIG, 0, 0, body, what, number)


def queue_segments_message(number: int, *, keeps_segments: bool) -> bytes:
    """The message that changes a bound queue's handling of offloaded segments; answered only when refused."""
    body = _GENERIC.pack(0, 0, socket.htons(number)) + _segment_flags(keeps_segments)
    kind = SUBSYSTEM_QUEUE << 8 | _MSG_CONFIG
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST, 0, 0) + body


def verdict(raw_queue: int, raw_id: int, decision: int) -> bytes:
    """The verdict on one packet; raw_queue and raw_id are native reads of the message's big-endian fields."""
    return _VERDICT.pack(
        32,
        _VERDICT_KIND,
        NLM_F_REQUEST,
        0,
        0,
        0,
        0,
        raw_queue,
        12,
        _NFQA_VERDICT_HDR,
        socket.htonl(decision),
        raw_id,
    )


def verdict_up_to(raw_queue: int, raw_id: int, decision: int) -> bytes:
    """The same verdict on every packet of the queue up to and including raw_id."""
    return _VERDICT.pack(
        32,
        _VERDICT_BATCH_KIND,
        NLM_F_REQUEST,
        0,
        0,
        0,
        0,
        raw_queue,
        12,
        _NFQA_VERDICT_HDR,
        socket.htonl(decision),
        raw_id,
    )


def _segment_flags(keeps_segments: bool) -> bytes:
    flags = attribute(_NFQA_CFG_FLAGS, struct.pack(">I", _CFG_F_GSO if keeps_segments else 0))
    return flags + attribute(_NFQA_CFG_MASK, struct.pack(">I", _CFG_F_GSO))
