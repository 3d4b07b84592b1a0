"""Why a false block or a false pass happened: policy, propagation, malfunction, overload or fail_mode (DESIGN §5).

The policy as written is asked twice: with the ledger as it officially was, and with the copy the enforcer said it had.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from enforcer.policy import Policy
from enforcer.privacy import Addresses
from testbed.plan.plan import Plan
from testbed.records import AuditRecord, EventRecord, FlowRecord
from testbed.score.outcomes import Judged, Rule
from testbed.score.truth import Truth
from testbed.score.written import written

CAUSES = ("policy", "propagation", "malfunction", "overload", "fail_mode")

# Failures that mean "too much at once" rather than "something is gone", whatever the policy says to do about them.
OVERLOADS = ("table-full", "queue-full", "cpu")

# Repeats of a block are gathered into one line a second (enforcer/audit.py).
_SAME_BLOCK_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure an enforcer declared, and what its policy says to do while it lasts."""

    from_ns: int
    until_ns: int
    name: str
    do: str


class EnforcerHistory:
    """What each enforcer said of itself over time: the serial it enforced, and the failure behaviours in force.

    That its agent is dead it cannot say; the events of a fault and the policy's `agent-dead` say it instead.
    """

    def __init__(
        self, audit: Iterable[AuditRecord], events: Iterable[EventRecord] = (), policy: Policy | None = None
    ) -> None:
        self._applied: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._failures: dict[str, list[Failure]] = defaultdict(list)
        self._blocks: dict[tuple[Any, ...], list[AuditRecord]] = defaultdict(list)
        self._shown = _shown(policy)
        self.is_exact = policy is None or policy.audit.addresses == "full"
        """Whether the audit tells every flow from every other, and lists each block."""
        open_failures: dict[tuple[str, str], tuple[int, str]] = {}
        for line in audit:
            if line.kind in ("not-listed", "lines-lost"):
                self.is_exact = False
            elif line.kind == "applied" and line.data.get("serial") is not None:
                self._applied[line.node].append((line.t_ns, int(line.data["serial"])))
            elif line.kind == "block":
                data = line.data
                src, dst = (self._shown(str(data.get(end))) for end in ("src", "dst"))
                self._blocks[line.node, src, data.get("src_port"), dst, data.get("dst_port")].append(line)
            elif line.kind == "failure":
                name, has_begun, do = _failure(line.data)
                if has_begun:
                    open_failures.setdefault((line.node, name), (line.t_ns, do))
                elif (begun := open_failures.pop((line.node, name), None)) is not None:
                    self._failures[line.node].append(Failure(begun[0], line.t_ns, name, begun[1]))
        for (node, name), (from_ns, do) in open_failures.items():
            self._failures[node].append(Failure(from_ns, 2**62, name, do))
        if policy is not None:
            self._add_deaths(events, policy)

    def _add_deaths(self, events: Iterable[EventRecord], policy: Policy) -> None:
        do, after_ns = policy.on_failure.agent_dead, policy.on_failure.agent_dead_after_ns
        begun: dict[str, int] = {}
        for event in events:
            if event.kind != "fault" or event.data.get("kind") != "enforcer-crash":
                continue
            for node in event.data.get("at", ()):
                if event.data["state"] == "begun":
                    begun[node] = event.t_ns
                elif node in begun:
                    death = Failure(begun.pop(node) + after_ns, event.t_ns + _SAME_BLOCK_NS, "agent-dead", do)
                    self._failures[node].append(death)
        for node, from_ns in begun.items():
            self._failures[node].append(Failure(from_ns + after_ns, 2**62, "agent-dead", do))

    def says_blocked(self, node: str, flow: FlowRecord) -> bool:
        """Whether the enforcer itself wrote down a block of this flow, in either direction, while the attempt ran."""
        return self.line_of(node, flow, flow.scheduled_ns, flow.done_ns) is not None

    def line_of(self, node: str, flow: FlowRecord, from_ns: int, until_ns: int) -> Rule | None:
        """What the enforcer wrote down of a block of this flow, in either direction, in that time; None: nothing."""
        src, dst = self._shown(flow.public_src), self._shown(flow.dst)
        ends = [(src, flow.src_port, dst, flow.dst_port), (dst, flow.dst_port, src, flow.src_port)]
        for each in ends:
            lines = self._blocks.get((node, *each), [])
            at = bisect.bisect_left(lines, from_ns - _SAME_BLOCK_NS, key=lambda line: line.t_ns)
            if at < len(lines) and lines[at].t_ns <= until_ns + _SAME_BLOCK_NS:
                data = lines[at].data
                return Rule(
                    str(data.get("reason", "")),
                    data.get("protocol"),
                    data.get("registration"),
                    data.get("registration_state"),
                )
        return None

    def blocked_packets(
        self, node: str, flows: Iterable[tuple[str, int, str, int]], from_ns: int, until_ns: int
    ) -> int:
        """How many packets of these flows (src, src_port, dst, dst_port) the enforcer wrote down as stopped in that time."""
        keys = {(node, self._shown(src), near, self._shown(dst), far) for src, near, dst, far in flows}
        return sum(
            int(line.data.get("count") or 1)
            for key in keys
            for line in self._blocks.get(key, ())
            if from_ns <= line.t_ns <= until_ns
        )

    def applied_between(self, node: str, from_ns: int, until_ns: int) -> list[int]:
        """When the enforcer took another serial over in that time."""
        return [t_ns for t_ns, _ in self._applied[node] if from_ns < t_ns <= until_ns]

    def serial_at(self, node: str, t_ns: int) -> int | None:
        """The serial the enforcer's copy had; None before it had any."""
        applied = self._applied[node]
        at = bisect.bisect_right(applied, t_ns, key=lambda each: each[0])
        return applied[at - 1][1] if at else None

    def failures_at(self, node: str, t_ns: int) -> list[Failure]:
        return [each for each in self._failures[node] if each.from_ns <= t_ns <= each.until_ns]


