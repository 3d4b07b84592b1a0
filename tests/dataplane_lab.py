"""A router between two sides, for tests of dataplanes with real packets: any address is possible on either side.

    client side ── gc [router namespace: the dataplane] gs ── server side

Frames are sent and seen with packet sockets, so both sides can be anybody. Runs inside a world (pytest.mark.world).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_libc = ctypes.CDLL(None, use_errno=True)

# What lies behind the client side; everything else is behind the server side.
INSIDE4, INSIDE6 = "10.0.0.0/8", "fd00::/16"


@dataclass
class Side:
    """One end of a veth pair whose other end is the router's."""

    name: str
    socket: socket.socket
    mac: bytes
    router_mac: bytes
    seen: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        kind = b"\x86\xdd" if data[0] >> 4 == 6 else b"\x08\0"
        self.socket.send(self.router_mac + self.mac + kind + data)

    def collect(self) -> list[bytes]:
        """IP packets that came out of the router here, since the start."""
        while True:
            try:
                frame, address = self.socket.recvfrom(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self.seen
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] in (b"\x86\xdd", b"\x08\0"):
                self.seen.append(frame[14:])


@dataclass
class Router:
    """client and server are the two sides; `inside()` puts the calling thread into the router's namespace."""

    client: Side
    server: Side
    namespace: int

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with _in_namespace(self.namespace):
            yield

    def run(self, *argv: str) -> str:
        with self.inside():
            return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def router() -> Iterator[Router]:
    """Make it, and unmake it."""
    client_ns, router_ns, server_ns = (_namespace() for _ in range(3))
    namespaces = (client_ns, router_ns, server_ns)
    try:
        with _in_namespace(router_ns):
            pairs = (("gc", "c0", client_ns), ("gs", "s0", server_ns))
            where = f"/proc/{os.getpid()}/fd"
            commands = [
                f"link add {name} up type veth peer name {peer} netns {where}/{other}"
                for name, peer, other in pairs
            ]
            _ip([*commands, "link set lo up"])
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                _write(f"/proc/sys/net/{key}", "1")
            # A flow must not be forgotten while a long test is at other flows.
            for key in ("udp_timeout", "udp_timeout_stream", "gre_timeout", "generic_timeout"):
                _write(f"/proc/sys/net/netfilter/nf_conntrack_{key}", "3600")
            for key in ("all", "gc", "gs"):
                _write(f"/proc/sys/net/ipv4/conf/{key}/rp_filter", "0")
        sides = []
        for name, namespace, router_name in (("c0", client_ns, "gc"), ("s0", server_ns, "gs")):
            with _in_namespace(namespace):
                _write(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
                _ip([f"link set {name} up"])
                opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                opened.bind((name, 0))
                opened.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
                mac = opened.getsockname()[4]
            with _in_namespace(router_ns):
                router_mac = bytes.fromhex(_mac(router_name))
            sides.append(Side(name, opened, mac, router_mac))
        with _in_namespace(router_ns):
            commands = []
            for name, side, networks in (
                ("gc", sides[0], (INSIDE4, INSIDE6)),
                ("gs", sides[1], ("0.0.0.0/0", "::/0")),
            ):
                for via, network in zip(("192.0.2.254", "2001:db8:ffff::254"), networks, strict=True):
                    commands.append(
                        f"neigh replace {via} lladdr {side.mac.hex(':')} dev {name} nud permanent"
                    )
                    commands.append(f"route add {network} via {via} dev {name} onlink")
            _ip(commands)
        yield Router(sides[0], sides[1], router_ns)
        for side in sides:
            side.socket.close()
    finally:
        for namespace in namespaces:
            os.close(namespace)


def wait_until(condition: Callable[[], Any], within_s: float = 3.0) -> Any:
    """The condition's first true value. Fails the test when the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.0001)


def _namespace() -> int:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    finally:
        _libc.setns(here, _CLONE_NEWNET)
        os.close(here)


@contextlib.contextmanager
def _in_namespace(namespace: int) -> Iterator[None]:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        _libc.setns(here, _CLONE_NEWNET)
        os.close(here)


def _mac(name: str) -> str:
    shown = subprocess.run(
        ["ip", "-o", "link", "show", name], check=True, capture_output=True, text=True
    ).stdout
    return shown.split("link/ether ")[1].split()[0].replace(":", "")


def _ip(commands: Iterable[str]) -> None:
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True)
    assert done.returncode == 0, f"ip: {done.stderr}"


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)
