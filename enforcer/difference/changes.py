"""The exact difference of two sides: rectangles of (subscriber, endpoint) with the traffic whose verdict changes there. Pure.

A rectangle that passes on one side is lost or gained where nothing covers it on the other: less whatever overlaps it there, and
less what has a better name on its own side, so that no point is counted twice. What is the same on both sides costs one look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from enforcer.difference.alike import divide
from enforcer.difference.change import NO_PORT, Change, Outcome, Ports, Traffic, losing
from enforcer.difference.cover import NOT_VPN, Label, Rect
from enforcer.difference.following import with_followers
from enforcer.difference.items import items
from enforcer.difference.passing import Alone, Layer, Passing
from enforcer.difference.prefixes import WIDTHS, Prefix, Product, contains, flat, is_covered
from enforcer.difference.sides import LOOKS, Judged, Region, Side, judge_alike
from enforcer.difference.zones import Zone, Zones


@dataclass(slots=True)
class Difference:
    """changes: every point whose verdict differs, once. covered_by: registrations that went, and what covers all or part of theirs now."""

    old: Side
    new: Side
    changes: list[Change] = field(default_factory=list)
    covered_by: dict[int, set[Label]] = field(default_factory=lambda: defaultdict(set))


class _Row(NamedTuple):
    subscriber: Prefix
    endpoint: Prefix
    exceptions: tuple[Product, ...]
    ports: Ports
    before: Outcome
    after: Outcome
    is_turned: bool


def difference(old: Side, new: Side, is_led: bool = True) -> Difference:
    """What changes from old to new, in both families. is_led: False compares every registration, which takes a hundred times as long."""
    result = Difference(old, new)
    if judge_alike(old.policy, new.policy) and old.entries == new.entries:
        return result
    for version, found in items(old, new).items():
        division = divide(old, new, found, version, is_led)
        sides = tuple(
            Passing(side, version, own, led, crowd)
            for side, own, led, crowd in zip(
                (old, new), division.own, division.led, division.crowds, strict=True
            )
        )
        close: set[Label] = set()
        changes = _changes(result, (sides[0], sides[1]), close)
        if any(each.leader[0] in close for each in division.alike):
            # Whether anything is left of a leader depends on its very address: then of its followers too.
            whole = divide(old, new, found, version, False).own
            changes = _changes(
                result,
                (Passing(old, version, whole[0], {}, ()), Passing(new, version, whole[1], {}, ())),
                set(),
            )
            result.changes += changes
        else:
            result.changes += with_followers(changes, division.alike, result.covered_by)
    lost = {number for change in result.changes for number in losing(change)}
    result.covered_by = {
        number: labels for number, labels in result.covered_by.items() if labels and number not in lost
    }
    return result


def _changes(result: Difference, sides: tuple[Passing, Passing], close: set[Label]) -> list[Change]:
    """close: is told those of which it depends on their very addresses whether anything is left of them."""
    version = sides[0].version
    alone, zones = Alone(sides), Zones(WIDTHS[version])
    empty: dict[object, int] = {}
    rows: dict[tuple[Judged, Judged], list[tuple[_Row, dict[tuple[str, bool], Ports]]]] = {}
    found: dict[_Key, tuple[_Row, dict[tuple[str, bool], Ports]]] = {}
    for look, transport in LOOKS.items():
        significant = result.old.ports(transport) | result.new.ports(transport)
        classes: dict[tuple[Judged, Judged], Ports] = {}
        for port in sorted(significant):
            pair = (result.old.judged(look, port, version), result.new.judged(look, port, version))
            classes[pair] = classes.get(pair, NO_PORT).either(Ports(False, frozenset((port,))))
        pair = (result.old.judged(look, 0, version), result.new.judged(look, 0, version))
        classes[pair] = classes.get(pair, NO_PORT).either(Ports(True, frozenset(significant)))
        for pair, ports in classes.items():
            if pair[0].is_never and pair[1].is_never:
                continue
            if pair not in rows:
                rows[pair] = []
                for zone in zones.of(pair):
                    for row in _rows(result, sides, zone, zones, pair[0].has_ports, alone, empty, close):
                        key, turned = _key(row)
                        rows[pair].append((row, found.setdefault(key, (turned, {}))[1]))
            for row, traffic in rows[pair]:
                here = row.ports.both(ports)
                if not here.is_none:
                    way = (look, row.is_turned)
                    traffic[way] = traffic[way].either(here) if way in traffic else here
    return _grouped(version, found)


def _rows(
    result: Difference,
    sides: tuple[Passing, Passing],
    zone: Zone,
    zones: Zones,
    has_ports: bool,
    alone: Alone,
    empty: dict[object, int],
    close: set[Label],
) -> Iterator[_Row]:
    """What changes in one zone."""
    version = sides[0].version
    old, new = (
        side.layers(kind, has_ports, zone, zones) for side, kind in zip(sides, zone.kinds, strict=True)
    )
    is_everything = zone.is_whole and not zone.less
    ended = result.old.entries.keys() - result.new.entries.keys()
    for mine, theirs in ((old, new), (new, old)):
        for layer in mine:
            for rect in layer.cover.rects:
                region = (rect.subscriber, rect.endpoint)
                told = _told(zone, zones, region) if zone.less else {}
                less = tuple(told)
                if rect.is_led or Product((rect.subscriber,), (rect.endpoint,)) in less:
                    continue
                other = next((same for each in theirs if (same := each.cover.same(rect)) is not None), None)
                if other is not None:
                    if mine is old and rect.label in ended and isinstance(rect.label, int):
                        result.covered_by[rect.label].add(other.label)
                    continue
                named = Outcome("pass", rect.label)
                ends = (named, Outcome(result.new.stop)) if mine is old else (Outcome(result.old.stop), named)
                # In a part of everything a registration may overlap itself, which passes on the other side as something else.
                is_alone = is_everything and layer.is_registered and alone.holds(rect, layer.is_turned)
                overlapping = [
                    part
                    for part in _overlaps(rect, layer, mine, theirs, is_alone)
                    if not (less and zones.is_within(part[1], less))
                ]
                if mine is old and rect.label in ended and isinstance(rect.label, int):
                    result.covered_by[rect.label] |= {
                        label for _, _, label, is_own in overlapping if not is_own
                    }
                parts = [(0, each) for each in less] + [part[:2] for part in overlapping]
                for ports, left_out in _by_port(rect, parts, version, empty, close):
                    if rect.label == NOT_VPN:
                        left_out = tuple([told.get(each, each) for each in left_out])
                    yield _Row(rect.subscriber, rect.endpoint, left_out, ports, *ends, layer.is_turned)
    if result.old.stop != result.new.stop:
        for region in ((one, other) for one in zone.subscribers for other in zone.endpoints):
            whole = Rect(*region, 0, (9,), "")
            told = _told(zone, zones, region)
            parts = [(0, each) for each in told]
            parts += [part[:2] for layer in (*old, *new) for part in layer.cover.overlaps(whole)]
            for ports, less in _by_port(whole, parts, version, empty, close):
                less = tuple([told.get(each, each) for each in less])
                yield _Row(*region, less, ports, Outcome(result.old.stop), Outcome(result.new.stop), False)


def _told(zone: Zone, zones: Zones, region: Region) -> dict[Product, Product]:
    """What is taken away from a region of the zone -> the same as the zone has it: for all of the zone alike, so it stays one change."""
    return {both: each for each in zone.less for both in zones.within((each,), region)}


def _overlaps(
    rect: Rect, layer: Layer, mine: list[Layer], theirs: list[Layer], is_alone: bool
) -> Iterator[tuple[int, Product, Label, bool]]:
    for each in theirs:
        if is_alone and each.is_registered:
            continue
        for part in each.cover.overlaps(rect):
            yield *part, False
    for each in mine:
        if each.level <= layer.level and not (is_alone and each.is_registered):
            before = rect.rank if each.level == layer.level else None
            for part in each.cover.overlaps(rect, before):
                yield *part, True


def _by_port(
    rect: Rect,
    parts: list[tuple[int, Product]],
    version: int,
    empty: dict[object, int],
    close: set[Label],
) -> Iterator[tuple[Ports, tuple[Product, ...]]]:
    """The rectangle's ports, apart where different parts are taken away; not those for which nothing is left."""
    general = _once(product for port, product in parts if port in (0, rect.port))
    special: dict[int, list[Product]] = {}
    if rect.port == 0:
        for port, product in parts:
            if port:
                special.setdefault(port, []).append(product)
        rest = Ports(True, frozenset(special))
    else:
        rest = Ports(False, frozenset((rect.port,)))
    if _is_gone(rect, general, version, empty, close):
        return
    yield rest, general
    together: dict[object, tuple[tuple[Product, ...], set[int]]] = {}
    for port, products in special.items():
        less = _once((*general, *products))
        together.setdefault(_less_key(less), (less, set()))[1].add(port)
    for less, ports in together.values():
        if not _is_gone(rect, less, version, empty, close):
            yield Ports(False, frozenset(ports)), less


