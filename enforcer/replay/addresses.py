"""Addresses as flow logs write them, to the numbers of a Lines column: whole columns at a time."""

from __future__ import annotations

from socket import AF_INET6, inet_pton
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from enforcer.replay.lines import Addresses

_DOT, _COLON, _ZERO = 0x2E, 0x3A, 0x30


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
        return _texts(values.cast(pa.large_string()))
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


def parse_four(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Dotted IPv4 addresses; text i is data[offsets[i]:offsets[i + 1]]. Raises NotAddresses."""
    count = len(offsets) - 1
    if not count:
        return np.zeros(0, np.uint32)
    starts, ends = offsets[:-1], offsets[1:]
    dots = np.flatnonzero(data == _DOT)
    if len(dots) != 3 * count:
        raise NotAddresses("a text is no IPv4 address")
    dots = dots.reshape(count, 3)
    digits = data - np.uint8(_ZERO)  # a dot becomes 254
    if not ((digits <= 9) | (data == _DOT)).all():
        raise NotAddresses("a text is no IPv4 address")
    total = np.zeros(count, np.uint32)
    left = starts
    for part in range(4):
        right = dots[:, part] if part < 3 else ends
        size = right - left
        if ((size < 1) | (size > 3)).any():
            raise NotAddresses("a text is no IPv4 address")
        value = digits[right - 1].astype(np.uint32)
        # Before the first digit stands a dot or another text: it is read and multiplied away.
        value += digits[np.maximum(right - 2, 0)] * (size >= 2).astype(np.uint32) * np.uint32(10)
        value += digits[np.maximum(right - 3, 0)] * (size == 3).astype(np.uint32) * np.uint32(100)
        if (value > 255).any():
            raise NotAddresses("a text is no IPv4 address")
        total = total << np.uint32(8) | value
        left = right + 1
    return total


def _texts(values: pa.LargeStringArray) -> Column:
    count = len(values)
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + count + 1]
    if not count:
        return Column(None, np.zeros(0, np.uint32), None)
    raw = values.buffers()[2]
    data = (
        np.frombuffer(raw, np.uint8)[offsets[0] : offsets[-1]] if raw is not None else np.zeros(0, np.uint8)
    )
    offsets = offsets - offsets[0]
    colons = np.flatnonzero(data == _COLON)
    if not len(colons):
        try:
            return Column(None, parse_four(data, offsets), None)
        except NotAddresses as error:
            raise NotAddresses(
                f"{values[0].as_py()!r} is no IP address" if count == 1 else str(error)
            ) from error
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
