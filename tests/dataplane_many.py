"""A dataplane against decide() over very many packets: sent in batches of different flows, and a table of what was compared.

A batch that differs is played again from the start with its packets one by one, so that the message names one packet.
"""

from __future__ import annotations

import collections
import random
import time
from dataclasses import dataclass, field

from enforcer.allowlist import Allowlist
from enforcer.cells import Index
from enforcer.decide import UNJUDGED, Flow, Verdict, decide
from enforcer.packet import parse
from tests import test_dataplane_differential_world as differential
from tests.dataplane_lab import Router, router

_BATCH = 64
_CHANGE_EVERY = 200
_PROTOCOLS = {6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 51: "AH", 115: "L2TPv3"}


@dataclass
class Tally:
    """Packets compared, by family, protocol and verdict; all of them agreed, else there would be no tally."""

    counts: collections.Counter[tuple[int, str, str]] = field(default_factory=collections.Counter)
    took_s: float = 0.0

    def add(self, data: bytes, verdict: Verdict) -> None:
        packet = parse(data)
        word = verdict.reason if verdict.action == "pass" else f"{verdict.action}: {verdict.reason}"
        self.counts[packet.version, _PROTOCOLS.get(packet.protocol or 0, "other"), word] += 1

    def __str__(self) -> str:
        total = self.counts.total()
        rows = [("family", "protocol", "packets", "verdicts of decide(), each the kernel's too")]
        for version in (4, 6):
            for protocol in (*_PROTOCOLS.values(), "other"):
                words = {word: count for (family, its, word), count in self.counts.items() if (family, its) == (version, protocol)}  # fmt: skip
                if words:
                    told = ", ".join(f"{word} {count:,}" for word, count in sorted(words.items(), key=lambda each: -each[1]))  # fmt: skip
                    rows.append((f"IPv{version}", protocol, f"{sum(words.values()):,}", told))
        rows.append(("both", "all", f"{total:,}", f"{total:,} agree, 0 differ ({self.took_s:.0f} s)"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)) + f"  {row[3]}"
            for row in rows
        )


def compare_many(make_dataplane, name: str, seed: int, count: int, tally: Tally) -> None:
    """Raises AssertionError with the first packet they differ about."""
    started_s = time.monotonic()
    differs_from = _play(make_dataplane, name, seed, count, count, tally)
    if differs_from is not None:
        found = _play(make_dataplane, name, seed, count, differs_from, Tally())
        raise AssertionError(
            f"policy {name}, seed {seed}: a batch from packet {differs_from} on differs, but "
            f"not its packets one by one (ended at {found})"
        )
    tally.took_s += time.monotonic() - started_s


def _play(make_dataplane, name: str, seed: int, count: int, singly_from: int, tally: Tally) -> int | None:
    """The number of the packet at which a differing batch begins. From singly_from on, raises AssertionError instead."""
    policy, rng = differential.POLICIES[name], random.Random(seed)
    differential.random_packet.count = 0
    with router() as lab:
        with lab.inside():
            dataplane = make_dataplane(policy)
            held = {entry.registration: entry for entry in differential.ENTRIES}
            dataplane.load(Allowlist(1, held))
            before = dataplane.counters()
        index = Index(policy.match, held.values())
        marks: dict[tuple, int] = {}
        ended: dict[int, int] = {}
        batch: list[differential.Sent] = []
        first = 0
        try:
            for number in range(count):
                sent = differential.random_packet(rng)
                is_change = number % _CHANGE_EVERY == _CHANGE_EVERY - 1
                if number >= singly_from or is_change or len(batch) == _BATCH or any(sent.flow == each.flow for each in batch):  # fmt: skip
                    before = _agree(lab, dataplane, index, policy, marks, ended, before, batch, tally)
                    if before is None:
                        return first
                    batch, first = [], number
                if is_change:
                    differential.come_or_go(lab, dataplane, index, policy, marks, ended, rng)
                if number >= singly_from:
                    found = differential.disagreement(lab, dataplane, index, policy, marks, ended, sent)
                    assert found is None, f"policy {name}, seed {seed}, packet {number}: {found}"
                else:
                    batch.append(sent)
            after = _agree(lab, dataplane, index, policy, marks, ended, before, batch, tally)
            return None if after is not None else first
        finally:
            with lab.inside():
                dataplane.close()


def _agree(lab: Router, dataplane, index, policy, marks, ended, before, batch, tally: Tally):
    """Send packets of different flows. The counters after them, if the kernel counted each under decide()'s word and delivered
    what it lets pass; else None. before: the counters now."""
    if not batch:
        return before
    verdicts, after = [], before
    for sent in batch:
        mark = marks.get(sent.flow, UNJUDGED)
        verdicts.append(decide(parse(sent.data), Flow(mark, ended.get(mark)), index, policy, 1))
        if verdicts[-1].passes:
            marks[sent.flow] = verdicts[-1].mark
    counted = collections.Counter(map(differential.counted_as, verdicts))
    expected = collections.Counter(
        (sent.from_server, _forwarded(sent.data))
        for sent, verdict in zip(batch, verdicts, strict=True)
        if verdict.passes
    )
    with lab.inside():
        for side in (lab.client, lab.server):
            side.collect()
            side.seen.clear()
        for sent in batch:
            (lab.server if sent.from_server else lab.client).send(sent.data)
        deadline_s = time.monotonic() + 10
        while (
            _arrived(lab) & expected != expected
            or differential.changed(before, after := dataplane.counters()) != counted
        ):
            if time.monotonic() > deadline_s:
                return None
            time.sleep(0.001)  # reading counters may take processes (nfqueue)
        sent_keys = collections.Counter((sent.from_server, _forwarded(sent.data)) for sent in batch)
        if _arrived(lab) & sent_keys != expected:
            return None
    for sent, verdict in zip(batch, verdicts, strict=True):
        tally.add(sent.data, verdict)
    return after


def _arrived(lab: Router) -> collections.Counter[tuple[bool, bytes]]:
    """By whether it came from the server's side."""
    return collections.Counter(
        (from_server, _forwarded(data))
        for from_server, side in ((True, lab.client), (False, lab.server))
        for data in side.collect()
    )


def _forwarded(data: bytes) -> bytes:
    """Without what a router changes: time to live and header checksum, or hop limit."""
    if data[0] >> 4 == 4:
        return data[:8] + b"\0" + data[9:10] + b"\0\0" + data[12:]
    return data[:7] + b"\0" + data[8:]
