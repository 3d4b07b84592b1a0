"""Addresses as flow logs write them, to the numbers of a Lines column: whole columns at a time."""

from __future__ import annotations

from socket import AF_INET6, inet_pton
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from enforcer.replay.lines import Addresses

_DOT, _COLON, _ZERO = 0x2E, 0x3A, 0x30
_PIECE = 1 << 14


class NotAddresses(ValueError):
    """A value of the column is no address."""


class Column(NamedTuple):
    """Addresses of both families: is_six says which; four holds the IPv4 ones (0 elsewhere), six the others (n × 2, or None)."""

    is_six: NDArray[np.bool_] | None
    four: NDArray[np.uint32]
    six: NDArray[np.uint64] | None

    def take(self, index: Any) -> Column:
        return Column(
            None if self.is_six is None else self.is_six[index],
            self.four[index],
            None if self.six is None else self.six[index],
        )

    def of(self, version: int) -> Addresses:
        if version == 4:
            return self.four
        assert self.six is not None
        return self.six


def column(values: pa.Array) -> Column:
    """An Arrow column: text; integers (IPv4 as one number); 4 or 16 bytes in network order; any of them dictionary-encoded.

    Raises NotAddresses for a value that is none, a missing one included, and for types that hold no addresses.
    """
    if values.null_count:
        raise NotAddresses("there is a line without an address")
    kind = values.type
    if pa.types.is_dictionary(kind):
        words = column(values.dictionary)
        return words.take(indices(values))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(values)
    if pa.types.is_integer(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        if len(numbers) and (numbers.min() < 0 or numbers.max() > 0xFFFFFFFF):
            raise NotAddresses("a number is no IPv4 address (0 to 4294967295)")
        return Column(None, numbers.astype(np.uint32), None)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width in (4, 16):
        return _fixed(values, kind.byte_width)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _binaries(values)
    raise NotAddresses(f"a column of type {kind} holds no addresses; text, integers or 4 or 16 bytes do")


def indices(values: pa.DictionaryArray) -> NDArray[Any]:
    """A dictionary column's indices. Raises NotAddresses where a damaged file points beyond the dictionary: Arrow does not look."""
    found = values.indices.to_numpy(zero_copy_only=False)
    if len(found) and not (found.min() >= 0 and found.max() < len(values.dictionary)):
        raise NotAddresses("a value points beyond the column's dictionary: the file is damaged")
    return found


def parse_four(data: NDArray[np.uint8], offsets: NDArray[Any]) -> NDArray[np.uint32]:
    """Dotted IPv4 addresses; text i is data[offsets[i]:offsets[i + 1]], the first at 0. Raises NotAddresses."""
    count = len(offsets) - 1
    found = np.empty(count, np.uint32)
    for first in range(0, count, _PIECE):  # what is worked on stays in the processor's cache
        part = offsets[first : first + _PIECE + 1]
        found[first : first + _PIECE] = _fours(data[part[0] : part[-1]], part - part[0])
    return found


def _fours(data: NDArray[np.uint8], offsets: NDArray[Any]) -> NDArray[np.uint32]:
    """What is done byte by byte costs a tenth of what is done text by text: so the former where there is a choice."""
    count = len(offsets) - 1
    is_dot = data == _DOT
    dots = np.flatnonzero(is_dot)
    if len(dots) != 3 * count:
        raise NotAddresses("a text is no IPv4 address")
    padded = np.empty(len(data) + 3, np.uint8)
    padded[:3] = 0
    digits = padded[3:]
    np.subtract(data, np.uint8(_ZERO), out=digits)
    digits *= ~is_dot
    if digits.max() > 9:
        raise NotAddresses("a text is no IPv4 address")
    # The number of two digits that ends at each byte; where a text begins there is but one.
    twos = padded[2:-1] * np.uint8(10)
    twos += digits
    starts = offsets[:-1].astype(np.intp)
    if starts[-1] == len(data):
        raise NotAddresses("a text is no IPv4 address")
    twos[starts] = digits[starts]
    ends = np.empty((4, count), np.intp)
    ends[:3] = dots.reshape(count, 3).T
    ends[3] = offsets[1:]
    total = np.zeros(count, np.uint32)
    left = starts - 1
    for right in ends:
        size = right - left  # the part and the dot before it
        if size.min() < 2 or size.max() > 4:
            raise NotAddresses("a text is no IPv4 address")
        value = (padded.take(right) * (size == 4)).astype(np.uint16)  # the digit three before the end
        value *= np.uint16(100)
        value += twos.take(right - 1)
        if value.max() > 255:
            raise NotAddresses("a text is no IPv4 address")
        total <<= np.uint32(8)
        total |= value
        left = right
    return total


def _texts(values: pa.Array) -> Column:
    count = len(values)
    if not count:
        return Column(None, np.zeros(0, np.uint32), None)
    width = np.int64 if pa.types.is_large_string(values.type) else np.int32
    offsets = np.frombuffer(values.buffers()[1], width)[values.offset : values.offset + count + 1]
    raw = values.buffers()[2]
    data = (
        np.frombuffer(raw, np.uint8)[offsets[0] : offsets[-1]] if raw is not None else np.zeros(0, np.uint8)
    )
    offsets = offsets - offsets[0]
    if (data != _COLON).all():
        try:
            return Column(None, parse_four(data, offsets), None)
        except NotAddresses as error:
            raise NotAddresses(
                f"{values[0].as_py()!r} is no IP address" if count == 1 else str(error)
            ) from error
    colons = np.flatnonzero(data == _COLON)
    is_six = np.zeros(count, bool)
    is_six[np.searchsorted(offsets, colons, "right") - 1] = True
    six = np.zeros((count, 2), np.uint64)
    words = values.filter(pa.array(is_six)).dictionary_encode()
    parsed = np.array([_six(text) for text in words.dictionary.to_pylist()], np.uint64).reshape(-1, 2)
    six[is_six] = parsed[words.indices.to_numpy()]
    four = np.zeros(count, np.uint32)
    if not is_six.all():
        four[~is_six] = _texts(values.filter(pa.array(~is_six))).four
    return Column(is_six, four, six)


def _six(text: str) -> tuple[int, int]:
    try:
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError) as error:
        raise NotAddresses(f"{text!r} is no IPv6 address") from error
    return int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")


