"""The road the dataplanes' benchmark measures on: client – veth – router – veth – server, each a network namespace of its own.

Frames are made by hand and sent by sendmmsg(2) on a packet socket past the queueing discipline: the kernel forwards each within
the call, on the same processor, so the time of the call is the cost of the road, and nothing waits for another process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.allowlist import Entry

# What lies behind each side; the benchmark's entries have their ends in these (RFC 1918, RFC 2544).
INSIDE, OUTSIDE = "10.0.0.0/8", "198.18.0.0/15"
CLIENT_PORT = 40000

_CLONE_NEWNET = 0x40000000
_ETH_P_IP = 0x0800
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 33, 263, 20, 23
_FIRST_LINE, _FIRST_ENDPOINT = 0x0A000001, 0xC6120000
_libc = ctypes.CDLL(None, use_errno=True)


def entry(index: int, shared: dict[Any, Any] | None = None) -> Entry:
    """The index-th entry of every list, made as the feed's are (Entry.from_json): one line to one endpoint, one cell.

    Every fourth is OpenVPN over UDP, every fourth over TCP.
    """
    line, endpoint, port, protocol = ends(index)
    return Entry.from_json(
        {
            "registration": index + 1,
            "registrant": f"company-{index >> 3}",
            "subscriber_prefixes": [f"{dotted(line)}/32"],
            "endpoint_prefixes": [f"{dotted(endpoint)}/32"],
            "endpoint_ports": [port],
            "protocols": [protocol],
            "valid_from_ns": 0,
            "valid_until_ns": None,
        },
        shared,
    )


def ends(index: int) -> tuple[int, int, int, str]:
    """Line, endpoint, port and protocol of the index-th entry."""
    kind = index & 3
    port, protocol = {1: (1194, "openvpn-udp"), 3: (1194, "openvpn-tcp")}.get(kind, (51820, "wireguard"))
    return _FIRST_LINE + index, _FIRST_ENDPOINT + (index * 2654435761 & 0x1FFFF), port, protocol


def dotted(address: int) -> str:
    return socket.inet_ntoa(address.to_bytes(4, "big"))


@dataclass
class Road:
    """Namespaces as paths that any process of this world can open, and the devices' addresses. Unmade when its processes end."""

    client: str
    router: str
    server: str
    client_mac: bytes
    client_gate_mac: bytes

    def frame(self, index: int, payload: bytes = b"\xa5" * 18, port: int = CLIENT_PORT) -> bytes:
        """A UDP packet of the index-th entry's flow; with 18 bytes of payload it takes 64 on an Ethernet, checksum included."""
        line, endpoint, to_port, _ = ends(index)
        head = struct.pack("!BBHHHBBHII", 0x45, 0, 28 + len(payload), 0, 0x4000, 64, 17, 0, line, endpoint)
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        head = head[:10] + total.to_bytes(2, "big") + head[12:]
        udp = struct.pack("!HHHH", port, to_port, 8 + len(payload), 0)  # checksum 0: none (RFC 768)
        return self.client_gate_mac + self.client_mac + b"\x08\0" + head + udp + payload

    def sender(self) -> socket.socket:
        """A packet socket on the client's device."""
        with inside(self.client):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            opened.bind(("c0", 0))
            opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        return opened

    def receiver(self) -> socket.socket:
        """A packet socket that sees what reaches the server. Each packet costs more while one is open."""
        with inside(self.server):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
            opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            opened.bind(("s0", _ETH_P_IP))
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        return opened

    def delivered(self) -> int:
        """Packets that reached the server's device so far."""
        with inside(self.server):
            for text in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, counts = text.partition(":")
                if name.strip() == "s0":
                    return int(counts.split()[1])
        raise OSError("the server's device is gone")

    def give_addresses(self, index: int) -> tuple[str, str]:
        """Make both ends of the index-th entry addresses of the client and the server; returns them."""
        line, endpoint, _, _ = ends(index)
        for namespace, address in ((self.client, line), (self.server, endpoint)):
            with inside(namespace):
                _ip([f"address replace {dotted(address)}/32 dev lo"])
        return dotted(line), dotted(endpoint)


