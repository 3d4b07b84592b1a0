"""Attempts that share a socket: ICMP echo of a host, and UDP echo through a tunnel."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from testbed.traffic.attempt import Attempt, Host, failure_of

_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST = {4: 8, 6: 128}  # RFC 792, RFC 4443 §4.1
_ECHO_REPLY = {4: 0, 6: 129}
_TOKEN = struct.Struct("!Q")


class _Echoed(Protocol):
    """An attempt that waits for one echo."""

    def echoed(self) -> None: ...


class SharedSocket:
    """A socket of one host whose answers find their attempts by a number."""

    def __init__(self, host: Host, family: int, kind: int, protocol: int = 0) -> None:
        self._waiting: dict[int, _Echoed] = {}
        with host.inside():
            self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def expect(self, number: int, attempt: _Echoed) -> None:
        self._waiting[number] = attempt

    def forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:  # one: the loop calls again while there is more
            data = self._socket.recv(2048)
        except (BlockingIOError, OSError):
            return
        number = self._number_of(data)
        attempt = None if number is None else self._waiting.get(number)
        if attempt is not None:
            attempt.echoed()

    def _number_of(self, data: bytes) -> int | None:
        raise NotImplementedError


class IcmpSocket(SharedSocket):
    """The raw ICMP socket of one host and family. Echo identifiers stay inside the host's port block, if it has one,
    so that carrier-grade NAT keeps them (RFC 5508 §4.1) and a witness can name the attempt."""

    def __init__(self, host: Host, family: int) -> None:
        self.family = family
        self._first = host.port_first or 1
        self._span = (host.port_last or 65535) - self._first + 1
        self._count = 0
        if family == 4:
            super().__init__(host, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        else:
            super().__init__(host, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)

    def send(self, attempt: IcmpAttempt, payload_bytes: int) -> int:
        """Send one echo request for the attempt and return its identifier. Raises OSError."""
        identifier = self._first + self._count % self._span
        self._count += 1
        body = _TOKEN.pack(attempt.scheduled_ns & (2**64 - 1)).ljust(payload_bytes, b"\0")
        head = _ECHO.pack(_ECHO_REQUEST[self.family], 0, 0, identifier, 0)
        if self.family == 4:  # the kernel fills in the ICMPv6 checksum itself (RFC 3542 §3.1)
            head = _ECHO.pack(8, 0, _checksum(head + body), identifier, 0)
        self._waiting[identifier] = attempt
        self._socket.sendto(head + body, (attempt.target.address, 0))
        return identifier

    def _number_of(self, data: bytes) -> int | None:
        body = data[(data[0] & 0x0F) * 4 :] if self.family == 4 else data
        if len(body) < _ECHO.size:
            return None
        kind, _code, _sum, identifier, _sequence = _ECHO.unpack_from(body)
        return identifier if kind == _ECHO_REPLY[self.family] else None


class IcmpAttempt(Attempt):
    """One echo request and its reply; src_port holds the identifier."""

    def __init__(self, *args, shared: IcmpSocket) -> None:
        super().__init__(*args)
        self.transport = "icmp" if shared.family == 4 else "icmpv6"
        self.dst_port = 0
        self._shared = shared

    def _send(self) -> None:
        self._mark_sent(self.ticker.now_ns())
        self.src_port = self._shared.send(self, self.stream.payload_bytes)

    def echoed(self) -> None:
        self._answered()

    def _release(self) -> None:
        self._shared.forget(self.src_port)


class TunnelSocket(SharedSocket):
    """The echo socket inside one tunnel. Unbound, so it survives the tunnel's interface going away and coming back."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        self._count = 0
        self._to = (address, port)
        super().__init__(host, socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, attempt: TunnelEchoAttempt, payload_bytes: int) -> int:
        """Send one echo and return its token. Raises OSError (a blackhole route when the tunnel is down)."""
        self._count += 1
        self._waiting[self._count] = attempt
        self._socket.sendto(_TOKEN.pack(self._count).ljust(payload_bytes, b"\0"), self._to)
        return self._count

    def _number_of(self, data: bytes) -> int | None:
        return _TOKEN.unpack_from(data)[0] if len(data) >= _TOKEN.size else None


class TunnelEchoAttempt(Attempt):
    """One UDP echo through a tunnel; its record names the tunnel's outer flow, which is what a witness can see.

    outer: () -> (transport, src, src_port, dst, dst_port), or None while the client has no socket yet.
    """

    def __init__(
        self, *args, shared: TunnelSocket, outer: Callable[[], tuple[str, str, int, str, int] | None]
    ) -> None:
        super().__init__(*args)
        self._shared = shared
        self._outer = outer
        self._token = 0
        self.dst, self.dst_port = "", 0  # no outer flow: its target is an address inside
        flow = outer()
        if flow is not None:
            self.transport, self.src, self.src_port, self.dst, self.dst_port = flow

    def _send(self) -> None:
        try:
            self._token = self._shared.send(self, self.stream.payload_bytes)
        except OSError as error:
            self._failed("tunnel_down" if failure_of(error) != "harness_error" else "harness_error")
            return
        self._mark_sent(self.ticker.now_ns())

    def echoed(self) -> None:
        self._answered()

    def _release(self) -> None:
        self._shared.forget(self._token)
        flow = self._outer()
        if flow is not None:
            self.transport, self.src, self.src_port, self.dst, self.dst_port = flow


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes or an odd one."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return ~total & 0xFFFF
