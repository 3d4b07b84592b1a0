"""Flow logs judged and counted, batch by batch; each run checks a sample of its verdicts against `decide`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from enforcer.allowlist import Entry
from enforcer.packet import address_text
from enforcer.replay.judge import NOT_VPN, STOPPED, Judge, Judged
from enforcer.replay.lines import Direction, Lines, decide_line, number
from enforcer.replay.orient import Ends
from enforcer.replay.result import FlowLogFacts, Result
from enforcer.replay.tally import Rows

# Of each batch: lines taken from all of them, and from the recognised ones; of the first batch many more.
_ANY, _RECOGNISED, _FIRST = 4, 12, 1000


class Mismatch(Exception):
    """A verdict here is not decide's: a mistake of this program, and none of its figures can be relied on."""


class LogReplay:
    """Judges Lines into a Result. entries: of the policy, and of the one it is compared with."""

    def __init__(
        self, result: Result, entries: list[Iterable[Entry]], direction: Direction, inside: Iterable[str] = ()
    ) -> None:
        self.result = result
        self.facts = result.log = FlowLogFacts(direction)
        self._direction: Direction = direction
        lists = [list(each) for each in entries]
        counted = [
            [entry for entry in each if side.policy.counts(entry)]
            for side, each in zip(result.sides, lists, strict=True)
        ]
        self._judges = [
            Judge(side.policy, each, direction, result.at_ns)
            for side, each in zip(result.sides, counted, strict=True)
        ]
        self.ends = Ends(result.sides[0].policy, lists[0], inside)
        self._draw = np.random.default_rng(0)

    def add(self, lines: Lines) -> None:
        """Judge and count these. Raises Mismatch."""
        if not len(lines):
            return
        result = self.result
        sums = (len(lines), int(lines.packets.sum()), int(lines.bytes.sum()))
        result.seen = [before + more for before, more in zip(result.seen, sums, strict=True)]
        if lines.start_ns.any():  # a log without times is judged as of --at
            result.saw(int(lines.start_ns.min()), int(lines.start_ns.max()))
        judged = [judge(lines) for judge in self._judges]
        for side, each in zip(result.sides, judged, strict=True):
            mine = (lines.packets[each.at], lines.bytes[each.at])
            side.totals.add(each.reason, each.code, *mine)
            rest = [
                whole - int(part)
                for whole, part in zip(sums[1:], (mine[0].sum(), mine[1].sum()), strict=True)
            ]
            side.totals.add_sum(NOT_VPN, sums[0] - len(each.at), *rest)
        self._note(lines, judged[0])
        for index, each in enumerate(judged):
            self._check(lines, each, index)
        self._count_pairs(lines, judged)

    def _note(self, lines: Lines, judged: Judged) -> None:
        unseen = self._judges[0].unseen(lines, judged)
        self.facts.turned += int(judged.is_turned.sum())
        self.facts.first_packets += unseen.first_packets
        self.facts.gre += unseen.gre
        self.facts.gre_unregistered += unseen.gre_unregistered

    def _count_pairs(self, lines: Lines, judged: list[Judged]) -> None:
        if len(judged) == 1:
            at, code, reason, _, turned, _ = judged[0]
            registration = self._judges[0].registrations(judged[0])
            other = reason
            keep = np.flatnonzero(STOPPED[reason])
        else:
            numbers = [judge.registrations(each) for judge, each in zip(self._judges, judged, strict=True)]
            at, one, two = _joined(judged[0], judged[1], numbers[0], numbers[1])
            (code, reason, turned, registration), (code2, other, turned2, registration2) = one, two
            code = np.where(code == 0, code2, code)
            registration = np.where(registration == 0, registration2, registration)
            turned = np.where(reason == NOT_VPN, turned2, turned)
            keep = np.flatnonzero(STOPPED[reason] | STOPPED[other])
        if not len(keep):
            return
        code, reason, other, turned = code[keep], reason[keep], other[keep], turned[keep]
        mine = lines.take(at[keep])
        mine = mine.turned(turned ^ self.ends.is_backwards(mine.turned(turned), code))
        self.result.pairs.add(
            Rows(
                lines.version,
                mine.src,
                mine.dst,
                mine.dst_port,
                code,
                reason,
                other,
                registration[keep],
                mine.start_ns if self.result.at_ns is None else np.full(len(mine), self.result.at_ns),
                mine.packets,
                mine.bytes,
            )
        )

    def _check(self, lines: Lines, judged: Judged, index: int) -> None:
        some = _FIRST if self.facts.checked < _FIRST else _ANY
        positions = self._sample(np.arange(len(lines)), some)
        if len(judged.at):
            positions += self._sample(judged.at, _FIRST if some == _FIRST else _RECOGNISED)
        judge = self._judges[index]
        for position in positions:
            spoken = judged.verdict(position)
            verdict, is_turned = decide_line(
                lines, position, judge.tables.index, judge.policy, judge.at_ns, self._direction
            )
            if not judge.agrees(spoken, verdict, is_turned):
                raise Mismatch(
                    f"{_words(lines, position)}: judged {spoken} under policy {judge.policy.name!r}, and decide says "
                    f"{verdict}. This is a mistake of enforcer replay: its figures are not printed"
                )
        self.facts.checked += len(positions)

    def _sample(self, positions: NDArray[np.int64], most: int) -> list[int]:
        if len(positions) > most:
            positions = self._draw.choice(positions, most, replace=False, shuffle=False)
        return positions.tolist()


def _joined(
    one: Judged, two: Judged, numbers: NDArray[np.int64], numbers2: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[NDArray, ...], tuple[NDArray, ...]]:
    """Code, reason, turned and registration of both, over the positions that either recognises."""
    at = np.union1d(one.at, two.at)
    sides = []
    for judged, registration in ((one, numbers), (two, numbers2)):
        place = np.searchsorted(at, judged.at)
        columns = []
        for values, nothing in (
            (judged.code, 0),
            (judged.reason, NOT_VPN),
            (judged.is_turned, False),
            (registration, 0),
        ):
            column = np.full(len(at), nothing, values.dtype)
            column[place] = values
            columns.append(column)
        sides.append(tuple(columns))
    return at, sides[0], sides[1]


def _words(lines: Lines, position: int) -> str:
    ends = [
        address_text(lines.version, number(lines.version, each, position)) for each in (lines.src, lines.dst)
    ]
    return (
        f"flow {ends[0]} port {lines.src_port[position]} to {ends[1]} port {lines.dst_port[position]}, "
        f"protocol {lines.protocol[position]}, at {lines.start_ns[position]} ns"
    )
