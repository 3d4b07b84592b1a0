"""What a side lets pass in one family, as rectangles for each kind of traffic, in layers.

What the rectangles say is what `enforcer.decide.decide` says about the first packet of a flow; a property test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from enforcer.cells import ANY, ANY_PORTLESS, cells, kinds_of
from enforcer.difference.cover import NOT_VPN, Cover, Label, Rect
from enforcer.difference.items import Crowd, ports_of
from enforcer.difference.prefixes import WHOLE
from enforcer.difference.sides import PROTOCOL_OF, Region, Side, prefixes_of
from enforcer.difference.zones import Zone, Zones

# Levels of covers: of several that cover a point, the lowest level names it.
_EXEMPT, _REGISTERED, _TURNED, _NOT_VPN = range(4)


class Layer(NamedTuple):
    """Rectangles of one level. is_turned: they cover flows opened from the endpoint's side (then .subscriber is the endpoint)."""

    level: int
    cover: Cover
    is_turned: bool

    @property
    def is_registered(self) -> bool:
        return self.level in (_REGISTERED, _TURNED)


class Passing:
    """A side in one family.

    own: registrations' rectangles by number, to be compared one by one. led: those that are only taken away from these. crowd: all
    others, of which only whole lists matter.
    """

    def __init__(
        self,
        side: Side,
        version: int,
        own: Mapping[int, set[Region]],
        led: Mapping[int, set[Region]],
        crowd: Iterable[Crowd],
    ) -> None:
        self.side, self.version = side, version
        self._forward: dict[str, Cover] = {}
        self._turned: dict[str, Cover] = {}
        self._made: dict[object, list[Layer]] = {}
        self._fill(own, False)
        self._fill(led, True)
        for each in crowd:
            self._add_crowd(each)

    def layers(self, kind: str | None, has_ports: bool, zone: Zone, zones: Zones) -> list[Layer]:
        """What passes in a zone of what is taken for the kind (None: no VPN); has_ports: whether exemptions by port apply."""
        key = (kind, has_ports)
        if key not in self._made:
            self._made[key] = self._whole() if kind is None else self._plain(kind, has_ports)
        if zone.is_whole:
            return self._made[key]
        clipped = (*key, zone.subscribers, zone.endpoints)
        if clipped not in self._made:
            self._made[clipped] = self._clipped(self._made[key], zone, zones)
        return self._made[clipped]

    def registered(self) -> Iterable[Rect]:
        """The rectangles that stand here by themselves, of every kind, as registrations name them."""
        for cover in self._forward.values():
            yield from cover.rects

    def _plain(self, kind: str, has_ports: bool) -> list[Layer]:
        layers = self._exempt(PROTOCOL_OF.get(kind, kind), has_ports)
        for each in kinds_of(kind):
            layers.append(Layer(_REGISTERED, self._forward.get(each, Cover(self.version)), False))
            layers.append(Layer(_TURNED, self._turned.get(each, Cover(self.version)), True))
        return [layer for layer in layers if not layer.cover.is_empty]

    def _exempt(self, protocol: str, has_ports: bool) -> list[Layer]:
        version = self.version
        forward, turned = Cover(version), Cover(version)
        for index, item in enumerate(self.side.policy.exempt):
            if item.protocols and protocol not in item.protocols:
                continue
            ports = item.endpoint_ports if has_ports and item.endpoint_ports else (0,)
            number = 0
            for one in prefixes_of(item.subscriber_prefixes, version):
                for other in prefixes_of(item.endpoint_prefixes, version):
                    for port in ports:
                        number += 1
                        label = f"exempt:{item.name}"
                        forward.add(Rect(one, other, port, (0, index, 0, number), label))
                        if port == 0:
                            turned.add(Rect(other, one, 0, (0, index, 1, number), label))
        return [Layer(_EXEMPT, forward, False), Layer(_EXEMPT, turned, True)]

    def _whole(self) -> list[Layer]:
        cover = Cover(self.version)
        cover.add(Rect(WHOLE, WHOLE, 0, (3,), NOT_VPN))
        return [Layer(_NOT_VPN, cover, False)]

    def _clipped(self, layers: list[Layer], zone: Zone, zones: Zones) -> list[Layer]:
        """What of the rectangles lies in the zone. No zone but the whole one touches a crowd."""
        found = []
        for layer in layers:
            cover = Cover(self.version)
            for rect in layer.cover.rects:
                others = zones.clipped(zone.endpoints, rect.endpoint)
                for one in zones.clipped(zone.subscribers, rect.subscriber) if others else ():
                    for other in others:
                        cover.add(rect._replace(subscriber=one, endpoint=other))
            if not cover.is_empty:
                found.append(Layer(layer.level, cover, layer.is_turned))
        return found

    def _fill(self, own: Mapping[int, set[Region]], are_led: bool) -> None:
        for number, wanted in own.items():
            for shape, (subscriber, endpoint, port) in dict.fromkeys(
                cells(self.side.entries[number], self.side.policy.match)
            ):
                version, subscriber_bits, endpoint_bits, has_port, kind = shape
                one, other = (subscriber, subscriber_bits), (endpoint, endpoint_bits)
                if version != self.version or (one, other) not in wanted:
                    continue
                is_any = kind in (ANY, ANY_PORTLESS)
                rank = (1, -subscriber_bits, -endpoint_bits, not has_port, is_any, number)
                forward, turned = self._covers(kind)
                forward.add(Rect(one, other, port, rank, number, are_led))
                if not has_port:
                    # Packets from the endpoint to the line are covered too, from whatever port.
                    turned.add(Rect(other, one, 0, (2, *rank[1:]), number, are_led))

    def _add_crowd(self, crowd: Crowd) -> None:
        for kind, port in ports_of(crowd.traits, self.side.policy.match):
            forward, turned = self._covers(kind)
            forward.add_crowd(port or 0, crowd.subscribers, crowd.endpoints, crowd.label)
            if port is None:
                turned.add_crowd(0, crowd.endpoints, crowd.subscribers, crowd.label)

    def _covers(self, kind: str) -> tuple[Cover, Cover]:
        if kind not in self._forward:
            self._forward[kind], self._turned[kind] = Cover(self.version), Cover(self.version)
        return self._forward[kind], self._turned[kind]


class Alone:
    """Which registered pairs of prefixes no other registration of either side overlaps, in either direction: most of them."""

    def __init__(self, sides: tuple[Passing, Passing]) -> None:
        self._sides = sides
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
            self._cover = Cover(self._sides[0].version)
            seen: dict[Region, tuple[int, Label]] = {}
            for number, side in enumerate(self._sides):
                for rect in side.registered():
                    pair, who = (rect.subscriber, rect.endpoint), (number, rect.label)
                    first = seen.setdefault(pair, who)
                    if first is who:
                        self._cover.add(rect._replace(port=0))
                    elif first != who:
                        self._crowded.add(pair)
        return self._cover
