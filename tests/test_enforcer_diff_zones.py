"""`enforcer diff`: prefixes taken away from prefixes, point by point; what named endpoints divide, and that many of them cost little."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from enforcer.allowlist import Entry
from enforcer.difference.as_json import MOST_SPLIT, split_size
from enforcer.difference.changes import difference
from enforcer.difference.passing import Alone, Passing
from enforcer.difference.prefixes import WHOLE, Prefix, Product, cut, flat, is_covered, read
from enforcer.difference.sides import Judged, Region, Side
from enforcer.difference.zones import Zones
from enforcer.policy import NamedEndpoint
from tests.test_enforcer_diff_exact import POLICY, check

WIDTH = 4  # of an address here: sixteen of them


def some_prefix(draw: Random, within: Prefix = WHOLE) -> Prefix:
    """One that lies in a prefix, is it, or contains it."""
    bits = draw.choice((0, 1, 1, 2, 2, 3, 4))
    address = within[0] | draw.getrandbits(WIDTH - within[1]) if within[1] < WIDTH else within[0]
    return address >> (WIDTH - bits) << (WIDTH - bits), bits


def points(rectangle: Region) -> set[tuple[int, int]]:
    ones, others = (range(first, first + (1 << (WIDTH - bits))) for first, bits in rectangle)
    return set(product(ones, others))


def some_rectangles(draw: Random) -> tuple[Region, list[Region]]:
    """A rectangle, and up to nine that overlap it."""
    whole = some_prefix(draw), some_prefix(draw)
    return whole, [
        (some_prefix(draw, whole[0]), some_prefix(draw, whole[1])) for _ in range(draw.randint(0, 9))
    ]


def left_of(whole: Region, less: list[Region]) -> set[tuple[int, int]]:
    left = points(whole)
    for each in less:
        left -= points(each)
    return left


# prefixes


def test_what_is_cut_is_every_point_once():
    draw, seen = Random(1), set()
    for _ in range(2000):
        whole, less = some_rectangles(draw)
        pieces = list(cut(*whole, less, WIDTH))
        found = [point for each in pieces for point in points(each)]

        assert sorted(found) == sorted(left_of(whole, less))
        seen.add((len(less) > 2, bool(found)))
    assert len(seen) == 4


def test_covered_is_what_has_no_point_left():
    draw, counts = Random(2), [0, 0]
    for _ in range(6000):
        whole, less = some_rectangles(draw)
        is_gone = not left_of(whole, less)

        assert is_covered(*whole, less, WIDTH) == is_gone
        counts[is_gone and not any(points(whole) <= points(each) for each in less)] += 1
    assert min(counts) > 100  # covered by several together, and not


# zones


def zones_as_told(judged: tuple[Judged, Judged], zones: Zones) -> dict[tuple[int, int], tuple]:
    found: dict[tuple[int, int], tuple] = {}
    for zone in zones.of(judged):
        less = [(one, other) for one, other in flat(zone.less)]
        for region in product(zone.subscribers, zone.endpoints):
            for point in left_of(region, less):
                assert point not in found, f"{point} is in two zones"
                found[point] = zone.kinds
    return found


def test_zones_are_what_each_policy_takes_a_flow_for():
    """For each point the first named region that holds it says what it is, on either side; no VPN on both is no zone."""
    draw = Random(3)
    for _ in range(100):
        judged = []
        for _ in (0, 1):
            named = []
            for _ in range(draw.randint(0, 3)):
                own = [some_prefix(draw) for _ in range(draw.randint(1, 3))]
                turned = [(each, WHOLE) for each in own] if draw.random() < 0.6 else []
                named.append((tuple([(WHOLE, each) for each in own] + turned), draw.choice("ab")))
            judged.append(Judged(tuple(named), draw.choice(("b", "c", None)), True))

        def kind(each: Judged, point: tuple[int, int]) -> str | None:
            held = (name for regions, name in each.named if any(point in points(one) for one in regions))
            return next(held, each.base)

        pair = judged[0], judged[1]
        kinds = {point: tuple(kind(each, point) for each in pair) for point in points((WHOLE, WHOLE))}
        told = zones_as_told(pair, Zones(WIDTH))

        assert told == {point: each for point, each in kinds.items() if each != (None, None)}


def test_lists_are_clipped_to_a_rectangle():
    zones, wide = Zones(WIDTH), (8, 1)
    these = ((0, 2), (8, 3), (12, 4))

    assert zones.clipped(these, WHOLE) is these
    assert zones.clipped(these, wide) == ((8, 3), (12, 4))
    assert zones.clipped(these, (9, 4)) == ((9, 4),)
    assert zones.clipped(these, (4, 2)) == ()
    assert zones.within((Product(these, (WHOLE,)), Product((WHOLE,), ((0, 1),))), (wide, (8, 1))) == (
        Product(((8, 3), (12, 4)), ((8, 1),)),
    )


NAMED = replace(POLICY, match="subscriber+endpoint", governs=("wireguard", "openconnect"))


@pytest.mark.parametrize("version", [4, 6])
def test_named_endpoints_cost_as_many_changes_as_there_are_of_them(version):
    """Cut out of all addresses, on both sides, a hundred of IPv6 would be a hundred million prefixes."""
    texts = [f"198.51.100.{n}/32" if version == 4 else f"2001:db8::{n:x}/128" for n in range(1, 201, 2)]
    old = replace(NAMED, named_endpoints=(NamedEndpoint("openconnect", tuple(texts), ()),))
    entry = Entry(1, "a", (texts[0],), (texts[1],), (), ())
    started = time.process_time()

    found = difference(Side(old, {}), Side(replace(old, action="reject"), {1: entry})).changes
    moved = difference(Side(old, {}), Side(NAMED, {1: entry})).changes

    assert time.process_time() - started < 2  # 0.1 s as measured
    assert 0 < len(found) < 50 and 0 < len(moved) < 50


@pytest.mark.parametrize("ports", [(), (443,)])
def test_a_named_endpoint_that_comes_or_goes_is_judged_as_decide_judges_it(ports):
    named = NamedEndpoint("openconnect", ("198.51.100.32/30", "2001:db8::1/128"), ports)
    old, new = replace(NAMED, named_endpoints=(named,)), replace(NAMED, governs=("wireguard",))
    entries = {1: Entry(1, "a", ("198.51.100.0/31",), ("198.51.100.32/32",), (), ())}

    assert check(old, entries, new, entries) > 0
    assert check(new, {}, old, entries) > 0


def test_a_zone_that_forgets_what_an_earlier_one_holds_is_caught(monkeypatch):
    old = replace(NAMED, named_endpoints=(NamedEndpoint("openconnect", ("198.51.100.32/32",), ()),))
    new = replace(old, action="reject")
    assert check(old, {}, new, {}) > 0  # control

    monkeypatch.setattr(Zones, "within", lambda *_: ())

    with pytest.raises(AssertionError):
        check(old, {}, new, {})


@pytest.mark.parametrize("count, is_refused", [(1, False), (100, True)])
@pytest.mark.parametrize("version", [4, 6])
def test_split_is_refused_where_much_is_cut_along_both_sides(version, count, is_refused):
    texts = [f"198.51.{n}.1/32" if version == 4 else f"2001:db8:{n:x}::1/128" for n in range(count)]
    old = replace(NAMED, named_endpoints=(NamedEndpoint("openconnect", tuple(texts), ()),))

    found = difference(Side(old, {}), Side(replace(old, action="reject"), {})).changes

    assert (split_size(found) > MOST_SPLIT) is is_refused


# passing


def passing(*entries: Entry) -> Passing:
    side = Side(NAMED, {each.registration: each for each in entries})
    own = {
        each.registration: {
            (read(one)[1], read(other)[1])
            for one in each.subscriber_prefixes
            for other in each.endpoint_prefixes
        }
        for each in entries
    }
    return Passing(side, 4, own, {}, ())


def layers_of(here: Passing, kind: str | None) -> list[tuple[int, bool, int]]:
    """(number, whether turned, port) of what passes in the whole zone."""
    zones = Zones(32)
    (zone,) = zones.of((Judged((), "wireguard", True), Judged((), "wireguard", True)))
    return [
        (rect.label, layer.is_turned, rect.port)  # type: ignore[misc]
        for layer in here.layers(kind, True, zone, zones)
        for rect in layer.cover.rects
    ]


def test_an_entry_without_ports_passes_flows_from_the_endpoints_side_too():
    at_port = Entry(1, "a", ("10.0.0.1/32",), ("192.0.2.1/32",), (443,), ("wireguard",))
    any_port = replace(at_port, registration=2, endpoint_ports=())

    assert layers_of(passing(at_port), "wireguard") == [(1, False, 443)]
    assert layers_of(passing(any_port), "wireguard") == [(2, False, 0), (2, True, 0)]
    assert layers_of(passing(at_port, any_port), "openconnect") == []
    assert layers_of(passing(at_port), None) == [("not-vpn", False, 0)]


def test_only_what_nothing_overlaps_in_either_direction_is_alone():
    one = Entry(1, "a", ("10.0.0.1/32",), ("192.0.2.1/32",), (), ("wireguard",))
    around = replace(one, registration=2, subscriber_prefixes=("10.0.0.0/24",))
    turned = Entry(3, "c", ("192.0.2.0/24",), ("10.0.0.0/24",), (), ("ikev2",))
    far = replace(one, registration=4, subscriber_prefixes=("10.9.0.1/32",))

    def is_alone(other: Entry) -> bool:
        before = passing(one)
        return Alone((before, passing(other))).holds([*before.registered()][0], False)

    assert is_alone(far) and is_alone(replace(far, registration=1))
    assert not is_alone(one)  # it may have other ports on the other side
    assert not is_alone(around) and not is_alone(turned)
