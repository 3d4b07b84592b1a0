"""The audit: what the enforcer did and why, one JSON object a line, appended as it happens. Never payload.

Addresses of stopped packets, and those in texts, are written as the policy's `audit` says (enforcer.privacy).

Every line has `time` (RFC 3339, UTC), `monotonic_ns`, `realtime_ns` and `kind`:
  started, stopped          the agent's life; addresses: how they are written
  applied                   serial, how ("state", "snapshot", "delta", "reload", "validity"), entries, added, removed
  refused-update            word, text: an update that changed nothing
  failure                   condition, state ("begun", "ended"), behaviour ("keep", "allow", "block", "accept")
  block, would-block        reason, protocol, transport, src, src_port, dst, dst_port, registration, registration_state, count
  not-listed                reason, protocol, count: stopped packets of a second that had more lines than the audit takes
  lines-lost                count: lines for which the disk had no room, told as soon as it has some again
  counters                  packets and bytes by reason, once in a while
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from enforcer.audit_file import AuditFile
from enforcer.dataplanes import Stop
from enforcer.privacy import Addresses

REPEAT_WINDOW_NS = 1_000_000_000
_MOST_FLOWS = 100_000
MOST_FILE_BYTES, MOST_FILES = 100_000_000, 10
MOST_LINES = 1000  # a second, about stopped packets; the kernel reports no more of one reason and protocol


class Audit:
    """Appends to a file; each line reaches it whole, at once, or is counted in `lost`. Raises OSError when it cannot be opened."""

    def __init__(
        self,
        path: Path,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        realtime_ns: Callable[[], int] = time.time_ns,
        most_bytes: int = MOST_FILE_BYTES,
        most_files: int = MOST_FILES,
        addresses: Addresses | None = None,
    ) -> None:
        self._file = AuditFile(path, most_bytes, most_files)
        self._told_lost = 0
        self._monotonic_ns, self._realtime_ns = monotonic_ns, realtime_ns
        self.addresses = addresses or Addresses()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._file.lost

    @property
    def failing(self) -> str:
        """Why lines cannot be written now; "" when they can."""
        return self._file.failing

    def write(self, kind: str, at_ns: int | None = None, **data: Any) -> None:
        """One line. at_ns (Unix): when it happened, if that was before now."""
        self.tell_lost()
        for key, show in (
            ("src", self.addresses.shown),
            ("dst", self.addresses.shown),
            ("text", self.addresses.shown_in),
        ):
            if key in data:
                data[key] = show(data[key])
        self._append(kind, at_ns, data)

    def tell_lost(self) -> None:
        """Try again to write how many lines were lost; each line does so first."""
        lost = self._file.lost
        if lost > self._told_lost:
            if self._append("lines-lost", None, {"count": lost - self._told_lost}):
                self._told_lost = lost
            else:
                self._file.lost = lost  # this line is not one of them

    def _append(self, kind: str, at_ns: int | None, data: dict[str, Any]) -> bool:
        now_ns = self._realtime_ns()
        at_ns = now_ns if at_ns is None else min(at_ns, now_ns)
        head = {
            "time": rfc3339(at_ns),
            "monotonic_ns": self._monotonic_ns() - (now_ns - at_ns),
            "realtime_ns": at_ns,
            "kind": kind,
        }
        return self._file.write(json.dumps(head | data, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True)
class _Repeats:
    stop: Stop
    data: dict[str, Any]
    count: int
    window_ends_ns: int


@dataclass(slots=True)
class Blocks:
    """Stopped packets as audit lines: the first of a flow at once, its repeats as one line a second with their count.

    kind: "block" or "would-block". describe gives what the agent knows of a stopped packet (registration and its state).
    """

    audit: Audit
    kind: str
    describe: Callable[[Stop], dict[str, Any]]
    reported: int = 0
    most_lines: int = MOST_LINES
    _flows: dict[tuple[Any, ...], _Repeats] = field(default_factory=dict)
    _lines: int = 0
    _second_ends_ns: int = 0
    _not_listed: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def note(self, stop: Stop, now_ns: int) -> None:
        self.reported += 1
        key = (stop.reason, stop.transport, stop.src, stop.src_port, stop.dst, stop.dst_port)
        held = self._flows.get(key)
        if held is not None and (held.count or now_ns < held.window_ends_ns):
            held.count += 1
            held.stop = stop
            return
        self._turn_second(now_ns)
        if self._lines >= self.most_lines:
            self._not_listed[stop.reason, stop.protocol] += 1
            return
        if len(self._flows) >= _MOST_FLOWS:
            self.flush(now_ns, everything=True)
        data = self.describe(stop)
        self._write(stop, data, 1)
        self._flows[key] = _Repeats(stop, data, 0, now_ns + REPEAT_WINDOW_NS)

    def flush(self, now_ns: int, everything: bool = False) -> None:
        """Write the repeats whose second is over; call it a few times a second."""
        self._turn_second(now_ns, everything)
        for key, held in list(self._flows.items()):
            if not everything and now_ns < held.window_ends_ns:
                continue
            if not held.count:
                del self._flows[key]
                continue
            self._write(held.stop, held.data, held.count)
            held.count, held.window_ends_ns = 0, now_ns + REPEAT_WINDOW_NS
            if everything:
                del self._flows[key]

    @property
    def due_ns(self) -> int | None:
        """When `flush` has lines to write; None while it has not."""
        held = [each.window_ends_ns for each in self._flows.values() if each.count]
        if self._not_listed:
            held.append(self._second_ends_ns)
        return min(held, default=None)

    def _turn_second(self, now_ns: int, at_once: bool = False) -> None:
        if now_ns < self._second_ends_ns and not at_once:
            return
        for (reason, protocol), count in sorted(self._not_listed.items(), key=str):
            self.audit.write("not-listed", reason=reason, protocol=protocol, count=count)
        self._not_listed.clear()
        self._lines, self._second_ends_ns = 0, now_ns + REPEAT_WINDOW_NS

    def _write(self, stop: Stop, data: dict[str, Any], count: int) -> None:
        self._lines += 1
        self.audit.write(
            self.kind,
            stop.time_ns,
            reason=stop.reason,
            protocol=stop.protocol,
            transport=stop.transport,
            src=stop.src,
            src_port=stop.src_port,
            dst=stop.dst,
            dst_port=stop.dst_port,
            **data,
            count=count,
        )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an audit, of all its files, PATH.2, PATH.1 and so on to PATH: the oldest first. A last half line (the enforcer is
    writing it) is left out. Raises OSError, ValueError.
    """
    with contextlib.ExitStack() as stack:
        files: dict[int, tuple[IO[bytes], Path]] = {}
        each, number = path, 0
        while not number or each.exists():
            file = stack.enter_context(each.open("rb"))
            # The newest is opened first: one that becomes the next one's number meanwhile is met twice, and none is missed.
            files.setdefault(os.fstat(file.fileno()).st_ino, (file, each))
            number += 1
            each = path.with_name(f"{path.name}.{number}")
        for file, name in reversed(files.values()):
            yield from _lines(file, name)


def _lines(file: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(file, 1):
        if text.startswith(b"\x1f\x8b"):
            raise ValueError(f"{path}: is compressed; write gunzip -k {path}, and give what it makes")
        if not text.endswith(b"\n"):
            return
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not an audit line: {error}") from error
        if not isinstance(line, dict) or not {"kind", "realtime_ns"} <= line.keys():
            raise ValueError(
                f"{path}:{number}: not a line of an enforcer's audit: it has no kind and realtime_ns; give the file that the enforcer's "
                "configuration names (a run's folder has one for all its enforcers, in another form)"
            )
        yield line


def rfc3339(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06}Z"
