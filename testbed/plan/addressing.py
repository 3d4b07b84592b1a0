"""Addresses, from AS numbers and positions alone: the same topology always gets the same ones, all of them private.

AS 65000+n has 10.n.0.0/16 and fd00:n::/32 (n written in decimal in both, so that they read alike):

    10.n.0.1          fd00:n::1             the router's loopback
    10.n.1-7.x/30     fd00:n:f000-f1ff::    links to its customers
    10.n.8-15.x       -                     public addresses shared by NAT
    10.n.16-99.10/24  fd00:n:16-99::10      servers
    10.n.100-255.x/28 fd00:n:1000-19bf::    lines: .1 the ISP, .2 the host, .3 to .14 spare for dynamic lines
    10.n.255.x/24     fd00:n:255::x         an exchange's LAN: .1 the route server, .11 and up its members

NATed lines have 100.64.0.0/10 (RFC 6598) inside; tunnels have 10.99.k.0/24, so no AS is 65099.
"""

from __future__ import annotations

from dataclasses import dataclass

LINK_COUNT = 448
SHARED_COUNT = 2046
LINE_COUNT = 2496
SERVER_SUBNETS = range(16, 100)
TUNNEL_BLOCK = 99
SPARES = 12


@dataclass(frozen=True, slots=True)
class Pair:
    """Addresses of the two ends of a link with their prefix lengths; a6/b6 are "" without IPv6."""

    a4: str
    b4: str
    a6: str
    b6: str


@dataclass(frozen=True, slots=True)
class Block:
    """The addresses of one AS; the methods count from 0 and raise IndexError past the end."""

    asn: int

    @property
    def number(self) -> int:
        return self.asn - 65000

    @property
    def prefix4(self) -> str:
        return f"10.{self.number}.0.0/16"

    @property
    def prefix6(self) -> str:
        return f"fd00:{self.number}::/32"

    @property
    def loopback4(self) -> str:
        return f"10.{self.number}.0.1/32"

    @property
    def loopback6(self) -> str:
        return f"fd00:{self.number}::1/128"

    def link(self, index: int) -> Pair:
        """A link to a customer router `a`; this AS is `b`."""
        _within(index, LINK_COUNT, "links to customers")
        start = f"10.{self.number}.{1 + index // 64}"
        last = 4 * (index % 64)
        net6 = f"fd00:{self.number}:{0xF000 + index:x}"
        return Pair(f"{start}.{last + 1}/30", f"{start}.{last + 2}/30", f"{net6}::1/64", f"{net6}::2/64")

    def shared(self, index: int) -> str:
        """A public address that NATed lines share; no prefix length."""
        _within(index, SHARED_COUNT, "shared public addresses")
        return f"10.{self.number}.{8 + (index + 1) // 256}.{(index + 1) % 256}"

    def server(self, subnet: int) -> Pair:
        """A server `a` and its router `b`."""
        net6 = f"fd00:{self.number}:{subnet}"
        net4 = f"10.{self.number}.{subnet}"
        return Pair(f"{net4}.10/24", f"{net4}.1/24", f"{net6}::10/64", f"{net6}::1/64")

    def line(self, index: int, has_ipv6: bool) -> Pair:
        """A subscriber's host `a` and its ISP `b`."""
        _within(index, LINE_COUNT, "lines")
        net4 = f"10.{self.number}.{100 + index // 16}"
        return _line(net4, 16 * (index % 16), self._line6(index), has_ipv6)

    def inside_line(self, isp: int, nat_index: int, index: int, has_ipv6: bool) -> Pair:
        """A NATed subscriber's host `a` and its ISP `b`; isp counts the ISPs with NAT, index all lines of this AS."""
        _within(isp, 64, "ISPs with NAT")
        _within(nat_index, LINE_COUNT, "lines")
        _within(index, LINE_COUNT, "lines")
        return _line(f"100.{64 + isp}.{nat_index // 16}", 16 * (nat_index % 16), self._line6(index), has_ipv6)

    def lan(self, member: int | None) -> tuple[str, str]:
        """An exchange's LAN: both addresses of a member, or of the route server (None)."""
        if member is not None:
            _within(member, 200, "members of the exchange")
        last = 1 if member is None else 11 + member
        return f"10.{self.number}.255.{last}/24", f"fd00:{self.number}:255::{last}/64"

    def _line6(self, index: int) -> str:
        return f"fd00:{self.number}:{0x1000 + index:x}"


def spares(address: str, count: int = SPARES) -> tuple[str, ...]:
    """The addresses after a line's first one (10.11.100.2 or fd00:11:1000::2), without prefix length."""
    head, _, _ = address.rpartition(":" if ":" in address else ".")
    separator = ":" if ":" in address else "."
    last = int(address.rpartition(separator)[2], 16 if separator == ":" else 10)
    numbers = range(last + 1, last + 1 + count)
    return tuple(
        f"{head}{separator}{number:x}" if separator == ":" else f"{head}.{number}" for number in numbers
    )


def tunnel_network(index: int) -> tuple[str, str]:
    """The network inside the tunnels of one VPN server, and the server's address in it."""
    _within(index, 256, "VPN servers")
    return f"10.{TUNNEL_BLOCK}.{index}.0/24", f"10.{TUNNEL_BLOCK}.{index}.1"


def tunnel_client(network: str, index: int) -> str:
    """A client's address inside the tunnels of a server."""
    _within(index, 240, "tunnels to one VPN server")
    return network.removesuffix("0/24") + str(10 + index)


def bare(address: str) -> str:
    """The address without its prefix length."""
    return address.partition("/")[0]


def _line(net4: str, first: int, net6: str, has_ipv6: bool) -> Pair:
    a6, b6 = (f"{net6}::2/64", f"{net6}::1/64") if has_ipv6 else ("", "")
    return Pair(f"{net4}.{first + 2}/28", f"{net4}.{first + 1}/28", a6, b6)


def _within(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise IndexError(f"there is room for {count} {what}")
