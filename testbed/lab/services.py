"""The services of the plan's server nodes: a real resolver per DNS node, one responder process, iperf3 for bulk load.

Ready means asked and answered, each from its own node: a service that listens and says nothing is not ready.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from testbed.lab.daemons import end_programs
from testbed.lab.routing import await_none
from testbed.lab.services_checks import TRANSPORT, check
from testbed.lab.services_https import https_request, is_https_complete
from testbed.plan.plan import Plan, Service

ECHO_PORT = 7  # RFC 862
_COMMAND_TIMEOUT_S = 10.0


class ServiceLab(Protocol):
    """The part of a lab this module uses."""

    @property
    def plan(self) -> Plan: ...

    @property
    def log_dir(self) -> Path: ...

    def netns_fd(self, node: str) -> int: ...

    def inside(self, node: str) -> AbstractContextManager[None]: ...

    def spawn(self, node: str, argv: list[str], log: str, **popen: Any) -> subprocess.Popen[Any]: ...


def start_services(lab: ServiceLab, deadline_s: float = 10.0) -> Services:
    """Start everything the plan's services need and wait until each has answered in each of its families.

    Raises FileNotFoundError for a program that is not installed, NotReady naming the services that do not answer,
    RuntimeError when an address or port cannot be bound.
    """
    services = Services(lab)
    try:
        services.start(deadline_s)
    except BaseException:
        services.close()
        raise
    return services


class Services:
    """The running services.

    handshake_keys: for each node with `handshake` services the key file of its responder
    (testbed.traffic.handshake_responder.ResponderKeys.load), which the probes need.
    """

    https_request = staticmethod(https_request)
    is_https_complete = staticmethod(is_https_complete)

    def __init__(self, lab: ServiceLab) -> None:
        self._lab = lab
        self._wanted: tuple[Service, ...] = ()
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self._responders: _Responders | None = None
        self.handshake_keys: dict[str, Path] = {}
        self._key_dir = Path(tempfile.mkdtemp(prefix="handshakes-", dir="/tmp"))

    def start(self, deadline_s: float) -> None:
        plan, lab = self._lab.plan, self._lab
        self._wanted = used_services(plan)
        _require({"dns": "unbound", "bulk": "iperf3"}, {service.kind for service in self._wanted})
        for node in self._nodes("dns"):
            conf = lab.log_dir / f"unbound-{node}.conf"
            conf.write_text(unbound_conf(plan, node), "utf-8")
            self._spawn(node, ["unbound", "-d", "-c", str(conf)], f"unbound-{node}")
        for node, port in dict.fromkeys((s.node, s.port) for s in self._wanted if s.kind == "bulk"):
            # No -B: one daemon hears IPv4, IPv6 and the tunnels' inner addresses. It serves one client at a time.
            self._spawn(node, ["iperf3", "-s", "-p", str(port)], f"iperf3-{node}-{port}")
        for node in self._nodes("handshake"):
            self._start_handshakes(node)
        self._start_responders()
        await_none("services did not answer", self.problems, deadline_s)

    def add_echo(self, node: str, address: str, port: int = ECHO_PORT) -> None:
        """Answer UDP echo at an address of a server node; the address may appear later (a tunnel's inner one).

        Raises RuntimeError when the port cannot be bound.
        """
        if self._responders is None:
            self._responders = self._new_responders()
        self._responders.add("udp-echo", node, address, port)

    def problems(self) -> list[str]:
        """One sentence for each service and family that does not answer now."""
        wrong = self.health()
        for service in self._wanted:
            for address in (service.address4, service.address6):
                if address is None:
                    continue
                try:
                    with self._lab.inside(service.node):
                        check(service, address)
                except (OSError, ValueError) as error:
                    wrong.append(
                        f"{service.name} ({service.kind}) on {service.node}, {address} port {service.port}: {error}"
                    )
        return wrong

    def health(self) -> list[str]:
        """The programs that ended on their own, one sentence each."""
        return [
            f"{name} ended with {process.returncode}; see logs/{name}.log"
            for name, process in self._processes.items()
            if process.poll() is not None
        ]

    def close(self) -> None:
        """End all of them. May be called twice."""
        if self._responders is not None:
            self._responders.close()
            self._responders = None
        end_programs(self._processes.values())
        self._processes.clear()
        shutil.rmtree(self._key_dir, ignore_errors=True)

    def _start_responders(self) -> None:
        kinds = {"https": "https", "voice": "udp-echo"}
        wanted = [service for service in self._wanted if service.kind in kinds]
        if wanted:
            self._responders = self._new_responders()
        for service in wanted:
            for address in (service.address4, service.address6):
                if address is not None and self._responders is not None:
                    self._responders.add(kinds[service.kind], service.node, address, service.port)

    def _start_handshakes(self, node: str) -> None:
        """One process for all the node's handshake services, with keys made for this run, in the world's own /tmp."""
        keys = self._key_dir / f"{node}.key"
        with os.fdopen(os.open(keys, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"wireguard_private": secrets.token_hex(32), "tls_crypt": None}, file)
        self.handshake_keys[node] = keys
        services = [s for s in self._lab.plan.services if s.node == node and s.kind == "handshake"]
        argv = [sys.executable, "-m", "testbed.traffic.handshake_responder", "--keys", str(keys)]
        for transport in ("udp", "tcp"):
            ports = sorted({s.port for s in services if TRANSPORT.get(s.protocol or "") == transport})
            argv += [f"--{transport}", ",".join(map(str, ports))] if ports else []
        raw = sorted({s.protocol for s in services if s.protocol and s.protocol not in TRANSPORT})
        argv += ["--raw", ",".join(raw)] if raw else []
        self._spawn(node, argv, f"handshakes-{node}", env=_environment())

    def _new_responders(self) -> _Responders:
        responders = _Responders(self._lab)
        self._processes["responders"] = responders.process
        return responders

    def _nodes(self, kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(service.node for service in self._wanted if service.kind == kind))

    def _spawn(self, node: str, argv: list[str], log: str, **options: Any) -> None:
        self._processes[log] = self._lab.spawn(node, argv, log=log, **options)


def used_services(plan: Plan) -> tuple[Service, ...]:
    """Those that are started: all, but in virtual time, where a start is what costs, only those that somebody will ask."""
    if plan.clock == "real":
        return plan.services
    asked = {stream.target for stream in plan.streams} | {bulk.service for bulk in plan.bulk}
    asked_nodes = {(each.node, each.kind) for each in plan.services if each.name in asked}
    return tuple(each for each in plan.services if (each.node, each.kind) in asked_nodes)


def unbound_conf(plan: Plan, node: str) -> str:
    """A resolver that knows the plan's zones and nothing else: each name in a zone is the service's own address.

    No root key, no root servers, no validation (module-config "iterator"): what is not in a zone is refused, so the
    resolver never sends a packet of its own.
    """
    services = [s for s in plan.services if s.node == node and s.kind == "dns"]
    addresses = [(a, s.port) for s in services for a in (s.address4, s.address6) if a]
    lines = [
        "server:",
        "  do-daemonize: no",
        '  username: ""',
        '  chroot: ""',
        '  directory: "/"',
        '  pidfile: ""',
        "  use-syslog: no",
        '  logfile: ""',
        "  verbosity: 1",
        '  module-config: "iterator"',
        "  num-threads: 1",
        "  outgoing-range: 32",
        "  num-queries-per-thread: 1024",
        "  msg-cache-size: 256k",
        "  rrset-cache-size: 256k",
        "  infra-cache-numhosts: 100",
        "  key-cache-size: 64k",
        "  neg-cache-size: 64k",
        "  ip-freebind: yes",
        *(f"  interface: {address}@{port}" for address, port in dict.fromkeys(addresses)),
        "  access-control: 0.0.0.0/0 allow",
        "  access-control: ::/0 allow",
        '  local-zone: "." refuse',
    ]
    for zone, service in {s.zone or ".": s for s in services}.items():
        lines.append(f'  local-zone: "{zone}" redirect')
        lines.append(f'  local-data: "{zone} 60 IN A {service.address4}"')
        if service.address6:
            lines.append(f'  local-data: "{zone} 60 IN AAAA {service.address6}"')
    lines += ["remote-control:", "  control-enable: no", ""]
    return "\n".join(lines)


class _Responders:
    """The responder process and the socket it is commanded by."""

    def __init__(self, lab: ServiceLab) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        nodes = sorted({end.node for end in (*lab.plan.services, *lab.plan.servers)})
        self._netns = {node: lab.netns_fd(node) for node in nodes}
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_COMMAND_TIMEOUT_S)
        with theirs:
            self.process = lab.spawn(
                nodes[0],
                [sys.executable, "-m", "testbed.traffic.responders", str(theirs.fileno())],
                log="responders",
                pass_fds=(theirs.fileno(), *self._netns.values()),
                env=_environment(),
            )
        self._replies = self._control.makefile("rb")

    def add(self, kind: str, node: str, address: str, port: int) -> None:
        command = {"do": kind, "netns": self._netns[node], "address": address, "port": port}
        with self._lock:
            try:
                self._control.sendall(json.dumps(command).encode() + b"\n")
                line = self._replies.readline()
            except OSError as error:
                raise RuntimeError(
                    f"the responders do not answer ({error}); see logs/responders.log"
                ) from None
        if not line:
            raise RuntimeError("the responders ended; see logs/responders.log")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{kind} on {node}: {reply['error']}")

    def close(self) -> None:
        self._replies.close()
        self._control.close()


def _environment() -> dict[str, str]:
    """So that a child finds the same packages as this process."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _require(programs: dict[str, str], kinds: set[str]) -> None:
    for kind, program in programs.items():
        if kind in kinds and shutil.which(program) is None:
            raise FileNotFoundError(
                f"{program} is not installed; the {kind} service needs the package {program}"
            )
