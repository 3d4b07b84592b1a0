"""The parts of `enforcer diff`: which rectangles registrations name, which prefixes meet, and which traffic is taken from whom."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from enforcer.allowlist import Entry
from enforcer.difference.cover import Cover, Rect
from enforcer.difference.items import NOWHERE, Both, items, ports_of
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, contains, read
from enforcer.difference.sides import Side
from enforcer.difference.spread import Spread
from enforcer.difference.taking import Relation, common_kind, taken
from enforcer.difference.touch import Touch
from enforcer.policy import Exemption, Match, NamedEndpoint
from tests.test_enforcer_diff_exact import POLICY

MATCHES: tuple[Match, ...] = ("subscriber", "endpoint", "subscriber+endpoint")
PAIRS: Match = "subscriber+endpoint"


def prefix(text: str) -> Prefix:
    return read(text)[1]


def entry(number: int, line: str, endpoint: str, *, ports=(), kinds=("wireguard",)) -> Entry:
    return Entry(number, f"r{number}", tuple(line.split()), tuple(endpoint.split()), ports, kinds)


def side(match: Match, *entries: Entry, **changes) -> Side:
    policy = replace(POLICY, match=match, governs=("wireguard", "ikev2", "esp", "openconnect"), **changes)
    return Side(policy, {each.registration: each for each in entries})


# spread


@pytest.mark.parametrize("version", [4, 6])
def test_prefixes_in_bulk_meet_as_one_by_one(version):
    draw, width, met = Random(version), WIDTHS[version], 0

    def some(span: int) -> list[Prefix]:
        found = []
        for _ in range(draw.randint(0, 14)):
            bits = width - draw.choice((0, 0, 0, 1, 2, 5)) if draw.random() < 0.95 else draw.choice((0, 1))
            address = draw.getrandbits(span) | 10 << (width - 8)
            found.append((address >> (width - bits) << (width - bits), bits))
        return found

    def meet(one: Prefix, other: Prefix) -> bool:
        return contains(one, other, width) or contains(other, one, width)

    for _ in range(300):
        ones, others = some(6), some(7)
        one, other = Spread(ones, version), Spread(others, version)

        assert one.shared == {each for each in ones if ones.count(each) > 1}
        assert one.nested() == {a for a in ones if any(a != b and meet(a, b) for b in ones)}
        assert one.meeting(other) == (
            {a for a in ones if any(meet(a, b) for b in others)},
            {b for b in others if any(meet(a, b) for a in ones)},
        )
        met += len(one.meeting(other)[0])
    assert met > 300


# items


def test_items_are_what_the_policies_compare():
    one = entry(1, "10.0.0.1/32 10.0.0.2/32", "192.0.2.1/32 2001:db8::1/128")
    lines = [prefix("10.0.0.1/32"), prefix("10.0.0.2/32")]
    endpoint, six = prefix("192.0.2.1/32"), prefix("2001:db8::1/128")

    def named(old: Match, new: Match) -> dict[int, set]:
        return {version: set(found) for version, found in items(side(old, one), side(new, one)).items()}

    assert named("subscriber", "subscriber") == {4: {(1, line, WHOLE) for line in lines}, 6: set()}
    assert named("endpoint", "endpoint") == {4: {(1, WHOLE, endpoint)}, 6: {(1, WHOLE, six)}}
    assert named(PAIRS, PAIRS) == {4: {(1, line, endpoint) for line in lines}, 6: set()}
    assert named("subscriber", "endpoint") == {
        4: {(1, WHOLE, endpoint)} | {(1, line, WHOLE) for line in lines},
        6: {(1, WHOLE, six)},
    }
    # Between pairs and endpoints the IPv6 endpoint has no line to be a pair with.
    assert named(PAIRS, "endpoint")[6] == {(1, NOWHERE, six)}


@pytest.mark.parametrize("old", MATCHES)
@pytest.mark.parametrize("new", MATCHES)
@pytest.mark.parametrize("is_copy", [False, True])
def test_items_know_the_traits_on_either_side(old, new, is_copy):
    """Whether the new list's entry is the old one's very object or an equal one makes no difference."""
    kept = entry(1, "10.0.0.1/32", "192.0.2.1/32", ports=(51820,))
    wider = replace(entry(2, "10.0.0.2/32", "192.0.2.2/32"), protocols=())
    before, after = (
        side(old, kept, entry(2, "10.0.0.2/32", "192.0.2.2/32")),
        side(new, replace(kept) if is_copy else kept, wider),
    )

    found = items(before, after)[4]

    for at, its in enumerate((before, after)):
        match = its.policy.match
        of_side = {item: both[at] for item, both in found.items() if both[at] is not None}
        assert {item[0] for item in of_side} == {1, 2}
        assert of_side == {
            item: (
                its.entries[item[0]].protocols,
                () if match == "subscriber" else its.entries[item[0]].endpoint_ports,
            )
            for item in of_side
        }
    shared: dict[Both, Both] = {}
    assert all(shared.setdefault(both, both) is both for both in found.values())


def test_a_prefix_that_is_none_is_told_with_its_registration():
    wrong = entry(7, "10.0.0.300/32", "192.0.2.1/32")

    with pytest.raises(ValueError, match="registration 7: .*10.0.0.300/32"):
        items(side(PAIRS, wrong), side(PAIRS))


# taking


def test_ports_of_has_what_a_protocol_brings():
    assert ports_of((("ikev2",), (500,)), PAIRS) == (("ikev2", 500), ("esp", None), ("ah", None))
    assert ports_of((("ikev2",), ()), "subscriber") == (("ikev2", None), ("esp", None), ("ah", None))


def test_traffic_is_common_where_it_is_looked_up_under_both():
    assert common_kind("wireguard", "wireguard") == "wireguard"
    assert common_kind("wireguard", "any") == common_kind("any", "wireguard") == "wireguard"
    assert common_kind("esp", "any-portless") == "esp"
    assert common_kind("any", "any") == "any"
    for one, other in (("wireguard", "ikev2"), ("esp", "any"), ("any", "any-portless")):
        assert common_kind(one, other) is None and common_kind(other, one) is None


def test_of_one_rectangle_a_named_port_comes_first_then_a_named_protocol_then_the_lower_number():
    any_port, at_port = (("wireguard",), ()), (("wireguard",), (51820,))
    any_kind = ((), (51820,))

    def is_taken(own, other, is_before: bool | None) -> bool:
        return bool(taken(own, other, PAIRS, is_before, False))

    assert is_taken(any_port, at_port, False) and not is_taken(at_port, any_port, True)
    assert is_taken(any_kind, at_port, False) and not is_taken(at_port, any_kind, True)
    assert is_taken(at_port, at_port, True) and not is_taken(at_port, at_port, False)
    assert is_taken(at_port, any_kind, None)  # on the other side rank does not count
    assert not is_taken(at_port, (("wireguard",), (443,)), None)


def test_items_are_related_where_some_flow_is_looked_up_under_both():
    old, new = side(PAIRS), side(PAIRS)
    wide, narrow = (("wireguard",), ()), (("wireguard",), (51820,))
    other_port, other_kind = (("wireguard",), (443,)), (("ikev2",), ())
    relation = Relation(old, new)

    def holds(one: Both, other: Both) -> bool:
        assert relation.holds(one, other) == relation.holds(other, one)
        return relation.holds(one, other)

    one: Both = (narrow, narrow)
    others: list[Both] = [(wide, None), (None, wide), (other_port, other_port), (other_kind, other_kind)]
    assert [holds(one, other) for other in others] == [True, True, False, False]
    # The one ended and the other began: what was taken for the one protocol is taken for it still, unless the policy changes.
    ended: Both = (narrow, None)
    assert not holds(ended, (None, other_kind))
    turned = Relation(old, side(PAIRS, recognise_by=("ports",)))
    assert turned.holds(ended, (None, other_kind)) and not turned.holds(ended, (other_kind, None))


# touch

LINE, WIDE, ELSEWHERE = "10.0.0.9/32", "10.0.0.0/28", "10.0.9.9/32"


def held(old: Side, new: Side) -> set[int]:
    found = items(old, new)[4]
    touch = Touch(old, new, found, 4)
    bound = touch.holding([*found])
    assert bound == {item for item in found if touch.holds(item)}
    return {item[0] for item in bound}


def test_a_line_within_another_is_held_with_it_when_their_traffic_is_the_same():
    lonely = entry(3, ELSEWHERE, "192.0.2.3/32")
    some = entry(1, WIDE, "192.0.2.1/32"), entry(2, LINE, "192.0.2.2/32"), lonely
    other = some[0], replace(some[1], protocols=("ikev2",)), lonely
    reject = {"action": "reject"}

    assert held(side("subscriber", *some), side("subscriber", *some, **reject)) == {1, 2}
    assert held(side("subscriber", *other), side("subscriber", *other, **reject)) == set()
    assert held(side(PAIRS, *some), side("subscriber", *some)) == {1, 2}
    assert held(side(PAIRS, *other), side("subscriber", *other)) == set()
    # Pairs meet on both sides or not at all.
    assert held(side(PAIRS, *some), side(PAIRS, *some, **reject)) == set()


def test_pairs_that_meet_on_both_sides_are_held():
    some = entry(1, WIDE, "192.0.2.1/32"), entry(2, LINE, "192.0.2.0/28"), entry(3, LINE, "192.0.2.99/32")

    assert held(side(PAIRS, *some), side(PAIRS, *some, action="reject")) == {1, 2}


def test_between_lines_and_endpoints_only_the_outer_line_is_held_and_the_inner_one_told():
    some = entry(1, WIDE, "192.0.2.1/32"), entry(2, LINE, "192.0.2.2/32"), entry(3, ELSEWHERE, "192.0.2.3/32")
    old, new = side("subscriber", *some), side("endpoint", *some)
    found = items(old, new)[4]

    assert held(old, new) == {1}
    assert Touch(old, new, found, 4).inner(found) == {(2, prefix(LINE), WHOLE)}


def test_a_line_that_is_somebodys_endpoint_is_held():
    some = entry(1, LINE, "192.0.2.1/32"), entry(2, ELSEWHERE, WIDE), entry(3, "10.9.0.1/32", "192.0.2.3/32")

    assert held(side("subscriber", *some), side("endpoint", *some)) == {1, 2}
    assert held(side(PAIRS, *some), side("endpoint", *some)) == {1, 2}


@pytest.mark.parametrize("old", MATCHES)
@pytest.mark.parametrize("new", MATCHES)
def test_what_an_exemption_or_a_named_endpoint_concerns_is_held(old, new):
    some = entry(1, LINE, "192.0.2.1/32"), entry(2, ELSEWHERE, "192.0.2.2/32")
    exempt = Exemption("x", "why", (), (WIDE,), (), ("192.0.2.0/24",))
    named = NamedEndpoint("openconnect", ("192.0.2.1/32",), ())

    plain = held(side(old, *some), side(new, *some))
    exempted = held(side(old, *some), side(new, *some, exempt=(exempt,)))
    cut = held(side(old, *some, named_endpoints=(named,)), side(new, *some))

    assert plain == set() and 1 in exempted
    # Where neither compares pairs, a named endpoint cuts every line, and all traffic to it.
    assert cut == ({1} if PAIRS in (old, new) else {1, 2})


# cover


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_several_the_first_by_rank_is_named_in_whatever_order_they_came(order):
    cover, line, endpoint = Cover(4), prefix(LINE), prefix("192.0.2.1/32")
    for number in order:
        cover.add(Rect(line, endpoint, 0, (number,), number))
    cover.add_crowd(0, [prefix(ELSEWHERE)], [endpoint], 5)

    same = cover.same(Rect(line, endpoint, 443, (), ""))
    shared = [label for _, _, label in cover.overlaps(Rect(WHOLE, endpoint, 0, (), ""))]

    assert same is not None and same.label == 1
    assert shared == [1]
