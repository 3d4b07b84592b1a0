"""The open-loop driver against real sockets on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from testbed.plan.plan import Stream
from testbed.traffic.attempt import Host, Target
from testbed.traffic.datagram import dns_query, is_dns_answer
from testbed.traffic.driver import Driver, DriverHealth, Handshake, TunnelEnd

MS = 1_000_000
PATIENT_NS = 20_000 * MS  # for an answer that comes: a loaded machine may take its time; no test waits for it
SILENT_NS = 300 * MS  # for one that never does


class Sink:
    """Keeps the records, and calls `on_flows` once so many attempts have ended."""

    def __init__(self, attempts: int, on_flows: Callable[[], None]) -> None:
        self.flows = []
        self.probes = []
        self._attempts, self._on_flows = attempts, on_flows

    def flow(self, record) -> None:
        self.flows.append(record)
        if len(self.flows) == self._attempts:
            self._on_flows()

    def probe(self, record) -> None:
        self.probes.append(record)


def stream(probe: str, count: int = 3, deadline_ns: int = PATIENT_NS, **changes) -> Stream:
    return Stream(
        name=f"alice-{probe}",
        group="g",
        subscriber="alice",
        probe=probe,
        protocol=probe,
        target="end",
        family=4,
        at_ns=tuple(20 * MS * number for number in range(count)),
        deadline_ns=deadline_ns,
        **changes,
    )


def play(
    *streams: Stream, port: int, stop_after_s: float | None = None, **changes
) -> tuple[Sink, DriverHealth]:
    """Plays until each attempt has ended, or for stop_after_s."""
    stop = asyncio.Event()
    sink = Sink(sum(len(each.at_ns) for each in streams), stop.set)
    fields = {
        "streams": streams,
        "hosts": {"alice": Host("alice", contextlib.nullcontext, "203.0.113.9", None)},
        "targets": {("end", 4): Target("end", "127.0.0.1", port, "example.")},
        "tunnels": {
            "end": TunnelEnd("127.0.0.1", port, lambda: ("udp", "127.0.0.1", 1234, "127.0.0.1", 51820))
        },
        "handshakes": {
            each.name: Handshake("udp", lambda attempt: b"hello", lambda attempt, data: data == b"hello")
            for each in streams
        },
        "https": (lambda attempt: b"GET", lambda attempt, data: len(data) >= 3),
        "sink": sink,
    }

    async def run() -> DriverHealth:
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        return await Driver(**{**fields, **changes}).run(time.monotonic_ns() + 50 * MS, stop)

    return sink, asyncio.run(run())


@pytest.fixture
def udp_echo() -> Iterator[int]:
    """A UDP port that sends everything back; the process ends with the test."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        while True:
            sock.sendto(*sock.recvfrom(2048))
    yield sock.getsockname()[1]
    os.kill(child, 9)
    os.waitpid(child, 0)
    sock.close()


@pytest.fixture
def silent_udp() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def closed_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_each_attempt_is_recorded_with_its_own_source_port_and_round_trip(udp_echo):
    sink, health = play(stream("handshake"), port=udp_echo)

    assert [flow.id for flow in sink.flows] == ["alice-handshake#0", "alice-handshake#1", "alice-handshake#2"]
    assert all(flow.is_delivered and flow.failure is None and flow.rtt_ns > 0 for flow in sink.flows)
    assert len({flow.src_port for flow in sink.flows}) == 3
    assert [flow.scheduled_ns for flow in sink.flows] == [0, 20 * MS, 40 * MS]
    assert sink.flows[0].public_src == "203.0.113.9"
    assert health.attempts == 3


def test_the_round_trip_counts_from_the_scheduled_time_not_from_the_late_send(udp_echo):
    sink, _ = play(stream("handshake"), port=udp_echo)

    for flow, probe in zip(sink.flows, sink.probes, strict=True):
        assert probe.lag_ns == flow.sent_ns - flow.scheduled_ns
        assert flow.rtt_ns >= probe.lag_ns


def test_silence_is_a_timeout_at_the_deadline(silent_udp):
    sink, _ = play(stream("handshake", count=1, deadline_ns=SILENT_NS), port=silent_udp)

    assert [flow.failure for flow in sink.flows] == ["timeout"]
    assert SILENT_NS <= sink.flows[0].done_ns < PATIENT_NS
    assert [probe.rtt_ns for probe in sink.probes] == [None]


def test_a_closed_udp_port_is_a_refusal_not_a_timeout():
    sink, _ = play(stream("handshake", count=1), port=closed_port(socket.SOCK_DGRAM))

    assert sink.flows[0].failure == "connection_refused"
    assert sink.flows[0].done_ns < PATIENT_NS


