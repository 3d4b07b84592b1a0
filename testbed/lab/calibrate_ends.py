"""The addresses and sockets a link is measured through, and the process that does the measuring (calibrate_probe.py)."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from testbed.lab.build import Lab
from testbed.lab.holder_placement import Direction
from testbed.lab.preloaded import popen
from testbed.plan.plan import Interface, Link

Family = Literal[4, 6]
_BUFFER_BYTES = 16 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_BINDTODEVICE = 32, 33, 25
_PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class End:
    """Where measuring packets start or end: an address of a node, and the device it is on (a bridge's members share it)."""

    node: str
    device: str
    address: str


class ProbeFailed(RuntimeError):
    """The measuring process could not do its work; nothing was learned about the links."""


def ends(lab: Lab, link: Link, direction: Direction, family: Family) -> tuple[End, End] | None:
    """Sender and receiver, or None when the link has no addresses of this family on both sides."""
    pair = (link.a, link.b) if direction == "ab" else (link.b, link.a)
    found = [_end(lab, interface, family) for interface in pair]
    return (found[0], found[1]) if found[0] and found[1] else None


@contextmanager
def measuring_sockets(
    lab: Lab, sender: End, receiver: End, *, senders: int = 1
) -> Iterator[tuple[list[socket.socket], socket.socket, list[Any]]]:
    """Sending sockets, the receiving one, and the address to send to."""
    with contextlib.ExitStack() as stack:
        outgoing = [stack.enter_context(_socket(lab, sender)) for _ in range(senders)]
        incoming = stack.enter_context(_socket(lab, receiver))
        yield outgoing, incoming, [receiver.address, incoming.getsockname()[1]]


def run_probe(job: Any, sockets: list[socket.socket]) -> Any:
    """Carry out a job of calibrate_probe, or a list of them, with these sockets. Raises ProbeFailed."""
    probing = popen(
        [sys.executable, "-m", "testbed.lab.calibrate_probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[each.fileno() for each in sockets],
    )
    with probing:
        try:
            answer, errors = probing.communicate(json.dumps(job), _PROBE_TIMEOUT_S)
        except BaseException:
            probing.kill()
            raise
    if probing.returncode != 0:
        raise ProbeFailed(
            f"measuring the links failed (exit code {probing.returncode}): {errors.strip()[-2000:]}"
        )
    return json.loads(answer)


def _end(lab: Lab, interface: Interface, family: Family) -> End | None:
    device, addresses = interface.name, interface.ipv4 if family == 4 else interface.ipv6
    if interface.bridge is not None:
        bridge = next(
            each for each in lab.plan.bridges if (each.node, each.name) == (interface.node, interface.bridge)
        )
        device, addresses = bridge.name, bridge.ipv4 if family == 4 else bridge.ipv6
    if not addresses:
        return None
    return End(interface.node, device, str(ipaddress.ip_interface(addresses[0]).ip))


def _socket(lab: Lab, end: End) -> socket.socket:
    family = socket.AF_INET6 if ":" in end.address else socket.AF_INET
    with lab.inside(end.node):
        made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        # Straight over the link, whatever the routing table prefers.
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, end.device.encode() + b"\0")
        for forced, ordinary in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                made.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except PermissionError:
                made.setsockopt(socket.SOL_SOCKET, ordinary, _BUFFER_BYTES)
        made.bind((end.address, 0))
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made
