"""The holder: one process that gives links delay, jitter and loss where the kernel has no netem. `python -m testbed.lab.holder FD`.

It inherits one NFQUEUE socket for each namespace that needs it (bound and with their rules placed by links.py) and the
control socket FD, on which it reads and answers JSON lines:

{"sockets": [{"fd": 5, "queues": [{"number": 30000, "name": "cable/ab", "seed": "…", "delay_ns": …, …}]}]}   first line
{"set": "cable/ab", "delay_ns": …, "jitter_ns": …, "loss_ratio": …}    {"counters": true}    {"stop": true}

Only packet ids come here; the kernel keeps the packets, and verdicts go back in batches ("all up to this id"). It ends,
releasing what it holds, when the control socket closes.
"""

from __future__ import annotations

import ctypes
import gc
import heapq
import json
import os
import select
import socket
import sys
import time
from typing import Any

from testbed.lab.holder_fifo import Fifo
from testbed.lab.holder_socket import QueueSocket

# A sleep overshoots by some tens of microseconds (measured); the rest of the wait is spent polling.
_POLLING_NS = 60_000
# Above 8 packets a millisecond packets are fetched every 150 microseconds instead of at once.
_WINDOW_NS, _BUSY_PACKETS = 1_000_000, 8
_NAP_NS = 100_000
_READS_AT_ONCE = 4
_LATENESS_KEPT = 50_000
_PR_SET_TIMERSLACK = 29


class Holder:
    """Reads packets' ids, keeps them as long as their link's delay says, sends the verdicts."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unread = b""
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._sockets: dict[int, QueueSocket] = {}
        self._fifos: list[Fifo] = []
        self._owner: list[QueueSocket] = []
        self._by_name: dict[str, int] = {}
        self._due: list[tuple[int, int]] = []
        self._lateness_ns: list[int] = []
        self._arrived, self._window_from_ns, self._busy_until_ns = 0, 0, 0
        self._is_running = True
        self._scheduling = _be_punctual()

    def run(self) -> None:
        due, control = self._due, self._control.fileno()
        monotonic_ns, poll, sockets = time.monotonic_ns, self._epoll.poll, self._sockets
        sleep_on = [self._epoll.fileno()]
        while self._is_running:
            now_ns = monotonic_ns()
            if due and due[0][0] <= now_ns:
                self._release(now_ns)
                now_ns = monotonic_ns()
            if now_ns < self._busy_until_ns:
                # Woken by every packet, this process would take the processor from whoever sends them.
                time.sleep(_NAP_NS / 1e9)
                ready = poll(0)
            elif not due:
                ready = poll(-1)
            else:
                wait_ns = due[0][0] - now_ns
                if wait_ns > _POLLING_NS:
                    # epoll counts in milliseconds, select in microseconds.
                    select.select(sleep_on, (), (), (wait_ns - _POLLING_NS) / 1e9)
                ready = poll(0)
            for fd, _events in ready:
                if fd == control:
                    self._obey()
                else:
                    self._read(sockets[fd])
            self._count_arrivals()
        self._release(1 << 62)

    def _read(self, source: QueueSocket) -> None:
        fifos, due = self._fifos, self._due
        for _ in range(_READS_AT_ONCE):
            now_ns = time.monotonic_ns()
            if now_ns < self._busy_until_ns:
                now_ns -= _NAP_NS // 2  # they came some time during the nap
            count, arrived = source.receive()
            self._arrived += count
            for index, ids in arrived:
                fifo = fifos[index]
                if not fifo.entries:
                    fifo.put(now_ns, ids)
                    heapq.heappush(due, (fifo.entries[0][0], index))
                else:
                    fifo.put(now_ns, ids)
            if count < source.slots:
                return

    def _count_arrivals(self) -> None:
        """More than a few packets a millisecond: look at the clock, not at every packet, for the next while."""
        now_ns = time.monotonic_ns()
        if now_ns - self._window_from_ns > _WINDOW_NS:
            if self._arrived > _BUSY_PACKETS:
                self._busy_until_ns = now_ns + 2 * _WINDOW_NS
            self._arrived, self._window_from_ns = 0, now_ns

    def _release(self, now_ns: int) -> None:
        due, fifos, owner = self._due, self._fifos, self._owner
        lateness = self._lateness_ns
        while due and due[0][0] <= now_ns:
            _, index = heapq.heappop(due)
            fifo = fifos[index]
            owner[index].send(fifo.take(now_ns, lateness))
            if fifo.entries:
                heapq.heappush(due, (fifo.entries[0][0], index))
        if len(lateness) > _LATENESS_KEPT:
            del lateness[: _LATENESS_KEPT // 2]

    def _obey(self) -> None:
        data = self._control.recv(1 << 16)
        if not data:
            self._is_running = False
            return
        self._unread += data
        while b"\n" in self._unread:
            line, self._unread = self._unread.split(b"\n", 1)
            answer = self._carry_out(json.loads(line))
            self._control.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        if "sockets" in order:
            for each in order["sockets"]:
                self._adopt(each)
            return {"ok": True}
        if "set" in order:
            index = self._by_name[order["set"]]
            _set(self._fifos[index], order)
            self._owner[index].keep_segments(self._fifos[index].raw_queue, self._fifos[index].loss_ratio == 0)
            return {"ok": True}
        if "counters" in order:
            return self._counters()
        self._is_running = not order.get("stop", False)
        return {"ok": True}

    def _adopt(self, given: dict[str, Any]) -> None:
        source = QueueSocket(given["fd"])
        for queue in given["queues"]:
            fifo = Fifo(queue["name"], socket.htons(queue["number"]), queue["seed"])
            _set(fifo, queue)
            index = len(self._fifos)
            self._fifos.append(fifo)
            self._owner.append(source)
            self._by_name[fifo.name] = index
            source.own(fifo.raw_queue, index)
        self._sockets[given["fd"]] = source
        self._epoll.register(given["fd"], select.EPOLLIN)

    def _counters(self) -> dict[str, Any]:
        ordered = sorted(self._lateness_ns)
        return {
            "links": {
                fifo.name: {"packets": fifo.packets, "lost": fifo.lost, "waiting": fifo.waiting}
                for fifo in self._fifos
            },
            "overflows": sum(source.overflows for source in self._sockets.values()),
            "refused_verdicts": sum(source.refused for source in self._sockets.values()),
            "lateness_samples": len(ordered),
            "lateness_ns": {
                name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            },
            "cpu_s": round(time.process_time(), 3),
            "scheduling": self._scheduling,
        }


def main() -> None:
    # Ctrl-C at a terminal is for the process that plays; it ends the holder by closing the control socket.
    gc.collect()
    gc.freeze()
    gc.disable()
    Holder(socket.socket(fileno=int(sys.argv[1]))).run()


def _set(fifo: Fifo, wanted: dict[str, Any]) -> None:
    fifo.delay_ns = int(wanted["delay_ns"])
    fifo.jitter_ns = int(wanted["jitter_ns"])
    fifo.loss_ratio = float(wanted["loss_ratio"])


def _be_punctual() -> str:
    """Ask for exact timers and to run at once when due; says what was granted."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "real-time"
    except OSError:
        pass
    try:
        os.nice(-10)
        return "nice"
    except OSError:
        return "ordinary"


if __name__ == "__main__":
    main()
