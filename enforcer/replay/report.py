"""A replay's result as plain data (`--json`, docs/replay.md); the terminal's text is made of it (text.py)."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from typing import Any

from enforcer.allowlist import Entry
from enforcer.policy import Policy
from enforcer.replay.judge import REASONS, STOPPED
from enforcer.replay.orient import Ends
from enforcer.replay.result import Result, Side
from enforcer.replay.whose import MISSES, MOST_LOOKED_AT, Pair, Person, Whose, people, summed

SCHEMA = "allowlab.replay/1"
_SUMS = ("flows", "packets", "bytes")


def report(result: Result, ends: Ends, allowlists: list[dict[str, Any]], top: int) -> dict[str, Any]:
    """Everything the replay found; lists are cut to the `top` longest. allowlists: file, serial, entries; one a side."""
    whose = Whose(result.sides[0].policy, ends)
    tables = {version: result.pairs.table(version) for version in (4, 6)}
    looked_at = list(whose.pairs(tables))
    looked_at.sort(key=lambda pair: (-pair.flows, -pair.bytes))
    everybody = people(looked_at)
    side = result.sides[0]
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "source": _source(result),
        **_side(side, allowlists[0]),
        "at": None if result.at_ns is None else moment(result.at_ns),
        "registrants": [_person(person) for person in [each for each in everybody if each.sums[0]][:top]],
        "registrants_in_all": sum(1 for person in everybody if person.sums[0] and person.registrant),
        "top": _top(looked_at, top),
        "uncounted": _uncounted(result, tables),
        "ends_untold": ends.untold,
    }
    if result.log is not None:
        log = result.log
        data["flow_log"] = {
            "direction": log.direction,
            "judged_as_answers": log.turned,
            "could_hold_a_first_message": _sums(log.first_packets.tolist()),
            "gre": _sums(log.gre.tolist()),
            "gre_unregistered_if_pptp": _sums(log.gre_unregistered.tolist()),
            "checked_against_decide": log.checked,
        }
    if result.capture is not None:
        capture = result.capture
        data["capture"] = {
            "not_ip": capture.not_ip,
            "fragments_without_their_first": capture.unmatched_fragments,
            "flows_forgotten": capture.forgotten,
            "packets_decided": capture.decided,
        }
    if len(result.sides) > 1:
        data["against"] = {
            **_side(result.sides[1], allowlists[1]),
            "changes": _changes(result),
            "registrants": [_change(person) for person in everybody if person.stops[0] or person.passes[0]][
                :top
            ],
        }
    return data


def moment(unix_ns: int) -> str:
    """RFC 3339 with milliseconds, UTC; numbers that no calendar holds as they are."""
    try:
        return (
            datetime.fromtimestamp(unix_ns / 1e9, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
    except (ValueError, OverflowError, OSError):
        return f"{unix_ns} ns"


def _source(result: Result) -> dict[str, Any]:
    return {
        "file": result.source,
        "format": result.format,
        **_sums(result.seen),
        "first": None if result.first_ns is None else moment(result.first_ns),
        "last": None if result.last_ns is None else moment(result.last_ns),
        "read_ratio": round(result.read_ratio, 4),
        "interrupted": result.is_interrupted,
        "damage": [
            {"offset_bytes": damage.offset, "line": damage.line, "what": damage.what}
            for damage in result.damages.first
        ],
        "damage_count": result.damages.count,
        "notes": result.notes,
        "took_s": round(result.took_s, 3),
    }


def _side(side: Side, allowlist: dict[str, Any]) -> dict[str, Any]:
    policy = side.policy
    reasons = side.totals.reasons()
    stopped = side.totals.by[STOPPED].sum(axis=(0, 1)).tolist()
    vpn = side.totals.by[:, 1:].sum(axis=(0, 1)).tolist()
    return {
        "policy": {
            "name": policy.name,
            "file": side.file,
            "mode": policy.mode,
            "action": policy.action,
            "match": policy.match,
            "governs": list(policy.governs),
            "recognise_by": list(policy.recognise_by),
        },
        "allowlist": allowlist,
        "vpn": _sums(vpn),
        "stopped": {**_sums(stopped), "by": does(policy)},
        "by_reason": {reason: _sums(reasons[reason]) for reason in REASONS if reason in reasons},
        "stopped_by_protocol": {
            name: _sums(sums)
            for name, sums in sorted(side.totals.stopped_protocols().items(), key=lambda item: -item[1][0])
        },
    }


def does(policy: Policy) -> str:
    """What happens to a stopped flow under the policy: its action, or "observe" when the whole policy only observes."""
    return "observe" if policy.mode == "observe" else policy.action


def _top(pairs: list[Pair], top: int) -> dict[str, Any]:
    subscribers = summed(pairs, _subscriber, _endpoint)
    endpoints = summed(pairs, _endpoint, _subscriber)
    return {
        "subscribers": [
            {"subscriber": each.first.subscriber_text, "endpoints": each.others, **_sums(each.sums)}
            for each in subscribers[:top]
        ],
        "subscribers_in_all": len(subscribers),
        "endpoints": [
            {
                "endpoint": each.first.endpoint_text,
                "protocol": each.first.protocol,
                "subscribers": each.others,
                **_sums(each.sums),
            }
            for each in endpoints[:top]
        ],
        "endpoints_in_all": len(endpoints),
        "pairs": [_pair(pair) for pair in _merged(pairs)[:top]],
    }


def _subscriber(pair: Pair) -> tuple[Any, ...]:
    return pair.version, pair.subscriber


def _endpoint(pair: Pair) -> tuple[Any, ...]:
    return pair.version, pair.endpoint, pair.port, pair.protocol


def _merged(pairs: list[Pair]) -> list[Pair]:
    """Stopped pairs, one a pair of ends and protocol whatever the other policy says of parts of it."""
    found: dict[tuple[Any, ...], Pair] = {}
    own: set[tuple[Any, ...]] = set()  # copied, so that the given ones stay as they are
    for pair in pairs:
        if pair.reason not in ("unregistered", "revoked"):
            continue
        key = (pair.subscriber, *_endpoint(pair), pair.reason)
        if key not in found:
            found[key] = pair
        else:
            if key not in own:
                own.add(key)
                found[key] = copy(found[key])
            found[key] += pair
    return sorted(found.values(), key=lambda pair: (-pair.flows, -pair.bytes))


def _pair(pair: Pair) -> dict[str, Any]:
    near = None
    if pair.entry is not None:
        near = {
            "registration": pair.entry.registration,
            "registrant": pair.entry.registrant,
            "other_registrants": pair.also,
            "miss": pair.miss or None,
            "why": _why(pair, pair.entry),
        }
    return {
        "subscriber": pair.subscriber_text,
        "endpoint": pair.endpoint_text,
        "protocol": pair.protocol,
        "reason": pair.reason,
        **_sums((pair.flows, pair.packets, pair.bytes)),
        "first": moment(pair.first_ns),
        "last": moment(pair.last_ns),
        "nearest": near,
    }


def _why(pair: Pair, entry: Entry) -> str:
    if pair.miss == "not-valid-then":
        if entry.valid_until_ns is not None and entry.valid_until_ns <= pair.last_ns:
            return f"it ended {moment(entry.valid_until_ns)}"
        return f"it begins {moment(entry.valid_from_ns)}"
    if pair.miss == "category":
        return f"its category {entry.category or '(none)'} does not count"
    if pair.miss == "other-port":
        return f"it is for port {_listed(entry.endpoint_ports)}"
    if pair.miss == "other-protocol":
        return f"it is for {_listed(entry.protocols)}"
    if pair.miss == "other-port-and-protocol":
        return f"it is for {_listed(entry.protocols)} on port {_listed(entry.endpoint_ports)}"
    if pair.miss == "other-endpoint":
        return f"it is for the endpoint {_listed(entry.endpoint_prefixes)}"
    if pair.miss == "other-line":
        return f"it is for the line {_listed(entry.subscriber_prefixes)}"
    return "it covered the flow before"


def _listed(values: tuple[Any, ...]) -> str:
    shown = ", ".join(str(value) for value in values[:3])
    return shown + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _person(person: Person) -> dict[str, Any]:
    return {
        "registrant": person.registrant,
        "registrations": sorted(person.registrations)[:20],
        "subscribers": len(person.subscribers),
        **_sums(person.sums),
        "misses": {miss: person.misses[miss] for miss in MISSES if person.misses.get(miss)},
    }


def _change(person: Person) -> dict[str, Any]:
    return {
        "registrant": person.registrant,
        "registrations": sorted(person.registrations)[:20],
        "stopped_only_by_the_other": _sums(person.stops),
        "passes_only_under_the_other": _sums(person.passes),
    }


def _changes(result: Result) -> list[dict[str, Any]]:
    found = []
    for one, reason in enumerate(REASONS):
        for two, other in enumerate(REASONS):
            sums = result.pairs.changes[one, two].tolist()
            if sums[0] and one != two:
                found.append({"from": reason, "to": other, **_sums(sums)})
    return sorted(found, key=lambda change: -change["flows"])


def _uncounted(result: Result, tables: dict[int, Any]) -> dict[str, int]:
    """What the lists of people and ends leave out; totals are never affected."""
    rest = [table.slice(MOST_LOOKED_AT) for table in tables.values() if table is not None]
    return {
        "pairs": result.pairs.lost_pairs + sum(len(each) for each in rest),
        "flows": result.pairs.lost_flows + sum(int(each.column("flows").to_numpy().sum()) for each in rest),
    }


def _sums(values: Any) -> dict[str, int]:
    return dict(zip(_SUMS, (int(value) for value in values), strict=True))