def make_road() -> tuple[Road, list[int]]:
    """A road, and the descriptors that keep it; closing them takes it away."""
    held = [_namespace() for _ in range(3)]
    client, router, server = (f"/proc/{os.getpid()}/fd/{each}" for each in held)
    with inside(router):
        _ip(
            [
                "link set lo up",
                f"link add gc type veth peer name c0 netns {client}",
                f"link add gs type veth peer name s0 netns {server}",
            ]
        )
        for key in ("udp_timeout", "udp_timeout_stream"):
            Path(f"/proc/sys/net/netfilter/nf_conntrack_{key}").write_text("3600")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        gates = {name: _mac(name) for name in ("gc", "gs")}
    macs = {}
    for namespace, device, gate, routes in (
        (client, "c0", "gc", [f"route add {OUTSIDE} via 192.0.2.254 dev c0 onlink"]),
        # What is sent at full speed ends here without an answer; addresses given to the server win over it.
        (server, "s0", "gs", [f"route add {INSIDE} via 192.0.2.254 dev s0 onlink", f"route add blackhole {OUTSIDE}"]),
    ):  # fmt: skip
        with inside(namespace):
            neighbour = f"neigh replace 192.0.2.254 lladdr {gates[gate].hex(':')} dev {device} nud permanent"
            _quiet()
            _ip(["link set lo up", f"link set {device} up", neighbour, *routes])
            macs[device] = _mac(device)
    with inside(router):
        _quiet()
        commands = ["link set gc up", "link set gs up"]
        for device, peer, network in (("gc", "c0", INSIDE), ("gs", "s0", OUTSIDE)):
            commands += [
                f"neigh replace 192.0.2.254 lladdr {macs[peer].hex(':')} dev {device} nud permanent",
                f"route add {network} via 192.0.2.254 dev {device} onlink",
            ]
        _ip(commands)
    return Road(client, router, server, macs["c0"], gates["gc"]), held


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread is in this namespace meanwhile."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(namespace, os.O_RDONLY)
    try:
        _setns(there)
        yield
    finally:
        _setns(here)
        os.close(here)
        os.close(there)


def enter(namespace: str) -> None:
    """The calling process is in this namespace from now on."""
    there = os.open(namespace, os.O_RDONLY)
    _setns(there)
    os.close(there)


class Burst:
    """Frames laid out for sendmmsg(2), to be sent again and again."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.count = len(frames)
        self._buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._vectors = (_Vector * self.count)()
        self._messages = (_Message * self.count)()
        for vector, message, buffer in zip(self._vectors, self._messages, self._buffers, strict=True):
            vector.base, vector.length = ctypes.addressof(buffer), len(buffer)
            message.vectors, message.vector_count = ctypes.addressof(vector), 1

    def come_from(self, ports: Sequence[int]) -> None:
        """Give them (UDP) these source ports: each is the first packet of a flow again."""
        for buffer, port in zip(self._buffers, ports, strict=True):
            buffer[34:36] = port.to_bytes(2, "big")

    def send(self, opened: socket.socket) -> int:
        """Send all of them; returns how many went out. Raises OSError."""
        sent, size = 0, ctypes.sizeof(_Message)
        start = ctypes.addressof(self._messages)
        while sent < self.count:
            done = _libc.sendmmsg(opened.fileno(), ctypes.c_void_p(start + sent * size), self.count - sent, 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            sent += done
        return sent


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct mmsghdr of <sys/socket.h> on 64-bit Linux."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent_bytes", ctypes.c_uint),
    ]


def _namespace() -> int:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare: no network namespace can be made")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    finally:
        _setns(here)
        os.close(here)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _quiet() -> None:
    """No IPv6 chatter, and no check of the way back: the sides have no addresses of their own."""
    for key in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{key}/disable_ipv6").write_text("1")
        Path(f"/proc/sys/net/ipv4/conf/{key}/rp_filter").write_text("0")


def _mac(name: str) -> bytes:
    shown = subprocess.run(
        ["ip", "-o", "link", "show", name], check=True, capture_output=True, text=True
    ).stdout
    return bytes.fromhex(shown.split("link/ether ")[1].split()[0].replace(":", ""))


def _ip(commands: Iterable[str]) -> None:
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip refused the road: {done.stderr.strip()}")
