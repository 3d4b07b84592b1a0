"""Columns of a flow log as Arrow gives them, to Lines; the same for CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from enforcer.protocols import ICMP, ICMPV6, TCP, UDP
from enforcer.replay import addresses
from enforcer.replay.lines import Lines
from enforcer.replay.mapping import Mapping
from enforcer.replay.protocol_names import protocol_number


class NotLines(ValueError):
    """A value is none that its column can have; column and what is wrong with it."""

    def __init__(self, column: str, what: str) -> None:
        super().__init__(f"column {column!r}: {what}")


class Converter:
    """Tables with the mapping's columns to Lines. time_zone: of times that name none."""

    def __init__(self, mapping: Mapping, time_zone: str = "UTC") -> None:
        self.mapping = mapping
        self._time_zone = time_zone
        self._protocols: dict[Any, int] = {}

    def lines(self, table: pa.Table) -> Iterator[Lines]:
        """The table's lines, one Lines for each family that it has. Raises NotLines."""
        for batch in table.to_batches():
            if len(batch):
                yield from self._batch(batch)

    def _batch(self, batch: pa.RecordBatch) -> Iterator[Lines]:
        count = len(batch)
        protocol = self._protocol(batch)
        src_port = self._port(batch, "src-port", protocol)
        dst_port = self._port(batch, "dst-port", protocol)
        src, dst = (self._addresses(batch, name) for name in ("src", "dst"))
        start = self._start(batch)
        packets = self._count(batch, "packets", "packets-back", 1)
        octets = self._count(batch, "bytes", "bytes-back", 0)
        four = Lines(4, src.four, dst.four, protocol, src_port, dst_port, start, packets, octets)
        if src.is_six is None and dst.is_six is None:
            yield four
            return
        is_six = [np.zeros(count, bool) if each.is_six is None else each.is_six for each in (src, dst)]
        if (is_six[0] != is_six[1]).any():
            raise NotLines(self.mapping.columns["dst"], "its address is not of the family of the source's")
        if not is_six[0].all():
            yield four.take(~is_six[0])
        if src.six is not None and dst.six is not None:
            six = Lines(6, src.six, dst.six, protocol, src_port, dst_port, start, packets, octets)
            yield six.take(is_six[0])

    def _addresses(self, batch: pa.RecordBatch, name: str) -> addresses.Column:
        column = self.mapping.columns[name]
        try:
            return addresses.column(batch.column(column))
        except addresses.NotAddresses as error:
            raise NotLines(column, str(error)) from error

    def _protocol(self, batch: pa.RecordBatch) -> NDArray[np.uint8]:
        column = self.mapping.columns["proto"]
        values = batch.column(column)
        if values.null_count:
            raise NotLines(column, "there is a line without a protocol")
        if pa.types.is_integer(values.type):
            return _within(column, values.to_numpy(zero_copy_only=False), 255, "an IP protocol").astype(
                np.uint8
            )
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        numbers = np.array([self._number(column, text) for text in values.dictionary.to_pylist()], np.uint8)
        try:
            return numbers[addresses.indices(values)]
        except addresses.NotAddresses as error:
            raise NotLines(column, str(error)) from error

    def _number(self, column: str, text: Any) -> int:
        number = self._protocols.get(text)
        if number is None:
            number = protocol_number(str(text))
            if number is None:
                raise NotLines(column, f"{text!r} is no IP protocol's name or number")
            self._protocols[text] = number
        return number

    def _port(self, batch: pa.RecordBatch, name: str, protocol: NDArray[np.uint8]) -> NDArray[np.uint16]:
        column = self.mapping.columns[name]
        values = batch.column(column)
        if values.null_count:
            values = values.fill_null(0)
        numbers = _numbers(column, values)
        if numbers.dtype.kind == "f":
            # nfdump writes ICMP's type and code here: "8.0".
            is_odd = numbers != np.floor(numbers)
            if is_odd.any() and not np.isin(protocol[is_odd], (ICMP, ICMPV6)).all():
                raise NotLines(column, "a number is no port")
        ports = _within(column, numbers, 65535, "a port").astype(np.uint16)
        has_none = (protocol != TCP) & (protocol != UDP)
        if has_none.any():
            ports[has_none] = 0
        return ports

    def _count(self, batch: pa.RecordBatch, name: str, back: str, missing: int) -> NDArray[np.int64]:
        """The column and that of the way back; `missing` for each line without either."""
        total: NDArray[np.int64] | None = None
        for each in (name, back):
            column = self.mapping.columns.get(each)
            if column is None:
                continue
            values = batch.column(column)
            if values.null_count:
                values = values.fill_null(0)
            counts = _within(column, _numbers(column, values), 2**62, "a count").astype(np.int64, copy=False)
            total = counts if total is None else total + counts
        return np.full(len(batch), missing, np.int64) if total is None else total

    def _start(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        column = self.mapping.columns.get("start")
        if column is None:
            return np.zeros(len(batch), np.int64)
        values = batch.column(column)
        if values.null_count:
            raise NotLines(column, "there is a line without a time")
        kind = values.type
        if pa.types.is_timestamp(kind):
            if kind.tz is None and self._time_zone != "UTC":
                values = pc.assume_timezone(  # pyright: ignore[reportAttributeAccessIssue]
                    values, self._time_zone, ambiguous="earliest", nonexistent="latest"
                )
            factor = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]
            return values.view(pa.int64()).to_numpy(zero_copy_only=False) * factor
        if self.mapping.unit_ns is None:
            raise NotLines(
                column, "its times are numbers of an unknown unit; say --map start=COLUMN@s (or ms, us, ns)"
            )
        numbers = _numbers(column, values)
        if numbers.dtype.kind == "f":
            return np.round(numbers * (self.mapping.unit_ns / 1000)).astype(np.int64) * 1000
        return numbers.astype(np.int64) * self.mapping.unit_ns


def _numbers(column: str, values: pa.Array) -> NDArray[Any]:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise NotLines(column, f"it has a value that is no number ({error})") from error
    return values.to_numpy(zero_copy_only=False)


def _within(column: str, numbers: NDArray[Any], most: int, what: str) -> NDArray[Any]:
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() <= most):
        wrong = numbers[~((numbers >= 0) & (numbers <= most))][0]
        raise NotLines(column, f"{wrong:g} is not {what} (0 to {most})")
    return numbers
