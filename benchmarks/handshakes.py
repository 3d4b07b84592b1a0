"""Answered VPN handshakes a second, and requests built a second, by protocol.

Run: PYTHONPATH=. python benchmarks/handshakes.py [SECONDS]. One client process and one responder process with a router's namespace
between them, 4096 destination addresses (needs root or user namespaces). Closed loop with WINDOW requests under way.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.lab.vpn.sockets import is_bound
from testbed.traffic.handshake_responder import ResponderKeys
from testbed.traffic.handshakes import PROBES, HandshakeProbe

WINDOW = 64
TCP_WINDOW = 64
ADDRESSES = [f"10.64.{high}.{low}" for high in range(16) for low in range(256)]
_PREPARE = """
ip netns add router && ip netns add server && ip link set lo up
ip link add to-r type veth peer name to-c netns router && ip -n router link add to-s type veth peer name to-r netns server
ip address add 10.0.1.2/24 dev to-r && ip link set to-r up && ip route add default via 10.0.1.1
ip -n router address add 10.0.1.1/24 dev to-c && ip -n router address add 10.0.2.1/24 dev to-s
ip -n router link set to-c up && ip -n router link set to-s up && ip -n router route add 10.64.0.0/14 via 10.0.2.2
ip netns exec router sysctl -q -w net.ipv4.ip_forward=1
ip -n server link set lo up && ip -n server address add 10.0.2.2/24 dev to-r && ip -n server link set to-r up
ip -n server route add default via 10.0.2.1 && ip -n server route add local 10.64.0.0/14 dev lo
"""


def main(seconds: float) -> None:
    if os.environ.get("ALLOWLAB_BENCH_WORLD") != "1":
        user = [] if os.geteuid() == 0 else ["-U", "-r"]
        spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = 'mount -t tmpfs tmpfs /run && mkdir /run/netns && exec "$@"'
        command = ["unshare", *user, *spaces, "sh", "-c", script, "sh", sys.executable, *sys.argv]
        environment = {**os.environ, "ALLOWLAB_BENCH_WORLD": "1", "PYTHONPATH": str(Path.cwd())}
        sys.exit(subprocess.call(command, env=environment))
    subprocess.run(["sh", "-ec", _PREPARE], check=True)
    with tempfile.TemporaryDirectory() as folder:
        keys = ResponderKeys.new()
        keys.save(Path(folder) / "keys")
        print(f"{'protocol':12} {'built/s':>9} {'answered/s':>11} {'lost':>5} {'round trip p50 ms':>18}")
        with responder(Path(folder) / "keys"):
            for name, (transport, _port) in PROBES.items():
                if transport in ("udp", "tcp"):
                    report(name, transport, keys, seconds)


def report(name: str, transport: str, keys: ResponderKeys, seconds: float) -> None:
    building = HandshakeProbe(name, "build", wireguard_server=keys.wireguard_public)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds / 2:
        building.request(count)
        count += 1
    built = count / (time.perf_counter() - began)
    probe = HandshakeProbe(name, "ask", wireguard_server=keys.wireguard_public)
    if name == "wireguard":
        probe.prebuild(range(int(built * seconds)))
    answered, lost, rtts = (over_udp if transport == "udp" else over_tcp)(probe, seconds)
    rtts.sort()
    median = rtts[len(rtts) // 2] * 1e3 if rtts else float("nan")
    print(f"{name:12} {built:9.0f} {answered / seconds:11.0f} {lost:5} {median:18.2f}", flush=True)


def over_udp(probe: HandshakeProbe, seconds: float) -> tuple[int, int, list[float]]:
    """Answered, lost (none within half a second), round-trip times in seconds."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.5)
    sent: list[float] = []
    asked_of: dict[str, int] = {}
    rtts, lost, next_number = [], 0, 0
    end = time.perf_counter() + seconds

    def send() -> None:
        nonlocal next_number
        address = ADDRESSES[next_number % len(ADDRESSES)]
        asked_of[address] = next_number
        sent.append(time.perf_counter())
        sock.sendto(probe.request(next_number), (address, probe.port))
        next_number += 1

    with sock:
        under_way = 0
        while (now := time.perf_counter()) < end or under_way:
            while under_way < WINDOW and now < end:
                send()
                under_way += 1
            try:
                data, (address, _port) = sock.recvfrom(2048)
            except TimeoutError:
                lost, under_way = lost + under_way, 0
                continue
            number = asked_of[address]
            if not probe.is_answer(data, number):
                raise SystemExit(f"{probe.protocol}: a wrong answer from {address}")
            rtts.append(time.perf_counter() - sent[number])
            under_way -= 1
    return len(rtts), lost, rtts


def over_tcp(probe: HandshakeProbe, seconds: float) -> tuple[int, int, list[float]]:
    """As over_udp, each on a connection of its own."""
    poller = select.epoll()
    open_sockets: dict[int, tuple[socket.socket, int, float]] = {}
    rtts, number = [], 0
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        while len(open_sockets) < TCP_WINDOW:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.connect_ex((ADDRESSES[number % len(ADDRESSES)], probe.port))
            open_sockets[sock.fileno()] = sock, number, now
            poller.register(sock, select.EPOLLOUT)
            number += 1
        for descriptor, event in poller.poll(0.5):
            sock, mine, began = open_sockets[descriptor]
            if event & select.EPOLLOUT:
                sock.send(probe.request(mine))
                poller.modify(sock, select.EPOLLIN)
                continue
            if not probe.is_answer(sock.recv(2048), mine):
                raise SystemExit(f"{probe.protocol}: a wrong answer")
            rtts.append(time.perf_counter() - began)
            poller.unregister(sock)
            del open_sockets[descriptor]
            sock.close()
    left = len(open_sockets)
    for sock, _mine, _began in open_sockets.values():
        sock.close()
    poller.close()
    return len(rtts), 0 if rtts else left, rtts


@contextmanager
def responder(keys: Path) -> Iterator[None]:
    ports = {kind: sorted({p for t, p in PROBES.values() if t == kind}) for kind in ("udp", "tcp")}
    argv = [sys.executable, "-m", "testbed.traffic.handshake_responder", "--keys", str(keys)]
    for kind, numbers in ports.items():
        argv += [f"--{kind}", ",".join(map(str, numbers))]
    process = subprocess.Popen(["ip", "netns", "exec", "server", *argv], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not is_bound(process.pid, "tcp", ports["tcp"][-1]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the responder did not come up")
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
