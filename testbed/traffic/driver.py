"""The open-loop driver: starts every flow attempt of a plan at its scheduled time, whatever became of the earlier ones.

One asyncio process, one timer, sockets in every host's namespace.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed.plan.plan import Stream
from testbed.traffic import handshakes_raw
from testbed.traffic.attempt import Attempt, Host, Sink, Target
from testbed.traffic.datagram import DatagramAttempt, VoiceAttempt, dns_query, is_dns_answer
from testbed.traffic.echo import IcmpAttempt, IcmpSocket, TunnelEchoAttempt, TunnelSocket
from testbed.traffic.portless import PortlessAttempt, PortlessSocket
from testbed.traffic.ports import Ports
from testbed.traffic.stream_tcp import TcpAttempt
from testbed.traffic.ticker import Ticker

_PRIORITY = -10  # nice(2) of the driver's thread; programs it starts from other threads do not inherit it
MAKER = Callable[..., Attempt]


@dataclass(frozen=True, slots=True)
class TunnelEnd:
    """What the driver needs of a tunnel: where its echo answers, and its outer flow as seen on the host now."""

    echo_address: str
    echo_port: int
    outer: Callable[[], tuple[str, str, int, str, int] | None]


@dataclass(frozen=True, slots=True)
class Handshake:
    """A protocol's first packet and what counts as its answer; transport "udp", "tcp", or a protocol without ports (handshakes_raw)."""

    transport: str
    request: Callable[[Attempt], bytes]
    is_answer: Callable[[Attempt, bytes], bool]


@dataclass(frozen=True, slots=True)
class DriverHealth:
    """How the driver itself did. lag is send time minus scheduled time, in nanoseconds; scheduling is "raised" or "normal"."""

    attempts: int
    lag_p50_ns: int
    lag_p99_ns: int
    lag_max_ns: int
    cpu_ratio: float
    scheduling: str = "normal"


