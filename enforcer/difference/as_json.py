"""A difference as JSON, written piece by piece: it need not be in memory as text. Schema: diff.schema.json beside.

Long lists of prefixes stand once, in `lists`, and registrations that change alike in `groups`; changes name them by index. A
change of the match key takes the same list away from every line, and repeating it would make the document grow with the square
of the entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from enforcer.difference.change import EACH, Change, Outcome, Ports
from enforcer.difference.changes import Difference
from enforcer.difference.cover import NOT_VPN
from enforcer.difference.prefixes import WIDTHS, Prefix, Product, flat, text
from enforcer.difference.sides import LOOKS, Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import Moment, Registrant, Summary, kind_of

SCHEMA = "allowlab.diff/3"
_LONG = 8  # prefixes; shorter lists stand where they are used
MOST_SPLIT = 200_000
"""Half a minute: a pair takes 0.1 ms and becomes about twenty changes (300 registrations, pairs to lines)."""
_PIECES = 20  # changes of one pair
_encode = json.JSONEncoder(separators=(",", ":")).encode
_word = json.encoder.encode_basestring_ascii


def written(
    difference: Difference,
    summary: Summary,
    moments: list[Moment],
    at_ns: int,
    lists: tuple[Listed, Listed],
    is_split: bool,
) -> Iterator[str]:
    """The document in pieces. is_split: changes as pairs of prefixes without exceptions."""
    head = {
        "schema": SCHEMA,
        "at": moment_text(at_ns),
        "old": _side(difference.old, lists[0]),
        "new": _side(difference.new, lists[1]),
        "is_different": bool(difference.changes),
        "summary": _summary(summary),
        "upcoming": [
            {
                "at": moment_text(each.at_ns),
                "what": each.what,
                **_registration(each.entry.registration, (each.entry,)),
            }
            for each in moments
        ],
    }
    for number, (key, value) in enumerate(head.items()):
        yield ("," if number else "{") + f'\n "{key}": {_encode(value)}'
    pieces = _Pieces(difference)
    long = () if is_split else pieces.gather()
    yield from _array("lists", (pieces.text(*each) for each in long))
    yield from _array("groups", (f"[{','.join(map(str, each))}]" for each in pieces.groups))
    changes = difference.changes
    yield from _array(
        "changes",
        (piece for each in changes for piece in pieces.split(each))
        if is_split
        else map(pieces.whole, changes),
    )
    yield "\n}\n"


def _array(key: str, values: Iterable[str]) -> Iterator[str]:
    """A list of the document, a line for each value."""
    yield f',\n "{key}": ['
    comma, end = "\n  ", "]"
    for value in values:
        yield comma + value
        comma, end = ",\n  ", "\n ]"
    yield end


def split_size(changes: Iterable[Change]) -> int:
    """How many single pairs of prefixes are to be cut out of single pairs for --split: what its time goes with."""
    return sum(
        len(one.subscribers) * len(one.endpoints) * _cuts(one) * (len(each.each) or 1)
        for each in changes
        for one in (each.single(0) if each.each else each,)
    )


def _cuts(change: Change) -> int:
    """Exceptions of one pair; what is cut along the one side only is cut out of each piece along the other again."""
    widest = [min(bits for _, bits in some) for some in (change.subscribers, change.endpoints)]
    along_endpoints = others = 0
    for one, other in flat(change.exceptions):
        is_whole = one[1] <= widest[0]
        along_endpoints += is_whole and other[1] > widest[1]
        others += not is_whole
    lengths = [WIDTHS[change.version] - bits for bits in widest]
    again = others * along_endpoints * lengths[0] * lengths[1] // _PIECES
    return along_endpoints + others + again


def moment_text(at_ns: int) -> str:
    """RFC 3339 in UTC, seconds; the year 9999 for what lies beyond it."""
    seconds = min(at_ns // 1_000_000_000, 253402300799)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _side(side: Side, listed: Listed) -> dict[str, Any]:
    return {
        "policy": side.policy.name,
        "unregistered": side.stop,
        "allowlist": listed.file,
        "serial": listed.serial,
        "entries": len(listed.entries),
        "active": len(side.entries),
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "lose_all": [_person(each) for each in summary.lose_all],
        "lose_some": [_person(each) for each in summary.lose_some],
        "lose_and_gain": [_person(each) for each in summary.both],
        "gain_first": [_person(each) for each in summary.gain_first],
        "gain_more": [_person(each) for each in summary.gain_more],
        "opened_by": sorted(map(str, summary.opened)),
        "closed_by": sorted(map(str, summary.closed)),
        "unregistered": list(summary.stops) if summary.stops else None,
        "ended_without_effect": [
            {"registration": number, "covered_by": sorted(map(str, labels))}
            for number, labels in summary.without_effect.items()
        ],
    }


def _person(registrant: Registrant) -> dict[str, Any]:
    return {
        "registrant": registrant.name,
        "category": registrant.category,
        "registrations": list(registrant.registrations),
    }


class _Pieces:
    """Changes as text. What many of them share (traffic, outcomes, lists) is written once in memory.

    indexes: where lists stand; groups: registrations that change alike.
    """

    def __init__(self, difference: Difference) -> None:
        self._difference = difference
        # By id: everything here is alive as long as the difference.
        self.indexes: dict[tuple[int, int], int] = {}
        self.groups: list[tuple[int, ...]] = []
        self._group_of: dict[int, int] = {}
        self._traffic: dict[int, str] = {}
        self._outcomes: dict[Outcome, str] = {}
        self._texts = {version: _Texts(version) for version in WIDTHS}
        self._single: dict[tuple[Prefix, int], str] = {}

    def gather(self) -> Iterator[tuple[tuple[Prefix, ...], int]]:
        """Each long list, once, with its family; gives them their indexes."""
        for change in self._difference.changes:
            if change.each and id(change.each) not in self._group_of:
                self._group_of[id(change.each)] = len(self.groups)
                self.groups.append(change.each)
            sides = [change.subscribers, change.endpoints]
            for less in change.exceptions:
                sides += less[:2]
            for prefixes in sides:
                if len(prefixes) >= _LONG:
                    key = (id(prefixes), change.version)
                    if key not in self.indexes:
                        self.indexes[key] = len(self.indexes)
                        yield prefixes, change.version

    def whole(self, change: Change) -> str:
        version = change.version
        sides = self._list(change.subscribers, version), self._list(change.endpoints, version)
        less = ",".join([self._product(each, version) for each in change.exceptions])
        group = f',"group":{self._group_of[id(change.each)]}' if change.each else ""
        return f'{self._start(change)}{group},"subscribers":{sides[0]},"endpoints":{sides[1]},"except":[{less}]}}'

    def split(self, change: Change) -> Iterator[str]:
        version = change.version
        for single in change.singles():
            start = self._start(single)
            for subscriber, endpoint in single.pieces():
                sides = text(subscriber, version), text(endpoint, version)
                yield f'{start},"subscribers":["{sides[0]}"],"endpoints":["{sides[1]}"],"except":[]}}'

    def text(self, prefixes: tuple[Prefix, ...], version: int) -> str:
        """The list; CIDR notation needs no escapes in JSON."""
        return '["' + '","'.join(map(self._texts[version].__getitem__, prefixes)) + '"]'

    def _start(self, change: Change) -> str:
        traffic = self._traffic.get(id(change.traffic))
        if traffic is None:
            traffic = self._traffic[id(change.traffic)] = _encode(
                [
                    {
                        "protocol": look,
                        "ports": _ports(ports) if LOOKS[look] else None,
                        "opened_by": opened_by,
                    }
                    for look, ports, opened_by in change.traffic
                ]
            )
        before = self._outcome(change.before, self._difference.old)
        after = self._outcome(change.after, self._difference.new)
        return (
            f'{{"family":"ipv{change.version}","change":"{kind_of(change)}",'
            f'"before":{before},"after":{after},"traffic":{traffic}'
        )

    def _outcome(self, outcome: Outcome, side: Side) -> str:
        if isinstance(outcome.by, int):
            entry = side.entries[outcome.by]
            return (
                f'{{"verdict":"{outcome.verdict}","by":"registration","registration":{outcome.by},'
                f'"registrant":{_word(entry.registrant)},"category":{_word(entry.category)}}}'
            )
        if outcome not in self._outcomes:
            self._outcomes[outcome] = _encode(_outcome(outcome))
        return self._outcomes[outcome]

    def _product(self, product: Product, version: int) -> str:
        one, other = self._list(product.subscribers, version), self._list(product.endpoints, version)
        paired = ',"paired":true' if product.is_paired else ""
        return f'{{"subscribers":{one},"endpoints":{other}{paired}}}'

    def _list(self, prefixes: tuple[Prefix, ...], version: int) -> str:
        if len(prefixes) == 1:
            key = (prefixes[0], version)
            found = self._single.get(key)
            if found is None:
                found = self._single[key] = self.text(prefixes, version)
            return found
        index = self.indexes.get((id(prefixes), version)) if len(prefixes) >= _LONG else None
        return self.text(prefixes, version) if index is None else str(index)


class _Texts(dict[Prefix, str]):
    """CIDR notation of a family's prefixes, each made once."""

    def __init__(self, version: int) -> None:
        self._version = version

    def __missing__(self, prefix: Prefix) -> str:
        found = self[prefix] = text(prefix, self._version)
        return found


def _outcome(outcome: Outcome) -> dict[str, Any]:
    by, _, name = (str(outcome.by) if outcome.by is not None else "").partition(":")
    words = {"exempt": "exemption", NOT_VPN: "not-vpn", EACH: "registration", "": None}
    named = {"exemption": name} if by == "exempt" else {}
    return {"verdict": outcome.verdict, "by": words[by], **named}


def _registration(number: int, entries: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "registration": number,
        "registrant": entries[0].registrant,
        "category": entries[0].category,
    }


def _ports(ports: Ports) -> dict[str, list[int]]:
    return {"all_but" if ports.is_all_but else "only": sorted(ports.ports)}
