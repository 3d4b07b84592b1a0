"""One side of a comparison: a policy with an allowlist, as the rectangles that pass for each kind of traffic.

What the rectangles say is what `enforcer.decide.decide` says about the first packet of a flow; a property test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from enforcer.allowlist import Entry
from enforcer.cells import ANY, ANY_PORTLESS, cells, kinds_of
from enforcer.difference.cover import NOT_VPN, Cover, Label, Rect
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, common, cut, read
from enforcer.policy import Policy
from enforcer.protocols import TCP_PORTS, UDP_PORTS
from enforcer.units import render_rate

# What a flow looks like on the wire -> its transport; None has no ports. "other-…" shows nothing of a VPN: it is judged only
# where a port or a named endpoint says VPN.
LOOKS: dict[str, str | None] = {
    "wireguard": "udp",
    "openvpn-udp": "udp",
    "openvpn-tcp": "tcp",
    "ikev2": "udp",
    "esp": None,
    "ah": None,
    "l2tp": "udp",
    "l2tp-ip": None,
    "pptp": "tcp",
    "gre": None,
    "other-udp": "udp",
    "other-tcp": "tcp",
}
DOCUMENTED: dict[str | None, dict[int, str]] = {"udp": UDP_PORTS, "tcp": TCP_PORTS, None: {}}
_PROTOCOL_OF = {"gre": "pptp", "l2tp-ip": "l2tp"}

# Levels of covers: of several that cover a point, the lowest level names it.
_EXEMPT, _REGISTERED, _TURNED, _NOT_VPN = range(4)

Region = tuple[Prefix, Prefix]


class Judged(NamedTuple):
    """What a flow is taken for: by the first of the named regions that holds its ends, else base (None: no VPN).

    named: (regions, kind of cells) in the policy's order. has_ports: whether exemptions by port apply.
    """

    named: tuple[tuple[tuple[Region, ...], str], ...]
    base: str | None
    has_ports: bool

    @property
    def is_never(self) -> bool:
        return not self.named and self.base is None


class Layer(NamedTuple):
    """Rectangles of one level. is_turned: they cover flows opened from the endpoint's side (then .subscriber is the endpoint)."""

    level: int
    cover: Cover
    is_turned: bool

    @property
    def is_registered(self) -> bool:
        return self.level in (_REGISTERED, _TURNED)


