"""The bpf maps' keys and values as bytes: what bpf/allowlist.bpf.c calls cell4_key, cell6_key, versioned, shapes, flow and event."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from enforcer.cells import KINDS, Index, PackedKey, Shape
from enforcer.packet import address_text
from enforcer.protocols import TCP, UDP

CELL_KEY_BYTES = {4: 16, 6: 40}  # by IP version
FLOW_KEY_BYTES, FLOW_BYTES, VERSIONED_BYTES, COUNT_BYTES = 40, 12, 24, 32
MOST_SHAPES = 256
MOST_SWEPT = 16_384
SHAPES_BYTES = 8 + MOST_SHAPES * 40
SHAPE_LISTS = 2 * len(KINDS)  # one a family and kind, in each of two slots
ACTIVE, CUT, FINISHING = 0, 1, 2

_VERSIONED = struct.Struct("=IIIIQ")
_SHAPE = struct.Struct("=4sI16s16s")
_FLOW_KEY, _FLOW = struct.Struct("=16s16sHHBBxx"), struct.Struct("=III")
_EVENT = struct.Struct("=Q16s16sIIHHBBBB")
_COUNT = struct.Struct("=QQQQ")


class FlowState(NamedTuple):
    """One flow of the flow table: its two ends in no order (a PPTP call: from a to b), protocol and mark."""

    key: bytes
    value: bytes
    version: int
    protocol: int
    a: int
    a_port: int
    b: int
    b_port: int
    mark: int


class Event(NamedTuple):
    monotonic_ns: int
    src: str
    src_port: int
    dst: str
    dst_port: int
    inside: int
    outside: int
    protocol: int
    reason: int
    vpn: int


def cell_key(number: int, key: PackedKey) -> bytes:
    """number: the shape's."""
    return number.to_bytes(4, "big") + key


def versioned(before: int, after: int, since: int) -> bytes:
    return _VERSIONED.pack(0, before, after, 0, since)


def whole_load(index: Index, numbers: dict[Shape, int], chunk: int) -> Iterator[tuple[int, bytes, bytes]]:
    """IP version, keys and values of all cells, at most `chunk` at a time."""
    for shape, table in index.tables.items():
        shape_number = numbers[shape].to_bytes(4, "big")
        keys, held = iter(table), iter(table.values())
        while some := list(islice(keys, chunk)):
            marks = array("I", (each if isinstance(each, int) else each[0] for each in islice(held, chunk)))
            after = marks.tobytes()
            values = bytearray(VERSIONED_BYTES * len(marks))
            for place in range(4):  # column by column of bytes: `before` and `since` stay 0
                values[8 + place :: VERSIONED_BYTES] = after[place::4]
            yield shape.version, shape_number + shape_number.join(some), bytes(values)


def shape_lists(index: Index, numbers: dict[Shape, int]) -> list[bytes]:
    """The lists of one slot, in the order the classifier counts them. Raises ValueError when one is too long."""
    lists = []
    for version in (4, 6):
        for kind in KINDS:
            shapes = index.shapes(version, kind)
            if len(shapes) > MOST_SHAPES:
                raise ValueError(
                    f"{len(shapes)} combinations of prefix lengths for IPv{version} {kind}; the bpf dataplane takes at most {MOST_SHAPES}"
                )
            each = b"".join(_shape(numbers[shape], shape) for shape in shapes)
            lists.append((struct.pack("=II", len(shapes), 0) + each).ljust(SHAPES_BYTES, b"\0"))
    return lists


def flow_states(items: Iterable[tuple[bytes, bytes]]) -> Iterator[FlowState]:
    for key, value in items:
        a, b, a_port, b_port, version, protocol = _FLOW_KEY.unpack(key)
        width = 4 if version == 4 else 16
        if protocol not in (TCP, UDP):
            a_port = b_port = 0
        yield FlowState(
            key,
            value,
            version,
            protocol,
            int.from_bytes(a[:width], "big"),
            a_port,
            int.from_bytes(b[:width], "big"),
            b_port,
            _FLOW.unpack(value)[0],
        )


def flow_with_mark(value: bytes, mark: int) -> bytes:
    _, seen_s, is_closed = _FLOW.unpack(value)
    return _FLOW.pack(mark, seen_s, is_closed)


def event(data: bytes) -> Event:
    at_ns, src, dst, inside, outside, src_port, dst_port, version, protocol, reason, vpn = _EVENT.unpack(
        data[: _EVENT.size]
    )
    width = 4 if version == 4 else 16
    ends = [address_text(version, int.from_bytes(each[:width], "big")) for each in (src, dst)]
    return Event(at_ns, ends[0], src_port, ends[1], dst_port, inside, outside, protocol, reason, vpn)


def count(data: bytes) -> tuple[int, int]:
    """Packets and bytes, all CPUs together."""
    each = [(packets, size) for packets, size, _, _ in _COUNT.iter_unpack(data)]
    return sum(packets for packets, _ in each), sum(size for _, size in each)


def _shape(number: int, shape: Shape) -> bytes:
    masks = [_mask(shape.version, bits) for bits in (shape.subscriber_bits, shape.endpoint_bits)]
    return _SHAPE.pack(number.to_bytes(4, "big"), int(shape.has_port), *masks)


def _mask(version: int, bits: int) -> bytes:
    width = 32 if version == 4 else 128
    return (((1 << bits) - 1) << (width - bits)).to_bytes(width // 8, "big").ljust(16, b"\0")
