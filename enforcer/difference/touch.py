"""Which rectangles meet others in a part only: those must be compared with them one by one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial

from enforcer.difference.cover import Cover, Rect
from enforcer.difference.items import NOWHERE, Both, Item, is_joined, region_of, shapes_of
from enforcer.difference.prefixes import WHOLE, WIDTHS, Prefix, common
from enforcer.difference.sides import Region, Side, prefixes_of

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
        lines, endpoints = _counted(items, self._matches, self._is_joined)
        self._shared_lines = {prefix for prefix, count in lines.items() if count > 1}
        self._shared_endpoints = {prefix for prefix, count in endpoints.items() if count > 1}
        self._nested_lines = nested(lines, self._width)
        self._nested_endpoints = nested(endpoints, self._width)
        self._mixed_lines, self._mixed_endpoints = meeting(lines, endpoints, self._width)
        self._special = [*_special(old, version), *_special(new, version)]
        narrow = {each for pair in self._special for each in pair if each != WHOLE}
        self._near_special = (
            meeting(lines, narrow, self._width)[0] | meeting(endpoints, narrow, self._width)[0]
        )
        named = [item for side in (old, new) for item in side.policy.named_endpoints]
        self._is_cut = any(WHOLE in prefixes_of(item.prefixes, version) for item in named) or (
            bool(named) and shapes != {"subscriber+endpoint"}
        )
        self._pairs: Cover | None = None

    def holding(self, items: list[Item]) -> set[Item]:
        """Those of the items that holds() says it of. A look at their prefixes tells most of the others apart."""
        if self._is_cut:
            return set(items)
        lines = self._nested_lines | self._mixed_lines | self._near_special | {NOWHERE}
        endpoints = self._near_special | {NOWHERE}
        if self._shapes == {"subscriber+endpoint"}:
            # Two pairs meet on both sides or not at all: a look at the one side tells enough.
            lines |= self._shared_lines | {WHOLE}
            endpoints.add(WHOLE)
        if self._is_joined or self._shapes != {"subscriber+endpoint"}:
            endpoints |= self._nested_endpoints | self._mixed_endpoints
        if self._is_joined and "endpoint" in self._matches:
            endpoints |= self._shared_endpoints
        return {item for item in items if (item[1] in lines or item[2] in endpoints) and self.holds(item)}

    def holds(self, item: Item) -> bool:
        """Whether it meets another one, or where the policies decide by themselves."""
        _, line, endpoint = item
        if self._is_cut or NOWHERE in item:
            return True
        if (line in self._near_special or endpoint in self._near_special) and self._is_special(item):
            return True
        if self._shapes == {"subscriber"}:
            return line in self._nested_lines
        if self._shapes == {"endpoint"}:
            return endpoint in self._nested_endpoints
        if self._shapes == {"subscriber", "endpoint"}:
            if line != WHOLE and endpoint == WHOLE:
                return line in self._nested_lines or line in self._mixed_lines
            return (
                endpoint == WHOLE or endpoint in self._nested_endpoints or endpoint in self._mixed_endpoints
            )
        if WHOLE in item:
            return True
        is_mixed = line in self._mixed_lines, endpoint in self._mixed_endpoints
        is_near = (
            line in self._shared_lines or line in self._nested_lines,
            endpoint in self._shared_endpoints or endpoint in self._nested_endpoints,
        )
        if self._is_joined:
            return any(is_mixed) or is_near[0 if "subscriber" in self._matches else 1]
        return all(is_mixed) or (all(is_near) and self._meets(item))

    def near(self, bound: list[Item], others: Iterable[Item]) -> set[Item]:
        """Those of the others that may meet one of the bound, between policies of one match."""
        if not bound:
            return set()
        others = list(others)
        mine = {item[1] for item in bound}, {item[2] for item in bound}
        theirs = {item[1] for item in others}, {item[2] for item in others}
        close = meeting(mine[0], theirs[0], self._width)[1], meeting(mine[1], theirs[1], self._width)[1]
        turned: tuple[set[Prefix], set[Prefix]] = (set(), set())
        if self._shapes == {"subscriber+endpoint"}:
            turned = meeting(mine[1], theirs[0], self._width)[1], meeting(mine[0], theirs[1], self._width)[1]
        return {
            item
            for item in others
            if (item[1] in close[0] and item[2] in close[1])
            or (item[1] in turned[0] and item[2] in turned[1])
        }

    def _meets(self, item: Item) -> bool:
        """Whether another pair, which is not the same, overlaps it on both sides."""
        if self._pairs is None:
            self._pairs = Cover(self._version)
            near = self._shared_lines | self._nested_lines, self._shared_endpoints | self._nested_endpoints
            for region in dict.fromkeys(
                each[1:] for each in self._items if each[1] in near[0] and each[2] in near[1]
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


def nested(prefixes: Iterable[Prefix], width: int) -> set[Prefix]:
    """Those that contain another one or lie in it."""
    found: set[Prefix] = set()
    around: list[tuple[int, Prefix]] = []  # the last address of each that contains the next one, and itself
    for prefix in sorted(prefixes):
        while around and around[-1][0] < prefix[0]:
            around.pop()
        if around:
            found.add(prefix)
            found.add(around[-1][1])
        around.append((_last(prefix, width), prefix))
    return found


def meeting(
    ones: Collection[Prefix], others: Collection[Prefix], width: int
) -> tuple[set[Prefix], set[Prefix]]:
    """Of either those that contain one of the other, lie in it or are the same."""
    found: tuple[set[Prefix], set[Prefix]] = (set(), set())
    if not ones or not others:
        return found
    # Mostly they are in other parts of the address space.
    if min(ones)[0] > max(map(partial(_last, width=width), others)) or min(others)[0] > max(
        map(partial(_last, width=width), ones)
    ):
        return found
    around: tuple[list[tuple[int, Prefix]], list[tuple[int, Prefix]]] = ([], [])
    for prefix, which in sorted([*((each, 0) for each in ones), *((each, 1) for each in others)]):
        for some in around:
            while some and some[-1][0] < prefix[0]:
                some.pop()
        if around[1 - which]:
            found[which].add(prefix)
            for _, outer in reversed(around[1 - which]):
                if outer in found[1 - which]:
                    break
                found[1 - which].add(outer)
        around[which].append((_last(prefix, width), prefix))
    return found


def _last(prefix: Prefix, width: int) -> int:
    return prefix[0] + (1 << (width - prefix[1])) - 1


def _counted(
    items: dict[Item, Both], matches: tuple[str, str], is_joined: bool
) -> tuple[Counter[Prefix], Counter[Prefix]]:
    """How many items have each line and each endpoint that the policies compare."""
    if is_joined or matches[0] == matches[1]:
        lines = Counter([item[1] for item in items]) if is_joined or matches[0] != "endpoint" else Counter()
        endpoints = (
            Counter([item[2] for item in items]) if is_joined or matches[0] != "subscriber" else Counter()
        )
        del lines[NOWHERE], endpoints[NOWHERE]
        return lines, endpoints
    by_line = matches.index("subscriber")
    lines = Counter([item[1] for item, both in items.items() if both[by_line] is not None])
    endpoints = Counter([item[2] for item, both in items.items() if both[1 - by_line] is not None])
    return lines, endpoints


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