def _fixed(values: pa.FixedSizeBinaryArray, width: int) -> Column:
    start = values.offset * width
    data = np.frombuffer(values.buffers()[1], np.uint8)[start : start + len(values) * width]
    if width == 4:
        return Column(None, data.view(">u4").astype(np.uint32), None)
    six = data.view(">u8").astype(np.uint64).reshape(-1, 2)
    # IPv4 in IPv6's clothes (RFC 4291 section 2.5.5.2): how one column holds both families.
    is_four = (six[:, 0] == 0) & (six[:, 1] >> np.uint64(32) == 0xFFFF)
    four = np.where(is_four, six[:, 1] & np.uint64(0xFFFFFFFF), 0).astype(np.uint32)
    return Column(~is_four, four, six)


def _binaries(values: pa.Array) -> Column:
    words = values.dictionary_encode()
    found = words.dictionary.to_pylist()
    if any(len(each) not in (4, 16) for each in found):
        raise NotAddresses("a binary value is no address of 4 or 16 bytes")
    is_six = np.array([len(each) == 16 for each in found], bool)
    four = np.array([int.from_bytes(each, "big") if len(each) == 4 else 0 for each in found], np.uint32)
    six = (
        np.frombuffer(b"".join(each.rjust(16, b"\0") for each in found), ">u8")
        .astype(np.uint64)
        .reshape(-1, 2)
    )
    return Column(is_six, four, six).take(words.indices.to_numpy())
