"""How many probes a second the driver sends, and how late: prints answered probes/s, send lag and CPU for rising rates.

Run: python benchmarks/driver.py [RATE …]. UDP request and answer over the loopback of a private network namespace
(needs root or user namespaces); the echo server is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for a checkout that is not installed

from testbed.plan.plan import Stream  # noqa: E402
from testbed.traffic.attempt import Host, Target  # noqa: E402
from testbed.traffic.driver import Driver, Handshake  # noqa: E402

STREAMS = 50
SECONDS = 5


class Count:
    """A sink that only counts, so that the disk is not measured."""

    delivered = 0
    lost = 0

    def flow(self, record) -> None:
        if record.is_delivered:
            self.delivered += 1
        else:
            self.lost += 1

    def probe(self, record) -> None:
        pass


def main(rates: list[int]) -> None:
    if os.environ.get("ALLOWLAB_BENCH_WORLD") != "1":
        user = [] if os.geteuid() == 0 else ["-U", "-r"]
        command = ["unshare", *user, "--net", "--fork", "--kill-child", sys.executable, *sys.argv]
        sys.exit(
            subprocess.call(command, env={**os.environ, "ALLOWLAB_BENCH_WORLD": "1", "PYTHONPATH": str(ROOT)})
        )
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = os.fork()
    if server == 0:
        _echo_server()
    try:
        print(
            f"{'probes/s asked':>15} {'sent/s':>8} {'answered':>9} {'lost':>6} {'lag p50 ms':>11} {'p99 ms':>8} {'max ms':>8} {'CPU':>6}"
        )
        for rate in rates:
            print(asyncio.run(_play(rate)), flush=True)
    finally:
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)


async def _play(rate: int) -> str:
    gap_ns = STREAMS * 1_000_000_000 // rate
    streams = tuple(
        Stream(
            f"s{number}",
            "bench",
            "host",
            "handshake",
            "wireguard",
            "echo",
            4,
            tuple(range(number * gap_ns // STREAMS, SECONDS * 1_000_000_000, gap_ns)),
            1_000_000_000,
        )
        for number in range(STREAMS)
    )
    handshake = Handshake("udp", lambda attempt: b"x" * 148, lambda attempt, data: len(data) == 148)
    count = Count()
    driver = Driver(
        streams=streams,
        hosts={"host": Host("host", contextlib.nullcontext, "127.0.0.1", None)},
        targets={("echo", 4): Target("echo", "127.0.0.1", 5000)},
        tunnels={},
        handshakes={stream.name: handshake for stream in streams},
        https=(lambda attempt: b"", lambda attempt, data: True),
        sink=count,
    )
    health = await driver.run(time.monotonic_ns() + 200_000_000, asyncio.Event())
    return (
        f"{rate:>15} {health.attempts / SECONDS:>8.0f} {count.delivered:>9} {count.lost:>6} {health.lag_p50_ns / 1e6:>11.3f}"
        f" {health.lag_p99_ns / 1e6:>8.3f} {health.lag_max_ns / 1e6:>8.3f} {health.cpu_ratio:>6.2f}"
    )


def _echo_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 5000))
        while True:
            data, peer = sock.recvfrom(2048)
            sock.sendto(data, peer)


if __name__ == "__main__":
    main([int(rate) for rate in sys.argv[1:]] or [1000, 2000, 5000, 8000])
