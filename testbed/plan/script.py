"""The timeline of a scenario: its events in order. What the registry would say to them: official.py."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from enforcer.units import render_duration
from testbed.faults.kinds import KINDS
from testbed.plan.people import Resolving, registration
from testbed.plan.plan import Event
from testbed.plan.scenario_file import EventFile, FaultFile, SetLinkFile
from testbed.plan.script_actions import ACTIONS, PORTAL

# file key -> the plan's argument, with its unit in the name
_CHANGES = {"rate": "rate_bps", "delay": "delay_ns", "jitter": "jitter_ns", "loss": "loss_ratio"}


def resolve_events(resolving: Resolving, files: list[EventFile], enforcers: list[str]) -> tuple[Event, ...]:
    """The events in order. enforcers: the nodes that have one. Notes every problem."""
    events: list[Event] = []
    names: Counter[str] = Counter()
    displaced = _displaced([file.at for file in files])
    for index, file in enumerate(files):
        where = (*file.place, "at")
        if file.at > resolving.duration_ns:
            resolving.add(
                where, "it lies past the end", f"write at most '{render_duration(resolving.duration_ns)}'"
            )
        if index in displaced:
            resolving.add(where, displaced[index], "put the events in order of time")
        line, column = resolving.document.position(file.place)
        for action, args in _actions(resolving, file, enforcers):
            name = f"{action}:{_subject(args)}"
            names[name] += 1
            unique = name if names[name] == 1 else f"{name}.{names[name]}"
            events.append(Event(unique, file.at, action, args, line, column))
    return tuple(events)


def _displaced(times: list[int]) -> dict[int, str]:
    """What is wrong with each time that is out of order: as few as can be, so that one moved event is one problem."""
    longest = [1] * len(times)
    before = [-1] * len(times)
    for index, at in enumerate(times):
        for other in range(index):
            if times[other] <= at and longest[other] >= longest[index]:
                longest[index], before[index] = longest[other] + 1, other
    kept: list[int] = []
    at = max(range(len(times)), key=lambda index: longest[index], default=-1)
    while at >= 0:
        kept.insert(0, at)
        at = before[at]
    found = {}
    for index in sorted(set(range(len(times))) - set(kept)):
        above = max((times[each] for each in kept if each < index), default=0)
        below = min((times[each] for each in kept if each > index), default=0)
        is_early = times[index] < above
        place, ns = ("before the event above", above) if is_early else ("after the event below", below)
        found[index] = f"it is {place} ({render_duration(ns)})"
    return found


def _actions(resolving: Resolving, file: EventFile, enforcers: list[str]) -> list[tuple[str, dict[str, Any]]]:
    given = [action for action in ACTIONS if getattr(file, action.replace("-", "_")) is not None]
    if len(given) != 1 and (given or file.is_whole):
        what = "nothing happens then" if not given else "several things happen: " + ", ".join(given)
        fix = "add one of " + ", ".join(ACTIONS) if not given else "write an event for each"
        resolving.add(file.place, what, fix)
    found: list[tuple[str, dict[str, Any]]] = []
    for action in given:
        value = getattr(file, action.replace("-", "_"))
        where = (*file.place, action)
        if action == "fault":
            args = _fault(resolving, file.at, value, enforcers)
            found += [(action, args)] if args else []
        elif action == "set-link":
            args = _set_link(resolving, value)
            found += [(action, args)] if args else []
        elif action in PORTAL:
            found += [(action, {"registration": name}) for name in _registrations(resolving, where, value)]
        elif action == "change-address":
            dynamic = [name for name, line in resolving.subscribers.items() if line.addressing == "dynamic"]
            shared = _shared(resolving, where, value)
            names = resolving.names(where, value, [*dynamic, *shared], "a subscriber with a dynamic line")
            found += [(action, {"subscriber": name}) for name in names if name not in shared]
        else:
            names = [name for name in value if name in resolving.tunnels]
            if resolving.is_sound("tunnels"):
                names = resolving.names(where, value, resolving.tunnels, "a tunnel")
            found += [(action, {"tunnel": name}) for name in names]
    return found


def _shared(resolving: Resolving, where, names: list[str]) -> list[str]:
    """Those whose lines share an address, each noted as a problem."""
    lines = [resolving.subscribers.get(name) for name in names]
    found = [line.name for line in lines if line is not None and line.addressing == "nat"]
    for name in found:
        at = (*where, names.index(name))
        resolving.add(
            at if at in resolving.document.values else where,
            f"{name} is behind NAT: its public address is its provider's and never changes",
            "name a subscriber with 'address: dynamic' (no line is both)",
        )
    return found


def _registrations(resolving: Resolving, where, names: list[str]) -> list[str]:
    if resolving.network.authority is None:
        resolving.add(
            where, "the topology has no authority", "add 'authority: {name: registry, at: ISP}' to it", True
        )
        return []
    found = []
    for index, name in enumerate(names):
        here = (*where, index) if len(names) > 1 else where
        subscriber, slash, endpoint = name.partition("/")
        if not slash:
            resolving.add(here, f"{name!r} is not a registration", "write SUBSCRIBER/SERVER")
            continue
        is_known = resolving.known(here, subscriber, resolving.subscribers, "a subscriber")
        if (
            resolving.known(here, endpoint, resolving.endpoints, "a VPN server or handshake service")
            and is_known
        ):
            found.append(registration(resolving, resolving.subscribers[subscriber], endpoint).name)
    return found


def _fault(resolving: Resolving, at_ns: int, file: FaultFile, enforcers: list[str]) -> dict[str, Any] | None:
    where = file.place
    if at_ns <= resolving.duration_ns < at_ns + file.for_:
        room = render_duration(max(0, resolving.duration_ns - at_ns))
        resolving.add(
            (*where, "for"), "it lasts past the end", f"write at most '{room}', or lengthen 'duration'"
        )
    if file.for_ == 0:
        resolving.add((*where, "for"), "it lasts no time", "write for example '10s'")
    if not resolving.known((*where, "kind"), file.kind, KINDS, "a kind of fault"):
        return None
    kind = KINDS[file.kind]
    authority = resolving.network.authority
    struck, what = {
        "enforcer": (enforcers, "a node with an enforcer"),
        "link": ([link.name for link in resolving.network.links], "a link"),
        "authority": ([authority.node] if authority else [], "the authority's node"),
    }[kind.strikes]
    names = resolving.names((*where, "at"), file.at, struck, what)
    args: dict[str, Any] = {"kind": file.kind, "at": names, "until_ns": at_ns + file.for_}
    for key, argument in _CHANGES.items():
        value = getattr(file, key)
        if value is None:
            continue
        if argument not in kind.arguments:
            resolving.add((*where, key), f"{file.kind} has no {key}", "remove it", True)
        args[argument] = value
    if file.is_whole and kind.needs_one_of and not any(argument in args for argument in kind.needs_one_of):
        resolving.add(where, f"{file.kind} changes nothing", "add one of " + ", ".join(_CHANGES))
    return args


def _set_link(resolving: Resolving, file: SetLinkFile) -> dict[str, Any] | None:
    changes = {
        argument: getattr(file, key) for key, argument in _CHANGES.items() if getattr(file, key) is not None
    }
    if not changes and file.is_whole:
        resolving.add(file.place, "it changes nothing", "add one of " + ", ".join(_CHANGES))
    links = [link.name for link in resolving.network.links]
    is_known = resolving.known((*file.place, "link"), file.link, links, "a link")
    return {"link": file.link, **changes} if is_known and changes else None


def _subject(args: dict[str, Any]) -> str:
    for key in ("registration", "subscriber", "tunnel", "link", "kind"):
        if key in args:
            return re.sub(r"[^A-Za-z0-9/-]", "-", str(args[key]))
    return ""