def _is_gone(
    rect: Rect, less: tuple[Product, ...], version: int, empty: dict[object, int], close: set[Label]
) -> bool:
    """Whether nothing of the rectangle is left. empty: what was found before, and sizes of long lists."""
    if not less:
        return False
    width = WIDTHS[version]
    size = 1 << (2 * width - rect.subscriber[1] - rect.endpoint[1])
    if sum(_size(each, width, empty) for each in less) < size:
        return False
    for one, other, _ in less:
        if len(one) == len(other) == 1 and one[0][1] + other[0][1] == rect.subscriber[1] + rect.endpoint[1]:
            return True  # it is as large
    close.add(rect.label)
    # Along one side only: the answer is the same for every rectangle with this other side.
    key: object = None
    if any(each.is_paired for each in less):
        pass
    elif all(each.subscribers == (rect.subscriber,) for each in less):
        key = (0, rect.endpoint, tuple(_identity(each.endpoints) for each in less))
    elif all(each.endpoints == (rect.endpoint,) for each in less):
        key = (1, rect.subscriber, tuple(_identity(each.subscribers) for each in less))
    if key is None or key not in empty:
        is_gone = is_covered(rect.subscriber, rect.endpoint, flat(less), width)
        if key is None:
            return is_gone
        empty[key] = is_gone
    return bool(empty[key])