class Side:
    """A policy and the entries that are active under it; entries whose category does not count are left out."""

    def __init__(self, policy: Policy, entries: Mapping[int, Entry]) -> None:
        self.policy = policy
        self.entries = {number: entry for number, entry in entries.items() if policy.counts(entry)}
        self.stop = stop_of(policy)
        self._forward: dict[tuple[int, str], Cover] = {}
        self._turned: dict[tuple[int, str], Cover] = {}
        self._made: dict[object, list[Layer]] = {}
        self._is_filled = False

    def ports(self, transport: str | None) -> set[int]:
        """Ports at which this policy may take a flow for something else than at others."""
        named = {port for item in self.policy.named_endpoints for port in item.ports}
        return named | set(DOCUMENTED[transport]) if transport else set()

    def judged(self, look: str, port: int, version: int) -> Judged:
        """port 0: any that is not in ports()."""
        transport, governs = LOOKS[look], self.policy.governs
        if transport is None:
            return Judged((), look if _PROTOCOL_OF.get(look, look) in governs else None, False)
        named = tuple(
            (regions, item.protocol)
            for item in self.policy.named_endpoints
            if item.protocol in governs
            and (not item.ports or port in item.ports)
            and (regions := _regions(item.prefixes, not item.ports, version))
        )
        by = self.policy.recognise_by
        at_port = DOCUMENTED[transport].get(port) if "ports" in by else None
        base = at_port if at_port in governs else None
        if base is None and "first-packets" in by and look in governs:
            base = look
        return Judged(named, base, True)

    def layers(self, judged: Judged, version: int, cuts: Iterable[Region]) -> list[Layer]:
        """What passes. cuts: regions along which traffic that is no VPN is to be told apart."""
        cuts = tuple(cuts)
        key = (judged, version, cuts)
        self._fill()
        if key not in self._made:
            if judged.named or judged.base is None:
                self._made[key] = self._by_regions(judged, version, cuts)
            else:
                self._made[key] = self._plain(judged.base, version, judged.has_ports)
        return self._made[key]

    def registered(self, version: int) -> Iterable[Rect]:
        """What registrations let pass, of every kind, as they name it."""
        self._fill()
        for (each, _), cover in self._forward.items():
            if each == version:
                yield from cover.rects

    def _plain(self, kind: str, version: int, has_ports: bool) -> list[Layer]:
        layers = self._exempt(_PROTOCOL_OF.get(kind, kind), version, has_ports)
        for each in kinds_of(kind):
            layers.append(Layer(_REGISTERED, self._forward.get((version, each), Cover(version)), False))
            layers.append(Layer(_TURNED, self._turned.get((version, each), Cover(version)), True))
        return [layer for layer in layers if layer.cover.rects]

    def _exempt(self, protocol: str, version: int, has_ports: bool) -> list[Layer]:
        forward, turned = Cover(version), Cover(version)
        for index, item in enumerate(self.policy.exempt):
            if item.protocols and protocol not in item.protocols:
                continue
            ports = item.endpoint_ports if has_ports and item.endpoint_ports else (0,)
            number = 0
            for one in _prefixes(item.subscriber_prefixes, version):
                for other in _prefixes(item.endpoint_prefixes, version):
                    for port in ports:
                        number += 1
                        label = f"exempt:{item.name}"
                        forward.add(Rect(one, other, port, (0, index, 0, number), label))
                        if port == 0:
                            turned.add(Rect(other, one, 0, (0, index, 1, number), label))
        return [Layer(_EXEMPT, forward, False), Layer(_EXEMPT, turned, True)]

    def _by_regions(self, judged: Judged, version: int, cuts: tuple[Region, ...]) -> list[Layer]:
        made: dict[tuple[int, bool], Cover] = {}
        earlier: list[Region] = []
        number = 0

        def put(layer: Layer, rect: Rect, region: Region) -> None:
            nonlocal number
            for piece in _less(region, earlier, version):
                number += 1
                cover = made.setdefault((layer.level, layer.is_turned), Cover(version))
                cover.add(Rect(*piece, rect.port, (*rect.rank, number), rect.label))

        for regions, kind in judged.named:
            for layer in self._plain(kind, version, judged.has_ports):
                for rect in layer.cover.rects:
                    for region in regions:
                        if both := _common((rect.subscriber, rect.endpoint), region, version):
                            put(layer, rect, both)
            earlier += regions
        if judged.base is not None:
            for layer in self._plain(judged.base, version, judged.has_ports):
                for rect in layer.cover.rects:
                    put(layer, rect, (rect.subscriber, rect.endpoint))
        else:
            whole = Layer(_NOT_VPN, Cover(version), False)
            for region in (*cuts, (WHOLE, WHOLE)):
                rank = (3, int(region == (WHOLE, WHOLE)))
                put(whole, Rect(*region, 0, rank, NOT_VPN), region)
        return [
            Layer(level, cover, is_turned) for (level, is_turned), cover in sorted(made.items(), key=_first)
        ]

    def _fill(self) -> None:
        if self._is_filled:
            return
        self._is_filled = True
        match = self.policy.match
        for entry in self.entries.values():
            for shape, (subscriber, endpoint, port) in dict.fromkeys(cells(entry, match)):
                version, subscriber_bits, endpoint_bits, has_port, kind = shape
                one, other = (subscriber, subscriber_bits), (endpoint, endpoint_bits)
                is_any = kind in (ANY, ANY_PORTLESS)
                rank = (1, -subscriber_bits, -endpoint_bits, not has_port, is_any, entry.registration)
                key = (version, kind)
                cover = self._forward.get(key)
                if cover is None:
                    cover = self._forward[key] = Cover(version)
                    self._turned[key] = Cover(version)
                cover.add(Rect(one, other, port, rank, entry.registration))
                if not has_port:
                    # Packets from the endpoint to the line are covered too, from whatever port.
                    self._turned[key].add(Rect(other, one, 0, (2, *rank[1:]), entry.registration))


