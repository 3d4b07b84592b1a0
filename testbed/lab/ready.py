"""Says when a lab is ready, by measuring it: BGP converged in the kernels, and every intended pair answered an echo."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import selectors
import socket
import struct
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from testbed.lab.routing import NotReady, RoutedLab, Routing, running_routing
from testbed.plan.plan import Plan

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443 §4)
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_UNREACHABLE = {4: 3, 6: 1}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
# The first wait is below the shortest useful retry on a 150 ms cable; each next one is double, so that a slow path is
# not filled with questions.
_RETRY_S = 0.2


class Reachable(Protocol):
    """The part of a lab this module uses."""

    @property
    def plan(self) -> Plan: ...

    def inside(self, node: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Pair:
    """Somebody who is to reach an address. identifier: the ICMP id to use (inside the port block behind shared addresses)."""

    node: str
    to_node: str
    address: str
    family: int
    identifier: int = 1


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """How long readiness took, in seconds from the call, and what was checked."""

    routing_s: float
    pairs_s: float
    sessions: int
    pairs: int
    slowest: str
    slowest_rtt_s: float


def wait_ready(
    lab: RoutedLab, routing: Routing | None = None, deadline_s: float | None = None
) -> ReadyReport:
    """Wait for convergence, then for an echo over every intended pair. Defaults: the lab's routing, the plan's deadline.

    Raises NotReady naming each session, table entry or pair that is missing and its last state.
    """
    if deadline_s is None:
        deadline_s = lab.plan.ready_deadline_ns / 1e9
    if routing is None:
        routing = running_routing(lab)
    routing_s = routing.wait(deadline_s)
    routing.disconnect()
    pairs = intended_pairs(lab.plan)
    began = time.monotonic()
    rtts = reach(lab, pairs, deadline_s - routing_s)
    slowest = max(rtts, key=lambda pair: rtts[pair], default=None)
    return ReadyReport(
        routing_s,
        time.monotonic() - began,
        len(lab.plan.sessions),
        len(pairs),
        f"{slowest.node} > {slowest.to_node} (IPv{slowest.family})" if slowest else "",
        rtts[slowest] if slowest else 0.0,
    )


def intended_pairs(plan: Plan) -> tuple[Pair, ...]:
    """Each subscriber with each address of a service, a VPN server and the authority, in the families both have."""
    targets: dict[tuple[str, int], str] = {}
    ends = [*plan.services, *plan.servers, *([plan.authority] if plan.authority else [])]
    for end in ends:
        targets.setdefault((end.address4, 4), end.node)
        if end.address6:
            targets.setdefault((end.address6, 6), end.node)
    return tuple(
        Pair(subscriber.node, node, address, family, subscriber.port_first or 1)
        for subscriber in plan.subscribers
        for (address, family), node in targets.items()
        if family == 4 or subscriber.public6
    )


def reach(lab: Reachable, pairs: Collection[Pair], deadline_s: float) -> dict[Pair, float]:
    """Echo over every pair at once until each has answered; returns the round trip of the answered packet, in seconds.

    Both directions are proven, through any address translation. Raises NotReady naming the pairs that stayed silent.
    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        senders: dict[tuple[str, int], _Sender] = {}
        for pair in pairs:
            key = (pair.node, pair.family)
            if key not in senders:
                senders[key] = _Sender(lab, pair.node, pair.family)
                stack.callback(senders[key].socket.close)
                selector.register(senders[key].socket, selectors.EVENT_READ, senders[key])
            senders[key].add(pair)
        return _until_all_answered(selector, list(senders.values()), deadline_s)


