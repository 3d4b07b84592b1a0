"""The allowlist's cells (enforcer/cells.py) as hash tables of arrays: many flows are looked up in one go, exactly.

One table a shape: ordered linear probing over 64-bit hashes, built by one sort. A hash only finds a candidate; the key itself is
compared before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from enforcer.cells import Index, PackedKey, Shape
from enforcer.replay.lines import Addresses, Lines

NEVER_NS = np.iinfo(np.int64).max
_LOW = (1 << 64) - 1
# Odd multipliers of splitmix64 (Steele, Lea, Flood 2014) and the golden ratio.
_GOLDEN, _FIRST, _SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


class Tables:
    """All entries of an index as tables. Rows are positions in `entries`, which is ordered by registration number."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.entries = sorted(index.entries.values(), key=lambda entry: entry.registration)
        self.valid_from_ns = np.array([entry.valid_from_ns for entry in self.entries], np.int64)
        self.valid_until_ns = np.array(
            [NEVER_NS if entry.valid_until_ns is None else entry.valid_until_ns for entry in self.entries],
            np.int64,
        )
        row_of = {entry.registration: row for row, entry in enumerate(self.entries)}
        self._tables = {
            shape: _Table(shape, *_keys_and_rows(table, row_of)) for shape, table in index.tables.items()
        }

    def find(self, lines: Lines, kind: str, now_ns: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The row of the entry that covers each line, as Index.find gives it; -1 without one.

        now_ns: when it must be valid, a moment a line (None: whatever its validity).
        """
        found = np.full(len(lines), -1, np.int64)
        pending = np.arange(len(lines))
        for shape in self.index.shapes(lines.version, kind):
            table = self._tables[shape]
            for turned in (False, True):
                if not len(pending):
                    return found
                if turned:
                    group = table.groups(lines.dst[pending], lines.src[pending], lines.src_port[pending])
                else:
                    group = table.groups(lines.src[pending], lines.dst[pending], lines.dst_port[pending])
                hits = np.flatnonzero(group >= 0)
                if not len(hits):
                    continue
                moment = None if now_ns is None else now_ns[pending[hits]]
                rows = self._first_valid(table, group[hits], moment)
                found[pending[hits]] = rows
                hits = hits[rows >= 0]
                keep = np.ones(len(pending), bool)
                keep[hits] = False
                pending = pending[keep]
        return found

    def members(self, lines: Lines, kind: str) -> list[list[int]]:
        """All rows that cover each line under any shape, whatever their validity; for few lines."""
        found: list[set[int]] = [set() for _ in range(len(lines))]
        for shape in self.index.shapes(lines.version, kind):
            table = self._tables[shape]
            for src, dst, port in (
                (lines.src, lines.dst, lines.dst_port),
                (lines.dst, lines.src, lines.src_port),
            ):
                groups = table.groups(src, dst, port)
                for position in np.flatnonzero(groups >= 0).tolist():
                    group = groups[position]
                    found[position].update(table.rows[table.first[group] : table.first[group + 1]].tolist())
        return [sorted(rows) for rows in found]

    def _first_valid(
        self, table: _Table, group: NDArray[np.int64], now_ns: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        if now_ns is None:
            return table.rows[table.first[group]]
        found = np.full(len(group), -1, np.int64)
        place = table.first[group]
        end = table.first[group + 1]
        pending = np.arange(len(group))
        while len(pending):
            rows = table.rows[place[pending]]
            moment = now_ns[pending]
            is_valid = (self.valid_from_ns[rows] <= moment) & (moment < self.valid_until_ns[rows])
            found[pending[is_valid]] = rows[is_valid]
            pending = pending[~is_valid]
            place[pending] += 1
            pending = pending[place[pending] < end[pending]]
        return found


class _Table:
    """The cells of one shape. Group g are the entries of one key: rows[first[g]:first[g + 1]], lowest registration first."""

    def __init__(self, shape: Shape, keys: list[PackedKey], rows: list[int]) -> None:
        self._masks = (_mask(shape.version, shape.subscriber_bits), _mask(shape.version, shape.endpoint_bits))
        self._has_port = shape.has_port
        subscriber, endpoint, port = _columns(shape, keys)
        # Which tops of addresses and which ports any key has: most keys asked for in the wrong direction go no further.
        self._subscribers = _tops(subscriber, shape.subscriber_bits)
        self._endpoints = _tops(endpoint, shape.endpoint_bits)
        self._ports: NDArray[np.bool_] | None = None
        if shape.has_port:
            self._ports = np.zeros(1 << 16, bool)
            self._ports[port] = True
        words = _words(self._masks, shape.has_port, subscriber, endpoint, port)
        row = np.array(rows, np.int64)
        seed = _GOLDEN
        while True:
            hashes = _hash(words, seed)
            order = np.lexsort((row, hashes))
            hashes, sorted_words, sorted_rows = hashes[order], [word[order] for word in words], row[order]
            starts_hash = np.r_[True, hashes[1:] != hashes[:-1]]
            starts_key = np.r_[True, np.any([word[1:] != word[:-1] for word in sorted_words], axis=0)]
            if np.array_equal(starts_hash, starts_key):
                break
            seed = seed * _FIRST + _GOLDEN  # two keys share a hash: once in 2**64 / n**2
        self._seed = seed
        # The same entry may give one cell twice (overlapping prefixes).
        is_new = starts_key | np.r_[True, sorted_rows[1:] != sorted_rows[:-1]]
        self.rows = sorted_rows[is_new]
        begins = np.flatnonzero(starts_key[is_new])
        self.first = np.append(begins, len(self.rows)).astype(np.int64)
        keys_at = np.flatnonzero(starts_key)
        self._words = [word[keys_at] for word in sorted_words]
        distinct = hashes[keys_at]
        bits = max(4, int(len(distinct) * 2 - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        counting = np.arange(len(distinct))
        slots = np.maximum.accumulate((distinct >> self._shift).astype(np.int64) - counting) + counting
        size = max(1 << bits, int(slots[-1]) + 1) + 1  # the last slot is empty: each search ends
        self._hashes = np.zeros(size, np.uint64)
        self._hashes[slots] = distinct
        self._groups = np.full(size, -1, np.int64)
        self._groups[slots] = counting

    def groups(
        self, subscriber: Addresses, endpoint: Addresses, port: NDArray[np.uint16]
    ) -> NDArray[np.int64]:
        """Which group each key is; -1 when it is none."""
        may = self._subscribers[_top(subscriber)] & self._endpoints[_top(endpoint)]
        if self._ports is not None:
            may &= self._ports[port]
        some = np.flatnonzero(may)
        if len(some) == len(may):
            return self._groups_of(subscriber, endpoint, port)
        found = np.full(len(may), -1, np.int64)
        if len(some):
            found[some] = self._groups_of(subscriber[some], endpoint[some], port[some])
        return found

    def _groups_of(
        self, subscriber: Addresses, endpoint: Addresses, port: NDArray[np.uint16]
    ) -> NDArray[np.int64]:
        words = _words(self._masks, self._has_port, subscriber, endpoint, port)
        wanted = _hash(words, self._seed)
        slot = (wanted >> self._shift).astype(np.int64)
        held = self._hashes[slot]
        found = np.where(held == wanted, self._groups[slot], -1)
        pending = np.flatnonzero((held != 0) & (held < wanted))
        while len(pending):
            slot[pending] += 1
            there = self._hashes[slot[pending]]
            hits = there == wanted[pending]
            found[pending[hits]] = self._groups[slot[pending[hits]]]
            pending = pending[(there != 0) & (there < wanted[pending])]
        hits = np.flatnonzero(found >= 0)
        if len(hits):
            wrong = np.zeros(len(hits), bool)
            for mine, asked in zip(self._words, words, strict=True):
                wrong |= mine[found[hits]] != asked[hits]
            found[hits[wrong]] = -1
        return found


def _top(addresses: Addresses) -> NDArray:
    """The highest 16 bits."""
    return addresses >> np.uint32(16) if addresses.ndim == 1 else addresses[:, 0] >> np.uint64(48)


def _tops(prefixes: Addresses, bits: int) -> NDArray[np.bool_]:
    """Which highest 16 bits an address in one of these prefixes of one length can have."""
    found = np.zeros(1 << 16, bool)
    for first in np.unique(_top(prefixes)).tolist():
        found[first : first + (1 << max(0, 16 - bits))] = True
    return found


def _mask(version: int, bits: int) -> tuple[np.uint64, ...]:
    if version == 4:
        return (np.uint64((1 << 32) - (1 << (32 - bits))),)
    whole = (1 << 128) - (1 << (128 - bits))
    return np.uint64(whole >> 64), np.uint64(whole & _LOW)


def _words(
    masks: tuple[tuple[np.uint64, ...], ...],
    has_port: bool,
    subscriber: Addresses,
    endpoint: Addresses,
    port: NDArray[np.uint16],
) -> list[NDArray[np.uint64]]:
    """The key as 64-bit words: both IPv4 addresses in one, an IPv6 address in two; then the port, if it is compared."""
    words: list[NDArray[np.uint64]] = []
    if len(masks[0]) == 1:
        left = subscriber.astype(np.uint64) & masks[0][0]
        words.append(left << np.uint64(32) | endpoint & masks[1][0])
    else:
        for column, mask in ((subscriber, masks[0]), (endpoint, masks[1])):
            words += [column[:, 0] & mask[0], column[:, 1] & mask[1]]
    if has_port:
        words.append(port.astype(np.uint64))
    return words


def _keys_and_rows(
    table: Mapping[PackedKey, int | tuple[int, ...]], row_of: Mapping[int, int]
) -> tuple[list[PackedKey], list[int]]:
    """A key for each entry that has it."""
    keys: list[PackedKey] = []
    rows: list[int] = []
    for key, held in table.items():
        for number in (held,) if isinstance(held, int) else held:
            keys.append(key)
            rows.append(row_of[number])
    return keys, rows


def _columns(shape: Shape, keys: list[PackedKey]) -> tuple[Addresses, Addresses, NDArray[np.uint16]]:
    """Subscribers, endpoints and ports of packed keys (enforcer/cells.py)."""
    words = np.frombuffer(b"".join(keys), ">u4").reshape(len(keys), -1).astype(np.uint32)
    port = (words[:, -1] >> np.uint32(16)).astype(np.uint16)
    if shape.version == 4:
        return words[:, 0].copy(), words[:, 1].copy(), port
    halves = words[:, 0:8:2].astype(np.uint64) << np.uint64(32) | words[:, 1:8:2]
    return halves[:, :2].copy(), halves[:, 2:].copy(), port


def _hash(words: list[NDArray[np.uint64]], seed: np.uint64) -> NDArray[np.uint64]:
    """Never 0, which marks an empty slot."""
    state = words[0] + seed
    for word in words[1:]:
        state = (state ^ state >> np.uint64(32)) * _FIRST
        state += word
    state = (state ^ state >> np.uint64(30)) * _FIRST
    state = (state ^ state >> np.uint64(27)) * _SECOND
    return (state ^ state >> np.uint64(31)) | np.uint64(1)
