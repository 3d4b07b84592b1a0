"""Reads the kernels' forwarding tables, which are the truth about routing, and follows paths through them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.lab.bird_paths import Table
from testbed.plan.plan import Plan

# linux/route.h, linux/ipv6_route.h
_RTF_GATEWAY, _RTF_REJECT = 0x2, 0x200
_RTF_LOCAL, _RTF_ANYCAST, _RTF_CACHE = 0x80000000, 0x00100000, 0x01000000
# ipv6_route ends with the kernel's "no route" entry, whose metric is the largest there is (ip6_null_entry).
_NOBODY = "ffffffff"


class Namespaces(Protocol):
    """The part of a lab this module uses."""

    def inside(self, node: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class FibRoute:
    """A route of a kernel's main table. gateway is None for a connected network; is_reject for unreachable and the like."""

    prefix: str
    gateway: str | None
    interface: str
    metric: int
    is_reject: bool


Fib = tuple[FibRoute, ...]


def read_fib(lab: Namespaces, node: str) -> Fib:
    """Both families of a node's main table, best metric first within a prefix. No process is started."""
    with lab.inside(node):  # /proc/thread-self/net is that of the namespace this thread is in
        four = Path("/proc/thread-self/net/route").read_text("ascii")
        six = Path("/proc/thread-self/net/ipv6_route").read_text("ascii")
    routes = [*_parse4(four), *_parse6(six)]
    return tuple(sorted(routes, key=lambda route: route.metric))


def differences(expected: Table, fib: Fib) -> list[str]:
    """What a table lacks of what policy implies, as sentences; next hops must agree, address by address."""
    held: dict[str, FibRoute] = {}
    for route in fib:
        held.setdefault(route.prefix, route)
    wrong = []
    for prefix, route in expected.items():
        found = held.get(prefix)
        if found is None:
            wrong.append(f"no route to {prefix}, wanted via {route.next_hop or 'itself'}")
        elif found.gateway != route.next_hop and route.next_hop is not None:
            wrong.append(f"{prefix} goes via {found.gateway or 'nobody'}, wanted via {route.next_hop}")
    return wrong


def forwarding_path(plan: Plan, fibs: Mapping[str, Fib], start: str, address: str) -> tuple[str, ...]:
    """The nodes a packet to an address visits from `start` on, by the tables alone; ends where the address lives.

    Raises LookupError, naming the path so far, where a table has no route, refuses, or sends the packet in a circle.
    """
    owner = _owners(plan)
    target = ipaddress.ip_address(address)
    path = [start]
    while owner.get(str(target)) != path[-1]:
        here = path[-1]
        route = _longest_match(fibs.get(here, ()), target)
        if route is None or route.is_reject:
            raise LookupError(f"{' > '.join(path)}: no route to {address}")
        following = owner.get(str(ipaddress.ip_address(route.gateway)) if route.gateway else str(target))
        if following is None:
            raise LookupError(f"{' > '.join(path)}: nobody has {route.gateway or address}")
        if following in path:
            raise LookupError(f"{' > '.join((*path, following))}: a circle on the way to {address}")
        path.append(following)
    return tuple(path)


def read_all(lab: Namespaces, plan: Plan) -> dict[str, Fib]:
    """Every node's table."""
    return {node.name: read_fib(lab, node.name) for node in plan.nodes}


def _longest_match(fib: Fib, target: ipaddress.IPv4Address | ipaddress.IPv6Address) -> FibRoute | None:
    best: tuple[int, FibRoute] | None = None
    for route in fib:
        network = ipaddress.ip_network(route.prefix)
        if target in network and (best is None or network.prefixlen > best[0]):
            best = network.prefixlen, route
    return best[1] if best else None


def _owners(plan: Plan) -> dict[str, str]:
    owner: dict[str, str] = {}
    for node in plan.nodes:
        for address in (node.loopback4, node.loopback6):
            if address:
                owner[_bare(address)] = node.name
    for end in [end for link in plan.links for end in (link.a, link.b)]:
        for address in (*end.ipv4, *end.ipv6):
            owner[_bare(address)] = end.node
    for nat in plan.nats:
        owner[nat.public4] = nat.node
    for bridge in plan.bridges:
        for address in (*bridge.ipv4, *bridge.ipv6):
            owner[_bare(address)] = bridge.node
    return owner


def _bare(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)


def _parse4(text: str) -> list[FibRoute]:
    """/proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask …; numbers in the host's byte order."""
    routes = []
    for line in text.splitlines()[1:]:
        interface, destination, gateway, flags, _count, _use, metric, mask = line.split()[:8]
        network, hop, bits = (
            socket.inet_ntoa(struct.pack("=I", int(word, 16))) for word in (destination, gateway, mask)
        )
        marks = int(flags, 16)
        prefix = str(ipaddress.ip_network(f"{network}/{bits}"))
        via = hop if marks & _RTF_GATEWAY else None
        routes.append(FibRoute(prefix, via, interface, int(metric), bool(marks & _RTF_REJECT)))
    return routes


def _parse6(text: str) -> list[FibRoute]:
    """/proc/net/ipv6_route: destination, length, source, length, next hop, metric, count, use, flags, interface."""
    routes = []
    for line in text.splitlines():
        destination, length, _src, _length, hop, metric, _count, _use, flags, interface = line.split()
        marks = int(flags, 16)
        if marks & (_RTF_LOCAL | _RTF_ANYCAST | _RTF_CACHE) or metric == _NOBODY:
            continue
        network = ipaddress.IPv6Network((int(destination, 16), int(length, 16)))
        if network.is_link_local or network.is_multicast:
            continue
        via = str(ipaddress.IPv6Address(int(hop, 16))) if marks & _RTF_GATEWAY else None
        routes.append(FibRoute(str(network), via, interface, int(metric, 16), bool(marks & _RTF_REJECT)))
    return routes
