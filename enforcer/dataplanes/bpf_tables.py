"""The allowlist in the kernel: cells, the states of registrations that ended, shapes, and the word that says what of them counts.

Every cell and state says what it was before and what it is from a serial on. A change is written first, with the serial to come;
one 8-byte store of the word into a page shared with the classifier makes all of it visible. A packet reads the word before and
after, and is judged again when it changed. Existing cells are written under their lock; cells that are gone are taken out of
the map later (`purge`), and their memory is not used anew before every packet that may still look at it is through.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from enforcer.cells import Change, Index, PackedKey, Shape
from enforcer.dataplanes import DataplaneError, TableFull, bpf_maps
from enforcer.dataplanes.bpf_library import LOCKED, MUST_EXIST, Map, Object, wait_for_readers
from enforcer.dataplanes.bpf_maps import ACTIVE
from enforcer.decide import Fallback

_CHUNK = 20_000
_MOST_DEAD = 50_000  # cells that are gone and still in the map
_FALLBACKS: dict[Fallback, int] = {"keep": 0, "allow": 1, "block": 2}


class Tables:
    """Of one loaded object. Raises TableFull, DataplaneError; then nothing has changed."""

    @staticmethod
    def resize(loaded: Object, most_cells: int) -> None:
        """Before the object is loaded. A list that replaces another stands beside it for a moment."""
        for version in bpf_maps.CELL_KEY_BYTES:
            loaded.resize(f"cells{version}", 2 * most_cells + _MOST_DEAD)
        loaded.resize("states", 2 * most_cells)
        loaded.resize("shapes", 2 * bpf_maps.SHAPE_LISTS)

    def __init__(self, loaded: Object) -> None:
        self._cells = {
            version: loaded.map(f"cells{version}", size, bpf_maps.VERSIONED_BYTES)
            for version, size in bpf_maps.CELL_KEY_BYTES.items()
        }
        self._states = loaded.map("states", 4, bpf_maps.VERSIONED_BYTES)
        self._shapes = loaded.map("shapes", 4, bpf_maps.SHAPES_BYTES)
        self._page = mmap.mmap(loaded.map("control", 4, 16).fd, mmap.PAGESIZE)
        self._word = ctypes.c_uint64.from_buffer(self._page, 0)
        self._alive_until_ns = ctypes.c_uint64.from_buffer(self._page, 8)
        self._numbers: dict[Shape, int] = {}
        self._next_number = itertools.count(1)
        self._serial, self._slot = 0, 0
        self._fallback: Fallback = "keep"
        self._dead_cells: set[_Cell] = set()
        self._dead_states: set[int] = set()
        self.states: dict[int, int] = {}

    def write(self, index: Index) -> dict[Shape, int]:
        """An index's cells into the map, under numbers of shapes that no packet asks for yet. Returns the numbers."""
        numbers = {shape: next(self._next_number) for shape in index.tables}
        written = 0
        try:
            for version, keys, values in bpf_maps.whole_load(index, numbers, _CHUNK):
                written += 1
                self._cells[version].put_many(keys, values)
        except OSError as error:
            self.take_out(index, numbers, written)
            raise _refusal(error) from error
        return numbers

    def replace(self, index: Index, numbers: dict[Shape, int], states: Mapping[int, int]) -> dict[Shape, int]:
        """An index that was written is the one in force, and these states change. Returns the numbers of the one before."""
        with self._undoing(states, lambda: None):
            self._write_shapes(index, numbers)
            self._write_states(states)
        before, self._numbers = self._numbers, numbers
        self._flip(states, is_other_slot=True)
        return before

    def take_out(self, index: Index, numbers: dict[Shape, int], chunks: int | None = None) -> None:
        """The cells of an index that is not in force (or the first chunks of them) out of the map."""
        if not numbers:
            return
        wait_for_readers()  # then none looks at them any more: what is written next may take their memory
        for version, keys, _ in itertools.islice(bpf_maps.whole_load(index, numbers, _CHUNK), chunks):
            self._cells[version].delete_many(keys)

    def change(self, index: Index, changes: Iterable[Change], states: Mapping[int, int]) -> None:
        """Changes that were made to the index, and the states that change with them."""
        new = {shape for shape in index.tables if shape not in self._numbers}
        numbers = self._numbers | {shape: next(self._next_number) for shape in new} if new else self._numbers
        final = {
            (shape.version, bpf_maps.cell_key(numbers[shape], key)): values
            for (shape, key), values in _final(changes).items()
        }
        with self._undoing(states, lambda: self._take_back(final)):
            if new:
                self._write_shapes(index, numbers)
            self._write_cells(final)
            self._write_states(states)
        self._numbers = numbers
        self._flip(states, is_other_slot=bool(new))
        for cell, (_, after) in final.items():
            (self._dead_cells.discard if after else self._dead_cells.add)(cell)
        if len(self._dead_cells) + len(self._dead_states) >= _MOST_DEAD:
            self.purge()

    def revise(self, states: Mapping[int, int]) -> None:
        """Only these states change; ACTIVE is forgotten."""
        with self._undoing(states, lambda: None):
            self._write_states(states)
        self._flip(states)

    def set_fallback(self, fallback: Fallback) -> None:
        self._fallback = fallback
        self._store()

    def alive_until(self, monotonic_ns: int) -> None:
        self._alive_until_ns.value = monotonic_ns

    @property
    def has_dead(self) -> bool:
        """Whether something is gone and still in the maps."""
        return bool(self._dead_cells or self._dead_states)

    def purge(self) -> None:
        """Take what is gone out of the maps; returns when no packet is being judged that began before."""
        for version, cells in self._cells.items():
            cells.delete_many(b"".join(key for each, key in self._dead_cells if each == version))
        self._states.delete_many(b"".join(map(_u32, self._dead_states)))
        self._dead_cells, self._dead_states = set(), set()
        wait_for_readers()

    def close(self) -> None:
        del self._word, self._alive_until_ns
        self._page.close()

    def _write_shapes(self, index: Index, numbers: dict[Shape, int]) -> None:
        """Into the slot that no packet reads."""
        try:
            lists = bpf_maps.shape_lists(index, numbers)
        except ValueError as error:
            raise TableFull(str(error)) from error
        start = (self._slot ^ 1) * bpf_maps.SHAPE_LISTS
        for number, each in enumerate(lists):
            self._shapes.put(_u32(start + number), each)

    def _write_cells(self, final: Mapping[_Cell, tuple[int, int]]) -> None:
        since = self._serial + 1
        for version, cells in self._cells.items():
            keys = [cell for cell in final if cell[0] == version]
            values = [bpf_maps.versioned(*final[cell], since) for cell in keys]
            if len(keys) == 1:
                cells.put(keys[0][1], values[0], LOCKED)
            elif keys:
                cells.put_many(b"".join(key for _, key in keys), b"".join(values), LOCKED)

    def _write_states(self, states: Mapping[int, int]) -> None:
        numbers, since = self._differing(states), self._serial + 1
        if numbers:
            values = [
                bpf_maps.versioned(self.states.get(number, ACTIVE), states[number], since)
                for number in numbers
            ]
            self._states.put_many(b"".join(map(_u32, numbers)), b"".join(values), LOCKED)

    def _differing(self, states: Mapping[int, int]) -> list[int]:
        return [number for number, state in states.items() if self.states.get(number, ACTIVE) != state]

    def _flip(self, states: Mapping[int, int], is_other_slot: bool = False) -> None:
        self._serial += 1
        self._slot ^= is_other_slot
        for number in self._differing(states):
            if states[number] == ACTIVE:
                del self.states[number]
                self._dead_states.add(number)
            else:
                self.states[number] = states[number]
                self._dead_states.discard(number)
        self._store()

    def _store(self) -> None:
        has_ended = bool(self.states)
        self._word.value = self._serial << 8 | has_ended << 3 | _FALLBACKS[self._fallback] << 1 | self._slot

    def _take_back(self, final: Mapping[_Cell, tuple[int, int]]) -> None:
        for (version, key), (before, _) in final.items():
            self._put_back(self._cells[version], key, before)
            if not before:
                self._dead_cells.add((version, key))

    @staticmethod
    def _put_back(table: Map, key: bytes, before: int) -> None:
        try:
            table.put(key, bpf_maps.versioned(before, before, 0), LOCKED | MUST_EXIST)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    @contextmanager
    def _undoing(self, states: Mapping[int, int], undo: Callable[[], None]) -> Iterator[None]:
        """What was written for the serial to come is taken back when some of it could not be written."""
        try:
            yield
        except (OSError, TableFull) as error:
            undo()
            for number in self._differing(states):
                self._put_back(self._states, _u32(number), self.states.get(number, ACTIVE))
                if number not in self.states:
                    self._dead_states.add(number)
            if isinstance(error, TableFull):
                raise
            raise _refusal(error) from error


_Cell = tuple[int, bytes]  # IP version and key


def _final(changes: Iterable[Change]) -> dict[tuple[Shape, PackedKey], tuple[int, int]]:
    """What each cell was before all of the changes and is after them; 0 for nothing."""
    final: dict[tuple[Shape, PackedKey], tuple[int, int]] = {}
    for shape, key, before, after in changes:
        first = final.get((shape, key), (before or 0, 0))[0]
        final[shape, key] = (first, after or 0)
    return {cell: (before, after) for cell, (before, after) in final.items() if before != after}


def _refusal(error: OSError) -> DataplaneError:
    if error.errno == errno.E2BIG:
        return TableFull("the kernel's map is full")
    return DataplaneError(f"the kernel refused a change of the map: {error.strerror}")


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