def _until_all_answered(
    selector: selectors.BaseSelector, senders: list[_Sender], deadline_s: float
) -> dict[Pair, float]:
    deadline = time.monotonic() + max(deadline_s, 0.0)
    retry_s, send_at = _RETRY_S, 0.0
    while any(sender.waiting for sender in senders):
        now = time.monotonic()
        if now >= deadline:
            silent = [text for sender in senders for text in sender.silent()]
            raise NotReady(f"{len(silent)} pairs did not reach within {deadline_s:.1f} s", silent)
        if now >= send_at:
            for sender in senders:
                sender.send()
            send_at, retry_s = now + retry_s, min(retry_s * 2, 1.6)
        for key, _events in selector.select(max(min(send_at, deadline) - time.monotonic(), 0.0)):
            key.data.receive()
    return {pair: rtt for sender in senders for pair, rtt in sender.answered.items()}


@dataclass(slots=True)
class _Waiting:
    pair: Pair
    # Sending times, which the packets carry: a late answer is no short round trip, and one to an earlier call is not ours.
    sent_ns: set[int] = field(default_factory=set)
    last: str = "no answer"


class _Sender:
    """One host's raw ICMP socket; the echo's sequence number is the pair's place."""

    def __init__(self, lab: Reachable, node: str, family: int) -> None:
        self.family = family
        self.waiting: dict[int, _Waiting] = {}
        self.answered: dict[Pair, float] = {}
        with lab.inside(node):
            self.socket = socket.socket(
                _FAMILY[family], socket.SOCK_RAW | socket.SOCK_NONBLOCK, _PROTOCOL[family]
            )

    def add(self, pair: Pair) -> None:
        self.waiting[len(self.waiting) + 1] = _Waiting(pair)

    def send(self) -> None:
        for sequence, waiting in self.waiting.items():
            now_ns = time.monotonic_ns()
            packet = _echo(self.family, waiting.pair.identifier, sequence, struct.pack("!Q", now_ns))
            waiting.sent_ns.add(now_ns)
            try:
                self.socket.sendto(packet, (waiting.pair.address, 0))
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    waiting.last = error.strerror or str(error)

    def receive(self) -> None:
        while True:
            try:
                data, source = self.socket.recvfrom(2048)
            except BlockingIOError:
                return
            except (
                OSError
            ):  # an ICMP error of an earlier packet; the packet itself says more and is read below
                continue
            message = data[(data[0] & 0x0F) * 4 :] if self.family == 4 else data
            if len(message) >= _ECHO.size:
                self._take(message, source[0])

    def silent(self) -> list[str]:
        return [
            f"{w.pair.node} > {w.pair.to_node} ({w.pair.address}): {w.last}" for w in self.waiting.values()
        ]

    def _take(self, message: bytes, source: str) -> None:
        kind, code, _sum, _identifier, sequence = _ECHO.unpack_from(message)
        if kind == _REPLY[self.family]:
            waiting = self.waiting.get(sequence)
            if waiting is None or not _is_same(source, waiting.pair.address) or len(message) < _ECHO.size + 8:
                return
            sent_ns = struct.unpack_from("!Q", message, _ECHO.size)[0]
            if sent_ns in waiting.sent_ns:
                self.answered[waiting.pair] = (time.monotonic_ns() - sent_ns) / 1e9
                del self.waiting[sequence]
        elif kind == _UNREACHABLE[self.family]:
            quoted = message[_ECHO.size :]
            head = (quoted[0] & 0x0F) * 4 if self.family == 4 and quoted else 40
            if len(quoted) >= head + _ECHO.size:
                waiting = self.waiting.get(_ECHO.unpack_from(quoted, head)[4])
                if waiting is not None:
                    waiting.last = f"unreachable (ICMP code {code}), says {source}"


def _is_same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one.partition("%")[0]) == ipaddress.ip_address(other)


def _echo(family: int, identifier: int, sequence: int, body: bytes) -> bytes:
    head = _ECHO.pack(_REQUEST[family], 0, 0, identifier, sequence)
    if family == 6:  # the kernel fills in the ICMPv6 checksum itself (RFC 3542 §3.1)
        return head + body
    words = struct.unpack(f"!{(len(head) + len(body)) // 2}H", head + body)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(_REQUEST[4], 0, ~total & 0xFFFF, identifier, sequence) + body
