"""What the dataplane holds: the entries of an allowlist that count under the policy and are valid now, kept so as time passes and
deltas come."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.cells import is_valid
from enforcer.dataplanes import Dataplane, Stop
from enforcer.knowledge import Knowledge, covering
from enforcer.policy import Policy

_SURE_NS = 2_000_000_000  # between a packet's time stamp and the list's lies less, even on a busy machine


@dataclass(frozen=True, slots=True)
class Applied:
    """How many entries one step brought and took."""

    added: int
    removed: int


@dataclass(slots=True)
class Enforced:
    """Every method raises DataplaneError when the dataplane refuses; then nothing has changed. Times are Unix ns."""

    policy: Policy
    dataplane: Dataplane
    knowledge: Knowledge
    loaded: dict[int, Entry] = field(default_factory=dict)
    needs_sweep: bool = False
    _due: list[tuple[int, int]] = field(default_factory=list)
    _finishing: list[tuple[int, int]] = field(default_factory=list)
    _loaded_ns: int = 0
    _since: dict[int, int] = field(default_factory=dict)

    def load(self, allowlist: Allowlist, now_ns: int) -> Applied:
        """The whole list, in one step."""
        loaded = {
            number: entry for number, entry in allowlist.entries.items() if self._is_in_force(entry, now_ns)
        }
        self.dataplane.load(Allowlist(allowlist.serial, loaded))
        gone = self.loaded.keys() - loaded.keys()
        for number in gone:
            self.knowledge.end(self.loaded[number], "removed", now_ns)
        new = loaded.keys() - self.loaded.keys()
        for number in new:
            self.knowledge.revive(number)
        self.loaded = loaded
        self._loaded_ns, self._since = now_ns, {}
        self.needs_sweep = True
        self._schedule(allowlist.entries.values(), now_ns)
        return Applied(len(new), len(gone))

    def apply(
        self, allowlist: Allowlist, touched: Iterable[int], states: dict[int, str], now_ns: int
    ) -> Applied:
        """The registrations `touched` become what the list says, in one step. states: why they were removed."""
        touched = sorted(touched)
        add: list[Entry] = []
        remove: list[Removal] = []
        for number in touched:
            entry, held = allowlist.entries.get(number), self.loaded.get(number)
            wanted = entry if entry is not None and self._is_in_force(entry, now_ns) else None
            if wanted == held:
                continue
            if wanted is not None:
                add.append(wanted)
            if held is not None:
                why = "changed" if wanted else "removed" if entry is None else self._why_out(entry)
                remove.append(Removal(number, states.get(number, why)))
        if add or remove:
            self.dataplane.apply(Delta(0, 1, tuple(add), tuple(remove)))
        self._remember(add, remove, now_ns)
        entries = (allowlist.entries[number] for number in touched if number in allowlist.entries)
        self._schedule(entries, now_ns)
        return Applied(len(add), len(remove))

    def take_due(self, now_ns: int) -> set[int]:
        """Registrations whose validity has begun or ended by now."""
        due = set()
        while self._due and self._due[0][0] <= now_ns:
            due.add(heapq.heappop(self._due)[1])
        return due

    @property
    def due_ns(self) -> int | None:
        """When validity or the time to finish will next begin or end for one of them (Unix)."""
        return min((heap[0][0] for heap in (self._due, self._finishing) if heap), default=None)

    def put_back(self, due: Iterable[int], at_ns: int) -> None:
        for number in due:
            heapq.heappush(self._due, (at_ns, number))

    def end_finishing(self, now_ns: int) -> None:
        """Cut the live flows whose time to finish is over."""
        ended = []
        while self._finishing and self._finishing[0][0] <= now_ns:
            ended.append(heapq.heappop(self._finishing)[1])
        ended = [number for number in ended if number not in self.loaded]
        if ended:
            self.dataplane.revoke(ended)
            self.needs_sweep = True

    def about(self, stop: Stop) -> dict[str, Any]:
        """registration and registration_state of a stopped packet; both None when none ever covered it.

        "active": the dataplane stopped what its list has had for a while, so its table differs from the list.
        """
        told = self.knowledge.about(stop)
        # In the middle of a flow (no protocol) nothing shows what it is, so there a registration helps only from its next start.
        if told["registration"] is not None or stop.reason != "unregistered" or stop.protocol is None:
            return told
        entry = covering(self.dataplane.lookup, stop)
        if entry is None:
            return told
        since_ns = self._since.get(entry.registration, self._loaded_ns)
        if stop.time_ns < since_ns + _SURE_NS:  # perhaps the packet was stopped before the list had it
            return told
        return {"registration": entry.registration, "registration_state": "active"}

    def sweep(self) -> None:
        if self.needs_sweep:
            self.needs_sweep = False
            self.dataplane.sweep()

    def _is_in_force(self, entry: Entry, now_ns: int) -> bool:
        return is_valid(entry, now_ns) and self.policy.counts(entry)

    def _why_out(self, entry: Entry) -> str:
        return "expired" if self.policy.counts(entry) else "not-counted"

    def _remember(self, add: list[Entry], remove: list[Removal], now_ns: int) -> None:
        for removal in remove:
            self.knowledge.end(self.loaded.pop(removal.registration), removal.state, now_ns)
            if self.policy.let_finish_ns is not None:
                heapq.heappush(self._finishing, (now_ns + self.policy.let_finish_ns, removal.registration))
            self.needs_sweep = True
        for entry in add:
            self.loaded[entry.registration] = entry
            self._since[entry.registration] = now_ns
            self.knowledge.revive(entry.registration)

    def _schedule(self, entries: Iterable[Entry], now_ns: int) -> None:
        for entry in filter(self.policy.counts, entries):
            for at_ns in (entry.valid_from_ns, entry.valid_until_ns):
                if at_ns is not None and at_ns > now_ns:
                    heapq.heappush(self._due, (at_ns, entry.registration))


def differing(before: dict[int, Entry], after: dict[int, Entry]) -> set[int]:
    """Registrations that came, went, or changed."""
    return {number for number in before.keys() | after.keys() if before.get(number) != after.get(number)}
