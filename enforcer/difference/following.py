"""The changes of leaders, told of all that are alike (alike.py): one change with every registration and its prefixes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from enforcer.difference.alike import Alike
from enforcer.difference.change import EACH, Change, Outcome
from enforcer.difference.cover import Label
from enforcer.difference.items import Item
from enforcer.difference.prefixes import Prefix, Product

_PASSES = Outcome("pass", EACH)


def with_followers(
    changes: list[Change], alike: Iterable[Alike], covered_by: Mapping[int, set[Label]]
) -> Iterator[Change]:
    """All changes, those of leaders with their followers. covered_by: gets those that the followers have like their leaders."""
    leads: list[dict[Label, Alike]] = [{}, {}]
    for each in alike:
        for side in (0, 1):
            if each.both[side] is not None:
                leads[side][each.leader[0]] = each
        for number in {item[0] for item in each.followers} if each.both[0] is not None else ():
            if each.leader[0] in covered_by:
                covered_by[number].update(covered_by[each.leader[0]])
    known: dict[int, _Together] = {}
    for change in changes:
        led = next(
            (
                lead[end.by]
                for lead, end in zip(leads, (change.before, change.after), strict=True)
                if end.by in lead
            ),
            None,
        )
        if led is None:
            yield change
            continue
        together = known.get(id(led))
        if together is None:
            together = known[id(led)] = _Together(led)
        yield together.changed(change)


class _Together:
    """A leader and its followers, by number."""

    def __init__(self, alike: Alike) -> None:
        own = sorted([alike.leader, *alike.followers], key=itemgetter(0))
        self._leader: Item = alike.leader
        self._numbers = tuple([item[0] for item in own])
        self._prefixes: dict[tuple[Prefix, ...], tuple[Prefix, ...]] = {}
        for mine, all_of_them in (
            (alike.leader[1], tuple([item[1] for item in own])),
            (alike.leader[2], tuple([item[2] for item in own])),
        ):
            if any(each != mine for each in all_of_them):
                self._prefixes[(mine,)] = all_of_them

    def changed(self, change: Change) -> Change:
        """The leader's change, of all of them."""
        return change._replace(
            subscribers=self._all(change.subscribers),
            endpoints=self._all(change.endpoints),
            exceptions=tuple([self._product(each) for each in change.exceptions]),
            before=_PASSES if change.before.by == self._leader[0] else change.before,
            after=_PASSES if change.after.by == self._leader[0] else change.after,
            each=self._numbers,
        )

    def _all(self, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        # A longer list is everybody's, the leader's and the followers' among them (and takes long to hash).
        return self._prefixes.get(prefixes, prefixes) if len(prefixes) == 1 else prefixes

    def _product(self, product: Product) -> Product:
        one, other = self._all(product.subscribers), self._all(product.endpoints)
        are_own = one is not product.subscribers and other is not product.endpoints
        return Product(one, other, product.is_paired or are_own)
