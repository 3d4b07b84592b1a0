"""Attempts of protocols without ports: ESP, AH, GRE. One raw socket of a host serves all of one protocol; a number in the packet tells them apart."""

from __future__ import annotations

import socket

from testbed.traffic import handshakes_raw
from testbed.traffic.attempt import Attempt, Host
from testbed.traffic.echo import SharedSocket


class PortlessSocket(SharedSocket):
    """The raw socket of one host, family and protocol (a word of handshakes_raw.PROTOCOLS)."""

    def __init__(self, host: Host, family: int, protocol: str) -> None:
        self.protocol = protocol
        self._count = 0
        # An IPv4 raw socket hands over the IP header too: raw(7).
        self._is_v4 = family == 4
        inet = socket.AF_INET if self._is_v4 else socket.AF_INET6
        super().__init__(host, inet, socket.SOCK_RAW, handshakes_raw.PROTOCOLS[protocol])

    def send(self, attempt: PortlessAttempt) -> int:
        """Send a sample for the attempt and return its number. Raises OSError."""
        self._count += 1
        self.expect(self._count, attempt)
        self._socket.sendto(handshakes_raw.sample(self.protocol, self._count), (attempt.target.address, 0))
        return self._count

    def _number_of(self, data: bytes) -> int | None:
        found = handshakes_raw.number_of(
            self.protocol, data[(data[0] & 0x0F) * 4 :] if self._is_v4 and data else data
        )
        return found[0] if found is not None and found[1] else None


class PortlessAttempt(Attempt):
    """One packet to the far end, and one of the same kind back."""

    def __init__(self, *args, shared: PortlessSocket) -> None:
        super().__init__(*args)
        self.transport = handshakes_raw.TRANSPORT[shared.protocol]
        self.dst_port = 0
        self._shared, self._number = shared, 0

    def _send(self) -> None:
        self._mark_sent(self.ticker.now_ns())
        self._number = self._shared.send(self)

    def echoed(self) -> None:
        self._answered()

    def _release(self) -> None:
        self._shared.forget(self._number)