def _size(product: Product, width: int, known: dict[object, int]) -> int:
    """How many points it has at most: one that is in two of its prefixes counts twice."""
    if not product.is_paired:
        return _length(product.subscribers, width, known) * _length(product.endpoints, width, known)
    key = (id(product.subscribers), id(product.endpoints))
    if key not in known:
        pairs = zip(product.subscribers, product.endpoints, strict=True)
        known[key] = sum(1 << (2 * width - a[1] - b[1]) for a, b in pairs)
    return known[key]


def _length(prefixes: tuple[Prefix, ...], width: int, known: dict[object, int]) -> int:
    if len(prefixes) == 1:
        return 1 << (width - prefixes[0][1])
    key = id(prefixes)
    if key not in known:
        known[key] = sum(1 << (width - bits) for _, bits in prefixes)
    return known[key]


def _once(products: Iterable[Product]) -> tuple[Product, ...]:
    return tuple(
        {
            (_identity(each.subscribers), _identity(each.endpoints), each.is_paired): each
            for each in products
        }.values()
    )


def _identity(prefixes: tuple[Prefix, ...]) -> object:
    """Short lists by value; long ones are shared, and alive while covers are."""
    return prefixes if len(prefixes) == 1 else id(prefixes)


class _Key(NamedTuple):
    """Rows that differ in traffic and direction only have the same one. less: what stands for the exceptions."""

    subscriber: Prefix
    endpoint: Prefix
    less: object
    before: Outcome
    after: Outcome


def _key(row: _Row) -> tuple[_Key, _Row]:
    """The key, and the row as the registration sees it."""
    if row.is_turned:
        less = tuple([product.turned for product in row.exceptions])
        row = row._replace(subscriber=row.endpoint, endpoint=row.subscriber, exceptions=less)
    return _Key(row.subscriber, row.endpoint, _less_key(row.exceptions), row.before, row.after), row


def _less_key(exceptions: tuple[Product, ...]) -> object:
    return frozenset(
        [(_identity(each.subscribers), _identity(each.endpoints), each.is_paired) for each in exceptions]
    )


def _grouped(version: int, found: Mapping[_Key, tuple[_Row, dict[tuple[str, bool], Ports]]]) -> list[Change]:
    """Rows as changes: those that differ in one side's prefix only are together."""
    by_endpoint: dict[object, tuple[_Key, _Row, tuple[Traffic, ...], list[Prefix]]] = {}
    known: dict[object, tuple[Traffic, ...]] = {}
    for key, (row, looks) in found.items():
        if not looks:
            continue
        items = tuple(looks.items())
        traffic = known.get(items)
        if traffic is None:
            traffic = _traffic(looks)
            traffic = known[items] = known.setdefault(traffic, traffic)  # one object for equal ones
        _, endpoint, less, before, after = key
        one = (endpoint, less, before, after, id(traffic))
        by_endpoint.setdefault(one, (key, row, traffic, []))[3].append(row.subscriber)
    by_subscribers: dict[object, tuple[_Row, tuple[Traffic, ...], tuple[Prefix, ...], list[Prefix]]] = {}
    for key, row, traffic, subscribers in by_endpoint.values():
        for some in _disjoint(subscribers, version):
            one = (some, key.less, key.before, key.after, id(traffic))
            by_subscribers.setdefault(one, (row, traffic, some, []))[3].append(row.endpoint)
    return [
        Change(version, some, few, row.exceptions, traffic, row.before, row.after)
        for row, traffic, some, endpoints in by_subscribers.values()
        for few in _disjoint(endpoints, version)
    ]


def _disjoint(prefixes: list[Prefix], version: int) -> list[tuple[Prefix, ...]]:
    """The prefixes in as few lists as leave no two nested ones together."""
    if len(prefixes) == 1:
        return [tuple(prefixes)]
    lists: list[list[Prefix]] = []
    width = WIDTHS[version]
    for prefix in sorted(set(prefixes)):
        for each in lists:
            if not contains(each[-1], prefix, width):
                each.append(prefix)
                break
        else:
            lists.append([prefix])
    return [tuple(each) for each in lists]


def _traffic(looks: dict[tuple[str, bool], Ports]) -> tuple[Traffic, ...]:
    found = []
    for look in LOOKS:
        forward, turned = looks.get((look, False), NO_PORT), looks.get((look, True), NO_PORT)
        if forward == turned and not forward.is_none:
            found.append(Traffic(look, forward, "either"))
            continue
        if not forward.is_none:
            found.append(Traffic(look, forward, "subscriber"))
        if not turned.is_none:
            found.append(Traffic(look, turned, "endpoint"))
    return tuple(found)