def test_a_wrong_answer_is_not_a_success(udp_echo):
    wrong = {"alice-handshake": Handshake("udp", lambda attempt: b"hello", lambda attempt, data: False)}

    sink, _ = play(stream("handshake", count=1), port=udp_echo, handshakes=wrong)

    assert [(flow.is_delivered, flow.failure) for flow in sink.flows] == [(False, "wrong_answer")]


def test_tcp_waits_for_the_whole_answer():
    async def serve(reader, writer):
        await reader.read(10)
        writer.write(b"ab")
        await asyncio.sleep(0.02)
        writer.write(b"c")
        writer.close()

    sink, _ = with_tcp_server(serve, stream("https", count=2))

    assert [flow.is_delivered for flow in sink.flows] == [True, True]
    assert all(flow.transport == "tcp" and flow.rtt_ns >= 20 * MS for flow in sink.flows)


def test_tcp_closed_before_the_answer_is_complete_is_a_reset():
    async def serve(reader, writer):
        await reader.read(10)
        writer.write(b"a")
        writer.close()

    sink, _ = with_tcp_server(serve, stream("https", count=1))

    assert sink.flows[0].failure == "connection_reset"


def test_a_closed_tcp_port_is_a_refusal():
    sink, _ = play(stream("https", count=1), port=closed_port(socket.SOCK_STREAM))

    assert sink.flows[0].failure == "connection_refused"


def test_a_voice_call_keeps_each_packet_and_names_the_far_end_that_loses_them(udp_echo, silent_udp):
    call = stream("voice", count=1, packets=10, spacing_ns=5 * MS)

    sink, _ = play(call, port=udp_echo)
    deaf, _ = play(replace(call, deadline_ns=SILENT_NS), port=silent_udp)

    assert sink.flows[0].is_delivered
    assert (sink.flows[0].sent, sink.flows[0].received) == (10, 10)
    assert [probe.sequence for probe in sink.probes] == list(range(10))
    assert deaf.flows[0].failure == "timeout"
    assert [probe.rtt_ns for probe in deaf.probes] == [None] * 10


def test_a_tunnel_echo_is_recorded_under_the_tunnels_outer_flow(udp_echo):
    sink, _ = play(stream("tunnel-echo"), port=udp_echo)

    assert [flow.is_delivered for flow in sink.flows] == [True] * 3
    assert {(flow.transport, flow.src_port, flow.dst_port) for flow in sink.flows} == {("udp", 1234, 51820)}


def test_stopping_leaves_what_is_under_way_undecided(silent_udp):
    slow = replace(stream("handshake", count=2), deadline_ns=60_000 * MS)

    started = time.monotonic()
    sink, _ = play(slow, port=silent_udp, stop_after_s=0.3)

    assert time.monotonic() - started < 20
    assert [flow.failure for flow in sink.flows] == ["harness_error"] * 2


def test_a_socket_that_cannot_be_made_is_the_harness_s_failure(udp_echo):
    @contextlib.contextmanager
    def broken():
        raise OSError(24, "too many open files")
        yield

    sink, _ = play(
        stream("handshake", count=1),
        port=udp_echo,
        hosts={"alice": Host("alice", broken, "203.0.113.9", None)},
    )

    assert [flow.failure for flow in sink.flows] == ["harness_error"]


def test_a_dns_query_is_answered_only_by_its_own_id_without_error():
    class Asked:
        stream = stream("dns")
        index = 5
        target = Target("dns", "192.0.2.1", 53, "example.")

    query = dns_query(Asked)
    identity = query[:2]

    assert query[12:].startswith(b"\x0balice-dns-5\x07example\x00")
    assert is_dns_answer(Asked, identity + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0))
    assert not is_dns_answer(Asked, identity + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0))  # NXDOMAIN
    assert not is_dns_answer(
        Asked, identity + struct.pack("!HHHHH", 0x0100, 1, 1, 0, 0)
    )  # our own query back
    assert not is_dns_answer(Asked, b"\0\0" + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0))


def with_tcp_server(serve, *streams: Stream) -> tuple[Sink, DriverHealth]:
    """Play against a server in a process of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:

        async def main() -> None:
            server = await asyncio.start_server(serve, sock=listener)
            await server.serve_forever()

        with contextlib.suppress(BaseException):
            asyncio.run(main())
        os._exit(0)
    try:
        return play(*streams, port=listener.getsockname()[1])
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        listener.close()
