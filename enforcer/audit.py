"""The audit: what the enforcer did and why, one JSON object a line, appended as it happens. Never payload.

Every line has `time` (RFC 3339, UTC), `monotonic_ns`, `realtime_ns` and `kind`:
  started, stopped          the agent's life
  applied                   serial, how ("state", "snapshot", "delta", "reload", "validity"), entries, added, removed
  refused-update            word, text: an update that changed nothing
  failure                   condition, state ("begun", "ended"), behaviour ("keep", "allow", "block", "accept")
  block, would-block        reason, protocol, transport, src, src_port, dst, dst_port, registration, registration_state, count
  counters                  packets and bytes by reason, once in a while
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enforcer.dataplanes import Stop

REPEAT_WINDOW_NS = 1_000_000_000
_MOST_FLOWS = 100_000


class Audit:
    """Appends to a file; each line reaches it whole, at once. Raises OSError when the file cannot be written."""

    def __init__(
        self,
        path: Path,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        realtime_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._monotonic_ns, self._realtime_ns = monotonic_ns, realtime_ns

    def write(self, kind: str, at_ns: int | None = None, **data: Any) -> None:
        """One line. at_ns (Unix): when it happened, if that was before now."""
        now_ns = self._realtime_ns()
        at_ns = now_ns if at_ns is None else min(at_ns, now_ns)
        head = {
            "time": rfc3339(at_ns),
            "monotonic_ns": self._monotonic_ns() - (now_ns - at_ns),
            "realtime_ns": at_ns,
            "kind": kind,
        }
        self._file.write(json.dumps(head | data, separators=(",", ":")) + "\n")

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
    _flows: dict[tuple[Any, ...], _Repeats] = field(default_factory=dict)

    def note(self, stop: Stop, now_ns: int) -> None:
        self.reported += 1
        key = (stop.reason, stop.transport, stop.src, stop.src_port, stop.dst, stop.dst_port)
        held = self._flows.get(key)
        if held is not None:
            held.count += 1
            held.stop = stop
            return
        if len(self._flows) >= _MOST_FLOWS:
            self.flush(now_ns, everything=True)
        data = self.describe(stop)
        self._write(stop, data, 1)
        self._flows[key] = _Repeats(stop, data, 0, now_ns + REPEAT_WINDOW_NS)

    def flush(self, now_ns: int, everything: bool = False) -> None:
        """Write the repeats whose second is over; call it a few times a second."""
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

    def _write(self, stop: Stop, data: dict[str, Any], count: int) -> None:
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
    """The lines of an audit file; a last half line (the enforcer is writing it) is left out. Raises OSError, ValueError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not an audit line: {error}") from error


def rfc3339(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06}Z"
