"""Which traffic registrations take away from each other, by their protocols and ports alone. Pure."""

from __future__ import annotations

from functools import lru_cache

from enforcer.cells import ANY, ANY_PORTLESS, PORTLESS
from enforcer.difference.items import Both, Traits, ports_of
from enforcer.difference.sides import Side
from enforcer.policy import Match


class Relation:
    """Whether two items can meet at all where their prefixes do: whether some flow is looked up under both.

    Where the policies take a flow for different protocols (may_turn), everything may meet across the sides.
    """

    def __init__(self, old: Side, new: Side) -> None:
        self.may_turn = any(
            getattr(old.policy, name) != getattr(new.policy, name)
            for name in ("governs", "recognise_by", "named_endpoints")
        )
        self._matches: tuple[Match, Match] = (old.policy.match, new.policy.match)
        self._known: dict[tuple[int, int], bool] = {}

    def holds(self, one: Both, other: Both) -> bool:
        """one, other: objects that stay alive, and are the same for equal ones (items.items())."""
        key = (id(one), id(other))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._known[id(other), id(one)] = self._find(one, other)
        return found

    def _find(self, one: Both, other: Both) -> bool:
        return any(
            mine is not None and its is not None and self._meet(mine, side, its, other_side)
            for side, mine in enumerate(one)
            for other_side, its in enumerate(other)
        )

    def _meet(self, mine: Traits, side: int, its: Traits, other_side: int) -> bool:
        return any(
            self.may_turn
            and side != other_side
            or (common_kind(kind, its_kind) is not None and not (port and its_port and port != its_port))
            for kind, port in ports_of(mine, self._matches[side])
            for its_kind, its_port in ports_of(its, self._matches[other_side])
        )


@lru_cache(maxsize=1 << 16)
def taken(
    own: Traits, other: Traits, match: Match, is_before: bool | None, may_turn: bool
) -> frozenset[tuple[str, int, int]]:
    """(kind, own port, port that is taken away): of the same rectangle, by one with a lower number or not; None: whatever its rank.

    may_turn: also by what is looked up under other kinds.
    """
    found = set()
    theirs = ports_of(other, match)
    for kind, port in ports_of(own, match):
        for its_kind, its_port in theirs:
            common = f"{kind} {its_kind}" if may_turn else common_kind(kind, its_kind)
            if common is None or (port and its_port and port != its_port):
                continue
            mine = (port is None, kind in (ANY, ANY_PORTLESS))
            rank = (its_port is None, its_kind in (ANY, ANY_PORTLESS))
            if is_before is None or rank < mine or (rank == mine and is_before):
                found.add((common, port or 0, its_port or 0))
    return frozenset(found)


def common_kind(one: str, other: str) -> str | None:
    """The kind of traffic that is looked up under both."""
    if one == other:
        return one
    for kind, any_kind in ((one, other), (other, one)):
        if any_kind == (ANY_PORTLESS if kind in PORTLESS else ANY) and kind not in (ANY, ANY_PORTLESS):
            return kind
    return None
