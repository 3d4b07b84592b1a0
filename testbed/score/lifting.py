"""When a block was over: the moment from which nothing would have stopped the same packets at that enforcer any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enforcer.policy import Policy
from testbed.records import EventRecord, FlowRecord
from testbed.score.cause import OVERLOADS, EnforcerHistory
from testbed.score.truth import Truth
from testbed.score.written import written

_EVER = 2**62


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault the script struck a node or a link with, from its beginning until it was healed."""

    kind: str
    at: str
    from_ns: int
    until_ns: int


def faults_of(events: Iterable[EventRecord]) -> list[Fault]:
    """Every fault of every node or link, from the records; one that was never healed lasts for ever."""
    begun: dict[str, EventRecord] = {}
    found = []
    for event in events:
        if event.kind == "fault" and event.data["state"] == "begun":
            begun[event.name] = event
        elif event.kind == "fault" and event.name in begun:
            found += _struck(begun.pop(event.name), event.t_ns)
    return found + [each for event in begun.values() for each in _struck(event, _EVER)]


@dataclass(frozen=True, slots=True)
class Lifting:
    """Answers when a block was over, from what the enforcers said of themselves, the ledger, and the faults that were made."""

    policy: Policy | None
    truth: Truth
    history: EnforcerHistory
    faults: list[Fault]

    def lifted_ns(self, node: str, flow: FlowRecord, stopped_ns: int, now_ns: int) -> int | None:
        """When what stopped this flow at the node at stopped_ns was over; None: it lasts at now_ns, or nobody knows of an end.

        flow: with its ends as the gateway sees them. What an enforcer does wrong by itself, without a fault of the script, has no
        known end: it lasts until packets get through.
        """
        if self.policy is None or any(each.until_ns > now_ns for each in self._faults_at(node, now_ns)):
            return None
        if any(self._stops(each) for each in self.history.failures_at(node, now_ns)):
            return None
        if not self._passes(node, flow, now_ns):
            return None
        ends = [each.until_ns for each in self.history.failures_at(node, stopped_ns) if self._stops(each)]
        was_written = not self._passes(node, flow, stopped_ns)
        if was_written:
            ends += self._first_passing(node, flow, stopped_ns, now_ns)
        if not ends:  # it was wrong by its own copy
            ends = [each.until_ns for each in self._faults_at(node, stopped_ns)]
        return max(ends, default=None)

    def is_down(self, link: str, t_ns: int) -> bool:
        """Whether a fault had taken the link away then."""
        return any(each.kind == "link-down" for each in self._faults_at(link, t_ns))

    def _faults_at(self, node: str, t_ns: int) -> list[Fault]:
        return [each for each in self.faults if each.at == node and each.from_ns <= t_ns < each.until_ns]

    def _stops(self, failure) -> bool:
        return failure.do == "block" or failure.name in OVERLOADS

    def _passes(self, node: str, flow: FlowRecord, t_ns: int) -> bool:
        """By the copy the enforcer had then."""
        serial = self.history.serial_at(node, t_ns)
        entries = [] if serial is None else self.truth.entries_of_serial(serial)
        return written(flow, self.policy, entries).passes

    def _first_passing(self, node: str, flow: FlowRecord, from_ns: int, until_ns: int) -> list[int]:
        for at_ns in self.history.applied_between(node, from_ns, until_ns):
            if self._passes(node, flow, at_ns):
                return [at_ns]
        return []


def _struck(event: EventRecord, until_ns: int) -> list[Fault]:
    kind = str(event.data.get("kind"))
    return [Fault(kind, at, event.t_ns, until_ns) for at in event.data.get("at", ())]
