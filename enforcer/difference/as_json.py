"""A difference as JSON, written piece by piece: 100,000 changes need not be in memory as text. Schema: diff.schema.json beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from enforcer.difference.changes import Change, Difference, Outcome, Ports
from enforcer.difference.prefixes import Prefix, text
from enforcer.difference.sides import LOOKS, Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import Moment, Registrant, Summary, kind_of

SCHEMA = "allowlab.diff/1"
_LONG = 8


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
    encode = json.JSONEncoder(separators=(",", ":")).encode
    for number, (key, value) in enumerate(head.items()):
        yield ("," if number else "{") + f'\n "{key}": {encode(value)}'
    yield ',\n "changes": ['
    comma = "\n  "
    known: dict[int, list[str]] = {}
    for change in difference.changes:
        for data in _change(change, difference, is_split, known):
            yield comma + encode(data)
            comma = ",\n  "
    yield ("\n ]" if difference.changes else "]") + "\n}\n"


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


def _change(
    change: Change, difference: Difference, is_split: bool, known: dict[int, list[str]]
) -> Iterator[dict[str, Any]]:
    version = change.version
    rest = {
        "family": f"ipv{version}",
        "change": kind_of(change),
        "before": _outcome(change.before, difference.old),
        "after": _outcome(change.after, difference.new),
        "traffic": [
            {
                "protocol": look,
                "ports": _ports(ports) if LOOKS[look] else None,
                "opened_by": opened_by,
            }
            for look, ports, opened_by in change.traffic
        ],
    }
    if is_split:
        for subscriber, endpoint in change.pieces():
            yield rest | {
                "subscribers": [text(subscriber, version)],
                "endpoints": [text(endpoint, version)],
                "except": [],
            }
        return
    yield rest | {
        "subscribers": _prefixes(change.subscribers, version, known),
        "endpoints": _prefixes(change.endpoints, version, known),
        "except": [
            {
                "subscribers": _prefixes(each.subscribers, version, known),
                "endpoints": _prefixes(each.endpoints, version, known),
            }
            for each in change.exceptions
        ],
    }


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


def _prefixes(prefixes: tuple[Prefix, ...], version: int, known: dict[int, list[str]]) -> list[str]:
    """known: long lists are shared by many exceptions, and alive as long as the difference; each is written out once."""
    if len(prefixes) < _LONG:
        return [text(each, version) for each in prefixes]
    key = id(prefixes)
    if key not in known:
        known[key] = [text(each, version) for each in prefixes]
    return known[key]
