"""Six steady streams through a router, each packet known by a number: what was sent, what came out in time, and what should have.

registered, unregistered, other (not a VPN)  ×  live (one flow throughout), new (each packet begins a flow)
"""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass, field

from tests import enforcer_packets as make
from tests.dataplane_lab import Router
from tests.dataplane_traffic import LINE, OTHER_LINE, SERVER

STREAMS = (
    "registered-live",
    "registered-new",
    "unregistered-live",
    "unregistered-new",
    "other-live",
    "other-new",
)
RATE_PPS = 30  # of each stream
LATE_S = 1.0  # a packet that comes out later than this did not come
_MAGIC = b"\xfa\x11"
_VPN = {"registered": LINE, "unregistered": OTHER_LINE}


@dataclass
class Sent:
    at_s: float
    stream: str
    did_pass: bool = False


@dataclass
class Streams:
    """Times are of time.monotonic(). Use as a context manager: it sends from entering until leaving."""

    lab: Router
    sent: dict[int, Sent] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Streams:
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def wrong(
        self, expected: dict[str, bool], from_s: float, until_s: float, *also: dict[str, bool]
    ) -> list[Sent]:
        """Packets sent in this time that did not do as expected; nor as expected by any of `also`."""
        return [
            each
            for each in list(self.sent.values())
            if from_s <= each.at_s < until_s
            and all(each.did_pass != what[each.stream] for what in (expected, *also))
        ]

    def between(self, from_s: float, until_s: float) -> list[Sent]:
        return [each for each in list(self.sent.values()) if from_s <= each.at_s < until_s]

    def _send(self) -> None:
        number, due_s = 0, time.monotonic()
        while not self._ending.is_set():
            for stream in STREAMS:
                number += 1
                data = packet(stream, number)
                self.sent[number] = Sent(time.monotonic(), stream)
                self.lab.client.send(data)
            if (
                number % (len(STREAMS) * RATE_PPS // 3) == 0
            ):  # both ways, so that the kernel takes the flows for real ones
                for port, source in ((51820, 40000), (33001, 40001)):
                    self.lab.server.send(make.udp(SERVER[4], LINE[4], port, source, b"back"))
            due_s += 1 / RATE_PPS
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _receive(self) -> None:
        self.lab.server.socket.settimeout(0.1)
        ends_s = None
        while ends_s is None or time.monotonic() < ends_s:
            if ends_s is None and self._ending.is_set():
                ends_s = time.monotonic() + LATE_S
            try:
                frame, address = self.lab.server.socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == 4 or frame[-10:-8] != _MAGIC:  # PACKET_OUTGOING
                continue
            (number,) = struct.unpack("!Q", frame[-8:])
            one = self.sent.get(number)
            if one is not None and time.monotonic() - one.at_s <= LATE_S:
                one.did_pass = True
        self.lab.server.socket.settimeout(None)


def packet(stream: str, number: int) -> bytes:
    kind, _, age = stream.partition("-")
    tail = _MAGIC + struct.pack("!Q", number)
    version = 4 if age == "live" or number // len(STREAMS) % 2 else 6
    source = 40000 if age == "live" else 41000 + number % 20000
    if kind == "other":
        return make.udp(LINE[version], SERVER[version], source + (age == "live"), 33001, b"not a VPN" + tail)
    is_first = age == "new" or number <= len(STREAMS)
    data = make.WIREGUARD_INITIATION if is_first else make.WIREGUARD_DATA
    return make.udp(_VPN[kind][version], SERVER[version], source, 51820, data[: -len(tail)] + tail)


def flood(lab: Router, count: int, is_vpn: bool) -> None:
    """So many packets as fast as they go, each a flow of its own: unregistered VPN of every kind, or none of it VPN."""
    ports = (51820, 1194, 500, 4500, 1701) if is_vpn else (33001,)
    template = bytearray(make.udp(OTHER_LINE[4], SERVER[4], 1, ports[0], b"flood, and no first message"))
    for number in range(count):
        struct.pack_into("!HH", template, 20, 1024 + number % 60000, ports[number % len(ports)])
        struct.pack_into(
            "!I", template, 12, 0x0A010000 + number // 60000
        )  # its source address; checksums: see below
        template[10:12] = b"\0\0"
        template[10:12] = make.checksum(bytes(template[:20])).to_bytes(2, "big")
        template[26:28] = b"\0\0"  # no UDP checksum (RFC 768)
        while True:
            try:
                lab.client.send(bytes(template))
                break
            except OSError:  # the device's queue is full
                time.sleep(0.001)


def everybody(passes: bool) -> dict[str, bool]:
    return dict.fromkeys(STREAMS, passes)


RIGHT = {stream: not stream.startswith("unregistered") for stream in STREAMS}
OPEN = everybody(True)
CLOSED = {stream: stream.startswith("other") for stream in STREAMS}
REGIMES = {"keep": RIGHT, "allow": OPEN, "block": CLOSED}
