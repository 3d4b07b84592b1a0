"""What a difference means for people: who loses, who gains, what opens, what closes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from enforcer.allowlist import Entry
from enforcer.difference.change import EACH, Change, gaining, losing
from enforcer.difference.changes import Difference
from enforcer.difference.cover import Label
from enforcer.difference.sides import Side

_SEVERITY = {"pass": 0, "observe": 1, "police": 2, "reject": 3, "drop": 4}
# A single line is /32, and /64 or longer; a prefix this short is a whole network that passes with one registration.
WIDE_BITS = {4: 24, 6: 56}


@dataclass(frozen=True, slots=True)
class Registrant:
    """name and category as the entries have them; registrations: those through which it loses or gains."""

    name: str
    category: str
    registrations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """An entry that begins or ends (what) at a time (Unix ns) within the horizon."""

    at_ns: int
    what: str
    entry: Entry


@dataclass(slots=True)
class Summary:
    """lose_all: no registration counts any more; gain_first: none did before. lose_some, gain_more: they keep, or had, others.
    both: lose some and gain some.

    opened, closed: what changes without any registration (an exemption, or traffic that is no longer taken for VPN) -> changes.
    stops: what happens to VPN that nothing lets pass, before and after, when that differs. without_effect: registrations
    that ended and whose traffic all passes by others. wide: whole networks that pass by one registration now.
    """

    lose_all: list[Registrant] = field(default_factory=list)
    lose_some: list[Registrant] = field(default_factory=list)
    gain_first: list[Registrant] = field(default_factory=list)
    gain_more: list[Registrant] = field(default_factory=list)
    both: list[Registrant] = field(default_factory=list)
    opened: dict[Label, list[Change]] = field(default_factory=dict)
    closed: dict[Label, list[Change]] = field(default_factory=dict)
    stops: tuple[str, str] | None = None
    is_stop_seen: bool = False
    without_effect: dict[int, set[Label]] = field(default_factory=dict)
    wide: list[Change] = field(default_factory=list)


def kind_of(change: Change) -> str:
    """ "lose" what passed, "gain" what did not pass, or "stop" for what was stopped before and is otherwise now (or recorded)."""
    if change.before.by is not None:
        return "lose"
    return "gain" if change.after.by is not None else "stop"


def summary(difference: Difference) -> Summary:
    result = Summary()
    lost: set[int] = set()
    gained: set[int] = set()
    for change in difference.changes:
        lost.update(losing(change))
        gained.update(gaining(change))
        kind = kind_of(change)
        if kind == "stop":
            result.is_stop_seen = True
            continue
        label = (change.before if kind == "lose" else change.after).by
        if isinstance(label, str) and label != EACH:
            where = result.closed if kind == "lose" else result.opened
            where.setdefault(label, []).append(change)
        elif kind == "gain":
            result.wide += [change] if _is_wide(change) else ()
    people_losing = _by_registrant(lost, difference.old)
    people_gaining = _by_registrant(gained, difference.new)
    if difference.old.stop != difference.new.stop:
        result.stops = (difference.old.stop, difference.new.stop)
    earlier = {entry.registrant for entry in difference.old.entries.values()}
    remaining = {entry.registrant for entry in difference.new.entries.values()}
    for name, numbers in people_losing.items():
        if name in people_gaining:
            who = _registrant(name, numbers | people_gaining[name], difference.new, difference.old)
            result.both.append(who)
        else:
            who = _registrant(name, numbers, difference.old)
            (result.lose_some if name in remaining else result.lose_all).append(who)
    for name, numbers in people_gaining.items():
        if name not in people_losing:
            who = _registrant(name, numbers, difference.new)
            (result.gain_more if name in earlier else result.gain_first).append(who)
    ended = difference.old.entries.keys() - difference.new.entries.keys() - lost
    result.without_effect = {number: difference.covered_by.get(number, set()) for number in sorted(ended)}
    return result


def is_milder(before: str, after: str) -> bool:
    """Whether the second verdict stops less than the first."""
    return _SEVERITY[after.split()[0]] < _SEVERITY[before.split()[0]]


def moments(entries: Iterable[Entry], from_ns: int, until_ns: int) -> list[Moment]:
    """What begins and what ends after the one time and until the other, in order."""
    found = []
    for entry in entries:
        if from_ns < entry.valid_from_ns <= until_ns:
            found.append(Moment(entry.valid_from_ns, "begins", entry))
        if entry.valid_until_ns is not None and from_ns < entry.valid_until_ns <= until_ns:
            found.append(Moment(entry.valid_until_ns, "ends", entry))
    return sorted(found, key=lambda each: (each.at_ns, each.what, each.entry.registration))


def _by_registrant(numbers: set[int], side: Side) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for number in sorted(numbers):
        found.setdefault(side.entries[number].registrant, set()).add(number)
    return found


def _registrant(name: str, numbers: set[int], *sides: Side) -> Registrant:
    entries = [side.entries[number] for side in sides for number in numbers if number in side.entries]
    return Registrant(name, entries[0].category, tuple(sorted(numbers)))


def _is_wide(change: Change) -> bool:
    bits = WIDE_BITS[change.version]
    return any(each[1] <= bits for each in change.subscribers) or any(
        0 < each[1] <= bits for each in change.endpoints
    )
