"""Neighbours and static routes of a built lab, and how a dynamic line gets another address."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from testbed.lab import netlink_route
from testbed.lab.netlink import Request
from testbed.plan.plan import Interface, StaticRoute, Subscriber

if TYPE_CHECKING:
    from testbed.lab.build import Lab, Port


class NodeAddresses:
    """What each node's addresses, neighbours and routes are now: as planned, then as lines changed theirs."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._changed: dict[tuple[str, str], Interface] = {}
        self._lines: dict[str, tuple[str | None, str | None]] = {}
        self._peers = {}
        for link in lab.plan.links:
            self._peers[link.a.node, link.a.name] = (link.b.node, link.b.name)
            self._peers[link.b.node, link.b.name] = (link.a.node, link.a.name)
        self._onlink: set[str] = set()
        self._host_routes: dict[str, list[StaticRoute]] = {}

    def of(self, subscriber: Subscriber) -> tuple[str | None, str | None]:
        """The line's addresses now, as a gateway sees them."""
        return self._lines.get(subscriber.name, (subscriber.public4, subscriber.public6))

    def neighbours(self, node: str) -> Iterator[Request]:
        """Permanent entries for the other ends of the node's point-to-point links.

        The kernel's neighbour tables are shared by all namespaces and hold 1,024 entries that are not permanent
        (arp(7), gc_thresh3): a large lab would overflow them. It also spares the first packet of each pair a resolution.
        """
        for port in self._lab.ports(node):
            yield from self._port_neighbours(port)

    def routes(self, node: str) -> Iterator[Request]:
        for route in (*self._lab.node(node).routes, *self._host_routes.get(node, ())):
            yield self._route(node, route, replace=False)

    def restored(self, port: Port) -> Iterator[Request]:
        """Neighbours and routes that the kernel dropped when the port went down (addresses stay)."""
        yield from self._port_neighbours(port)
        node = port.interface.node
        for route in (*self._lab.node(node).routes, *self._host_routes.get(node, ())):
            if self._goes_through(route, port):
                yield self._route(node, route, replace=True)

    def change(self, subscriber: Subscriber, new4: str | None, new6: str | None) -> None:
        host_end, isp_end = self._lab.subscriber_link(subscriber)
        host, isp = self._now(host_end), self._now(isp_end)
        old4, old6 = self.of(subscriber)
        if new4 is not None:
            host = self._change_one(subscriber, host, isp, old4, new4)
            self._lines[subscriber.name] = (_bare(new4), old6)
        if new6 is not None:
            self._change_one(subscriber, host, isp, old6, new6)
            self._lines[subscriber.name] = (self.of(subscriber)[0], _bare(new6))

    def _change_one(
        self, subscriber: Subscriber, host: Interface, isp: Interface, old: str | None, new: str
    ) -> Interface:
        who = f"subscriber {subscriber.name}: change address from {old} to {new}"
        new_ip = ipaddress.ip_address(_bare(new))
        family = "ipv4" if new_ip.version == 4 else "ipv6"
        held: tuple[str, ...] = getattr(host, family)
        at = _position(held, old)
        if at is None:
            raise ValueError(
                f"{who}: {host.node}/{host.name} does not carry {old} (carries {', '.join(held) or 'none'})"
            )
        if str(new_ip) == old:
            return host
        networks = [ipaddress.ip_interface(each).network for each in getattr(isp, family)]
        inside = next((network for network in networks if new_ip in network), None)
        length = inside.prefixlen if inside else new_ip.max_prefixlen
        new_address = f"{new_ip}/{length}"
        changed = dataclasses.replace(host, **{family: (new_address, *held[:at], *held[at + 1 :])})
        self._changed[host.node, host.name] = changed
        self._onlink.add(host.node)

        # The ISP first: from its first packet on the new address gets answers.
        isp_port, host_port = self._lab.port(isp.node, isp.name), self._lab.port(host.node, host.name)
        at_isp = [netlink_route.neighbour(isp_port.index, str(new_ip), host_port.mac, f"{who}: neighbour")]
        kept = self._host_routes.setdefault(isp.node, [])
        if inside is None:
            route = StaticRoute(new_address, None, isp.name)
            kept.append(route)
            at_isp.append(self._route(isp.node, route, replace=True))
        former = StaticRoute(f"{old}/{new_ip.max_prefixlen}", None, isp.name)
        if former in kept:
            kept.remove(former)
            at_isp.append(
                netlink_route.route_delete(former.destination, None, isp_port.index, f"{who}: old route")
            )
        with self._lab.netlink(isp.node) as connection:
            connection.batch(at_isp)

        # One batch: the line is never without an address, and its routes are put back after the old one goes.
        at_host = [
            netlink_route.address_add(host_port.index, new_address, f"{who}: add"),
            netlink_route.address_delete(host_port.index, held[at], f"{who}: remove"),
        ]
        for route in self._lab.node(host.node).routes:
            if ipaddress.ip_network(route.destination).version == new_ip.version and self._goes_through(
                route, host_port
            ):
                at_host.append(self._route(host.node, route, replace=True))
        at_host += self._port_neighbours(host_port)
        with self._lab.netlink(host.node) as connection:
            connection.batch(at_host)
        return changed

    def _now(self, interface: Interface) -> Interface:
        return self._changed.get((interface.node, interface.name), interface)

    def _port_neighbours(self, port: Port) -> Iterator[Request]:
        peer_key = self._peers[port.interface.node, port.interface.name]
        peer_port = self._lab.port(*peer_key)
        peer = self._now(peer_port.interface)
        if port.interface.bridge is not None or peer.bridge is not None:
            return
        for address in (*peer.ipv4, *peer.ipv6):
            what = f"node {port.interface.node}: {port.interface.name}: neighbour {address}"
            yield netlink_route.neighbour(port.index, _bare(address), peer_port.mac, what)

    def _route(self, node: str, route: StaticRoute, *, replace: bool) -> Request:
        what = f"node {node}: route {route.destination} via {route.via or route.interface or 'blackhole'}"
        index = None
        is_onlink = False
        if route.interface is not None:
            index = self._lab.port(node, route.interface).index
        elif route.via is not None and node in self._onlink:
            # The line's address may have left the gateway's subnet.
            out = next((port for port in self._lab.ports(node) if self._goes_through(route, port)), None)
            index, is_onlink = (out.index, True) if out else (None, False)
        return netlink_route.route_add(
            route.destination, route.via, index, what, is_onlink=is_onlink, replace=replace
        )

    def _goes_through(self, route: StaticRoute, port: Port) -> bool:
        if route.interface is not None:
            return route.interface == port.interface.name
        if route.via is None:
            return False
        via = ipaddress.ip_address(route.via)
        return any(
            via in ipaddress.ip_interface(each).network
            for each in (*port.interface.ipv4, *port.interface.ipv6)
        )


def _bare(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)


def _position(held: tuple[str, ...], wanted: str | None) -> int | None:
    return next((at for at, each in enumerate(held) if wanted and _bare(each) == _bare(wanted)), None)
