"""Which registrations and exemptions nearly cover a flow, and what would have to change for each: in words, the least first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import PORTLESS, cells, is_valid
from enforcer.known import Known
from enforcer.packet import Packet
from enforcer.policy import Exemption, Policy
from enforcer.prefixes import Prefix
from enforcer.question import Asked

_MOST = 3  # nearest registrations that are told


@dataclass(frozen=True, slots=True)
class _Near:
    """How far an entry is from covering a flow: what fails, each with what to do about it."""

    entry: Entry
    weight: int
    lacks: tuple[str, ...]


def touching(packet: Packet, allowlist: Allowlist) -> list[Entry]:
    """The entries that name one of the packet's ends: no other can have a say about it."""
    ends = _covering(packet.version, packet.src) | _covering(packet.version, packet.dst)
    return [entry for entry in allowlist.entries.values() if _names(entry, ends)]


def near(asked: Asked, kind: str, found: Iterable[Entry], known: Known, now_ns: int) -> list[str]:
    """What would let a flow that no registration covers pass. kind: the class of cells it is looked up in."""
    policy, packet = known.policy, asked.packet
    candidates = [_near(entry, packet, kind, policy, now_ns) for entry in found]
    if not any(candidates):  # asked from the server to the client
        turned = replace(packet, src=packet.dst, dst=packet.src)
        candidates = [_near(entry, turned, kind, policy, now_ns) for entry in found]
    close = sorted(
        (each for each in candidates if each), key=lambda each: (each.weight, each.entry.registration)
    )
    lines = [_words(each) for each in close[:_MOST]]
    if not close:
        lines += list(_neighbours(packet, known))
    lines += [line for item in policy.exempt if (line := _nearly_exempt(item, asked, kind))]
    return [*lines, _register(asked, policy)]


def entry_words(entry: Entry) -> str:
    what = f", {entry.category}" if entry.category else ""
    return f"registration {entry.registration} ({entry.registrant}{what})"


