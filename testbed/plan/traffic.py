"""Registrations, tunnels, flow attempts and bulk phases of a scenario, for each subscriber and with their times."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from dataclasses import replace

from enforcer.units import render_duration
from testbed.plan.addressing import tunnel_client
from testbed.plan.people import Resolving, form, registration, select
from testbed.plan.plan import Bulk, Service, Stream, Subscriber, Tunnel, VpnServer
from testbed.plan.scenario_file import BulkFile, RegistrationFile, TrafficFile, TunnelFile
from testbed.plan.topology_check import WITHOUT_PORTS

_S = 1_000_000_000
_DEADLINE_NS = {"https": 2 * _S, "handshake": 2 * _S}
# 20 ms of G.711 (160 bytes) and an RTP header (RFC 3551 §4.5.14, RFC 3550 §5.1).
_VOICE_PACKETS, _VOICE_SPACING_NS, _VOICE_BYTES = 10, 20_000_000, 172
_PAYLOAD_BYTES = 64
# xl2tpd, pptpd and pptp open IPv4 sockets only.
_IPV4_ALONE = ("l2tp", "pptp")
# A plan with more is a mistake in `every` rather than a wish: 5,000 attempts/s is what the driver can send.
_MOST_ATTEMPTS_PER_S = 5_000


def resolve_registrations(resolving: Resolving, files: list[RegistrationFile]) -> None:
    """Fills resolving.registrations with what the scenario says of the ledger."""
    for file in files:
        where = file.place
        servers = resolving.names(
            (*where, "server"), file.server, resolving.endpoints, "a VPN server or handshake service"
        )
        addresses = _addresses(resolving, file)
        for subscriber in select(resolving, file):
            for server in servers:
                wanted = form(resolving, subscriber, server, file.state, addresses, file.category)
                if wanted.name in resolving.registrations:
                    resolving.add(where, f"{wanted.name} is registered twice", "keep one of them")
                resolving.registrations[wanted.name] = wanted


def resolve_tunnels(resolving: Resolving, files: list[TunnelFile]) -> None:
    """Fills resolving.tunnels."""
    servers = {server.name: server for server in resolving.network.servers}
    inner: Counter[str] = Counter()
    for file in files:
        where = file.place
        start_ns, stop_ns = file.from_, resolving.duration_ns if file.until is None else file.until
        if not _is_window(resolving, where, start_ns, stop_ns, file.until is not None):
            continue
        names = resolving.names((*where, "server"), file.server, servers, "a VPN server")
        if file.family == 6:
            names = _speaking_ipv6(resolving, file, names, servers)
        for subscriber in _with_family(resolving, file, file.family):
            for server in names:
                if servers[server].protocol == "pptp" and subscriber.addressing == "nat":
                    resolving.add(
                        where,
                        f"{subscriber.name} shares an address, and PPTP's data (GRE) has no ports to tell lines apart by",
                        "leave them out here, or give the line an address of its own",
                    )
                    continue
                name = f"{subscriber.name}-{server}" + ("-6" if file.family == 6 else "")
                if name in resolving.tunnels:
                    resolving.add(
                        where,
                        f"{name} is there twice",
                        "keep one of them (connect and disconnect can repeat it)",
                    )
                    continue
                registration(resolving, subscriber, server)
                inner4 = tunnel_client(servers[server].inner4, inner[server])
                inner[server] += 1
                resolving.tunnels[name] = Tunnel(
                    name, subscriber.name, server, file.family, inner4, start_ns, stop_ns
                )


def resolve_streams(resolving: Resolving, files: list[TrafficFile]) -> tuple[Stream, ...]:
    """Every flow attempt of the scenario, scheduled."""
    streams: dict[str, Stream] = {}
    for file in files:
        for stream in _streams(resolving, file):
            name, number = stream.name, 2
            while name in streams:
                name, number = f"{stream.name}.{number}", number + 1
            streams[name] = replace(stream, name=name, at_ns=_schedule(resolving, file, name, stream))
    if (
        streams
        and sum(len(stream.at_ns) for stream in streams.values()) * _S
        > _MOST_ATTEMPTS_PER_S * resolving.duration_ns
    ):
        resolving.add(
            ("traffic",), "these are more than 5,000 attempts a second", "write a longer 'every'", True
        )
    return tuple(streams.values())


def resolve_bulk(resolving: Resolving, files: list[BulkFile]) -> tuple[Bulk, ...]:
    phases: dict[str, Bulk] = {}
    services = {name: service for name, service in resolving.services.items() if service.kind == "bulk"}
    for file in files:
        where = file.place
        is_known = resolving.known((*where, "service"), file.service, services, "a bulk service")
        if file.at + file.for_ > resolving.duration_ns:
            resolving.add((*where, "for"), "it goes on past the end", _fits(resolving.duration_ns - file.at))
        for subscriber in select(resolving, file):
            tunnel = _tunnel(resolving, file, subscriber) if file.through is not None else None
            if file.through is not None and tunnel is None:
                continue
            if tunnel and is_known:
                _check_tunnel_end(resolving, file, tunnel, services)
            name, number = f"bulk.{subscriber.name}.{file.direction}", 2
            while name in phases:
                name, number = f"bulk.{subscriber.name}.{file.direction}.{number}", number + 1
            via = tunnel.name if tunnel else None
            phases[name] = Bulk(name, subscriber.name, file.service, via, file.at, file.for_, file.direction)
    return tuple(phases.values())


def _tunnel(resolving: Resolving, file: BulkFile, subscriber: Subscriber) -> Tunnel | None:
    mine = {each.server: each for each in resolving.tunnels.values() if each.subscriber == subscriber.name}
    where = (*file.place, "through")
    assert file.through is not None
    what = f"a server {subscriber.name} has a tunnel to"
    if not resolving.is_sound("tunnels") and file.through not in mine:
        # Whose tunnels there are is not known; whether there is such a server is.
        known, what = [server.name for server in resolving.network.servers], "a VPN server"
        resolving.known(where, file.through, known, what)
        return None
    is_known = resolving.known(where, file.through, mine, what)
    return mine[file.through] if is_known else None


def _check_tunnel_end(
    resolving: Resolving, file: BulkFile, tunnel: Tunnel, services: dict[str, Service]
) -> None:
    """iperf3 through a tunnel talks to the tunnel's own end, so the service has to be there; and the client must run."""
    node = next(server.node for server in resolving.network.servers if server.name == tunnel.server)
    there = [name for name, service in services.items() if service.node == node]
    if file.service not in there:
        fix = f"write {' or '.join(there)}" if there else f"add a bulk service to {node} in the topology"
        resolving.add((*file.place, "service"), f"it is not on {node}, where the tunnel ends", fix)
    if not tunnel.start_ns <= file.at < tunnel.stop_ns:
        window = f"between '{render_duration(tunnel.start_ns)}' and '{render_duration(tunnel.stop_ns)}'"
        resolving.add((*file.place, "at"), "the tunnel's client does not run then", f"write a time {window}")