def _shown(policy: Policy | None) -> Callable[[str], str]:
    """How the audit writes an address. Keyed words, of a key that is gone, are as good as none: then the ports alone have to do."""
    if policy is None or policy.audit.addresses == "full":
        return str
    if policy.audit.addresses == "keyed-hash":
        return lambda _: ""
    return Addresses(policy.audit).shown


def explain(
    judged: Judged, plan: Plan, policy: Policy | None, truth: Truth, history: EnforcerHistory
) -> Judged:
    """The attempt with its cause and why, if it is a false block or a false pass, or what is left of one; and with the rule that an
    enforcer says it was stopped by. Any other as it is."""
    if judged.stop is not None and judged.where not in (None, "elsewhere"):
        at_ns = judged.stop.at_ns
        until_ns = at_ns if judged.is_through_tunnel else judged.flow.done_ns
        judged = replace(judged, rule=history.line_of(judged.stop.node, judged.carrier, at_ns, until_ns))
    if judged.outcome not in ("false_block", "false_pass", "not_back"):
        return judged
    cause, why = _cause(judged, plan, policy, truth, history)
    return replace(judged, cause=cause, why=why if judged.outcome != "not_back" else f"{judged.why}; {why}")


def _cause(
    judged: Judged, plan: Plan, policy: Policy | None, truth: Truth, history: EnforcerHistory
) -> tuple[str, str]:
    has_passed = judged.outcome == "false_pass"
    t_ns, node = judged.proof_ns, judged.where
    if not plan.enforcers or policy is None:
        return "policy", "no enforcer stands in the way"
    if node is None:
        return "policy", "the traffic crosses no enforcer"
    failures = history.failures_at(node, t_ns)
    for failure in failures:
        if failure.name in OVERLOADS:
            return "overload", f"{node} was in {failure.name}"
    for failure in failures:
        if failure.do == ("allow" if has_passed else "block"):
            return "fail_mode", f"{node} did '{failure.do}' because of {failure.name}"
    live = _live(judged, truth, t_ns)
    official = written(judged.carrier, policy, truth.entries_at(t_ns), live)
    if official.passes == has_passed:
        return "policy", f"the policy as written says {official.reason}"
    serial, newest = history.serial_at(node, t_ns), truth.serial_at(t_ns)
    if serial is None or serial < newest:
        copy = written(judged.carrier, policy, [] if serial is None else truth.entries_of_serial(serial))
        if copy.passes == has_passed:
            return "propagation", f"{node} enforced serial {serial}, the ledger was at {newest}"
    return (
        "malfunction",
        f"by its own copy (serial {serial}) {node} should have {'stopped' if has_passed else 'passed'} it",
    )


def _live(judged: Judged, truth: Truth, t_ns: int) -> tuple[int, int] | None:
    """(registration, ns since its end) when a flow may still be under way from a time it was registered."""
    name = judged.stream.registration
    if name is None or judged.stream.probe != "tunnel-echo" or judged.outcome != "false_pass":
        return None
    ends = [when for when, before, _ in truth.transitions(name) if before == "active" and when <= t_ns]
    return (truth.numbers.get(name, 1), t_ns - ends[-1]) if ends else None


def _failure(data: dict[str, Any]) -> tuple[str, bool, str]:
    """(condition, whether it began, what the policy says to do) of a `failure` line (enforcer/audit.py).

    Lenient, for an enforcer under test may be somebody else's: what is not said explains nothing.
    """
    condition = str(data.get("condition", "")).replace("_", "-")
    return condition, data.get("state") == "begun", str(data.get("behaviour", ""))