def moment(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


# What is wrong weighs: time and category are put right by an office, a port or protocol by a setting, an end by another form.
_TIME, _SETTING, _CATEGORY, _END = 1, 2, 4, 8


def _near(entry: Entry, packet: Packet, kind: str, policy: Policy, now_ns: int) -> _Near | None:
    lacks: list[str] = []
    weight = 0
    wants_line, wants_endpoint = policy.match != "endpoint", policy.match != "subscriber"
    has_line = _within(packet.version, packet.src, entry.subscriber_prefixes)
    has_endpoint = _within(packet.version, packet.dst, entry.endpoint_prefixes)
    if (wants_line and not has_line and not (wants_endpoint and has_endpoint)) or (
        wants_endpoint and not has_endpoint and not (wants_line and has_line)
    ):
        return None
    number = f"registration {entry.registration}"
    if entry.valid_until_ns is not None and now_ns >= entry.valid_until_ns:
        lacks.append(f"it ended at {moment(entry.valid_until_ns)}: renew it")
        weight += _TIME
    elif not is_valid(entry, now_ns):
        lacks.append(f"it counts from {moment(entry.valid_from_ns)}: wait until then")
        weight += _TIME
    ports = entry.endpoint_ports if wants_endpoint and kind not in PORTLESS else ()
    if ports and packet.dst_port not in ports:
        lacks.append(
            f"it is for port {' or '.join(map(str, ports))}: use that, or have port {packet.dst_port} added to {number}"
        )
        weight += _SETTING
    if entry.protocols and not _is_for(entry, kind):
        protocols = " or ".join(entry.protocols)
        lacks.append(f"it is for {protocols}: use that, or have {_protocol(kind)} added to {number}")
        weight += _SETTING
    if not policy.counts(entry):
        lacks.append(
            f"its category is {entry.category or 'unknown'}, and the policy counts only {' and '.join(policy.categories)}"
        )
        weight += _CATEGORY
    version = packet.version
    if wants_line and not has_line:
        neighbour = _neighbour(entry, packet)
        lines = _few(entry.subscriber_prefixes, version)
        lacks.append(
            f"it names the endpoint, for the line {neighbour}, of the same network as {packet.src_text}: if that line has a new "
            f"address, report the change to {packet.src_text}"
            if neighbour
            else f"it names the endpoint, for the line {lines}: have {packet.src_text} entered as its line"
        )
        weight += _END - bool(neighbour)
    if wants_endpoint and not has_endpoint:
        there = _few(entry.endpoint_prefixes, version)
        lacks.append(
            f"it names the line, for the endpoint {there}: use that, or have {packet.dst_text} added to it"
        )
        weight += _END - 2  # the asker's own, whose registrant can do something about it
    return _Near(entry, weight, tuple(lacks)) if lacks else None


def _words(found: _Near) -> str:
    return f"{entry_words(found.entry)} nearly covers it: {'; and '.join(found.lacks)}"


def _neighbours(packet: Packet, known: Known) -> Iterator[str]:
    """Where the line alone counts: registered lines of the same network, for an address changed by the ISP mostly stays in it."""
    if known.policy.match != "subscriber":
        return
    found = (entry for entry in known.allowlist.entries.values() if _neighbour(entry, packet))
    for entry in islice(found, _MOST):
        yield (
            f"{entry_words(entry)} has {_neighbour(entry, packet)}, in the same network as {packet.src_text}: if that line has a "
            f"new address, report the change to {packet.src_text}"
        )


def _neighbour(entry: Entry, packet: Packet) -> str:
    """A prefix of the entry's line in the network the packet comes from; "" without any."""
    width, bits = (32, 24) if packet.version == 4 else (128, 48)
    own = packet.src >> (width - bits)
    for prefix in map(Prefix.parse, entry.subscriber_prefixes):
        if (
            prefix.version == packet.version
            and prefix.bits >= bits
            and prefix.address >> (width - bits) == own
        ):
            return str(prefix)
    return ""


def _nearly_exempt(item: Exemption, asked: Asked, kind: str) -> str | None:
    """What an exemption lacks, when it is one thing."""
    packet = asked.packet
    lacks = []
    if item.protocols and _protocol(kind) not in item.protocols:
        lacks.append(f"it is for {' and '.join(item.protocols)}")
    if item.endpoint_prefixes and not _within(packet.version, packet.dst, item.endpoint_prefixes):
        lacks.append(f"it is for the endpoints {_few(item.endpoint_prefixes, packet.version)}")
    if item.subscriber_prefixes and not _within(packet.version, packet.src, item.subscriber_prefixes):
        lacks.append(f"it is for the lines {_few(item.subscriber_prefixes, packet.version)}")
    if item.endpoint_ports and kind not in PORTLESS and packet.dst_port not in item.endpoint_ports:
        lacks.append(f"it is for the ports {', '.join(map(str, item.endpoint_ports))}")
    named = (item.endpoint_prefixes, item.subscriber_prefixes)
    fits_an_end = any(
        prefixes and _within(packet.version, end, prefixes)
        for prefixes, end in zip(named, (packet.dst, packet.src), strict=True)
    )
    if len(lacks) != 1 or not fits_an_end:
        return None
    return f"the exemption {item.name!r} (its owner: {item.owner}) nearly fits: {lacks[0]}"


def _register(asked: Asked, policy: Policy) -> str:
    packet = asked.packet
    port = f", port {packet.dst_port}" if packet.dst_port else ""
    line, endpoint = f"the line {packet.src_text}", f"the endpoint {packet.dst_text}{port}"
    who = (
        f" (only registrations of category {' or '.join(policy.categories)} count)"
        if policy.categories
        else ""
    )
    what = {"subscriber": line, "endpoint": endpoint}.get(policy.match, f"{line} together with {endpoint}")
    return f"register {what}, for {asked.name}{who}"


def _is_for(entry: Entry, kind: str) -> bool:
    return not kind or any(shape.kind == kind for shape, _ in cells(entry, "subscriber"))


def _protocol(kind: str) -> str:
    return {"l2tp-ip": "l2tp", "gre": "pptp"}.get(kind, kind)


def _few(prefixes: tuple[str, ...], version: int) -> str:
    prefixes = tuple(prefix for prefix in prefixes if (":" in prefix) == (version == 6)) or prefixes
    more = f" and {len(prefixes) - 3} more" if len(prefixes) > 3 else ""
    return ", ".join(prefixes[:3]) + more


def _within(version: int, address: int, prefixes: tuple[str, ...]) -> bool:
    return not _covering(version, address).isdisjoint(map(_canonical, prefixes))


def _names(entry: Entry, ends: frozenset[str]) -> bool:
    prefixes = (*entry.subscriber_prefixes, *entry.endpoint_prefixes)
    return not ends.isdisjoint(map(_canonical, prefixes))


@lru_cache(maxsize=16)
def _covering(version: int, address: int) -> frozenset[str]:
    """Every prefix that covers the address, as text: a million entries are then looked through in a second or two."""
    width = 32 if version == 4 else 128
    shifts = range(width + 1)
    return frozenset(str(Prefix(version, address >> low << low, width - low)) for low in shifts)


def _canonical(prefix: str) -> str:
    return str(Prefix.parse(prefix)) if ":" in prefix else prefix  # IPv6 has many spellings of one address
