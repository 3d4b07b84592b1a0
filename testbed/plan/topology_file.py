"""What a *.topology.yaml file may say. testbed/plan/network.py turns it into nodes, links and addresses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from enforcer.filemodel import Duration, FileModel, Rate, Ratio, refuse
from testbed.plan.plan import Addressing, SubscriberKind, VpnProtocol

_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9-]{0,31}$"


def _name(value: object) -> str:
    import re

    if not isinstance(value, str) or not re.match(_NAME_PATTERN, value):
        raise refuse(
            f"'{value}' is not a name", "write letters, digits and '-', at most 32, a letter or digit first"
        )
    return value


Name = Annotated[str, PlainValidator(_name), WithJsonSchema({"type": "string", "pattern": _NAME_PATTERN})]

# An AS number is 65000 + its address block: AS 65011 has 10.11.0.0/16 and fd00:11::/32. Block 99 is for tunnels.
Asn = Annotated[int, Field(ge=65001, le=65254)]
ServiceKind = Literal["dns", "https", "voice", "icmp", "handshake", "bulk"]
HandshakeProtocol = Literal[
    "wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "l2tp", "pptp", "esp", "ah", "gre", "gre-0"
]
Port = Annotated[int, Field(ge=1, le=65535)]


class LineFile(FileModel):
    rate: Rate | None = None
    """Rate of each direction; left out: not limited."""
    rtt: Duration = 0
    """Round-trip time the link adds: half of it in each direction."""
    jitter: Duration = 0
    """Variation of the one-way delay."""
    loss: Ratio = 0.0
    """Share of packets lost, in each direction."""


class RouterFile(FileModel):
    asn: Asn
    """AS number, 65001 to 65254; 65011 has the addresses 10.11.0.0/16 and fd00:11::/32."""


class GatewayFile(RouterFile):
    exchange: bool = False
    """Is it a member of the exchange? It tells the others of itself and its customers, and is nobody's way abroad there."""


class CableFile(LineFile):
    from_: Name
    """The gateway it lands at."""
    to: Name
    """The place abroad it leads to. Of several cables between the same two, the first is used while it works."""


class TransitFile(LineFile):
    gateway: Name
    """The gateway; the first of an ISP's list is used while it works, the others are backup."""


class CgnatFile(FileModel):
    lines_per_address: Annotated[int, Field(ge=1, le=1000)]
    """How many lines share one public IPv4 address, each with its own block of ports (RFC 7422)."""


class IspFile(RouterFile):
    kind: Literal["mobile", "fixed", "business"]
    transit: list[TransitFile] = Field(min_length=1)
    """Gateways it buys transit from, in order of preference."""
    exchange: bool = False
    """Is it a member of the exchange?"""
    access: LineFile
    """What its lines are like."""
    cgnat: CgnatFile | None = None
    """Carrier-grade NAT for subscribers with 'address: nat' (inside addresses from 100.64.0.0/10)."""


class SubscriberFile(FileModel):
    kind: SubscriberKind
    isp: Name
    address: Addressing
    """static, dynamic (may change during the scenario) or nat (shares a public IPv4 address)."""
    ipv6: bool = False
    """Does the line have IPv6 beside IPv4?"""
    access: LineFile | None = None
    """What this line is like, when not like the ISP's others."""


class ServiceFile(FileModel):
    kind: ServiceKind
    port: Port | None = None
    """Left out: the customary one."""
    protocol: HandshakeProtocol | None = None
    """For kind handshake: the VPN protocol whose first packets it answers."""
    open: bool = False
    """For kind handshake: everybody is entitled to it without a registration (an operator's Wi-Fi-calling gateway)."""
    zone: str | None = None
    """For kind dns: the zone it answers for; left out: 'example.'."""


class VpnFile(FileModel):
    protocol: VpnProtocol
    port: Port | None = None
    """Left out: the customary one."""
    options: dict[str, str] = {}
    """Settings of the protocol, as text: keepalive_s, dpd_s, …"""


class ServerFile(FileModel):
    at: Name
    """The place abroad, or for a domestic server the ISP, whose router it is connected to."""
    subnet: Annotated[int, Field(ge=16, le=99)] | None = None
    """Third number of its addresses (10.AS.SUBNET.10); left out: the next free one."""
    services: dict[Name, ServiceFile] = {}
    vpn: dict[Name, VpnFile] = {}


class AuthorityFile(FileModel):
    name: Name
    at: Name
    """The ISP whose router it is connected to."""
    port: Port = 8080


class TopologyFile(FileModel):
    """A *.topology.yaml file: a small national Internet, and what it reaches abroad."""

    title: str
    """One sentence for people."""
    description: str = ""
    """What it stands for, and where its figures come from."""
    gateways: dict[Name, GatewayFile] = Field(min_length=1)
    """International gateways: all traffic to places abroad crosses one of them."""
    places: dict[Name, RouterFile] = Field(min_length=1)
    """Places abroad. They are not connected with each other, so that both directions of a flow cross the same gateway."""
    cables: dict[Name, CableFile] = Field(min_length=1)
    """Submarine cables from gateways to places."""
    exchange: dict[Name, RouterFile] = Field(default={}, max_length=1)
    """The Internet exchange, when there is one: a route server and a LAN."""
    isps: dict[Name, IspFile] = Field(min_length=1)
    subscribers: dict[Name, SubscriberFile] = Field(min_length=1)
    servers: dict[Name, ServerFile] = {}
    authority: AuthorityFile | None = None
    """Where the registry runs."""
