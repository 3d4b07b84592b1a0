"""Both ends of the handshake probes: a responder on each node that has a handshake service, and the requests of each stream."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from testbed.plan.plan import Plan, Service, Stream
from testbed.traffic.driver import Handshake
from testbed.traffic.handshake_responder import ResponderKeys
from testbed.traffic.handshakes import PROBES, HandshakeProbe

_KEYS = Path("/run/handshakes")  # in the world's private /run
_NAT_T_PORT = 4500  # where IKE goes on after its first exchange (RFC 7296 §2.23)


class HandshakesFailed(RuntimeError):
    """A responder did not come up; the text names its node."""


class Spawner(Protocol):
    """The part of the lab that starts programs."""

    log_dir: Path

    def spawn(self, node: str, argv: list[str], log: str, **options: Any) -> subprocess.Popen[Any]: ...


class HandshakeEnds:
    """start() brings the responders up and waits until each listens; handshakes() gives the driver its side."""

    def __init__(self, lab: Spawner, plan: Plan) -> None:
        self._lab, self._plan = lab, plan
        self._keys: dict[str, ResponderKeys] = {}
        self._processes: dict[str, subprocess.Popen[Any]] = {}

    def start(self, timeout_s: float = 10.0) -> None:
        by_node: dict[str, list[Service]] = defaultdict(list)
        for service in self._plan.services:
            if service.kind == "handshake":
                by_node[service.node].append(service)
        _KEYS.mkdir(parents=True, exist_ok=True)
        for node, services in by_node.items():
            self._keys[node] = ResponderKeys.new()
            path = _KEYS / f"{node}.json"
            self._keys[node].save(path)
            argv = [
                sys.executable,
                "-m",
                "testbed.traffic.handshake_responder",
                "--keys",
                str(path),
                *_ports(services),
            ]
            self._processes[node] = self._lab.spawn(
                node, argv, log=f"handshakes-{node}", stdout=subprocess.PIPE
            )
        deadline = time.monotonic() + timeout_s
        for node, process in self._processes.items():
            self._await_ready(node, process, deadline)

    def handshakes(self) -> dict[str, Handshake]:
        """By stream name; WireGuard's requests are built now, for they cost 0.3 ms each."""
        services = {service.name: service for service in self._plan.services}
        return {
            stream.name: self._handshake(stream, services[stream.target])
            for stream in self._plan.streams
            if stream.probe == "handshake"
        }

    def health(self) -> list[str]:
        return [
            f"the handshake responder on {node} died (exit code {process.returncode}); see logs/handshakes-{node}.log"
            for node, process in self._processes.items()
            if process.poll() is not None
        ]

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()

    def _handshake(self, stream: Stream, service: Service) -> Handshake:
        probe = HandshakeProbe(
            service.protocol or "", stream.name, wireguard_server=self._keys[service.node].wireguard_public
        )
        if service.protocol == "wireguard":
            probe.prebuild(range(len(stream.at_ns)))
        return Handshake(
            probe.transport,
            request=lambda attempt: probe.request(attempt.index),
            is_answer=lambda attempt, data: probe.is_answer(data, attempt.index),
        )

    def _await_ready(self, node: str, process: subprocess.Popen[Any], deadline: float) -> None:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = process.stdout.readline() if readable else b""
        if line.strip() != b"ready":
            raise HandshakesFailed(
                f"the handshake responder on {node} did not come up; see logs/handshakes-{node}.log"
            )


def _ports(services: Iterable[Service]) -> list[str]:
    """The responder's options for these services."""
    ports: dict[str, set[int]] = {"udp": set(), "tcp": set()}
    for service in services:
        transport = PROBES[service.protocol or ""][0]
        ports[transport].add(service.port)
        if service.protocol in ("ikev2", "ikev1"):
            ports["udp"].add(_NAT_T_PORT)
    return [
        word
        for name, numbers in ports.items()
        if numbers
        for word in (f"--{name}", ",".join(map(str, sorted(numbers))))
    ]
