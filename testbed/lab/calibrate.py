"""Measures every shaped link, both directions, before it is used; a link that is not what was asked fails the run.

Delay and jitter: trains of timestamped UDP probes over the link's own addresses, in both families, true one-way times.
Loss: a longer train, 20 expected losses. Rate: the link's own queue filled once, and how fast it empties, in groups
whose rates together are below what two cores carry. A miss is measured again, on an idle machine if need be, before it
is believed; the row says how many tries it took.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from testbed.lab.build import Lab
from testbed.lab.calibrate_ends import End, Family, ProbeFailed, ends, measuring_sockets, run_probe
from testbed.lab.calibrate_judge import (
    CalibrationRow,
    Figure,
    Verdict,
    judge_delay,
    judge_jitter,
    judge_loss,
    judge_rate,
    loss_probes,
)
from testbed.lab.calibrate_probe import FLOOD_FRAME_BYTES
from testbed.lab.holder_placement import DIRECTIONS, Direction
from testbed.lab.links import FRAME_BYTES, Links, Shape, burst_bytes, queue_bytes
from testbed.plan.plan import Link

TRIES = 3
_PROBES, _JITTER_PROBES = 15, 80
# Between two probes of one train. With jitter four times the jitter, for the two families' trains alternate and a probe
# must find none in front of it to wait for; that much at most.
_SPACING_NS, _JITTER_SPACING_NS, _LONGEST_SPACING_NS = 40_000_000, 10_000_000, 100_000_000
# All loss trains together; half of what the holder carries in the benchmark's worst case.
_LOSS_PACKETS_S = 15_000
_GROUP_BPS = 500_000_000
_GRACE_NS = 250_000_000
_FULL_QUEUE_RATIO = 0.8
# In virtual time nothing is ever late, so a few packets say as much as many, and each costs; what is random is measured as often as ever.
_VIRTUAL_PROBES, _VIRTUAL_QUEUE_RATIO, _LEAST_CHUNKS = 3, 0.1, 6
_MOST_AT_ONCE = 1000  # tasks of one process, with two sockets each or some more
# Bytes of socket memory a full frame takes (sk_buff truesize), for an ordinary user's small send buffers.
_TRUESIZE_BYTES = 2_304
_SENDERS = 64
_PROBE_BYTES = 48 + 28 + 14


class CalibrationFailed(RuntimeError):
    """A link is not what was asked. `rows` holds every row; the text lists those out of tolerance, one a line."""

    def __init__(self, rows: Sequence[CalibrationRow]) -> None:
        self.rows = list(rows)
        missed = [row for row in rows if not row.is_within]
        super().__init__(
            "\n".join(
                [f"{len(missed)} of {len(rows)} link figures are out of tolerance", *map(_sentence, missed)]
            )
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """One figure to find: of one direction of a link, in one family (delay, jitter) or the first there is."""

    link: Link
    direction: Direction
    shape: Shape
    figure: Figure
    family: Family
    sender: End
    receiver: End


@dataclass(frozen=True, slots=True)
class _Step:
    """What is measured at the same time; jobs as calibrate_probe.py takes them, without their sockets."""

    kind: Literal["trains", "floods"]
    tasks: Sequence[_Task]
    jobs: Sequence[dict[str, Any]]


def calibrate(lab: Lab, links: Links) -> list[CalibrationRow]:
    """Measure each shaped link (as set at this moment) in both directions. Raises CalibrationFailed, ProbeFailed."""
    tasks = list(_tasks(lab, links))
    rows: dict[_Task, CalibrationRow] = {}
    left: list[_Task] = tasks
    for tries in range(1, TRIES + 1):
        for task, verdict in _measure(lab, left):
            rows[task] = _row(task, verdict, tries)
        if died := links.health():
            raise ProbeFailed("; ".join(died))
        left = [task for task in tasks if not rows[task].is_within]
        if not left:
            break
    ordered = [rows[task] for task in tasks]
    if left:
        raise CalibrationFailed(ordered)
    return ordered


def _tasks(lab: Lab, links: Links) -> Iterator[_Task]:
    for link in lab.plan.links:
        for direction in DIRECTIONS:
            shape = links.shape(link.name, direction)
            if not (shape.rate_bps or shape.delay_ns or shape.jitter_ns or shape.loss_ratio):
                continue
            families: tuple[Family, ...] = (4, 6)
            reachable: list[tuple[Family, tuple[End, End]]] = [
                (family, pair)
                for family in families
                if (pair := ends(lab, link, direction, family)) is not None
            ]
            if not reachable:
                raise ProbeFailed(
                    f"link {link.name} cannot be measured: its ends have no addresses of one family; "
                    "give both ends (or the bridge one is in) an IPv4 or IPv6 address"
                )
            for family, pair in reachable:
                yield _Task(link, direction, shape, "delay", family, *pair)
            family, pair = reachable[0]
            figures: dict[Figure, Any] = {"jitter": shape.jitter_ns, "loss": True, "rate": shape.rate_bps}
            for figure, is_wanted in figures.items():
                if is_wanted:
                    yield _Task(link, direction, shape, figure, family, *pair)


def _measure(lab: Lab, tasks: Sequence[_Task]) -> Iterator[tuple[_Task, Verdict]]:
    tolerances = lab.plan.tolerances
    timed = [task for task in tasks if task.figure in ("delay", "jitter")]
    # One train serves both figures of a link.
    trains = {(task.link.name, task.direction, task.family): task for task in timed}
    several = list(trains.values())
    lossy = [task for task in tasks if task.figure == "loss"]
    rated = [task for task in tasks if task.figure == "rate"]
    is_virtual = lab.plan.clock == "virtual"
    steps = [
        _Step("trains", several, [_delay_train(task, is_virtual) for task in several]),
        _Step("trains", lossy, _loss_trains(lossy, is_virtual)),
    ]
    for group in _groups(rated, None if is_virtual else _GROUP_BPS):
        steps.append(_Step("floods", group, [_flood(task.shape, is_virtual) for task in group]))
    samples, losses, *floods = _carried_out(lab, steps)
    by_train = dict(zip(trains, samples, strict=True))
    for task in timed:
        delays = by_train[task.link.name, task.direction, task.family]
        arrived = [each for each in delays if each is not None]
        judge = judge_delay if task.figure == "delay" else judge_jitter
        yield task, judge(task.shape.delay_ns, task.shape.jitter_ns, arrived, tolerances)
    for task, delays in zip(lossy, losses, strict=True):
        yield task, judge_loss(task.shape.loss_ratio, delays.count(None), len(delays), tolerances)
    for step, answers in zip(steps[2:], floods, strict=True):
        for task, flood in zip(step.tasks, answers, strict=True):
            assert task.shape.rate_bps is not None
            yield task, judge_rate(task.shape.rate_bps, flood["rate_bps"], flood["frames"], tolerances)


def _delay_train(task: _Task, is_virtual: bool) -> dict[str, Any]:
    shape = task.shape
    spacing_ns = _SPACING_NS
    if shape.jitter_ns:
        spacing_ns = min(_LONGEST_SPACING_NS, max(_JITTER_SPACING_NS, 4 * shape.jitter_ns))
    return {
        "count": _JITTER_PROBES if shape.jitter_ns else _VIRTUAL_PROBES if is_virtual else _PROBES,
        "spacing_ns": spacing_ns,
        "offset_ns": spacing_ns // 2 if task.family == 6 else 0,
        "wait_ns": shape.delay_ns + shape.jitter_ns + _GRACE_NS,
    }


def _loss_trains(tasks: Sequence[_Task], is_virtual: bool) -> list[dict[str, Any]]:
    lossless = _VIRTUAL_PROBES if is_virtual else _PROBES
    counts = [loss_probes(task.shape.loss_ratio) if task.shape.loss_ratio else lossless for task in tasks]
    duration_ns = max(200_000_000, sum(counts) * 1_000_000_000 // _LOSS_PACKETS_S)
    trains: list[dict[str, Any]] = []
    for task, count in zip(tasks, counts, strict=True):
        spacing_ns = duration_ns // count
        if task.shape.rate_bps:
            # A quarter of the link at most: its queue must not fill and drop.
            spacing_ns = max(spacing_ns, 4 * _PROBE_BYTES * 8 * 1_000_000_000 // task.shape.rate_bps)
        wait_ns = task.shape.delay_ns + task.shape.jitter_ns + _GRACE_NS
        trains.append({"count": count, "spacing_ns": spacing_ns, "offset_ns": 0, "wait_ns": wait_ns})
    return trains


def _carried_out(lab: Lab, steps: Sequence[_Step]) -> list[list[Any]]:
    """The answers of each step, which are done one after another; in virtual time by one process, for its start is what costs."""
    if lab.plan.clock == "real":
        return [answer for step in steps for answer in _run(lab, [step])]
    answers: list[list[Any]] = []
    some: list[_Step] = []
    for step in steps:
        if some and sum(len(each.tasks) for each in (*some, step)) > _MOST_AT_ONCE:
            answers += _run(lab, some)
            some = []
        some.append(step)
    return answers + _run(lab, some)


def _run(lab: Lab, steps: Sequence[_Step]) -> list[list[Any]]:
    if not any(step.tasks for step in steps):
        return [[] for _ in steps]
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        jobs = []
        for step in steps:
            done = []
            for task, job in zip(step.tasks, step.jobs, strict=True):
                senders = _senders(lab, task, job) if step.kind == "floods" else 1
                outgoing, incoming, to = stack.enter_context(
                    measuring_sockets(lab, task.sender, task.receiver, senders=senders)
                )
                fds = [each.fileno() for each in outgoing]
                send = fds if step.kind == "floods" else fds[0]
                done.append({"send": send, "receive": incoming.fileno(), "to": to, **job})
                sockets += [*outgoing, incoming]
            jobs.append({step.kind: done})
        return [answer[step.kind] for answer, step in zip(run_probe(jobs, sockets), steps, strict=True)]


def _senders(lab: Lab, task: _Task, job: dict[str, Any]) -> int:
    """An ordinary user's sockets hold less than a full queue: so many together hold it."""
    with measuring_sockets(lab, task.sender, task.receiver) as (first, _incoming, _to):
        room = first[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return min(_SENDERS, -(-job["frames"] * _TRUESIZE_BYTES // room))


def _groups(tasks: Sequence[_Task], most_bps: int | None) -> Iterable[list[_Task]]:
    """Floods that run at the same time: their rates sum to at most most_bps (one alone may be above)."""
    group: list[_Task] = []
    total_bps = 0
    for task in sorted(tasks, key=lambda each: each.shape.rate_bps or 0):
        rate_bps = task.shape.rate_bps or 0
        if group and most_bps is not None and total_bps + rate_bps > most_bps:
            yield group
            group, total_bps = [], 0
        group.append(task)
        total_bps += rate_bps
    if group:
        yield group


def _flood(shape: Shape, is_virtual: bool) -> dict[str, Any]:
    assert shape.rate_bps is not None
    burst, queue = burst_bytes(shape.rate_bps), queue_bytes(shape.rate_bps)
    chunk = max(1, min(16, burst // 2 // FRAME_BYTES))
    skip = burst // FLOOD_FRAME_BYTES + 2
    wanted = (
        int(burst + (_VIRTUAL_QUEUE_RATIO if is_virtual else _FULL_QUEUE_RATIO) * queue) // FLOOD_FRAME_BYTES
    )
    frames = max(wanted, skip + _LEAST_CHUNKS * chunk if is_virtual else 0) // chunk * chunk
    duration_ns = frames * FLOOD_FRAME_BYTES * 8 * 1_000_000_000 // shape.rate_bps
    return {
        "frames": frames,
        "chunk": chunk,
        "skip": skip,
        "wait_ns": 2 * duration_ns + shape.delay_ns + shape.jitter_ns + _GRACE_NS,
    }


def _row(task: _Task, verdict: Verdict, tries: int) -> CalibrationRow:
    shape = task.shape
    asked: dict[Figure, float | None] = {
        "delay": shape.delay_ns,
        "jitter": shape.jitter_ns,
        "loss": shape.loss_ratio,
        "rate": shape.rate_bps,
    }
    return CalibrationRow(
        task.link.name,
        task.direction,
        task.link.kind,
        task.figure,
        asked[task.figure] or 0,
        verdict.measured,
        verdict.low,
        verdict.high,
        verdict.samples,
        verdict.is_within,
        task.family,
        tries,
    )


def _sentence(row: CalibrationRow) -> str:
    def show(value: float | None) -> str:
        if value is None:
            return "nothing arrived"
        if row.figure == "rate":
            return f"{value / 1e6:.3f} Mbit/s"
        return f"{value:.4f}" if row.figure == "loss" else f"{value / 1e6:.3f} ms"

    where = f"link {row.link}/{row.direction} ({row.kind}, IPv{row.family})"
    bounds = "asked lies outside what was seen," if row.figure == "loss" else "tolerated"
    return (
        f"{where}: {row.figure} asked {show(row.asked)}, measured {show(row.measured)} "
        f"({bounds} {show(row.low)} to {show(row.high)}; {row.samples} samples, {row.tries} tries)"
    )
