"""Who and what a scenario names: subscribers by name or by what they are, and the endpoints a registration can be for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

from enforcer.filemodel import suggest
from enforcer.yamlfile import Document, Where
from testbed.plan.network import Network
from testbed.plan.plan import Addressing, Registration, Service, Subscriber, SubscriberKind, Tunnel, VpnServer
from testbed.plan.scenario_file import PeopleFile, ScenarioFile, SelectorFile
from testbed.plan.topology_check import NO_VPN, WITHOUT_PORTS

_REGISTERED_AS = {"gre": "pptp"}


@dataclass(slots=True)
class Resolving:
    """A scenario on its way to a plan: where problems are noted, and what has been resolved so far."""

    document: Document
    scenario: ScenarioFile
    network: Network
    duration_ns: int
    seed: int
    registrations: dict[str, Registration] = field(default_factory=dict)
    tunnels: dict[str, Tunnel] = field(default_factory=dict)

    @property
    def subscribers(self) -> dict[str, Subscriber]:
        return {subscriber.name: subscriber for subscriber in self.network.subscribers}

    @property
    def services(self) -> dict[str, Service]:
        return {service.name: service for service in self.network.services}

    @property
    def endpoints(self) -> dict[str, VpnServer | Service]:
        """What a registration can be for: VPN servers and handshake services."""
        handshakes = {
            service.name: service
            for service in self.network.services
            if service.kind == "handshake" and service.protocol not in NO_VPN
        }
        return {**{server.name: server for server in self.network.servers}, **handshakes}

    def add(self, where: Where, what: str, fix: str, at_key: bool = False) -> None:
        self.document.add(where, what, fix, at_key)

    def is_sound(self, *sections: str) -> bool:
        """Whether no problem has been noted in these parts; what follows from one noted there is not worth a message."""
        problems, data = self.document.problems, self.document.data
        if any(section not in data for section in sections) and any(
            problem.where in data and problem.what.endswith("is not a key here") for problem in problems
        ):
            return False  # that key may be the part that is missing, misspelled
        names = "|".join(map(re.escape, sections))
        return not any(re.match(rf"(?:{names})(?=[.\[]|$)", problem.where) for problem in problems)

    def known(self, where: Where, name: str, known: Iterable[str], what: str) -> bool:
        """Whether the name is known; notes a problem when it is not."""
        names = list(known)
        if name not in names:
            self.add(where, f"{name!r} is not {what}", suggest(name, names))
        return name in names

    def names(self, where: Where, names: Iterable[str] | None, known: Iterable[str], what: str) -> list[str]:
        """The names that are known; notes a problem for each of the others."""
        found = []
        known = list(known)
        for index, name in enumerate(names or ()):
            here = (*where, index) if (*where, index) in self.document.values else where
            if self.known(here, name, known, what):
                found.append(name)
        return found


def select(resolving: Resolving, people: PeopleFile) -> list[Subscriber]:
    """The subscribers meant, in the topology's order. Notes a problem when there are none."""
    where = people.place
    subscribers = resolving.subscribers
    if people.who is not None and people.whoever is not None:
        resolving.add((*where, "whoever"), "who and whoever are both there", "keep one of them", True)
    if people.who is not None:
        chosen = set(resolving.names((*where, "who"), people.who, subscribers, "a subscriber"))
        return [subscriber for name, subscriber in subscribers.items() if name in chosen]
    if people.whoever is None:
        if people.is_whole:
            resolving.add(where, "it names nobody", "add 'who: NAME' or 'whoever: {kind: company}'")
        return []
    before = len(resolving.document.problems)
    found = _select(resolving, people.whoever)
    if not found and before == len(resolving.document.problems) and people.whoever.is_whole:
        resolving.add(
            (*where, "whoever"),
            "nobody is like that",
            "loosen the selection, or add a subscriber to the topology",
        )
    return found


def registration(resolving: Resolving, subscriber: Subscriber, endpoint: str) -> Registration:
    """The registration of a line for an endpoint; made, as one nobody has applied for, when it is not known yet."""
    name = f"{subscriber.name}/{endpoint}"
    if name not in resolving.registrations:
        resolving.registrations[name] = form(resolving, subscriber, endpoint)
    return resolving.registrations[name]


def form(
    resolving: Resolving,
    subscriber: Subscriber,
    endpoint: str,
    state=None,
    addresses: Iterable[str] | None = None,
    category: str | None = None,
) -> Registration:
    """What the applicant writes down: the line's public addresses, the endpoint's addresses, ports and protocols."""
    target = resolving.endpoints[endpoint]
    protocol = target.protocol or ""
    own = [address for address in (subscriber.public4, subscriber.public6) if address]
    return Registration(
        name=f"{subscriber.name}/{endpoint}",
        subscriber=subscriber.name,
        server=endpoint,
        # GRE is the data of PPTP, and registered as that.
        protocols=("ikev2", "esp") if protocol == "ikev2" else (_REGISTERED_AS.get(protocol, protocol),),
        subscriber_prefixes=tuple(addresses) if addresses else tuple(_whole(address) for address in own),
        endpoint_prefixes=tuple(_whole(address) for address in (target.address4, target.address6) if address),
        # IKE moves to 4500 behind NAT, and always with kernel-libipsec (RFC 7296 §2.23).
        endpoint_ports=(target.port, 4500)
        if protocol == "ikev2"
        else (() if protocol in WITHOUT_PORTS else (target.port,)),
        initial=state,
        category=category,
    )


def _whole(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _select(resolving: Resolving, selector: SelectorFile) -> list[Subscriber]:
    where = selector.place
    isps = [node.name for node in resolving.network.nodes if node.kind == "isp"]
    wanted = {
        "kind": resolving.names(
            (*where, "kind"), selector.kind, get_args(SubscriberKind), "a kind of subscriber"
        ),
        "isp": resolving.names((*where, "isp"), selector.isp, isps, "an ISP"),
        "addressing": resolving.names(
            (*where, "address"), selector.address, get_args(Addressing), "a kind of address"
        ),
    }
    given = {"kind": selector.kind, "isp": selector.isp, "addressing": selector.address}
    left_out = resolving.names((*where, "except"), selector.except_, resolving.subscribers, "a subscriber")
    return [
        subscriber
        for subscriber in resolving.network.subscribers
        if subscriber.name not in left_out
        and all(given[key] is None or getattr(subscriber, key) in wanted[key] for key in given)
    ]