@dataclass(slots=True)
class Driver:
    """Plays streams. `hosts`, `targets`, `tunnels` and `handshakes` are looked up by the names in the streams.

    https: (request, is_complete) of the HTTPS-like service, see testbed.traffic.responders.
    """

    streams: tuple[Stream, ...]
    hosts: Mapping[str, Host]
    targets: Mapping[tuple[str, int], Target]
    tunnels: Mapping[str, TunnelEnd]
    handshakes: Mapping[str, Handshake]
    https: tuple[Callable[[Attempt], bytes], Callable[[Attempt, bytes], bool]]
    sink: Sink
    _lags_ns: list[int] = field(default_factory=list)
    _running: set[Attempt] = field(default_factory=set)
    _icmp: dict[tuple[str, int], IcmpSocket] = field(default_factory=dict)
    _portless: dict[tuple[str, int, str], PortlessSocket] = field(default_factory=dict)
    _tunnel_sockets: dict[str, TunnelSocket] = field(default_factory=dict)
    _ports: Ports = field(default_factory=Ports)
    _ticker: Ticker | None = None
    _left: int = 0
    _is_done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, t0_ns: int, stop: asyncio.Event) -> DriverHealth:
        """Play all streams from t0_ns (CLOCK_MONOTONIC) until each attempt is done, or stop is set.

        Stopping abandons what is under way: those attempts end as `harness_error`.
        """
        cpu_before, wall_before = time.process_time(), time.monotonic()
        ticker = self._ticker = Ticker(asyncio.get_running_loop())
        scheduling = _be_punctual()
        self._left = sum(len(stream.at_ns) for stream in self.streams)
        pending = [self._schedule(ticker, stream, t0_ns) for stream in self.streams if stream.at_ns]
        last_ns = max(
            (stream.at_ns[-1] + stream.deadline_ns for stream in self.streams if stream.at_ns), default=0
        )
        gc.collect()
        gc.freeze()  # a full collection over the plan's objects would be a 20 ms hole in the schedule
        try:
            await self._until(t0_ns + last_ns, stop)
        finally:
            pending.clear()
            for attempt in list(self._running):
                attempt.abandon()
            self._close()
            gc.unfreeze()
            _be_ordinary(scheduling)
        wall = time.monotonic() - wall_before
        return self._health((time.process_time() - cpu_before) / wall if wall > 0 else 0.0, scheduling)

    def _schedule(self, ticker: Ticker, stream: Stream, t0_ns: int) -> Stream:
        """Put the stream's next attempt on the ticker; each attempt schedules the one after it, so the heap stays small."""
        make = self._maker(stream)
        host = self.hosts[stream.subscriber]
        target = self._target(stream)

        def start(index: int) -> None:
            start_ns = t0_ns + stream.at_ns[index]
            if index + 1 < len(stream.at_ns):
                ticker.at(t0_ns + stream.at_ns[index + 1], lambda: start(index + 1))
            try:
                attempt = make(stream, index, host, target, start_ns, t0_ns, ticker, self.sink)
            except OSError:
                attempt = _Unmade(stream, index, host, target, start_ns, t0_ns, ticker, self.sink)
            attempt.on_done = self._finished
            self._running.add(attempt)
            attempt.begin()

        ticker.at(t0_ns + stream.at_ns[0], lambda: start(0))
        return stream

    def _finished(self, attempt: Attempt) -> None:
        self._running.discard(attempt)
        self._left -= 1
        if self._left == 0:
            self._is_done.set()
        if attempt.sent_ns is not None:
            self._lags_ns.append(attempt.sent_ns - attempt.scheduled_ns)

    def _target(self, stream: Stream) -> Target:
        if stream.probe == "tunnel-echo":
            end = self.tunnels[stream.target]
            return Target(stream.target, end.echo_address, end.echo_port)
        return self.targets[stream.target, stream.family]

    def _maker(self, stream: Stream) -> MAKER:
        if stream.probe == "dns":
            return lambda *args: DatagramAttempt(
                *args, ports=self._ports, request=dns_query, is_answer=is_dns_answer
            )
        if stream.probe == "voice":
            return lambda *args: VoiceAttempt(*args, ports=self._ports)
        if stream.probe == "https":
            request, is_complete = self.https
            return lambda *args: TcpAttempt(*args, request=request, is_complete=is_complete)
        if stream.probe == "icmp":
            return lambda *args: IcmpAttempt(*args, shared=self._icmp_socket(stream))
        if stream.probe == "tunnel-echo":
            outer = self.tunnels[stream.target].outer
            return lambda *args: TunnelEchoAttempt(*args, shared=self._tunnel_socket(stream), outer=outer)
        handshake = self.handshakes[stream.name]
        if handshake.transport == "tcp":
            return lambda *args: TcpAttempt(*args, request=handshake.request, is_complete=handshake.is_answer)
        if handshake.transport in handshakes_raw.PROTOCOLS:
            return lambda *args: PortlessAttempt(
                *args, shared=self._portless_socket(stream, handshake.transport)
            )
        return lambda *args: DatagramAttempt(
            *args, ports=self._ports, request=handshake.request, is_answer=handshake.is_answer
        )

    def _icmp_socket(self, stream: Stream) -> IcmpSocket:
        key = (stream.subscriber, stream.family)
        if key not in self._icmp:
            self._icmp[key] = IcmpSocket(self.hosts[stream.subscriber], stream.family)
        return self._icmp[key]

    def _portless_socket(self, stream: Stream, protocol: str) -> PortlessSocket:
        key = (stream.subscriber, stream.family, protocol)
        if key not in self._portless:
            self._portless[key] = PortlessSocket(self.hosts[stream.subscriber], stream.family, protocol)
        return self._portless[key]

    def _tunnel_socket(self, stream: Stream) -> TunnelSocket:
        if stream.target not in self._tunnel_sockets:
            end = self.tunnels[stream.target]
            self._tunnel_sockets[stream.target] = TunnelSocket(
                self.hosts[stream.subscriber], end.echo_address, end.echo_port
            )
        return self._tunnel_sockets[stream.target]

    async def _until(self, end_ns: int, stop: asyncio.Event) -> None:
        """Wait for the end of the last deadline, leaving as soon as everything scheduled is done, or for stop."""
        grace_ns = 50_000_000  # the last deadline's own job has to run first
        waiting = [asyncio.create_task(event.wait()) for event in (stop, self._is_done)]
        left_s = max(0.0, (end_ns + grace_ns - time.monotonic_ns()) / 1e9)
        await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()

    def _close(self) -> None:
        for shared in (*self._icmp.values(), *self._portless.values(), *self._tunnel_sockets.values()):
            shared.close()
        self._icmp.clear()
        self._portless.clear()
        self._tunnel_sockets.clear()
        self._ports.close_all()
        if self._ticker is not None:
            self._ticker.close()

    def _health(self, cpu_ratio: float, scheduling: str) -> DriverHealth:
        if not self._lags_ns:
            return DriverHealth(0, 0, 0, 0, cpu_ratio, scheduling)
        lags_ns = sorted(self._lags_ns)
        p50_ns, p99_ns = _percentile(lags_ns, 0.5), _percentile(lags_ns, 0.99)
        return DriverHealth(len(lags_ns), p50_ns, p99_ns, lags_ns[-1], cpu_ratio, scheduling)


def _percentile(ordered: list[int], share: float) -> int:
    """Between two values, in proportion (numpy's default; its import takes longer than the rest of a lab's driver)."""
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return int(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


class _Unmade(Attempt):
    """An attempt whose socket could not be made: recorded as the harness's own failure, never as a block."""

    def _send(self) -> None:
        self._failed("harness_error")

    def _release(self) -> None:
        return


def _be_punctual() -> str:
    """Go before other programs that want the CPU, where it is allowed. Not real-time: at thousands of probes a second
    that starved the servers it asks (2,838 of 40,000 answers lost), which would look like a fault of the network."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
    except PermissionError:
        return "normal"
    return "raised"


def _be_ordinary(scheduling: str) -> None:
    if scheduling == "raised":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 0)
