"""A difference as JSON, written piece by piece: 100,000 changes need not be in memory as text. Schema: diff.schema.json beside.

Long lists of prefixes in exceptions stand once, in `lists`; exceptions name them by index. A change of the match key takes the
same list away from every line, and repeating it would make the document grow with the square of the entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from enforcer.difference.change import Change, Outcome, Ports
from enforcer.difference.changes import Difference
from enforcer.difference.prefixes import Prefix, Product, text
from enforcer.difference.sides import LOOKS, Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import Moment, Registrant, Summary, kind_of

SCHEMA = "allowlab.diff/2"
_LONG = 8  # prefixes; shorter lists stand where they are used
MOST_SPLIT = 200_000
"""Half a minute: a pair takes 0.1 ms and becomes about twenty changes (300 registrations, pairs to lines)."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


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
    yield ',\n "lists": ['
    comma = "\n  "
    for prefixes, version in () if is_split else pieces.gather():
        yield comma + _list(prefixes, version)
        comma = ",\n  "
    yield "\n ]" if pieces.indexes else "]"
    yield ',\n "changes": ['
    comma = "\n  "
    for change in difference.changes:
        for written_change in pieces.split(change) if is_split else (pieces.whole(change),):
            yield comma + written_change
            comma = ",\n  "
    yield ("\n ]" if difference.changes else "]") + "\n}\n"


def split_size(changes: Iterable[Change]) -> int:
    """How many single pairs of prefixes are to be cut out of single pairs for --split: what its time goes with."""
    return sum(
        len(each.subscribers)
        * len(each.endpoints)
        * sum(len(less.subscribers) * len(less.endpoints) for less in each.exceptions)
        for each in changes
    )


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
    """Changes as text. What many of them share (traffic, outcomes) is written once in memory; `indexes`: where lists stand."""

    def __init__(self, difference: Difference) -> None:
        self._difference = difference
        # By id: everything here is alive as long as the difference.
        self.indexes: dict[tuple[int, int], int] = {}
        self._traffic: dict[int, str] = {}
        self._stopped: dict[str, str] = {}
        self._passing: Outcome | None = None
        self._passing_text = ""
        self._products: dict[int, str] = {}

    def gather(self) -> Iterator[tuple[tuple[Prefix, ...], int]]:
        """Each long list of an exception, once, with its family; gives them their indexes."""
        for change in self._difference.changes:
            for less in change.exceptions:
                for prefixes in less:
                    if len(prefixes) >= _LONG:
                        key = (id(prefixes), change.version)
                        if key not in self.indexes:
                            self.indexes[key] = len(self.indexes)
                            yield prefixes, change.version

    def whole(self, change: Change) -> str:
        version = change.version
        start = self._start(change)  # first: it forgets the products of another registration
        less = ",".join([self._product(each, version) for each in change.exceptions])
        sides = _list(change.subscribers, version), _list(change.endpoints, version)
        return f'{start},"subscribers":{sides[0]},"endpoints":{sides[1]},"except":[{less}]}}'

    def split(self, change: Change) -> Iterator[str]:
        start, version = self._start(change), change.version
        for subscriber, endpoint in change.pieces():
            sides = text(subscriber, version), text(endpoint, version)
            yield f'{start},"subscribers":["{sides[0]}"],"endpoints":["{sides[1]}"],"except":[]}}'

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
        if outcome.by is not None:
            # One registration's changes come together, with one outcome and the same few products.
            if outcome is not self._passing:
                self._passing, self._passing_text = outcome, _encode(_outcome(outcome, side))
                self._products.clear()
            return self._passing_text
        if outcome.verdict not in self._stopped:
            self._stopped[outcome.verdict] = _encode(_outcome(outcome, side))
        return self._stopped[outcome.verdict]

    def _product(self, product: Product, version: int) -> str:
        if id(product) not in self._products:
            one, other = self._list(product.subscribers, version), self._list(product.endpoints, version)
            self._products[id(product)] = f'{{"subscribers":{one},"endpoints":{other}}}'
        return self._products[id(product)]

    def _list(self, prefixes: tuple[Prefix, ...], version: int) -> str:
        index = self.indexes.get((id(prefixes), version)) if len(prefixes) >= _LONG else None
        return _list(prefixes, version) if index is None else str(index)


def _list(prefixes: tuple[Prefix, ...], version: int) -> str:
    """CIDR notation needs no escapes in JSON."""
    return '["' + '","'.join([text(each, version) for each in prefixes]) + '"]'


def _outcome(outcome: Outcome, side: Side) -> dict[str, Any]:
    if isinstance(outcome.by, int):
        return {
            "verdict": outcome.verdict,
            "by": "registration",
            **_registration(outcome.by, (side.entries[outcome.by],)),
        }
    by, _, name = (outcome.by or "").partition(":")
    words = {"exempt": "exemption", "not-vpn": "not-vpn", "": None}
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
