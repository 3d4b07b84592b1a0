"""Ground truth: who was entitled to what at which moment, from the plan and the ledger's own events."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

from enforcer.allowlist import Entry
from enforcer.policy_file import Category
from testbed.plan.plan import Plan, Registration, Stream
from testbed.records import EventRecord

BEFORE_NS = -(2**62)  # before anything the run did

# What an act makes of a registration, for ledger events that do not carry the state reached (enforcer/registry/states.py).
_STATE_AFTER = {
    "apply": "pending",
    "approve": "active",
    "reject": "rejected",
    "suspend": "suspended",
    "revoke": "revoked",
    "renew": "active",
    "expire": "expired",
}

_CATEGORIES = get_args(Category)


@dataclass(frozen=True, slots=True)
class Change:
    """A registration's official state from t_ns on; serial: the allowlist's serial afterwards."""

    t_ns: int
    registration: str
    state: str | None
    serial: int


@dataclass(slots=True)
class Truth:
    """What was official when. Built once from a plan and the run's events."""

    registrations: dict[str, Registration]
    changes: dict[str, list[Change]]
    numbers: dict[str, int] = field(default_factory=dict)
    _serials: list[tuple[int, int]] = field(default_factory=list)
    categories: dict[str, str] = field(default_factory=dict)
    """The registry's category of each subscriber, as the registrar writes it on the form."""
    licences: dict[str, list[str]] = field(default_factory=dict)
    """Server -> the registrations of providers for it: each, while active, entitles everybody to use it."""

    def state_at(self, registration: str, t_ns: int) -> str | None:
        """The official state at a moment; None before there was an application."""
        changes = self.changes[registration]
        at = bisect.bisect_right(changes, t_ns, key=lambda change: change.t_ns)
        return changes[at - 1].state if at else None

    def is_entitled(self, stream: Stream, from_ns: int, until_ns: int) -> bool | None:
        """Whether the person is entitled to it from one moment to another; None when that changes in between.

        Traffic that is not VPN always is. VPN is while its registration is active, or that of a licensed provider for its server.
        """
        if stream.registration is None:
            return True
        names = {stream.registration, *self.licences.get(self.registrations[stream.registration].server, ())}
        moments = {
            change.t_ns
            for name in names
            for change in self.changes[name]
            if from_ns < change.t_ns <= until_ns
        }
        answers = {
            any(self.state_at(name, t_ns) == "active" for name in names) for t_ns in (from_ns, *moments)
        }
        return answers.pop() if len(answers) == 1 else None

    def serial_at(self, t_ns: int) -> int:
        """The ledger's serial at a moment."""
        at = bisect.bisect_right(self._serials, t_ns, key=lambda each: each[0])
        return self._serials[at - 1][1] if at else 0

    def entries_at(self, t_ns: int) -> list[Entry]:
        """The allowlist as it officially is at a moment."""
        return [self._entry(name) for name in self.registrations if self.state_at(name, t_ns) == "active"]

    def entries_of_serial(self, serial: int) -> list[Entry]:
        """The allowlist as whoever holds that serial has it."""
        entries = []
        for name, changes in self.changes.items():
            held = [change for change in changes if change.serial <= serial]
            if held and held[-1].state == "active":
                entries.append(self._entry(name))
        return entries

    def transitions(self, registration: str) -> list[tuple[int, str | None, str | None]]:
        """(t_ns, state before, state after) of each change of state during the scenario (t_ns >= 0)."""
        changes = self.changes[registration]
        return [
            (now.t_ns, before.state, now.state)
            for before, now in zip(changes, changes[1:], strict=False)
            if now.t_ns >= 0 and before.state != now.state
        ]

    def _entry(self, name: str) -> Entry:
        wanted = self.registrations[name]
        return Entry(
            self.numbers.get(name, 1),
            wanted.subscriber,
            wanted.subscriber_prefixes,
            wanted.endpoint_prefixes,
            wanted.endpoint_ports,
            wanted.protocols,
            category=wanted.category or self.categories.get(wanted.subscriber, ""),
        )


def truth_of(plan: Plan, events: Iterable[EventRecord]) -> Truth:
    """Raises ValueError when a ledger event names a registration the plan does not have."""
    changes = {each.name: [Change(BEFORE_NS, each.name, each.initial, 0)] for each in plan.registrations}
    numbers: dict[str, int] = {}
    serials: list[tuple[int, int]] = []
    for event in events:
        if event.kind != "ledger":
            continue
        name, data = event.data["registration"], event.data
        if name not in changes:
            raise ValueError(f"events.jsonl: a ledger event names {name!r}, which plan.json does not have")
        numbers[name] = data.get("number") or numbers.get(name, 1)
        serial = int(data.get("serial") or 0)
        state = data.get("state") or _STATE_AFTER.get(str(data.get("action")), changes[name][-1].state)
        changes[name].append(Change(event.t_ns, name, state, serial))
        serials.append((event.t_ns, max(serial, serials[-1][1] if serials else 0)))
    categories = {each.name: each.kind if each.kind in _CATEGORIES else "other" for each in plan.subscribers}
    licences: dict[str, list[str]] = defaultdict(list)
    for each in plan.registrations:
        if each.category == "provider":
            licences[each.server].append(each.name)
    known = {each.name: each for each in plan.registrations}
    return Truth(known, changes, numbers, serials, categories, dict(licences))
