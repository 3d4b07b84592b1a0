"""Registrations that differ from each other in their number and addresses only: one of them is compared, the others follow. Pure.

On a long list nearly every line is one registration's alone. What becomes of it then depends on its ports, its protocols, the
lengths of its prefixes and on lists that are the same for all (every other line, every endpoint): not on which line it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

from enforcer.difference.items import Both, Crowd, Item, is_joined, region_of
from enforcer.difference.prefixes import WHOLE, Prefix
from enforcer.difference.sides import Region, Side, judge_alike
from enforcer.difference.taking import taken
from enforcer.difference.touch import Touch
from enforcer.policy import Match

_REGION = itemgetter(1, 2)


class Alike(NamedTuple):
    """Items whose changes are those of their leader with their own numbers and prefixes."""

    leader: Item
    both: Both
    followers: list[Item]


class Division(NamedTuple):
    """own: by side, the rectangles to be compared one by one, by number; leaders are among them. led: by side, followers'
    rectangles that lie in some of own and are taken away from those. crowds: by side, all others.
    """

    own: tuple[dict[int, set[Region]], dict[int, set[Region]]]
    led: tuple[dict[int, set[Region]], dict[int, set[Region]]]
    crowds: tuple[list[Crowd], list[Crowd]]
    alike: list[Alike]


def divide(old: Side, new: Side, items: dict[Item, Both], version: int, is_led: bool = True) -> Division:
    """Who is compared, and who follows. is_led: False compares everybody, as the specification has it."""
    if not is_led:
        return Division(_own(old, new, items, set(items)), ({}, {}), ([], []), [])
    is_same = judge_alike(old.policy, new.policy)
    active = [item for item, both in items.items() if both[0] != both[1]] if is_same else [*items]
    if not active:
        return Division(({}, {}), ({}, {}), ([], []), [])
    is_active = set(active) if len(active) < len(items) else items.keys()
    touch = Touch(old, new, items, version)
    # Whoever is near something else than whole lists goes the general way, with all that it is near.
    bound = touch.holding(active)
    # Where the two compare different things, whoever shares what one of them compares is bound already.
    equal = {} if is_joined(old, new) else _equal(items, *touch.shared)
    matches = (old.policy.match, new.policy.match)
    patterns: dict[Item, object] = {}
    for some in equal.values():
        for item in some:
            if item in is_active and item not in bound:
                found = _pattern(item, some, items, matches, touch.relation.may_turn)
                if found is None:
                    bound.add(item)
                elif found:
                    patterns[item] = found
    classes: dict[object, list[Item]] = {}
    for item, both in items.items():  # both: one object for equal ones
        if is_same and both[0] == both[1]:
            continue
        is_ended = both[0] is not None and item[0] not in new.entries
        kind = (id(both), item[1][1], item[2][1], is_ended, patterns.get(item) if patterns else None)
        held = classes.get(kind)
        if held is None:
            held = classes[kind] = []
        held.append(item)
    leaders = _leaders(classes, bound, equal, _Alone(items))
    local = bound | set(leaders.values())
    for item in list(local):
        local.update(equal.get(item[1:], ()))
    if is_same:
        others = [item for item, both in items.items() if both[0] == both[1]]
        local |= touch.near([item for item in bound if item in is_active], others)
    alike = [
        Alike(leader, items[leader], followers)
        for kind, leader in leaders.items()
        if (followers := [item for item in classes[kind] if item not in local])
    ]
    own = _own(old, new, items, local)
    if is_same and old.policy.match == "subscriber+endpoint":
        return Division(
            own, ({}, {}), ([], []), alike
        )  # pairs never take whole lists away, and what does is the same on both sides
    inner = touch.inner(items) - local
    crowds = _crowds(old, new, items, local | inner if inner else local)
    return Division(own, _own(old, new, items, inner), crowds, alike)


def _equal(items: dict[Item, Both], lines: set[Prefix], endpoints: set[Prefix]) -> dict[Region, list[Item]]:
    """Items with the same rectangle, where there are several: theirs are among the lines and endpoints that several items have."""
    lines, endpoints = lines | {WHOLE}, endpoints | {WHOLE}
    some = [item for item in items if item[1] in lines and item[2] in endpoints]
    counts = Counter(map(_REGION, some))
    found: dict[Region, list[Item]] = {}
    for item in some:
        region = item[1:]
        if counts[region] > 1:
            found.setdefault(region, []).append(item)
    return found


def _leaders(
    classes: dict[object, list[Item]],
    bound: set[Item],
    equal: dict[Region, list[Item]],
    alone: _Alone,
) -> dict[object, Item]:
    """One for each class. Adds to bound whoever can follow none, and whoever shares a rectangle with the bound."""
    while True:
        for item in list(bound):
            bound.update(equal.get(item[1:], ()))
        leaders: dict[object, Item] = {}
        orphans: list[Item] = []
        for kind, members in classes.items():
            free = [item for item in members if item not in bound]
            leader = next((item for item in free if alone.holds(item)), None)
            if leader is not None:
                leaders[kind] = leader
            else:
                orphans += free
        if not orphans:
            return leaders
        bound.update(orphans)


class _Alone:
    """Of which items the registration has no other on the sides where they are: its changes there are theirs."""

    def __init__(self, items: dict[Item, Both]) -> None:
        self._items = items
        self._counts = [
            Counter([item[0] for item, both in items.items() if both[side] is not None]) for side in (0, 1)
        ]

    def holds(self, item: Item) -> bool:
        both = self._items[item]
        return all(
            traits is None or counts[item[0]] == 1 for traits, counts in zip(both, self._counts, strict=True)
        )


def _pattern(
    item: Item, some: list[Item], items: dict[Item, Both], matches: tuple[Match, Match], may_turn: bool
) -> object:
    """What those with the same rectangle take away from one of them; None when it is to be told who they are.

    may_turn: what is taken for one protocol before may be taken for another one after.
    """
    mine = items[item]
    taken_away: list[frozenset] = []
    for side, match in enumerate(matches):
        own = mine[side]
        if own is None:
            continue
        for other_side in (0, 1):
            found: set = set()
            for other in some:
                its = items[other][other_side]
                if other == item or its is None:
                    continue
                if side == 0 and other_side == 1 and mine[1] is None:
                    return None  # it ended, and others may cover what it named
                before = None if side != other_side else other[0] < item[0]
                found |= taken(own, its, match, before, side != other_side and may_turn)
            taken_away.append(frozenset(found))
    return tuple(taken_away) if any(taken_away) else ()


def _own(
    old: Side, new: Side, items: dict[Item, Both], local: Iterable[Item]
) -> tuple[dict[int, set[Region]], dict[int, set[Region]]]:
    found: tuple[dict[int, set[Region]], dict[int, set[Region]]] = ({}, {})
    for item in local:
        both = items[item]
        for side, its in enumerate((old, new)):
            if both[side] is not None:
                found[side].setdefault(item[0], set()).add(region_of(item, its.policy.match))
    return found


def _crowds(
    old: Side, new: Side, items: dict[Item, Both], local: set[Item]
) -> tuple[list[Crowd], list[Crowd]]:
    found: tuple[dict[int, Crowd], dict[int, Crowd]] = ({}, {})
    has_line, has_endpoint = (
        [side.policy.match != other for side in (old, new)] for other in ("endpoint", "subscriber")
    )
    for item, both in items.items():
        if item in local:
            continue
        for side, traits in enumerate(both):
            if traits is None:
                continue
            crowd = found[side].get(id(traits))  # one object for equal ones: items()
            if crowd is None:
                crowd = found[side][id(traits)] = Crowd(traits, [], [], item[0])
            crowd.subscribers.append(item[1] if has_line[side] else WHOLE)
            crowd.endpoints.append(item[2] if has_endpoint[side] else WHOLE)
    return [*found[0].values()], [*found[1].values()]
