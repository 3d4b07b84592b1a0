"""What is wrong with a topology beyond its form: unknown names, two things with one name or number, lines that cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from enforcer.filemodel import suggest
from enforcer.yamlfile import Document, Where
from testbed.plan.topology_file import CableFile, IspFile, SubscriberFile, TopologyFile

CUSTOMARY_PORT = {
    "dns": 53,
    "https": 443,
    "voice": 16384,
    "icmp": 0,
    "bulk": 5201,
    "wireguard": 51820,
    "openvpn-udp": 1194,
    "openvpn-tcp": 1194,
    "ikev2": 500,
    "openconnect": 443,
    "l2tp": 1701,
    "pptp": 1723,
    "esp": 0,
    "ah": 0,
    "gre": 0,
    "gre-0": 0,
}
WITHOUT_PORTS = ("esp", "ah", "gre", "gre-0")
NO_VPN = ("gre-0",)  # what only looks like one: nobody registers for it, everybody is entitled to it
_TCP = {"https", "bulk", "openvpn-tcp", "openconnect", "pptp"}


def check_topology(document: Document, topology: TopologyFile) -> None:
    """Notes every problem in the document."""
    _unique_names(document, topology)
    _unique_numbers(document, topology)
    # What is broken has been left out of the model, but what refers to it is right.
    names = _Names(document)
    for name, cable in (topology.cables or {}).items():
        _cable(document, names, ("cables", name), cable)
    for name, gateway in (topology.gateways or {}).items():
        _membership(document, topology, ("gateways", name), gateway.exchange)
    for name, isp in (topology.isps or {}).items():
        _isp(document, topology, names, ("isps", name), isp)
    for name, subscriber in (topology.subscribers or {}).items():
        _subscriber(document, topology, names, ("subscribers", name), subscriber)
    _servers(document, topology, names)
    if topology.authority:
        _known(document, ("authority", "at"), topology.authority.at, names.of("isps"), "an ISP")


class _Names:
    """The names in each section of the file as written."""

    def __init__(self, document: Document) -> None:
        self._data = document.data

    def of(self, section: str) -> list[str]:
        names = self._data.get(section)
        return list(names) if isinstance(names, dict) else []


def is_tcp(kind_or_protocol: str) -> bool:
    return kind_or_protocol in _TCP


def _named(topology: TopologyFile) -> Iterator[tuple[str, Where, str]]:
    for section in ("gateways", "exchange", "places", "isps", "subscribers", "servers"):
        for name in getattr(topology, section) or {}:
            yield name, (section, name), section
    if topology.authority:
        yield topology.authority.name, ("authority", "name"), "authority"


def _unique_names(document: Document, topology: TopologyFile) -> None:
    seen: dict[str, str] = {}
    for name, where, section in _named(topology):
        if name.lower() in seen:
            document.add(
                where,
                f"{name!r} is the name of one of the {seen[name.lower()]} too",
                "choose another name",
                True,
            )
        seen.setdefault(name.lower(), section)


def _unique_numbers(document: Document, topology: TopologyFile) -> None:
    seen: dict[int, str] = {}
    for section in ("gateways", "exchange", "places", "isps"):
        for name, router in (getattr(topology, section) or {}).items():
            where = (section, name, "asn")
            if router.asn == 65099:
                document.add(
                    where, "65099 would have the addresses of tunnels (10.99.0.0/16)", "choose another number"
                )
            elif router.asn in seen:
                document.add(
                    where, f"{router.asn} is the number of {seen[router.asn]} too", "give each its own number"
                )
            seen.setdefault(router.asn, name)


def _cable(document: Document, names: _Names, where: Where, cable: CableFile) -> None:
    _known(document, (*where, "from"), cable.from_, names.of("gateways"), "a gateway")
    _known(document, (*where, "to"), cable.to, names.of("places"), "a place abroad")


def _isp(document: Document, topology: TopologyFile, names: _Names, where: Where, isp: IspFile) -> None:
    seen = set()
    for transit in isp.transit:
        at = (*transit.place, "gateway")
        if transit.gateway in seen:
            document.add(at, f"{transit.gateway!r} is there twice", "keep one of them")
        seen.add(transit.gateway)
        _known(document, at, transit.gateway, names.of("gateways"), "a gateway")
    _membership(document, topology, where, isp.exchange)


def _membership(document: Document, topology: TopologyFile, where: Where, is_member: bool) -> None:
    if is_member and not topology.exchange:
        document.add(
            (*where, "exchange"), "there is no exchange", "add 'exchange: {NAME: {asn: …}}', or write false"
        )


def _subscriber(
    document: Document, topology: TopologyFile, names: _Names, where: Where, subscriber: SubscriberFile
) -> None:
    isps = topology.isps or {}
    _known(document, (*where, "isp"), subscriber.isp, names.of("isps"), "an ISP")
    isp = isps.get(subscriber.isp)
    if isp and subscriber.address == "nat" and isp.cgnat is None:
        document.add(
            (*where, "address"),
            f"{subscriber.isp} has no NAT",
            f"add 'cgnat: {{lines-per-address: 4}}' to {subscriber.isp}, or write static or dynamic",
        )


def _servers(document: Document, topology: TopologyFile, known: _Names) -> None:
    sites = [*known.of("places"), *known.of("isps")]
    subnets: dict[tuple[str, int], str] = {}
    names: dict[str, str] = {}
    for node, server in (topology.servers or {}).items():
        where = ("servers", node)
        _known(document, (*where, "at"), server.at, sites, "a place abroad or an ISP")
        if server.subnet is not None:
            other = subnets.setdefault((server.at, server.subnet), node)
            if other != node:
                document.add(
                    (*where, "subnet"),
                    f"{other} has subnet {server.subnet} too",
                    "choose another, or leave it out",
                )
        ports: dict[tuple[bool, int], str] = {}
        for section, items in (("services", server.services), ("vpn", server.vpn)):
            for name, item in items.items():
                here = (*where, section, name)
                if name in names:
                    document.add(
                        here, f"{name!r} is there twice (also on {names[name]})", "choose another name", True
                    )
                names.setdefault(name, node)
                protocol = item.protocol or getattr(item, "kind", "")
                if protocol == "handshake":
                    document.add(
                        here, "a handshake service has no protocol", "add 'protocol: wireguard'", True
                    )
                    continue
                port = item.port or CUSTOMARY_PORT[protocol]
                if section == "vpn" and protocol == "pptp" and port != CUSTOMARY_PORT["pptp"]:
                    document.add((*here, "port"), "PPTP has port 1723 and no other", "leave it out", True)
                if protocol in WITHOUT_PORTS and item.port:
                    document.add((*here, "port"), f"{protocol} has no ports", "leave it out", True)
                other = ports.setdefault((is_tcp(protocol), port), name)
                if other != name and port:
                    document.add(
                        here,
                        f"{other} has port {port} of {node} too",
                        "give it another port, or its own server",
                        True,
                    )


def _known(document: Document, where: Where, name: str, known: list[str], what: str) -> None:
    if name not in known:
        document.add(where, f"{name!r} is not the name of {what}", suggest(name, known))