def _streams(resolving: Resolving, file: TrafficFile) -> list[Stream]:
    if file.every == 0:
        resolving.add((*file.place, "every"), "'0s' is no interval", "write for example '500ms'")
        return []
    if file.probe == "tunnel-echo":
        return _tunnel_streams(resolving, file)
    where = (*file.place, "to")
    if file.to is None:
        if file.is_whole:
            resolving.add(file.place, f"{file.probe} has no destination", "add 'to: SERVICE'")
        return []
    services = {
        name: service for name, service in resolving.services.items() if _answers(service, file.probe)
    }
    targets = [
        services[name]
        for name in resolving.names(where, file.to, services, f"a service that answers {file.probe}")
    ]
    family = file.family or 4
    streams = []
    for subscriber in _with_family(resolving, file, family):
        for service in targets:
            if service.protocol in WITHOUT_PORTS and subscriber.addressing == "nat" and family == 4:
                what = f"{subscriber.name} shares an address, and {service.protocol} has no ports to tell lines apart by"
                resolving.add(where, what, "leave them out here, or give the line an address of its own")
                continue
            needed = None
            if file.probe == "handshake" and service.name not in resolving.network.open_services:
                needed = registration(resolving, subscriber, service.name).name
            protocol = service.protocol or file.probe
            streams.append(_stream(file, subscriber.name, protocol, service.name, family, needed))
    return streams


def _tunnel_streams(resolving: Resolving, file: TrafficFile) -> list[Stream]:
    tunnels = resolving.tunnels
    if file.to is not None:
        names = [name for name in file.to if name in tunnels]
        if resolving.is_sound("tunnels"):
            names = resolving.names((*file.place, "to"), file.to, tunnels, "a tunnel")
        if file.who or file.whoever:
            resolving.add(
                file.place, "tunnels are named, so who uses them is known", "leave who and whoever out"
            )
    else:
        people = {subscriber.name for subscriber in select(resolving, file)}
        names = [name for name, tunnel in tunnels.items() if tunnel.subscriber in people]
        if people and not names and resolving.is_sound("tunnels"):
            resolving.add(file.place, "none of them has a tunnel", "add one under tunnels")
    if file.family is not None:
        resolving.add((*file.place, "family"), "the tunnel has its own family", "leave it out", True)
    servers = {server.name: server.protocol for server in resolving.network.servers}
    return [
        _stream(
            file,
            tunnels[name].subscriber,
            servers[tunnels[name].server],
            name,
            tunnels[name].family,
            f"{tunnels[name].subscriber}/{tunnels[name].server}",
        )
        for name in names
    ]


