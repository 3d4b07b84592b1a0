"""Links, bridges, addresses, neighbours and routes as netlink requests; and what the kernel has of them.

Each function that changes something returns a Request for `Netlink.batch`. Interface indexes are chosen by the caller
(kernels with built-in tunnels put tunl0, gre0… in every namespace, so they start at FIRST_INDEX), which lets one batch
make a link and use it without asking the kernel in between.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import struct
from dataclasses import dataclass

from testbed.lab.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    Request,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u32,
)

FIRST_INDEX = 100
LOOPBACK_INDEX = 1  # the first device of every namespace (net/core/dev.c)
NAME_BYTES = 15  # IFNAMSIZ - 1

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH = 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 18, 28, 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BR_FORWARD_DELAY, _IFLA_BR_MCAST_SNOOPING = 1, 23
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE, _RTA_MULTIPATH = (
    1,
    4,
    5,
    6,
    7,
    15,
    9,
)
_RTN_UNICAST, _RTN_BLACKHOLE = 1, 6
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_HOST = 0, 253, 254
_RTNH_F_ONLINK = 4
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth: where it goes (an open namespace), its index there, kernel name and MAC."""

    netns_fd: int
    index: int
    name: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class LinkState:
    """A network device as the kernel has it. has_carrier: its other end is up too."""

    index: int
    name: str
    is_up: bool
    has_carrier: bool
    mac: str
    mtu: int
    master: int | None


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route as the kernel has it. kind is the route type (1 unicast, 6 blackhole); table 254 is the main one."""

    destination: str
    via: str | None
    index: int | None
    kind: int
    table: int
    metric: int
    protocol: int


def mac_of(node: str, interface: str) -> bytes:
    """A fixed, locally administered unicast MAC from the names: the same plan always has the same MACs."""
    digest = bytearray(hashlib.sha256(f"{node}/{interface}".encode()).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return bytes(digest)


def veth(a: End, b: End, mtu: int, what: str) -> Request:
    """A veth pair, each end made directly in its namespace, down. Raises ValueError for a name the kernel cannot hold."""
    for end in (a, b):
        _check_name(end.name, what)
    peer = nested(_VETH_INFO_PEER, _IFINFO.pack(0, 0, b.index, 0, 0) + _veth_end(b, mtu))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), nested(_IFLA_INFO_DATA, peer))
    body = _IFINFO.pack(0, 0, a.index, 0, 0) + _veth_end(a, mtu) + info
    return Request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what)


def bridge(index: int, name: str, mac: bytes, what: str) -> Request:
    """A bridge that forwards at once and floods multicast (no snooping: neighbour discovery must not depend on it)."""
    _check_name(name, what)
    data = nested(_IFLA_INFO_DATA, u32(_IFLA_BR_FORWARD_DELAY, 0), u8(_IFLA_BR_MCAST_SNOOPING, 0))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"), data)
    body = _IFINFO.pack(0, 0, index, 0, 0) + text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac) + info
    return Request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what)


def enslave(index: int, bridge_index: int, what: str) -> Request:
    """Make an interface a member of a bridge."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + u32(_IFLA_MASTER, bridge_index)
    return Request(_RTM_NEWLINK, 0, body, what)


def link_up(index: int, what: str) -> Request:
    return Request(_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP), what)


def link_down(index: int, what: str) -> Request:
    return Request(_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, _IFF_UP), what)


def link_delete(index: int, what: str) -> Request:
    return Request(_RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), what)


def address_add(index: int, interface_address: str, what: str) -> Request:
    """Add "ADDRESS/LENGTH", usable at once (no duplicate address detection)."""
    return Request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _address(index, interface_address), what)


def address_delete(index: int, interface_address: str, what: str) -> Request:
    return Request(_RTM_DELADDR, 0, _address(index, interface_address), what)


def route_add(
    destination: str,
    via: str | None,
    index: int | None,
    what: str,
    *,
    metric: int | None = None,
    source: str | None = None,
    is_onlink: bool = False,
    replace: bool = False,
) -> Request:
    """A static route in the main table: via a gateway, or straight out of index, or (neither) a blackhole.

    is_onlink: the gateway is reached through index though no address of it covers the gateway.
    """
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    body = _route(destination, via, index, metric, source, is_onlink)
    return Request(_RTM_NEWROUTE, flags, body, what)


def route_delete(destination: str, via: str | None, index: int | None, what: str) -> Request:
    return Request(_RTM_DELROUTE, 0, _route(destination, via, index, None, None, False), what)


def neighbour(index: int, address: str, mac: bytes, what: str) -> Request:
    """A permanent neighbour entry (replaced if there)."""
    parsed = ipaddress.ip_address(address)
    body = _NDMSG.pack(_family(parsed), index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, parsed.packed) + attribute(_NDA_LLADDR, mac)
    return Request(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, what)


