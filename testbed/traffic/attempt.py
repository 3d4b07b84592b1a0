"""One flow attempt: what all kinds of probes share, from the scheduled moment to the record."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from testbed.plan.plan import Stream
from testbed.records import FlowRecord, ProbeRecord
from testbed.traffic.ticker import Job, Ticker

# What the kernel tells a socket, in the words of records.FAILURES. ICMP "administratively prohibited" reaches a
# connected IPv4 UDP socket as EHOSTUNREACH and an IPv6 one as EACCES (Linux icmp_err_convert, icmpv6_err_convert).
_FAILURE_OF_ERRNO = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.EHOSTUNREACH: "host_unreachable",
    errno.ENETUNREACH: "network_unreachable",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
    errno.ETIMEDOUT: "timeout",
    errno.EINVAL: "network_unreachable",  # a blackhole route answers a send so
}


def failure_of(error: OSError) -> str:
    """The fixed word for a socket error; "harness_error" when it says nothing about the network."""
    return _FAILURE_OF_ERRNO.get(error.errno or 0, "harness_error")


class Sink(Protocol):
    """Where finished attempts go."""

    def flow(self, record: FlowRecord) -> None: ...

    def probe(self, record: ProbeRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attempt goes: addresses without prefix length; zone for DNS."""

    name: str
    address: str
    port: int
    zone: str | None = None


@dataclass(slots=True)
class Host:
    """A subscriber's host as the driver uses it: how to enter its namespace, and what a gateway sees of it now."""

    name: str
    inside: Callable[[], AbstractContextManager[None]]
    public4: str
    public6: str | None
    port_first: int | None = None
    port_last: int | None = None

    def public(self, family: int) -> str:
        return self.public4 if family == 4 else (self.public6 or "")


class Attempt:
    """Base of one running attempt. Subclasses implement `_send` and `_release`, and call `_answered` or `_failed` once.

    begin() is called at the scheduled time; everything afterwards is driven by the loop's readers and the ticker.
    """

    transport = "udp"

    def __init__(
        self,
        stream: Stream,
        index: int,
        host: Host,
        target: Target,
        start_ns: int,
        t0_ns: int,
        ticker: Ticker,
        sink: Sink,
    ) -> None:
        self.stream = stream
        self.index = index
        self.host = host
        self.target = target
        self.scheduled_ns = start_ns
        self.t0_ns = t0_ns
        self.ticker = ticker
        self.sink = sink
        self.sent_ns: int | None = None
        self.src, self.src_port = "", 0
        self.dst, self.dst_port = target.address, target.port
        self.sent = 0
        self.received = 0
        self.rtt_ns: int | None = None
        self.is_done = False
        self._deadline: Job | None = None
        self.on_done: Callable[[Attempt], None] | None = None

    @property
    def id(self) -> str:
        return f"{self.stream.name}#{self.index}"

    def begin(self) -> None:
        """Send, and set the deadline. Never raises: an error of the network or of the harness becomes the record."""
        self._deadline = self.ticker.at(self.scheduled_ns + self.stream.deadline_ns, self._expire)
        try:
            self._send()
        except OSError as error:
            self._failed(failure_of(error))

    def abandon(self) -> None:
        """The run ends before the deadline: nothing can be said of this attempt."""
        self._failed("harness_error")

    def _send(self) -> None:
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError

    def _expire(self) -> None:
        self._failed("timeout")

    def _mark_sent(self, now_ns: int) -> None:
        if self.sent_ns is None:
            self.sent_ns = now_ns
        self.sent += 1

    def _answered(self) -> None:
        """Complete: the round trip counts from the scheduled time, so a late send is not hidden."""
        now_ns = self.ticker.now_ns()
        self.received = max(self.received, 1)
        if self.rtt_ns is None:
            self.rtt_ns = now_ns - self.scheduled_ns
        self._finish(now_ns, None)

    def _failed(self, failure: str) -> None:
        self._finish(self.ticker.now_ns(), failure)

    def _finish(self, now_ns: int, failure: str | None) -> None:
        if self.is_done:
            return
        self.is_done = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._release()
        self._write_probes()
        sent_ns = self.sent_ns
        self.sink.flow(
            FlowRecord(
                id=self.id,
                stream=self.stream.name,
                subscriber=self.stream.subscriber,
                probe=self.stream.probe,
                protocol=self.stream.protocol,
                target=self.stream.target,
                family=self.stream.family,
                transport=self.transport,
                src=self.src,
                src_port=self.src_port,
                public_src=self.host.public(self.stream.family),
                dst=self.dst,
                dst_port=self.dst_port,
                scheduled_ns=self.scheduled_ns - self.t0_ns,
                sent_ns=None if sent_ns is None else sent_ns - self.t0_ns,
                done_ns=now_ns - self.t0_ns,
                is_delivered=failure is None,
                failure=failure,
                sent=self.sent,
                received=self.received,
                rtt_ns=self.rtt_ns if failure is None else None,
                registration=self.stream.registration,
            )
        )
        if self.on_done is not None:
            self.on_done(self)

    def _write_probes(self) -> None:
        if self.sent_ns is None:
            return
        rtt_ns = self.rtt_ns if self.received else None
        self.sink.probe(
            ProbeRecord(self.id, 0, self.scheduled_ns - self.t0_ns, self.sent_ns - self.scheduled_ns, rtt_ns)
        )
