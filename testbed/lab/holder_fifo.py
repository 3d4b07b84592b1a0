"""What a held link does to its packets: when each is due, and which verdicts release those that are. Pure, no I/O.

One Fifo is one direction of one link. Packets keep their order whatever the jitter, as on a real line: a packet is never
due before the one in front of it. What a change of delay finds waiting keeps the time it was given, and what comes after
it stays behind it. A lost packet leaves the queue in its turn, so that a verdict always concerns the queue's head.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from testbed.lab.nfnetlink import NF_ACCEPT, NF_DROP, verdict, verdict_up_to


class Fifo:
    """delay_ns one-way; jitter_ns: uniform within ±jitter_ns of the delay, never below 0; loss_ratio 0..1 per packet.

    raw_queue is the queue's number as the kernel writes it (big-endian, read natively); packet ids likewise.
    """

    __slots__ = (
        "delay_ns",
        "entries",
        "jitter_ns",
        "last_due_ns",
        "lost",
        "loss_ratio",
        "name",
        "packets",
        "random",
        "raw_queue",
        "waiting",
    )

    def __init__(self, name: str, raw_queue: int, seed: str) -> None:
        self.name = name
        self.raw_queue = raw_queue
        self.delay_ns = 0
        self.jitter_ns = 0
        self.loss_ratio = 0.0
        self.random = Random(seed)
        # (due_ns, id of the last packet, packets, decision): a run of packets with one verdict.
        self.entries: deque[tuple[int, int, int, int]] = deque()
        self.last_due_ns = 0
        self.packets = 0
        self.lost = 0
        self.waiting = 0

    @property
    def is_plain(self) -> bool:
        """Every packet gets the same delay: a run can be put as one."""
        return not self.jitter_ns and not self.loss_ratio

    def put_run(self, now_ns: int, last_id: int, count: int) -> None:
        """Packets that arrived together, the last of them last_id. Only for a plain link."""
        due_ns = now_ns + self.delay_ns
        if due_ns < self.last_due_ns:
            due_ns = self.last_due_ns
        else:
            self.last_due_ns = due_ns
        self.entries.append((due_ns, last_id, count, NF_ACCEPT))
        self.packets += count
        self.waiting += count

    def put(self, now_ns: int, ids: Sequence[int]) -> None:
        """Packets that arrived together, in order."""
        if self.is_plain:
            self.put_run(now_ns, ids[-1], len(ids))
            return
        draw = self.random.random
        for packet_id in ids:
            delay_ns = self.delay_ns
            if self.jitter_ns:
                delay_ns = max(0, delay_ns + int((2.0 * draw() - 1.0) * self.jitter_ns))
            is_lost = self.loss_ratio > 0.0 and draw() < self.loss_ratio
            due_ns = max(now_ns + delay_ns, self.last_due_ns)
            self.last_due_ns = due_ns
            self.lost += is_lost
            self.entries.append((due_ns, packet_id, 1, NF_DROP if is_lost else NF_ACCEPT))
        self.packets += len(ids)
        self.waiting += len(ids)

    def take(self, now_ns: int, lateness_ns: list[int]) -> bytes:
        """The verdicts on all that is due; appends how late each run is."""
        entries = self.entries
        messages = b""
        run = -1
        while entries and entries[0][0] <= now_ns:
            due_ns, last_id, count, decision = entries.popleft()
            lateness_ns.append(now_ns - due_ns)
            self.waiting -= count
            if decision == NF_ACCEPT:
                run = last_id
                continue
            if run >= 0:
                messages += verdict_up_to(self.raw_queue, run, NF_ACCEPT)
                run = -1
            messages += verdict(self.raw_queue, last_id, NF_DROP)
        if run >= 0:
            messages += verdict_up_to(self.raw_queue, run, NF_ACCEPT)
        return messages