def links(netlink: Netlink) -> list[LinkState]:
    """Every device of the socket's namespace, by index."""
    found: list[LinkState] = []
    for answer in netlink.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0)):
        _family_, _kind, index, flags, _change = _IFINFO.unpack_from(answer.body)
        values = attributes(answer.body[_IFINFO.size :])
        master = values.get(_IFLA_MASTER)
        found.append(
            LinkState(
                index,
                values[_IFLA_IFNAME].rstrip(b"\0").decode(),
                bool(flags & _IFF_UP),
                bool(flags & _IFF_LOWER_UP),
                values.get(_IFLA_ADDRESS, b"").hex(":"),
                struct.unpack("=I", values[_IFLA_MTU])[0],
                struct.unpack("=I", master)[0] if master else None,
            )
        )
    return sorted(found, key=lambda link: link.index)


def addresses(netlink: Netlink) -> dict[int, list[str]]:
    """Addresses with prefix length by interface index, in the kernel's order, IPv4 first."""
    found: dict[int, list[str]] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in netlink.dump(_RTM_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0)):
            got, length, _flags, _scope, index = _IFADDR.unpack_from(answer.body)
            values = attributes(answer.body[_IFADDR.size :])
            packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if got == family and packed:
                found.setdefault(index, []).append(f"{ipaddress.ip_address(packed)}/{length}")
    return found


def routes(netlink: Netlink, family: int, *, table: int = _RT_TABLE_MAIN) -> list[RouteState]:
    """Routes of one table and family (socket.AF_INET, AF_INET6). A multipath route shows no gateway."""
    found: list[RouteState] = []
    for answer in netlink.dump(_RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        got, length, _s, _tos, small_table, protocol, _scope, kind, _flags = _RTMSG.unpack_from(answer.body)
        values = attributes(answer.body[_RTMSG.size :])
        in_table = struct.unpack("=I", values[_RTA_TABLE])[0] if _RTA_TABLE in values else small_table
        if got != family or in_table != table:
            continue
        zero = bytes(4 if family == socket.AF_INET else 16)
        destination = f"{ipaddress.ip_address(values.get(_RTA_DST, zero))}/{length}"
        gateway = values.get(_RTA_GATEWAY)
        out = values.get(_RTA_OIF)
        metric = values.get(_RTA_PRIORITY)
        found.append(
            RouteState(
                destination,
                str(ipaddress.ip_address(gateway)) if gateway else None,
                struct.unpack("=I", out)[0] if out else None,
                kind,
                in_table,
                struct.unpack("=I", metric)[0] if metric else 0,
                protocol,
            )
        )
    return found


def _check_name(name: str, what: str) -> None:
    if not 0 < len(name.encode()) <= NAME_BYTES or "/" in name or " " in name:
        raise ValueError(
            f"{what}: '{name}' cannot be an interface name; use 1 to {NAME_BYTES} bytes without '/' and spaces"
        )


def _veth_end(end: End, mtu: int) -> bytes:
    # One queue each: veth would take one per possible CPU, which costs memory and changes from machine to machine.
    return (
        text(_IFLA_IFNAME, end.name)
        + attribute(_IFLA_ADDRESS, end.mac)
        + u32(_IFLA_MTU, mtu)
        + u32(_IFLA_NET_NS_FD, end.netns_fd)
        + u32(_IFLA_NUM_TX_QUEUES, 1)
        + u32(_IFLA_NUM_RX_QUEUES, 1)
    )


def _family(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(index: int, interface_address: str) -> bytes:
    parsed = ipaddress.ip_interface(interface_address)
    scope = _RT_SCOPE_HOST if parsed.ip.is_loopback else _RT_SCOPE_UNIVERSE
    flags = _IFA_F_NODAD if parsed.version == 6 else 0
    body = _IFADDR.pack(_family(parsed.ip), parsed.network.prefixlen, flags, scope, index)
    return body + attribute(_IFA_LOCAL, parsed.ip.packed) + attribute(_IFA_ADDRESS, parsed.ip.packed)


def _route(
    destination: str,
    via: str | None,
    index: int | None,
    metric: int | None,
    source: str | None,
    is_onlink: bool,
) -> bytes:
    network = ipaddress.ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    is_blackhole = via is None and index is None
    kind = _RTN_BLACKHOLE if is_blackhole else _RTN_UNICAST
    # An IPv4 route without a gateway must have link scope (net/ipv4/fib_semantics.c, fib_check_nh).
    scope = (
        _RT_SCOPE_LINK if via is None and not is_blackhole and network.version == 4 else _RT_SCOPE_UNIVERSE
    )
    flags = _RTNH_F_ONLINK if is_onlink else 0
    body = _RTMSG.pack(family, network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, kind, flags)
    if network.prefixlen:
        body += attribute(_RTA_DST, network.network_address.packed)
    if via is not None:
        body += attribute(_RTA_GATEWAY, ipaddress.ip_address(via).packed)
    if index is not None:
        body += u32(_RTA_OIF, index)
    if metric is not None:
        body += u32(_RTA_PRIORITY, metric)
    if source is not None:
        body += attribute(_RTA_PREFSRC, ipaddress.ip_address(source).packed)
    return body
