"""Asks each service as a client would, from its own node: what answers is ready."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.lab.services_https import https_request, is_https_complete
from testbed.plan.plan import Service

_TIMEOUT_S = 0.5
# The transport a handshake arrives by; raw protocols have no listener to look for.
TRANSPORT = {
    "wireguard": "udp",
    "openvpn-udp": "udp",
    "openvpn-tcp": "tcp",
    "ikev2": "udp",
    "ikev1": "udp",
    "l2tp": "udp",
    "pptp": "tcp",
}


def check(service: Service, address: str) -> None:
    """Ask a service at one of its addresses, in the namespace this thread is in.

    Raises OSError when it does not answer, ValueError when it answers something else. `icmp` is the kernel's own.
    """
    asked = _CHECKS.get(service.kind)
    if asked is not None:
        asked(service, address)


def _check_dns(service: Service, address: str) -> None:
    labels = [
        b"ready",
        *(label.encode("ascii") for label in (service.zone or "").strip(".").split(".") if label),
    ]
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    reply = _ask(
        address, service.port, struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
    )
    identity, flags, _questions, answers = struct.unpack_from("!4H", reply)
    if identity != 7 or flags & 0x800F != 0x8000 or not answers:
        raise ValueError(f"answers with code {flags & 0xF} and {answers} records")


def _check_voice(service: Service, address: str) -> None:
    if _ask(address, service.port, b"ready") != b"ready":
        raise ValueError("echoes something else")


def _check_https(service: Service, address: str) -> None:
    attempt = _ReadyAttempt(service.name)
    with socket.create_connection((address, service.port), _TIMEOUT_S) as sock:
        sock.sendall(https_request(attempt))
        data = b""
        while not is_https_complete(attempt, data):
            more = sock.recv(65536)
            if not more:
                raise ValueError("closes before its answer is complete")
            data += more


def _check_bulk(service: Service, _address: str) -> None:
    """Only that it listens: iperf3 takes a connection for a test and would be busy with ours."""
    _check_listens("tcp", service.port)


def _check_handshake(service: Service, _address: str) -> None:
    """Only that it listens: a handshake is the traffic driver's business, and would be counted as one."""
    transport = TRANSPORT.get(service.protocol or "")
    if transport is not None:
        _check_listens(transport, service.port)


def _check_listens(transport: str, port: int) -> None:
    for table in (transport, f"{transport}6"):  # a dual-stack listener is in the second one only
        for row in Path(f"/proc/thread-self/net/{table}").read_text("ascii").splitlines()[1:]:
            _slot, local, _remote, state = row.split()[:4]
            if int(local.rpartition(":")[2], 16) == port and state in _LISTENING[transport]:
                return
    raise ValueError("nobody listens")


# net/tcp_states.h: TCP_LISTEN; an unconnected UDP socket shows TCP_CLOSE.
_LISTENING = {"tcp": ("0A",), "udp": ("07",)}
_CHECKS: dict[str, Callable[[Service, str], None]] = {
    "dns": _check_dns,
    "voice": _check_voice,
    "https": _check_https,
    "bulk": _check_bulk,
    "handshake": _check_handshake,
}


def _ask(address: str, port: int, question: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.connect((address, port))
        sock.send(question)
        return sock.recv(2048)


@dataclass(frozen=True, slots=True)
class _ReadyAttempt:
    """A request of 1 byte, in the shape https_request wants."""

    name: str
    payload_bytes: int = 1

    @property
    def id(self) -> str:
        return f"ready/{self.name}"

    @property
    def stream(self) -> _ReadyAttempt:
        return self

    target = stream