class Alone:
    """Which registered pairs of prefixes no other registration of either side overlaps, in either direction: most of them."""

    def __init__(self, sides: tuple[Side, Side], version: int) -> None:
        self._sides, self._version = sides, version
        self._cover: Cover | None = None
        self._crowded: set[Region] = set()
        self._known: dict[Region, bool] = {}

    def holds(self, rect: Rect, is_turned: bool) -> bool:
        """Whether a registration's rectangle is one of them."""
        pair = (rect.endpoint, rect.subscriber) if is_turned else (rect.subscriber, rect.endpoint)
        if pair not in self._known:
            self._known[pair] = self._find(pair)
        return self._known[pair]

    def _find(self, pair: Region) -> bool:
        if WHOLE in pair:
            return False
        cover = self._all()
        if pair in self._crowded:
            return False
        forward = Rect(*pair, 0, (), "")
        turned = Rect(pair[1], pair[0], 0, (), "")
        own = sum(1 for _ in islice(cover.overlaps(forward), 2))
        return own == 1 and next(iter(cover.overlaps(turned)), None) is None

    def _all(self) -> Cover:
        if self._cover is None:
            self._cover = Cover(self._version)
            seen: dict[Region, tuple[int, Label]] = {}
            for number, side in enumerate(self._sides):
                for rect in side.registered(self._version):
                    pair, who = (rect.subscriber, rect.endpoint), (number, rect.label)
                    first = seen.setdefault(pair, who)
                    if first is who:
                        self._cover.add(rect._replace(port=0))
                    elif first != who:
                        self._crowded.add(pair)
        return self._cover


def stop_of(policy: Policy) -> str:
    """What happens to VPN that nothing lets pass: drop, reject, observe, or police with its rate."""
    if policy.mode == "observe":
        return "observe"
    if policy.action == "police" and policy.police_bps:
        return f"police {render_rate(policy.police_bps)}"
    return policy.action


def regions_of(judged: Judged) -> tuple[Region, ...]:
    return tuple(region for regions, _ in judged.named for region in regions)


def _regions(prefixes: tuple[str, ...], is_either_way: bool, version: int) -> tuple[Region, ...]:
    found = _prefixes(prefixes, version) if prefixes else []
    turned = [(prefix, WHOLE) for prefix in found] if is_either_way else []
    return (*((WHOLE, prefix) for prefix in found), *turned)


def _prefixes(prefixes: tuple[str, ...], version: int) -> list[Prefix]:
    """Those of the family; the whole of it when none is named at all."""
    if not prefixes:
        return [WHOLE]
    return list(dict.fromkeys(prefix for each, prefix in map(read, prefixes) if each == version))


def _common(one: Region, other: Region, version: int) -> Region | None:
    width = WIDTHS[version]
    subscriber, endpoint = common(one[0], other[0], width), common(one[1], other[1], width)
    return (subscriber, endpoint) if subscriber is not None and endpoint is not None else None


def _less(region: Region, others: list[Region], version: int) -> Iterable[Region]:
    overlapping = [both for other in others if (both := _common(region, other, version))]
    return cut(*region, overlapping, WIDTHS[version])


def _first(item: tuple[tuple[int, bool], Cover]) -> tuple[int, bool]:
    return item[0]


__all__ = ["DOCUMENTED", "LOOKS", "Alone", "Judged", "Layer", "Region", "Side", "regions_of", "stop_of"]
