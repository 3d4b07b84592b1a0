"""Build the network of a plan: namespaces, links, bridges, addresses, sysctls and static routes; and a handle on it.

One process makes everything over netlink, in batches: all namespaces, then all links at once (each end directly in its
namespace), then one batch for each node. What cannot be made is an error that names the node or link.
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.lab import namespaces, netlink_route, sysctls
from testbed.lab.addressing import NodeAddresses
from testbed.lab.daemons import Daemon, Daemons
from testbed.lab.netlink import Netlink, Request
from testbed.lab.netlink_route import FIRST_INDEX, LOOPBACK_INDEX, End, mac_of
from testbed.plan.plan import Bridge, Interface, Link, Node, Plan, Subscriber

MTU_BYTES = 1500
# Descriptors beside the one each node's namespace takes: logs, sockets of the drivers, pipes of the daemons.
_SPARE_DESCRIPTORS = 512


@dataclass(frozen=True, slots=True)
class Port:
    """An interface as built: its kernel index in its node and its MAC."""

    interface: Interface
    index: int
    mac: bytes


@contextmanager
def build(plan: Plan, log_dir: Path) -> Iterator[Lab]:
    """The plan's network, up and addressed, without routing daemons; gone again on leaving.

    Raises PermissionError outside a world, OSError (NetlinkError) or ValueError naming the node or link that failed.
    """
    namespaces.require_world()
    log_dir.mkdir(parents=True, exist_ok=True)
    _raise_descriptor_limit(len(plan.nodes))
    with namespaces.named_namespaces([node.name for node in plan.nodes]) as fds:
        lab = Lab(plan, log_dir, fds)
        try:
            lab._make()
            yield lab
        finally:
            lab.close()


@contextmanager
def attach(plan: Plan, log_dir: Path) -> Iterator[Lab]:
    """A handle on a lab that another process of this world built; leaving it ends only what this handle started.

    Raises FileNotFoundError naming the node that is not there.
    """
    with namespaces.open_namespaces([node.name for node in plan.nodes]) as fds:
        lab = Lab(plan, log_dir, fds)
        try:
            yield lab
        finally:
            lab.close()


class Lab:
    """A built network. Use `build`; nodes, links and subscribers are named as in the plan (KeyError for an unknown name)."""

    def __init__(self, plan: Plan, log_dir: Path, netns_fds: Mapping[str, int]) -> None:
        self.plan = plan
        self.log_dir = log_dir
        self._fds = netns_fds
        self._nodes = {node.name: node for node in plan.nodes}
        self._links = {link.name: link for link in plan.links}
        self._subscribers = {subscriber.name: subscriber for subscriber in plan.subscribers}
        self._daemons = Daemons()
        self._ports: dict[tuple[str, str], Port] = {}
        self._ports_of: dict[str, list[Port]] = {}
        self._bridge_indexes: dict[tuple[str, str], int] = {}
        self._number_interfaces()
        self._addresses = NodeAddresses(self)

    def netns_fd(self, node: str) -> int:
        """The open network namespace of a node; the lab closes it."""
        return self._fds[node]

    def node(self, name: str) -> Node:
        return self._nodes[name]

    def link(self, name: str) -> Link:
        return self._links[name]

    def port(self, node: str, interface: str) -> Port:
        """An end of a link: its kernel index, MAC and plan entry."""
        return self._ports[node, interface]

    def ports(self, node: str) -> list[Port]:
        """The ends of links at a node, in the plan's order."""
        return list(self._ports_of.get(node, ()))

    @contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """This thread is in the node's namespace; sockets made here belong to the node. Never await inside."""
        with namespaces.inside(self._fds[node]):
            yield

    @contextmanager
    def netlink(self, node: str) -> Iterator[Netlink]:
        """A routing socket of the node; it works from any namespace."""
        with self.inside(node):
            connection = Netlink()
        with connection:
            yield connection

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        log: str | None = None,
        private_run: bool = False,
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> subprocess.Popen[Any]:
        """Start a program on the node; its output goes to log_dir/LOG.log (default PROGRAM-NODE). The lab ends it.

        private_run gives it an empty /run of its own. Raises FileNotFoundError when the program is not installed.
        """
        name = log or f"{Path(argv[0]).name}-{node}"
        process = namespaces.spawn(
            self._fds[node], argv, self.log_dir / f"{name}.log", private_run=private_run, env=env, **popen
        )
        self._daemons.add(Daemon(node, name, tuple(argv), process))
        return process

    def cmd(self, node: str, argv: Sequence[str], timeout_s: float = 10) -> subprocess.CompletedProcess[str]:
        """Run a program on the node to its end; output as text. Raises subprocess.TimeoutExpired; checks no exit code."""
        with self.inside(node):
            return subprocess.run(
                list(argv),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )

    def daemons(self) -> list[Daemon]:
        """Every program started by `spawn`, in order, ended ones included."""
        return self._daemons.all()

    def addresses_of(self, subscriber: str) -> tuple[str | None, str | None]:
        """The line's IPv4 and IPv6 address at this moment (without prefix length)."""
        return self._addresses.of(self._subscribers[subscriber])

    def change_address(self, subscriber: str, new4: str | None, new6: str | None) -> None:
        """Give a dynamic line other addresses (None keeps a family's): the host's interface and the ISP's side.

        Inside the access link's subnet the host simply changes; any other address becomes a host route at the ISP.
        Raises ValueError when the host does not carry the subscriber's address itself (NAT), NetlinkError otherwise.
        """
        self._addresses.change(self._subscribers[subscriber], new4, new6)

    def subscriber_link(self, subscriber: Subscriber) -> tuple[Interface, Interface]:
        """The ends of the line: the subscriber's and the ISP's."""
        for link in self.plan.links:
            if link.kind == "access" and subscriber.node in (link.a.node, link.b.node):
                return (link.a, link.b) if link.a.node == subscriber.node else (link.b, link.a)
        raise ValueError(f"subscriber {subscriber.name}: node {subscriber.node} has no access link")

    def link_down(self, link: str) -> None:
        """Cut a link: both ends lose it at once."""
        for end in self._ends(link):
            with self.netlink(end.interface.node) as connection:
                connection.batch(
                    [netlink_route.link_down(end.index, f"link {link}: {end.interface.node} down")]
                )

    def link_up(self, link: str) -> None:
        """Mend a link: both ends up again, with the addresses, neighbours and static routes they had."""
        ends = self._ends(link)
        for end in ends:
            with self.netlink(end.interface.node) as connection:
                connection.batch([netlink_route.link_up(end.index, f"link {link}: {end.interface.node} up")])
        for end in ends:
            with self.netlink(end.interface.node) as connection:
                connection.batch(self._addresses.restored(end))

    def close(self) -> None:
        """End every program started here: asked first, killed after half a second."""
        self._daemons.close(deadline_s=0.5)

    def _make(self) -> None:
        by_node = {subscriber.node: subscriber for subscriber in self.plan.subscribers}
        sysctls.write_where_present()
        for node in self.plan.nodes:
            with self.inside(node.name):
                sysctls.write(sysctls.node_settings(node, by_node.get(node.name)), node.name)
        with Netlink() as connection:
            connection.batch(self._veth(link) for link in self.plan.links)
        bridges: dict[str, list[Bridge]] = {}
        for bridge in self.plan.bridges:
            bridges.setdefault(bridge.node, []).append(bridge)
        for node in self.plan.nodes:
            with self.netlink(node.name) as connection:
                connection.batch(self._configure(node, bridges.get(node.name, ())))

    def _number_interfaces(self) -> None:
        following: dict[str, int] = {}
        for link in self.plan.links:
            for interface in (link.a, link.b):
                key = (interface.node, interface.name)
                if interface.node not in self._nodes:
                    raise ValueError(f"link {link.name}: there is no node '{interface.node}'")
                if key in self._ports:
                    raise ValueError(
                        f"link {link.name}: {interface.node} already has an interface '{interface.name}'"
                    )
                index = following.get(interface.node, FIRST_INDEX)
                following[interface.node] = index + 1
                self._ports[key] = Port(interface, index, mac_of(*key))
                self._ports_of.setdefault(interface.node, []).append(self._ports[key])
        for bridge in self.plan.bridges:
            index = following.get(bridge.node, FIRST_INDEX)
            following[bridge.node] = index + 1
            self._bridge_indexes[bridge.node, bridge.name] = index

    def _ends(self, link: str) -> tuple[Port, Port]:
        found = self._links[link]
        return self._ports[found.a.node, found.a.name], self._ports[found.b.node, found.b.name]

    def _veth(self, link: Link) -> Request:
        ends = [
            End(self._fds[port.interface.node], port.index, port.interface.name, port.mac)
            for port in self._ends(link.name)
        ]
        what = f"link {link.name} ({link.a.node}/{link.a.name} to {link.b.node}/{link.b.name})"
        return netlink_route.veth(ends[0], ends[1], MTU_BYTES, what)

    def _configure(self, node: Node, bridges: Sequence[Bridge]) -> Iterator[Request]:
        who = f"node {node.name}"
        yield netlink_route.link_up(LOOPBACK_INDEX, f"{who}: lo up")
        for address in (node.loopback4, node.loopback6):
            if address is not None:
                yield netlink_route.address_add(LOOPBACK_INDEX, address, f"{who}: lo: address {address}")
        for bridge in bridges:
            index = self._bridge_indexes[node.name, bridge.name]
            what = f"{who}: bridge {bridge.name}"
            yield netlink_route.bridge(index, bridge.name, mac_of(node.name, bridge.name), what)
            for address in (*bridge.ipv4, *bridge.ipv6):
                yield netlink_route.address_add(index, address, f"{what}: address {address}")
            yield netlink_route.link_up(index, f"{what}: up")
        for port in self.ports(node.name):
            what = f"{who}: {port.interface.name}"
            if port.interface.bridge is not None:
                key = (node.name, port.interface.bridge)
                if key not in self._bridge_indexes:
                    raise ValueError(f"{what}: {node.name} has no bridge '{port.interface.bridge}'")
                yield netlink_route.enslave(port.index, self._bridge_indexes[key], f"{what}: into {key[1]}")
            for address in (*port.interface.ipv4, *port.interface.ipv6):
                yield netlink_route.address_add(port.index, address, f"{what}: address {address}")
            yield netlink_route.link_up(port.index, f"{what}: up")
        yield from self._addresses.neighbours(node.name)
        yield from self._addresses.routes(node.name)


def _raise_descriptor_limit(nodes: int) -> None:
    wanted = nodes + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise OSError(
                f"{nodes} nodes need {wanted} open files, and this system allows {hard}; raise 'ulimit -Hn' or use fewer nodes"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
