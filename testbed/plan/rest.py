"""Files with mistakes: what is right in them is checked all the same, so that a second round finds nothing new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from enforcer.yamlfile import Where
from testbed.plan.people import Resolving
from testbed.plan.plan import Addressing, SubscriberKind
from testbed.plan.scenario_file import FileModel, ScenarioFile
from testbed.plan.script_actions import PORTAL

_LONGER_NS = 120_000_000_000
_SECTIONS = ("registrations", "tunnels", "traffic", "bulk", "timeline", "expect")


def long_enough(scenario: ScenarioFile) -> int:
    """A duration (ns) that everything in the scenario fits into, for one whose own duration is wrong or missing."""
    times = [0]
    for section in _SECTIONS:
        for item in getattr(scenario, section) or ():
            lasts = getattr(item, "for_", 0) or getattr(getattr(item, "fault", None), "for_", 0)
            starts = getattr(item, "at", 0) or getattr(item, "from_", 0)
            times += [starts + lasts, getattr(item, "until", None) or 0]
    return max(times) + _LONGER_NS


def check_names_of_the_rest(resolving: Resolving) -> None:
    """Notes unknown names in the list items that were left out of the model because something else is wrong in them."""
    for section in _SECTIONS:
        for where, item in _left_out(resolving, section):
            for place, name, known, what in _named(resolving, section, where, item):
                resolving.known(place, name, known, what)


def groups(resolving: Resolving) -> list[str]:
    """The groups of traffic, also those of entries that are wrong."""
    items = _raw(resolving, "traffic")
    found = {item.get("group") for _, item in items}
    return sorted(group for group in found if isinstance(group, str))


def registrations_in_doubt(resolving: Resolving) -> set[str]:
    """Registrations whose history is not known because an event about them, or about one with a misspelled name, is wrong."""
    wrong = {f"timeline[{_number(problem.where)}]" for problem in resolving.document.problems}
    said = [
        name.partition("/")[::2]
        for where, item in _raw(resolving, "timeline")
        if f"timeline[{where[1]}]" in wrong
        for action in PORTAL
        for _, name in _words((*where, action), item.get(action))
    ]
    return {
        name
        for name, known in resolving.registrations.items()
        for subscriber, server in said
        if known.subscriber in (subscriber, *_if_unknown(subscriber, resolving.subscribers, known.subscriber))
        and known.server in (server, *_if_unknown(server, resolving.endpoints, known.server))
    }


def _number(where: str) -> str:
    return where.removeprefix("timeline[").partition("]")[0] if where.startswith("timeline[") else ""


def _if_unknown(name: str, known: Iterable[str], meant: str) -> tuple[str, ...]:
    """Whom a name that nobody has may mean: anybody."""
    return () if name in known else (meant,)


def _raw(resolving: Resolving, section: str) -> Iterator[tuple[Where, dict[str, Any]]]:
    items = resolving.document.data.get(section)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (section, index), item


def _left_out(resolving: Resolving, section: str) -> Iterator[tuple[Where, dict[str, Any]]]:
    kept: list[FileModel] = getattr(resolving.scenario, section) or []
    places = {item.place for item in kept}
    return ((where, item) for where, item in _raw(resolving, section) if where not in places)


def _named(
    resolving: Resolving, section: str, where: Where, item: dict[str, Any]
) -> Iterator[tuple[Where, str, Iterable[str], str]]:
    network = resolving.network
    subscribers = list(resolving.subscribers), "a subscriber"
    servers = [server.name for server in network.servers], "a VPN server"
    endpoints = list(resolving.endpoints), "a VPN server or handshake service"
    kinds = get_args(SubscriberKind), "a kind of subscriber"
    isps = [node.name for node in network.nodes if node.kind == "isp"], "an ISP"
    selector = {
        "kind": kinds,
        "isp": isps,
        "address": (get_args(Addressing), "a kind of address"),
        "except": subscribers,
    }
    by_key: dict[str, tuple[Iterable[str], str]] = {"who": subscribers, "through": servers}
    by_key["server"] = servers if section == "tunnels" else endpoints
    if section == "traffic" and item.get("probe") != "tunnel-echo":
        by_key["to"] = list(resolving.services), "a service"
    if section == "bulk":
        by_key["service"] = [each.name for each in network.services if each.kind == "bulk"], "a bulk service"
    yield from _of(where, item, by_key)
    yield from _of((*where, "whoever"), item.get("whoever"), selector)
    if section == "timeline":
        for place, name in (pair for action in PORTAL for pair in _words((*where, action), item.get(action))):
            subscriber, _, endpoint = name.partition("/")
            yield place, subscriber, *subscribers
            yield place, endpoint, *endpoints
    if section == "expect":
        places = {"subscriber": subscribers, "kind": kinds, "isp": isps}
        places["group"] = groups(resolving), "a group of traffic"
        places["server"] = [*resolving.endpoints, *resolving.services], "a server"
        yield from _of((*where, "where"), item.get("where"), places)


def _of(
    where: Where, item: Any, by_key: dict[str, tuple[Iterable[str], str]]
) -> Iterator[tuple[Where, str, Iterable[str], str]]:
    for key, (known, what) in by_key.items() if isinstance(item, dict) else ():
        for place, name in _words((*where, key), item.get(key)):
            yield place, name, known, what


def _words(where: Where, value: Any) -> Iterator[tuple[Where, str]]:
    """The names of a key that may hold one or a list."""
    if isinstance(value, str):
        yield where, value
    for index, word in enumerate(value if isinstance(value, list) else ()):
        if isinstance(word, str):
            yield (*where, index), word
