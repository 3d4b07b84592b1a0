"""The same scenario played with both clocks, attempt by attempt: do outcomes agree, and by how much do delays differ?

    python -m tests.clock_compare REAL_RUN VIRTUAL_RUN

A scripted change takes effect a moment later where processors take time. So attempts that are under way within NEAR_NS of a
change (of the ledger, a fault, an address, a link, a tunnel's coming and going) are counted apart, for they may differ by rights; so are
those that differ through a tunnel up to TUNNEL_NS after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from testbed.plan.plan import Plan
from testbed.plan.store import read_plan
from testbed.records import EventRecord
from testbed.score.outcomes import Judged
from testbed.score.reading import read_records
from testbed.score.summary import judged_attempts
from testbed.score.truth import truth_of

NEAR_NS = 1_000_000_000
# A tunnel comes back by its own timers, and what it carries over TCP by retransmissions at doubled distances (RFC 6298, 5.5).
TUNNEL_NS = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """near: attempts near a change, which of them differ. unjudged: those that nobody could judge in one of the two runs; that both could
    not is no agreement. differing: (attempt, real outcome, virtual outcome) elsewhere.

    delay_ns: of each attempt that was delivered in both, its round trip in real time less that in virtual time; both count from when
    the packet left, for a busy machine sends late. beyond: how many of them differ by more than calibration tolerates of the path;
    tolerance_ns: its median.
    """

    scenario: str
    attempts: int
    same: int
    differing: list[tuple[str, str, str]]
    near: int
    near_differing: int
    only_one: list[str] = field(default_factory=list)
    delay_ns: list[int] = field(default_factory=list)
    beyond: int = 0
    tolerance_ns: int = 0
    unjudged: int = 0

    def quantile_ms(self, quantile: float) -> float:
        return float(np.percentile(self.delay_ns, quantile * 100)) / 1e6 if self.delay_ns else float("nan")


def compare(real: Path, virtual: Path) -> Agreement:
    """Of two run folders of one scenario and seed. Raises ValueError when their plans differ in more than the clock."""
    plan, other = read_plan(real / "plan.json"), read_plan(virtual / "plan.json")
    if (plan.streams, plan.events, plan.links) != (other.streams, other.events, other.links):
        raise ValueError(f"{real} and {virtual}: not the same plan")
    first, ones = _judged(real, plan)
    second, others = _judged(virtual, other)
    changes = sorted({*_changes(first), *_changes(second)})
    same, near, near_differing, unjudged, delays, beyond = 0, 0, 0, 0, [], 0
    tolerances: list[int] = []
    differing: list[tuple[str, str, str]] = []
    for name in sorted(ones.keys() & others.keys()):
        one, two = ones[name], others[name]
        agrees = _fate(one) == _fate(two)
        if "harness_error" in (one.outcome, two.outcome):
            unjudged += 1
        elif _is_near(changes, one, two, NEAR_NS) or (not agrees and _is_recovering(changes, one, two)):
            near += 1
            near_differing += not agrees
        elif agrees:
            same += 1
        else:
            differing.append((name, _words(one), _words(two)))
        if one.flow.rtt_ns is not None and two.flow.rtt_ns is not None:
            delay_ns = _path_ns(one) - _path_ns(two)
            tolerance_ns = max(plan.tolerances.delay_floor_ns, plan.tolerances.delay_ratio * two.flow.rtt_ns)
            delays.append(delay_ns)
            tolerances.append(round(tolerance_ns))
            beyond += abs(delay_ns) > tolerance_ns
    return Agreement(
        plan.scenario,
        len(ones.keys() & others.keys()),
        same,
        differing,
        near,
        near_differing,
        sorted(ones.keys() ^ others.keys()),
        delays,
        beyond,
        round(float(np.median(tolerances))) if tolerances else 0,
        unjudged,
    )


def table(found: Iterable[Agreement]) -> list[str]:
    """As Markdown; the differing attempts beneath."""
    rows = list(found)
    lines = [
        "| scenario | attempts | same | differing | near a change (differing) | delay, real less virtual: p10 | p50 | p99 | tolerance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.scenario} | {each.attempts} | {each.same} | {len(each.differing)} | {each.near} ({each.near_differing}) "
        f"| {each.quantile_ms(0.1):+.2f} ms | {each.quantile_ms(0.5):+.2f} ms | {each.quantile_ms(0.99):+.2f} ms | {each.tolerance_ns / 1e6:.2f} ms |"
        for each in rows
    ]
    lines += [
        f"{each.scenario}: {name}: real {one}, virtual {two}"
        for each in rows
        for name, one, two in each.differing[:20]
    ]
    return lines


def _judged(run: Path, plan: Plan) -> tuple[list[EventRecord], dict[str, Judged]]:
    records = read_records(run)
    judged = judged_attempts(plan, records, truth_of(plan, records.events))
    return records.events, {each.flow.id: each for each in judged}


def _changes(events: Iterable[EventRecord]) -> list[int]:
    kinds = ("ledger", "fault", "address", "tunnel", "script")
    return [event.t_ns for event in events if event.kind in kinds and event.t_ns >= 0]


def _is_near(changes: list[int], one: Judged, two: Judged, before_ns: int) -> bool:
    begin = min(one.flow.scheduled_ns, two.flow.scheduled_ns) - before_ns
    end = max(one.flow.done_ns, two.flow.done_ns) + NEAR_NS
    at = int(np.searchsorted(changes, begin))
    return at < len(changes) and changes[at] <= end


def _is_recovering(changes: list[int], one: Judged, two: Judged) -> bool:
    return one.stream.probe == "tunnel-echo" and _is_near(changes, one, two, TUNNEL_NS)


def _path_ns(each: Judged) -> int:
    """The round trip without the time by which the packet left late."""
    flow = each.flow
    return (flow.rtt_ns or 0) - max(0, (flow.sent_ns or flow.scheduled_ns) - flow.scheduled_ns)


def _fate(each: Judged) -> tuple[str, str | None, bool]:
    """What must be the same: a false block for another reason is another one."""
    return each.outcome, each.cause, each.flow.is_delivered


def _words(each: Judged) -> str:
    cause = f", {each.cause}" if each.cause else ""
    return f"{each.outcome}{cause} ({'delivered' if each.flow.is_delivered else each.flow.failure})"


if __name__ == "__main__":
    print("\n".join(table([compare(Path(sys.argv[1]), Path(sys.argv[2]))])))
