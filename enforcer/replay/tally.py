"""What comes out of a replay, counted in bounded memory: totals exactly, and who talked to whom where something was stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from enforcer.replay.judge import REASONS, RECOGNISED, STOPPED
from enforcer.replay.lines import Addresses

_MOST_PAIRS = 500_000
_SUMS = ("flows", "packets", "bytes")
_FOUR, _SIX = (
    ("subscriber", "endpoint"),
    ("subscriber_high", "subscriber_low", "endpoint_high", "endpoint_low"),
)
_KEYS = ("port", "code", "reason", "other", "registration")


class Rows(NamedTuple):
    """Flows that were recognised as VPN by one policy at least, a column an array; subscriber and endpoint as in Lines.

    reason: under the policy; other: under the one it is compared with (the same without one). registration: which
    one let it pass under either, 0 without one. code: judge.RECOGNISED.
    """

    version: int
    subscriber: Addresses
    endpoint: Addresses
    port: NDArray[np.uint16]
    code: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    other: NDArray[np.uint8]
    registration: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    packets: NDArray[np.int64]
    bytes: NDArray[np.int64]


@dataclass(slots=True)
class Totals:
    """Flows, packets and bytes (the last axis) by reason and by protocol code; of one policy."""

    by: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(REASONS), len(RECOGNISED), 3), np.int64)
    )

    def add(
        self,
        reason: NDArray[np.uint8],
        code: NDArray[np.uint8],
        packets: NDArray[np.int64],
        octets: NDArray[np.int64],
    ) -> None:
        """Count flows. Sums stay whole numbers: a batch's are far below 2**53."""
        place = reason.astype(np.int64) * len(RECOGNISED) + code
        size = len(REASONS) * len(RECOGNISED)
        for axis, weights in enumerate((None, packets, octets)):
            counted = np.bincount(place, weights, minlength=size)
            self.by[:, :, axis] += counted.astype(np.int64).reshape(self.by.shape[:2])

    def add_sum(self, reason: int, flows: int, packets: int, octets: int, code: int = 0) -> None:
        """Count flows whose sums are known already."""
        self.by[reason, code] += (flows, packets, octets)

    def reasons(self) -> dict[str, list[int]]:
        """Flows, packets, bytes by reason, those that occur."""
        return {REASONS[index]: each.tolist() for index, each in enumerate(self.by.sum(axis=1)) if each.any()}

    def stopped_protocols(self) -> dict[str, list[int]]:
        """Flows, packets, bytes by protocol, of what is stopped."""
        found: dict[str, list[int]] = {}
        for code, each in enumerate(self.by[STOPPED].sum(axis=0).tolist()):
            recognised = RECOGNISED[code]
            if any(each):
                name = recognised.protocol if recognised else "unknown"
                found[name] = [a + b for a, b in zip(found.get(name, [0, 0, 0]), each, strict=True)]
        return found


class Pairs:
    """Sums by (subscriber, endpoint, port, protocol, verdicts, entry), with the first and the last start.

    At most `most` pairs are kept for each family: above it those with the fewest flows are let go, and `lost` counts them.
    """

    def __init__(self, most: int = _MOST_PAIRS) -> None:
        self._most = most
        self._parts: dict[int, list[pa.Table]] = {4: [], 6: []}
        self._held = {4: 0, 6: 0}
        self.lost_pairs = 0
        self.lost_flows = 0
        # Flows, packets, bytes by reason under the policy and under the other; exact, whatever was let go.
        self.changes = np.zeros((len(REASONS), len(REASONS), 3), np.int64)

    def add(self, rows: Rows) -> None:
        if not len(rows.port):
            return
        place = rows.reason.astype(np.int64) * len(REASONS) + rows.other
        for axis, weights in enumerate((None, rows.packets, rows.bytes)):
            counted = np.bincount(place, weights, minlength=len(REASONS) ** 2)
            self.changes[:, :, axis] += counted.astype(np.int64).reshape(len(REASONS), -1)
        columns: dict[str, NDArray] = {}
        if rows.version == 4:
            columns |= {"subscriber": rows.subscriber, "endpoint": rows.endpoint}
        else:
            for name, each in (("subscriber", rows.subscriber), ("endpoint", rows.endpoint)):
                columns |= {f"{name}_high": each[:, 0], f"{name}_low": each[:, 1]}
        columns |= {name: getattr(rows, name) for name in _KEYS}
        columns |= {"flows": np.ones(len(rows.port), np.int64), "packets": rows.packets, "bytes": rows.bytes}
        columns |= {"first": rows.start_ns, "last": rows.start_ns}
        table = pa.table({name: pa.array(np.ascontiguousarray(values)) for name, values in columns.items()})
        part = _grouped(rows.version, table)
        self._parts[rows.version].append(part)
        self._held[rows.version] += len(part)
        if self._held[rows.version] > 2 * self._most:
            self._merge(rows.version, prune=True)

    def table(self, version: int) -> pa.Table | None:
        """All pairs of a family, most flows first; None without any."""
        if not self._parts[version]:
            return None
        self._merge(version, prune=False)
        return self._parts[version][0].sort_by([("flows", "descending"), ("bytes", "descending")])

    def _merge(self, version: int, prune: bool) -> None:
        table = _grouped(version, pa.concat_tables(self._parts[version]))
        if prune and len(table) > self._most:
            table = table.sort_by([("flows", "descending"), ("bytes", "descending")])
            rest = table.slice(self._most)
            self.lost_pairs += len(rest)
            self.lost_flows += int(np.sum(rest.column("flows").to_numpy()))
            table = table.slice(0, self._most).combine_chunks()
        self._parts[version] = [table]
        self._held[version] = len(table)


def _grouped(version: int, table: pa.Table) -> pa.Table:
    keys = [*(_FOUR if version == 4 else _SIX), *_KEYS]
    sums = [(name, "sum") for name in _SUMS]
    found = table.group_by(keys, use_threads=False).aggregate([*sums, ("first", "min"), ("last", "max")])
    return found.rename_columns(
        [name.rsplit("_sum", 1)[0].removesuffix("_min").removesuffix("_max") for name in found.column_names]
    )