def _stream(
    file: TrafficFile, subscriber: str, protocol: str, target: str, family, needed: str | None
) -> Stream:
    is_voice = file.probe == "voice"
    packets = (file.packets or _VOICE_PACKETS) if is_voice else 1
    spacing_ns = (file.spacing or _VOICE_SPACING_NS) if is_voice else 0
    deadline_ns = file.deadline or _DEADLINE_NS.get(file.probe, _S) + (packets - 1) * spacing_ns
    return Stream(
        name=f"{file.group}.{target}"
        if file.probe == "tunnel-echo"
        else f"{file.group}.{subscriber}.{target}",
        group=file.group,
        subscriber=subscriber,
        probe=file.probe,
        protocol=protocol,
        target=target,
        family=family,
        at_ns=(),
        deadline_ns=deadline_ns,
        packets=packets,
        spacing_ns=spacing_ns,
        payload_bytes=file.payload or (_VOICE_BYTES if is_voice else _PAYLOAD_BYTES),
        registration=needed,
    )


def _schedule(resolving: Resolving, file: TrafficFile, name: str, stream: Stream) -> tuple[int, ...]:
    """An even schedule with its own seeded phase, so that the streams of a group do not fire all at once."""
    from_ns = file.from_
    until_ns = resolving.duration_ns - stream.deadline_ns if file.until is None else file.until
    if stream.probe == "tunnel-echo":  # nobody can send through a tunnel whose client does not run
        tunnel = resolving.tunnels[stream.target]
        from_ns, until_ns = max(from_ns, tunnel.start_ns), min(until_ns, tunnel.stop_ns)
    if not _is_window(resolving, file.place, from_ns, until_ns, file.until is not None):
        return ()
    phase_ns = int(random.Random(f"{resolving.seed}/{name}").random() * min(file.every, until_ns - from_ns))
    return tuple(range(from_ns + phase_ns, until_ns, file.every))


def _is_window(resolving: Resolving, where, from_ns: int, until_ns: int, is_given: bool) -> bool:
    """Whether from lies before until and both in the scenario; notes what is wrong."""
    if until_ns > resolving.duration_ns:
        resolving.add(
            (*where, "until"),
            "it lies past the end",
            f"write at most '{render_duration(resolving.duration_ns)}'",
        )
        return False
    if from_ns >= until_ns:
        if is_given:
            resolving.add(
                (*where, "until"), "it is not after 'from'", f"write more than '{render_duration(from_ns)}'"
            )
        else:
            latest = render_duration(max(0, until_ns))
            resolving.add(
                (*where, "from"), "nothing can be completed from then on", f"write less than '{latest}'"
            )
        return False
    return True


def _speaking_ipv6(
    resolving: Resolving, file: TunnelFile, names: list[str], servers: dict[str, VpnServer]
) -> list[str]:
    for name in names:
        if servers[name].protocol in _IPV4_ALONE:
            what = f"{name} is reached over IPv4 alone, as {servers[name].protocol} is"
            resolving.add((*file.place, "family"), what, "write 'family: 4'", True)
    return [name for name in names if servers[name].protocol not in _IPV4_ALONE]


def _with_family(resolving: Resolving, file: TunnelFile | TrafficFile, family: int) -> list[Subscriber]:
    """Those meant who have the family: somebody named who has not is a mistake, somebody selected is left out."""
    people = select(resolving, file)
    if family == 4:
        return people
    for subscriber in people:
        if subscriber.public6 is None and file.who is not None:
            resolving.add(
                (*file.place, "who"),
                f"{subscriber.name} has no IPv6",
                "write 'family: 4', or give the line ipv6",
            )
    found = [subscriber for subscriber in people if subscriber.public6 is not None]
    if people and not found and file.who is None:
        resolving.add((*file.place, "whoever"), "none of them has IPv6", "write 'family: 4'")
    return found


def _answers(service: Service, probe: str) -> bool:
    return service.kind == probe or probe == "icmp"


def _addresses(resolving: Resolving, file: RegistrationFile) -> list[str] | None:
    found = []
    for index, text in enumerate(file.addresses or ()):
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError:
            where = (*file.place, "addresses", index)
            resolving.add(
                where, f"{text!r} is not an address or prefix", "write '203.0.113.7' or '203.0.113.0/24'"
            )
    return found or None


def _fits(ns: int) -> str:
    return f"write at most '{render_duration(max(0, ns))}', or lengthen 'duration'"
