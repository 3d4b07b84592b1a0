"""Which rectangles meet others in a part only: those must be compared with them one by one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enforcer.difference.cover import Cover, Rect
from enforcer.difference.items import NOWHERE, Both, Item, is_joined, region_of, shapes_of
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, common
from enforcer.difference.sides import Region, Side, prefixes_of
from enforcer.difference.spread import Spread
from enforcer.difference.taking import Relation
from enforcer.policy import Match

_PAIRS: Match = "subscriber+endpoint"
_COMPARED: tuple[Match, Match] = ("subscriber", "endpoint")
_Marks = set[tuple[Prefix, int]]
_LAST = (1,)  # later than any rank here: overlaps() then gives each one by itself


class Touch:
    """Over the items of one family.

    A rectangle that has all addresses on a side meets everybody there in the same way, and equal rectangles are told apart by
    their ranks; neither counts. What is told is told of too many rather than of too few: whoever is compared for nothing costs time.
    """

    def __init__(self, old: Side, new: Side, items: dict[Item, Both], version: int) -> None:
        self._version, self._width = version, WIDTHS[version]
        self._matches = (old.policy.match, new.policy.match)
        self._is_joined = is_joined(old, new)
        self._items = items
        self._shapes = shapes = set(shapes_of(old, new))
        self.relation = Relation(old, new)
        lines, endpoints = (Spread(each, version) for each in self._listed())
        self.shared = self._shared_lines, self._shared_endpoints = lines.shared, endpoints.shared
        self._mixed_lines, self._mixed_endpoints = lines.meeting(endpoints)
        nested = lines.nested(), endpoints.nested()
        self._near_endpoints = self._shared_endpoints | nested[1]
        related = (
            self._of_a_kind(0, nested[0], self._shared_lines),
            self._of_a_kind(1, nested[1], self._shared_endpoints),
        )
        # Between lines and endpoints a line within another one's is judged like any other: it comes first, and what it meets on
        # the other side are endpoints. Only what lies around it depends on it.
        are_apart = len(shapes) == 2
        self._related = [outer if are_apart else outer | inner for outer, inner in related]
        self._inner = [inner - outer if are_apart else set() for outer, inner in related]
        self._special = [*_special(old, version), *_special(new, version)]
        narrow = Spread([each for pair in self._special for each in pair if each != WHOLE], version)
        self._near_special = lines.meeting(narrow)[0] | endpoints.meeting(narrow)[0]
        named = [item for side in (old, new) for item in side.policy.named_endpoints]
        self._is_cut = any(WHOLE in prefixes_of(item.prefixes, version) for item in named) or (
            bool(named) and shapes != {_PAIRS}
        )
        self._pairs: Cover | None = None

    def holding(self, items: list[Item]) -> set[Item]:
        """Those of the items that holds() says it of. A look at their prefixes tells most of the others apart."""
        if self._is_cut:
            return set(items)
        lines, endpoints = ({prefix for prefix, _ in related} for related in self._related)
        lines |= self._mixed_lines | self._near_special | {NOWHERE}
        if self._shapes == {_PAIRS}:
            # Two pairs meet on both sides or not at all: a look at the one side tells enough.
            lines.add(WHOLE)
            endpoints = endpoints if self._is_joined else set()
            endpoints.add(WHOLE)
        if self._is_joined or self._shapes != {_PAIRS}:
            endpoints |= self._mixed_endpoints
        endpoints |= self._near_special | {NOWHERE}
        return {item for item in items if (item[1] in lines or item[2] in endpoints) and self.holds(item)}

    def holds(self, item: Item) -> bool:
        """Whether it meets another one, or where the policies decide by themselves."""
        _, line, endpoint = item
        if self._is_cut or NOWHERE in item:
            return True
        if (line in self._near_special or endpoint in self._near_special) and self._is_special(item):
            return True
        both = id(self._items[item])
        is_related = (line, both) in self._related[0], (endpoint, both) in self._related[1]
        if self._shapes == {"subscriber"}:
            return is_related[0]
        if self._shapes == {"endpoint"}:
            return is_related[1]
        if len(self._shapes) == 2:
            if line != WHOLE and endpoint == WHOLE:
                return is_related[0] or line in self._mixed_lines
            return endpoint == WHOLE or is_related[1] or endpoint in self._mixed_endpoints
        if WHOLE in item:
            return True
        is_mixed = line in self._mixed_lines, endpoint in self._mixed_endpoints
        if self._is_joined:
            return any(is_mixed) or is_related[0 if "subscriber" in self._matches else 1]
        return all(is_mixed) or (is_related[0] and endpoint in self._near_endpoints and self._meets(item))

    def inner(self, items: Iterable[Item]) -> set[Item]:
        """Those that depend on no other one and lie in some that depend on them, between lines and endpoints."""
        if not any(self._inner):
            return set()
        lines, endpoints = ({prefix for prefix, _ in inner} for inner in self._inner)
        return {
            item
            for item in items
            if (item[1] in lines and (item[1], id(self._items[item])) in self._inner[0])
            or (item[2] in endpoints and (item[2], id(self._items[item])) in self._inner[1])
        }

    def near(self, bound: list[Item], others: Iterable[Item]) -> set[Item]:
        """Those of the others that may meet one of the bound, between policies of one match."""
        if not bound:
            return set()
        others = list(others)
        mine, theirs = (
            [
                Spread([item[1] for item in some], self._version),
                Spread([item[2] for item in some], self._version),
            ]
            for some in (bound, others)
        )
        close = [one.meeting(other)[1] for one, other in zip(mine, theirs, strict=True)]
        turned: list[set[Prefix]] = [set(), set()]
        if self._shapes == {_PAIRS}:
            turned = [one.meeting(other)[1] for one, other in zip(mine[::-1], theirs, strict=True)]
        return {
            item
            for item in others
            if (item[1] in close[0] and item[2] in close[1])
            or (item[1] in turned[0] and item[2] in turned[1])
        }

    def _listed(self) -> tuple[list[Prefix], list[Prefix]]:
        """The line and the endpoint of each item, of those that the policies compare."""
        items, matches = self._items, self._matches
        if self._is_joined:
            return [item[1] for item in items if item[1] != NOWHERE], [
                item[2] for item in items if item[2] != NOWHERE
            ]
        if matches[0] == matches[1]:
            return (
                [item[1] for item in items] if matches[0] != "endpoint" else [],
                [item[2] for item in items] if matches[0] != "subscriber" else [],
            )
        by_line = matches.index("subscriber")
        return (
            [item[1] for item, both in items.items() if both[by_line] is not None],
            [item[2] for item, both in items.items() if both[1 - by_line] is not None],
        )

    def _of_a_kind(self, place: int, nested: set[Prefix], shared: set[Prefix]) -> tuple[_Marks, _Marks]:
        """Prefixes with the id of an item's Both, where one that lies in it, or around it, may meet that one.

        place: 0 for lines, 1 for endpoints; nothing for what no policy compares by itself. Between pairs also where another item
        has the same prefix: elsewhere the two are one rectangle.
        """
        are_pairs, are_apart = self._shapes == {_PAIRS}, len(self._shapes) == 2
        compared = _COMPARED[place]
        if compared not in self._matches if self._is_joined or not are_pairs else place == 1:
            return set(), set()
        side = self._matches.index(compared) if are_apart else 0
        asked = nested | shared if are_pairs else nested
        held: dict[Prefix, dict[int, Both]] = {}
        twice: set[tuple[Prefix, int]] = set()
        for item, both in self._items.items() if asked else ():
            prefix = item[1 + place]
            if prefix in asked and not (are_apart and both[side] is None):
                its = held.setdefault(prefix, {})
                if id(both) in its:
                    twice.add((prefix, id(both)))
                its[id(both)] = both
        return _related(held, twice if are_pairs else None, self.relation, self._width)

    def _meets(self, item: Item) -> bool:
        """Whether another pair, which is not the same, overlaps it on both sides."""
        if self._pairs is None:
            self._pairs = Cover(self._version)
            for region in dict.fromkeys(
                (line, endpoint)
                for (_, line, endpoint), both in self._items.items()
                if (line, id(both)) in self._related[0] and endpoint in self._near_endpoints
            ):
                self._pairs.add(Rect(*region, 0, (0,), 0))
        overlapping = self._pairs.overlaps(Rect(item[1], item[2], 0, (0,), 0), _LAST)
        next(overlapping)  # itself
        return next(overlapping, None) is not None

    def _is_special(self, item: Item) -> bool:
        regions = {region_of(item, match) for match in self._matches}
        return any(
            _meet(region, other, self._width)
            for region in regions
            for one, two in self._special
            for other in ((one, two), (two, one))
        )


def _related(
    held: Mapping[Prefix, Mapping[int, Both]],
    twice: set[tuple[Prefix, int]] | None,
    relation: Relation,
    width: int,
) -> tuple[_Marks, _Marks]:
    """Those of the held, by prefix and id, that the relation holds of with one in it; with one around it.

    twice: what is held twice; then an equal prefix counts as one around it. None: equal ones do not count.
    """
    outers: _Marks = set()
    inners: _Marks = set()
    # What lies around the next one: its last address, itself, and of which in it is known whether they meet any of its own.
    around: list[tuple[int, Prefix, dict[int, bool]]] = []
    for prefix in sorted(held):
        while around and around[-1][0] < prefix[0]:
            around.pop()
        mine = held[prefix]
        for key, both in mine.items():
            for _, outer, known in around:
                if key not in known:
                    met = [(outer, other) for other, its in held[outer].items() if relation.holds(both, its)]
                    known[key] = bool(met)
                    outers.update(met)
                if known[key]:
                    inners.add((prefix, key))
            if twice is not None and any(
                relation.holds(both, its)
                for other, its in mine.items()
                if other != key or (prefix, key) in twice
            ):
                inners.add((prefix, key))
        around.append((_last(prefix, width), prefix, {}))
    return outers, inners


def _last(prefix: Prefix, width: int) -> int:
    return prefix[0] + (1 << (width - prefix[1])) - 1


def _special(side: Side, version: int) -> list[Region]:
    """Where a policy decides by itself: exemptions and named endpoints."""
    found = [
        (one, other)
        for item in side.policy.exempt
        for one in prefixes_of(item.subscriber_prefixes, version)
        for other in prefixes_of(item.endpoint_prefixes, version)
    ]
    for item in side.policy.named_endpoints:
        found += [(WHOLE, prefix) for prefix in prefixes_of(item.prefixes, version)]
    return found


def _meet(one: Region, other: Region, width: int) -> bool:
    """Whether they overlap, and not only because one of the two has all addresses on each side."""
    if any(common(a, b, width) is None for a, b in zip(one, other, strict=True)):
        return False
    return any(WHOLE not in pair for pair in zip(one, other, strict=True))
