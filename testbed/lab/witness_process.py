"""The witness: counts packets by flow at each tap and writes WitnessRecords. `python -m testbed.lab.witness_process FD`.

It inherits the taps (AF_PACKET sockets) and the control socket FD, on which it reads and answers JSON lines:

{"path": "witness.jsonl.gz", "taps": [{"fd": 5, "node": "gw", "side": "inside"}], "retire_ms": 60}   first line
{"t0_monotonic_ns": N}   {"lost": true}   {"stop": true}

Until the start of the scenario is known only the last second is kept. The file is flushed every second as complete
deflate blocks: what a killed run wrote can be read.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from testbed.lab.witness_packet import Flow, flow_of, names, packets_in, transport_name
from testbed.lab.witness_ring import RETIRE_MS, Ring

BUCKET_NS = 200_000_000
# A packet may be read this much after it passed: the ring hands a block over late, the process may wait for a processor.
_LATE_NS = 1_000_000_000
_FLUSH_NS = 1_000_000_000
_BEFORE_NS = 1_000_000_000  # of the start: what was before that belongs to no attempt
_SHORT_MS = 1000  # rings that keep a block for longer want to be left alone between two


class Witness:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unread = b""
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._taps: list[tuple[str, str, Ring]] = []
        self._sockets: list[socket.socket] = []
        self._file: BinaryIO | None = None
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        # bucket -> (tap, flow) -> [first_ns, last_ns, packets, bytes], all on the monotonic clock
        self._buckets: dict[int, dict[tuple[int, Flow], list[int]]] = {}
        self._t0_ns: int | None = None
        self._counted_at_ns = time.monotonic_ns()
        self._retire_ms, self._late_ns = RETIRE_MS, _LATE_NS
        self._is_running = True

    def run(self) -> None:
        flush_at_ns = time.monotonic_ns() + _FLUSH_NS
        while self._is_running:
            for fd, _events in self._epoll.poll(0.25 if self._retire_ms < _SHORT_MS else None):
                if fd == self._control.fileno():
                    self._obey()
            self._read()
            now_ns = time.monotonic_ns()
            if now_ns >= flush_at_ns:
                self._write(now_ns - self._late_ns)
                flush_at_ns = now_ns + _FLUSH_NS

    def _read(self) -> None:
        # The kernel stamps packets with the real-time clock; all namespaces share both.
        to_monotonic_ns = time.monotonic_ns() - time.time_ns()
        buckets = self._buckets
        for tap, (_node, _side, ring) in enumerate(self._taps):
            data = ring.data
            for packets in ring.read():
                for stamp_ns, length, start, end in packets:
                    flow = flow_of(data, start, end)
                    if flow is None:
                        continue
                    at_ns = stamp_ns + to_monotonic_ns
                    bucket = buckets.get(at_ns // BUCKET_NS)
                    if bucket is None:
                        bucket = buckets[at_ns // BUCKET_NS] = {}
                    key = (tap, flow)
                    counts = bucket.get(key)
                    count = 1 if length <= 1500 else packets_in(length)
                    if counts is None:
                        bucket[key] = [at_ns, at_ns, count, length]
                    else:
                        counts[1] = at_ns
                        counts[2] += count
                        counts[3] += length

    def _write(self, until_ns: int) -> None:
        """Write the buckets that ended before until_ns, and what was lost since the last time."""
        lines: list[str] = []
        for number in sorted(self._buckets):
            if (number + 1) * BUCKET_NS > until_ns:
                break
            bucket = self._buckets.pop(number)
            if self._t0_ns is not None and (number + 1) * BUCKET_NS > self._t0_ns - _BEFORE_NS:
                lines += [self._line(tap, flow, counts) for (tap, flow), counts in bucket.items()]
        lines += self._lost_lines()
        if self._file is not None and lines:
            text = self._deflate.compress("".join(lines).encode()) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            self._file.write(text)

    def _line(self, tap: int, flow: Flow, counts: list[int]) -> str:
        node, side, _ring = self._taps[tap]
        protocol, addresses, source, destination = flow
        src, dst = names(addresses)
        return _record(
            node, side, transport_name(protocol), src, source, dst, destination, self._relative(counts)
        )

    def _lost_lines(self) -> list[str]:
        now_ns = time.monotonic_ns()
        lines: list[str] = []
        for node, side, ring in self._taps:
            if lost := ring.count_lost():
                lines.append(
                    _record(
                        node,
                        side,
                        "lost",
                        "",
                        0,
                        "",
                        0,
                        self._relative([self._counted_at_ns, now_ns, lost, 0]),
                    )
                )
        self._counted_at_ns = now_ns
        return lines

    def _relative(self, counts: list[int]) -> list[int]:
        t0_ns = self._t0_ns or 0
        return [counts[0] - t0_ns, counts[1] - t0_ns, *counts[2:]]

    def _obey(self) -> None:
        data = self._control.recv(1 << 16)
        if not data:
            self._end()
            return
        self._unread += data
        while b"\n" in self._unread:
            line, self._unread = self._unread.split(b"\n", 1)
            answer = self._carry_out(json.loads(line))
            self._control.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        if "taps" in order:
            self._file = Path(order["path"]).open("wb", buffering=0)  # noqa: SIM115
            self._file.write(self._deflate.flush(zlib.Z_SYNC_FLUSH))
            self._retire_ms = order["retire_ms"]
            self._late_ns = _LATE_NS + self._retire_ms * 1_000_000
            for each in order["taps"]:
                tap = socket.socket(fileno=each["fd"])
                self._sockets.append(tap)
                self._taps.append((each["node"], each["side"], Ring(tap)))
                self._epoll.register(tap.fileno(), select.EPOLLIN)
        elif "t0_monotonic_ns" in order:
            self._t0_ns = order["t0_monotonic_ns"]
        elif "lost" in order:
            self._write(time.monotonic_ns() - self._late_ns)
            lost: dict[str, int] = {}
            for node, _side, ring in self._taps:
                lost[node] = lost.get(node, 0) + ring.lost
            return {"ok": True, "lost": lost}
        elif "stop" in order:
            self._end()
        return {"ok": True}

    def _end(self) -> None:
        """Take what the rings still hold, write everything, close the file properly."""
        deadline_ns = time.monotonic_ns() + 2 * self._retire_ms * 1_000_000
        while time.monotonic_ns() < deadline_ns:
            time.sleep(self._retire_ms / 2000)
            self._read()
        self._write(1 << 62)
        if self._file is not None:
            self._file.write(self._deflate.flush(zlib.Z_FINISH))
            self._file.close()
        self._is_running = False


def main() -> None:
    gc.freeze()
    Witness(socket.socket(fileno=int(sys.argv[1]))).run()


def _record(
    node: str, side: str, transport: str, src: str, src_port: int, dst: str, dst_port: int, counts: list[int]
) -> str:
    """A WitnessRecord as one line; names come from the plan, which allows no quotes in them."""
    first_ns, last_ns, packets, length = counts
    return (
        f'{{"node":"{node}","side":"{side}","transport":"{transport}","src":"{src}","src_port":{src_port},"dst":"{dst}",'
        f'"dst_port":{dst_port},"first_ns":{first_ns},"last_ns":{last_ns},"packets":{packets},"bytes":{length}}}\n'
    )


if __name__ == "__main__":
    main()
