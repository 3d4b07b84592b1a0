"""Addresses that nobody can have at the border: what RFC 6890 and its registries keep for other purposes. Pure.

Documentation's (RFC 5737, RFC 3849) and benchmarks' (RFC 2544) may be written: documents and demonstrations are written with them.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

Kind = Literal["private", "shared", "special"]
Network = IPv4Network | IPv6Network

# private: an own network's, behind NAT. shared: between a provider and its customers, behind the provider's NAT. special: no line's and no server's.
_RANGES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),  # RFC 1918, RFC 4193
    ("shared", ("100.64.0.0/10", "192.0.0.0/29")),  # RFC 6598; RFC 7335 (DS-Lite)
    # RFC 1122 (this network, loopback), 3927 and 4291 (link-local), 5771 and 4291 (multicast), 1112 (class E, and broadcast)
    ("special", ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
    # RFC 4291: unspecified, loopback, IPv4 written as IPv6
    ("special", ("::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")),
)
_KINDS: tuple[tuple[Network, Kind], ...] = tuple(
    (ip_network(text), kind) for kind, texts in _RANGES for text in texts
)
_WHY = {
    "private": "is inside an own network, and the world never sees it",
    "shared": "is what a provider gives to lines behind its own NAT; many have it, and the world never sees it",
    "special": "is kept for other purposes (RFC 6890): no line and no server can have it",
}
_WRITE = {
    "subscriber_prefixes": "write the address that the world sees; when it is shared or changes, the provider can give a fixed one",
    "endpoint_prefixes": "write the address that the VPN app connects to",
}


def kind_of(network: Network, accepts_private: bool = False) -> Kind | None:
    """What all of the prefix, or a part of it, is kept for; None: it may be a line's or a server's."""
    for reserved, kind in _KINDS:
        if (
            network.version == reserved.version
            and network.overlaps(reserved)  # type: ignore[arg-type]
            and not (accepts_private and kind == "private")
        ):
            return kind
    return None


def refusal(field: str, network: Network, accepts_private: bool) -> str:
    """Why the prefix cannot be registered in subscriber_prefixes or endpoint_prefixes, and what to write; "" when it can."""
    kind = kind_of(network, accepts_private)
    return f"{network} {_WHY[kind]}; {_WRITE[field]}" if kind else ""
