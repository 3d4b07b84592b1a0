"""Many elements into an nft map by raw netlink: a third of the time libnftables takes, and none of its memory."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice

from enforcer.cells import PackedKey, Shape
from enforcer.dataplanes import DataplaneError, TableFull
from enforcer.dataplanes.netlink import (
    NLM_ACK,
    NLM_REQUEST,
    SUBSYSTEM_NFTABLES,
    Netfilter,
    attribute,
    messages,
)

# linux/netfilter/nfnetlink.h, nf_tables.h
_BATCH_BEGIN, _BATCH_END, _NEW_ELEMENTS = 0x10, 0x11, SUBSYSTEM_NFTABLES << 8 | 12
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _ELEMENT_KEY, _ELEMENT_DATA, _VALUE = 1, 1, 2, 1
_NLM_CREATE, _NESTED, _ERROR = 0x400, 0x8000, 2
_NFPROTO_INET = 1
_MOST_IN_ATTRIBUTE = 60_000  # an attribute's length has 16 bits
_BATCH_BYTES = 1 << 20
_FULL = (23, 28, 12)  # ENFILE, ENOSPC, ENOMEM


def can_load(shape: Shape) -> bool:
    """Shapes that compare no address have a handful of elements, and another key type."""
    return bool(shape.subscriber_bits or shape.endpoint_bits)


def add_elements(
    table: str, name: str, shape: Shape, cells: Mapping[PackedKey, int | tuple[int, ...]]
) -> None:
    """Put all cells into a map that is there. Raises TableFull, DataplaneError; some may be in then."""
    netfilter = Netfilter()
    try:
        try:
            netfilter.socket.setsockopt(socket.SOL_SOCKET, 32, 4 * _BATCH_BYTES)  # SO_SNDBUFFORCE
        except PermissionError:
            netfilter.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _BATCH_BYTES)
        room = netfilter.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        most = max(_MOST_IN_ATTRIBUTE + 1000, min(_BATCH_BYTES, room // 2 - _MOST_IN_ATTRIBUTE))
        head = attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")
        batch: list[bytes] = []
        size = 0
        for elements in _packed(shape, cells):
            batch.append(head + struct.pack("=HH", 4 + len(elements), _LIST_ELEMENTS | _NESTED) + elements)
            size += len(batch[-1])
            if size + _MOST_IN_ATTRIBUTE > most:
                _commit(netfilter.socket, batch)
                batch, size = [], 0
        if batch:
            _commit(netfilter.socket, batch)
    finally:
        netfilter.close()


def _packed(shape: Shape, cells: Mapping[PackedKey, int | tuple[int, ...]]) -> Iterator[bytes]:
    """The elements as netlink attributes, as many together as fit one list: laid out empty, then filled column by column of bytes."""
    columns = _columns(shape)
    length = len(columns)
    before = struct.pack(
        "=HHHHHH",
        4 + 4 + 4 + length + 4 + 8,
        _ELEMENT | _NESTED,
        4 + 4 + length,
        _ELEMENT_KEY | _NESTED,
        4 + length,
        _VALUE,
    )
    between = struct.pack("=HHHH", 12, _ELEMENT_DATA | _NESTED, 8, _VALUE)
    empty = before + bytes(length) + between + bytes(4)
    width = len(next(iter(cells), b""))
    most = _MOST_IN_ATTRIBUTE // len(empty)
    keys, held = iter(cells), iter(cells.values())
    while some := b"".join(islice(keys, most)):
        numbers = array("I", (each if isinstance(each, int) else each[0] for each in islice(held, most)))
        marks = numbers.tobytes()
        elements = bytearray(empty * len(numbers))
        for place, column in enumerate(columns, len(before)):
            elements[place :: len(empty)] = some[column::width]
        for place in range(4):
            elements[len(empty) - 4 + place :: len(empty)] = marks[place::4]
        yield bytes(elements)


def _columns(shape: Shape) -> list[int]:
    """Which bytes of a packed key make the kernel's: the ends that are compared, and the port with its padding."""
    width = 4 if shape.version == 4 else 16
    columns = list(range(width)) if shape.subscriber_bits else []
    if shape.endpoint_bits:
        columns += range(width, 2 * width)
    if shape.has_port:
        columns += range(2 * width, 2 * width + 4)
    return columns


def _commit(netlink: socket.socket, bodies: list[bytes]) -> None:
    """One batch: all of it, or nothing."""
    edge = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(SUBSYSTEM_NFTABLES))
    head = struct.pack("=BBH", _NFPROTO_INET, 0, 0)
    parts = [struct.pack("=IHHII", 20, _BATCH_BEGIN, NLM_REQUEST, 0, 0), edge]
    for number, body in enumerate(bodies, 1):
        flags = NLM_REQUEST | _NLM_CREATE | (NLM_ACK if number == len(bodies) else 0)
        parts += [struct.pack("=IHHII", 20 + len(body), _NEW_ELEMENTS, flags, number, 0), head, body]
    parts += [struct.pack("=IHHII", 20, _BATCH_END, NLM_REQUEST, len(bodies) + 1, 0), edge]
    netlink.sendmsg(parts)
    while True:
        for kind, sequence, body in messages(netlink.recv(1 << 16)):
            if kind != _ERROR:
                continue
            (code,) = struct.unpack_from("=i", body)
            if code:
                text = f"the kernel refused elements: {os.strerror(-code)}"
                raise (TableFull if -code in _FULL else DataplaneError)(text)
            if sequence == len(bodies):
                return
