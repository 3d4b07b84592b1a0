"""Attempts over UDP: one request and its answer (DNS, VPN handshakes), and a voice-like stream of packets."""

from __future__ import annotations

import struct
from collections.abc import Callable

from testbed.records import ProbeRecord
from testbed.traffic.attempt import Attempt, failure_of
from testbed.traffic.ports import Port, Ports

_SEQUENCE = struct.Struct("!IQ")  # packet number, scheduled time: 12 bytes at the head of each voice packet


class DatagramAttempt(Attempt):
    """Sends `request(self)` from a new source port and is delivered when `is_answer(self, data)` holds."""

    def __init__(
        self,
        *args,
        ports: Ports,
        request: Callable[[Attempt], bytes],
        is_answer: Callable[[Attempt, bytes], bool],
    ) -> None:
        super().__init__(*args)
        self._request = request
        self._is_answer = is_answer
        self._ports = ports
        self._port: Port | None = None

    def _send(self) -> None:
        port = self._open()
        payload = self._request(self)
        self._mark_sent(self.ticker.now_ns())
        port.socket.send(payload)

    def _open(self) -> Port:
        to = self.target.address, self.target.port
        self._port = self._ports.connected(self.host, self.stream.family, to, self._readable)
        self.src, self.src_port = self._port.socket.getsockname()[:2]
        return self._port

    def _readable(self, data: bytes | OSError) -> None:
        if isinstance(data, OSError):
            self._failed(failure_of(data))
        else:
            self._received(data)

    def _received(self, data: bytes) -> None:
        if self._is_answer(self, data):
            self._answered()
        else:
            self._failed("wrong_answer")

    def _release(self) -> None:
        if self._port is None:
            return
        is_answered = 0 < self.received == self.sent
        self._ports.give_back(self.host, self.stream.family, self._port, is_answered)
        self._port = None


class VoiceAttempt(DatagramAttempt):
    """A short call: `stream.packets` packets `stream.spacing_ns` apart, echoed by the far end.

    Delivered when at least 95 % of them came back (ITU-T G.113 Appendix I puts G.711 with concealment at the edge of
    acceptable at 5 % loss); each packet is a probe of its own, so single losses stay visible.
    """

    DELIVERED_RATIO = 0.95

    def __init__(self, *args, ports: Ports) -> None:
        super().__init__(
            *args, ports=ports, request=lambda attempt: b"", is_answer=lambda attempt, data: True
        )
        self._send_ns: list[int] = []
        self._rtts_ns: list[int | None] = []

    def _send(self) -> None:
        self._open()
        for number in range(self.stream.packets):
            self._send_ns.append(0)
            self._rtts_ns.append(None)
            due_ns = self.scheduled_ns + number * self.stream.spacing_ns
            if number == 0:
                self._send_packet(0)
            else:
                self.ticker.at(due_ns, lambda number=number: self._send_packet(number))

    def _send_packet(self, number: int) -> None:
        if self._port is None:
            return
        due_ns = self.scheduled_ns + number * self.stream.spacing_ns
        now_ns = self.ticker.now_ns()
        self._send_ns[number] = now_ns
        head = _SEQUENCE.pack(number, due_ns)
        try:
            self._port.socket.send(head.ljust(self.stream.payload_bytes, b"\0"))
        except OSError as error:
            self._failed(failure_of(error))
            return
        self._mark_sent(now_ns)

    def _received(self, data: bytes) -> None:
        if len(data) < _SEQUENCE.size:
            return
        number, due_ns = _SEQUENCE.unpack_from(data)
        if number >= len(self._rtts_ns) or self._rtts_ns[number] is not None:
            return
        self._rtts_ns[number] = self.ticker.now_ns() - due_ns
        self.received += 1
        if self.received == self.stream.packets:
            self._complete()

    def _expire(self) -> None:
        if self.received >= self.DELIVERED_RATIO * self.stream.packets:
            self._complete()
        else:
            self._failed("timeout")

    def _complete(self) -> None:
        rtts_ns = sorted(rtt for rtt in self._rtts_ns if rtt is not None)
        self.rtt_ns = rtts_ns[len(rtts_ns) // 2]
        self._answered()

    def _write_probes(self) -> None:
        for number, sent_ns in enumerate(self._send_ns):
            if sent_ns == 0:
                continue
            due_ns = self.scheduled_ns + number * self.stream.spacing_ns
            self.sink.probe(
                ProbeRecord(self.id, number, due_ns - self.t0_ns, sent_ns - due_ns, self._rtts_ns[number])
            )


def dns_query(attempt: Attempt) -> bytes:
    """A recursive A query (RFC 1035 §4.1) for a name of its own, so that no cache answers it."""
    name = (
        f"{attempt.stream.name}-{attempt.index}".lower()
        .replace("/", "-")
        .replace("#", "-")
        .replace("_", "-")[:63]
        .strip("-")
    )
    labels = [name, *(attempt.target.zone or "").strip(".").split(".")]
    qname = b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels if label) + b"\0"
    return struct.pack("!HHHHHH", dns_id(attempt), 0x0100, 1, 0, 0, 0) + qname + struct.pack("!HH", 1, 1)


def is_dns_answer(attempt: Attempt, data: bytes) -> bool:
    """The answer to our question: same id, a response, NOERROR, at least one record."""
    if len(data) < 12:
        return False
    identity, flags, _questions, answers = struct.unpack_from("!HHHH", data)
    return identity == dns_id(attempt) and bool(flags & 0x8000) and flags & 0x000F == 0 and answers > 0


def dns_id(attempt: Attempt) -> int:
    """A query id from the attempt's place in the plan: the same in each run of it."""
    return (attempt.index * 40503 + sum(attempt.stream.name.encode())) & 0xFFFF
