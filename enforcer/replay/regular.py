"""Lines of CSV parsed by the array, straight from the bytes: several times as fast as Arrow's reader, for what is written as usual.

Whatever a line has that is not usual (IPv6, an ICMP type for a port, a number of 17 digits) is left to Arrow, which also knows what
is wrong with it. All the lines of a piece are worked on at once: eight characters are one number (SIMD within a register, Lamport
1975), and a position of each line is an array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from enforcer.protocols import TCP, UDP
from enforcer.replay.lines import Lines
from enforcer.replay.mapping import Mapping
from enforcer.replay.protocol_names import protocol_number

_PIECE_BYTES = 1 << 20  # what is worked on stays in the processor's cache
_PAD = 64  # before and after a piece: what is read beside a field is thrown away
_MOST_WORDS = 64
_LONGEST_LINE = 1 << 12
_DAY_NS, _MINUTE_NS, _SECOND_NS, _MS_NS = 86_400 * 10**9, 60 * 10**9, 10**9, 10**6
_ZERO, _DOT, _END, _QUOTE, _RETURN = b'0.\n"\r'
_FIELDS = ("start", "src", "dst", "proto", "src-port", "dst-port", "packets", "bytes")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{3})?", re.ASCII)
_DOT_DIGIT = _DOT - _ZERO & 255
_Words = NDArray[np.uint64]
_Mask = NDArray[np.bool_]


def _u64(number: int) -> np.uint64:
    return np.uint64(number & (1 << 64) - 1)


_EIGHT = _u64(0x0101010101010101)
_SPREAD = _u64(0x9E3779B97F4A7C15)  # the golden ratio's: Knuth's multiplicative hash
_OVER_NINE, _HIGH = _EIGHT * np.uint64(0x76), _EIGHT * np.uint64(0x80)


class Layout(NamedTuple):
    """Which column is what: start, src, dst, proto, src_port, dst_port, packets, bytes; None without it.

    columns: how many a line has. unit_ns: of a start that is a whole number; None: it is a date and time in UTC, of `width` characters.
    """

    separator: int
    columns: int
    places: tuple[int | None, ...]
    unit_ns: int | None
    width: int = 0


class Parsed(NamedTuple):
    """lines: those that are as usual. odd: the others, for somebody else, as bytes. size: how many lines both are."""

    lines: Lines
    odd: bytes
    size: int


def layout_of(
    mapping: Mapping, header: list[str], separator: str, time_zone: str, first: str
) -> Layout | None:
    """The layout of a log whose first line is `first`; None when its lines cannot be parsed here."""
    columns = mapping.columns
    if mapping.is_biflow or len(set(header)) != len(header):
        return None
    places = tuple(header.index(columns[name]) if name in columns else None for name in _FIELDS)
    width = 0
    if places[0] is not None and mapping.unit_ns is None:
        fields = first.split(separator)
        text = fields[places[0]] if places[0] < len(fields) else ""
        if time_zone != "UTC" or not _TIME.fullmatch(text):
            return None
        width = len(text)
    return Layout(ord(separator), len(header), places, mapping.unit_ns, width)


class Regular:
    """Parses blocks of one log."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # Names of protocols by a hash; an empty slot is 0.
        self._words = np.zeros(256, np.uint64)
        self._protocols = np.zeros(256, np.uint8)
        self._is_protocol = np.zeros(256, bool)
        self._months: dict[int, tuple[int, int] | None] = {}

    def parse(self, block: Any) -> Parsed | None:
        """The lines of a block that ends with a line's end; None when it is not regular, and all of it is for somebody else."""
        data = np.frombuffer(block, np.uint8)
        if not len(data) or data[-1] != _END:  # a file that was cut off: whoever reads it all says so
            return None
        found: list[Lines] = []
        odd: list[bytes] = []
        begin = 0
        while begin < len(data):
            end = begin + _PIECE_BYTES
            if end >= len(data):
                end = len(data)
            else:
                last = np.flatnonzero(data[max(begin, end - _LONGEST_LINE) : end] == _END)
                if not len(last):
                    return None
                end = max(begin, end - _LONGEST_LINE) + int(last[-1]) + 1
            parsed = self._piece(data[begin:end], odd)
            if parsed is None:
                return None
            found.append(parsed)
            begin = end
        if not found:
            return None
        lines = _joined(found)
        return Parsed(lines, b"".join(odd), len(lines) + len(odd))

    def _piece(self, data: NDArray[np.uint8], odd: list[bytes]) -> Lines | None:
        layout = self._layout
        piece = np.zeros(len(data) + 2 * _PAD, np.uint8)
        piece[_PAD:-_PAD] = data
        is_end = piece == _END
        ends = np.flatnonzero((piece == layout.separator) | is_end)
        count, rest = divmod(len(ends), layout.columns)
        if rest or not count or (data == _QUOTE).any() or (data == _RETURN).any():
            return None
        columns = np.ascontiguousarray(ends.reshape(count, layout.columns).T)
        if np.count_nonzero(is_end) != count or not is_end.take(columns[-1]).all():
            return None
        good = np.ones(count, bool)
        bytes_of = _Bytes(piece, columns)
        start, src, dst, proto, src_port, dst_port, packets, octets = layout.places
        protocol = self._protocol(bytes_of, proto, good)
        values = [
            self._start(bytes_of, start, good),
            *(bytes_of.four(each, good) for each in (src, dst)),
            *(bytes_of.number(each, good) for each in (src_port, dst_port)),
            # As convert.Converter has it: without counts each line is a packet.
            np.ones(count, np.int64) if packets is None else bytes_of.number(packets, good),
            np.zeros(count, np.int64) if octets is None else bytes_of.number(octets, good),
        ]
        for port in values[3:5]:
            good &= port <= np.uint64(65535)
        if not good.all():
            wrong = np.flatnonzero(~good)
            if len(wrong) > count // 2:
                return None
            for place in wrong.tolist():
                begin = int(columns[-1, place - 1]) + 1 if place else _PAD
                odd.append(piece[begin : int(columns[-1, place]) + 1].tobytes())
        return _lines(protocol, values, None if good.all() else good)

    def _protocol(self, bytes_of: _Bytes, name: int | None, good: _Mask) -> NDArray[np.uint8]:
        """Protocols are few: each one's name is looked at once."""
        assert name is not None
        words = bytes_of.word(name, good)
        slots = (words * _SPREAD >> np.uint64(56)).astype(np.intp)
        is_known = self._words.take(slots) == words
        while not is_known.all():
            place = int(is_known.argmin())
            word, slot = words[place], slots[place]
            if self._words[slot]:
                break  # two share a slot: the lines with the second are not usual
            number = _protocol_of(int(word))
            self._words[slot], self._is_protocol[slot] = word, number is not None
            self._protocols[slot] = number or 0
            is_known |= words == word
        good &= is_known & self._is_protocol.take(slots)
        return self._protocols.take(slots)

    def _start(self, bytes_of: _Bytes, place: int | None, good: _Mask) -> NDArray[np.int64]:
        if place is None:
            return np.zeros(len(good), np.int64)
        if self._layout.unit_ns is not None:
            found = bytes_of.number(place, good)
            good &= found < np.uint64(2**63 // self._layout.unit_ns)
            return found.astype(np.int64) * self._layout.unit_ns
        width = self._layout.width
        at, size = bytes_of.field(place)
        good &= size == width
        months = bytes_of.eight(at)
        day, hour, minute = _digits(bytes_of.eight(at + 8), b"00 00:00", good, (0, 3, 6), b"00T00:00")
        last = bytes_of.eight(at + 16)
        if width == 19:
            (second,) = _digits(last << np.uint64(40), b"\0\0\0\0\0:00", good, (6,))
            ms = 0
        else:
            second, tens, one = _digits(last << np.uint64(8), b"\0:00.000", good, (2, 5, -7))
            ms = tens * np.int64(10) + one
        good &= (hour < 24) & (minute < 60) & (second < 60)
        total = (day - 1) * _DAY_NS + (hour * 60 + minute) * _MINUTE_NS + second * _SECOND_NS + ms * _MS_NS
        left = np.ones(len(months), bool)
        for word in _distinct(months, left, self._months):
            if word not in self._months:
                self._months[word] = _month_of(word)
            month = self._months[word]
            where = months == _u64(word)
            if month is None:
                good &= ~where
            else:
                good &= ~where | ((day >= 1) & (day <= month[1]))
                total += where * np.int64(month[0])
        good &= ~left
        return total


class _Bytes:
    """A piece and where its columns end. A field is (where it begins, how long it is), an array each."""

    def __init__(self, piece: NDArray[np.uint8], columns: NDArray[np.intp]) -> None:
        self._piece = piece
        self._columns = columns
        self._digits = piece - np.uint8(_ZERO)
        self._eights = np.ndarray(
            (len(piece) - 7,), np.uint64, piece, 0, (1,)
        )  # eight characters from each on

    def field(self, place: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        if place:
            begin = self._columns[place - 1] + 1
        else:
            begin = np.empty(self._columns.shape[1], np.intp)
            begin[0] = _PAD
            begin[1:] = self._columns[-1, :-1] + 1
        return begin, self._columns[place] - begin

    def eight(self, at: NDArray[np.intp]) -> _Words:
        return self._eights[at]

    def word(self, place: int, good: _Mask) -> _Words:
        """Fields of at most eight characters, the last one highest, nothing below the first."""
        _, size = self.field(place)
        good &= (size >= 1) & (size <= 8)
        gone = _bits_gone(size)
        return self.eight(self._columns[place] - 8) >> gone << gone

    def number(self, place: int | None, good: _Mask) -> _Words:
        """Whole numbers of at most 16 digits."""
        assert place is not None
        _, size = self.field(place)
        good &= (size >= 1) & (size <= 16)
        end = self._columns[place]
        found = _number(self.eight(end - 8), size, good)
        long = np.flatnonzero((size > 8) & good)
        if len(long):
            fine = np.ones(len(long), bool)
            found[long] += _number(self.eight(end[long] - 16), size[long] - 8, fine) * np.uint64(10**8)
            good[long] &= fine
        return found

    def four(self, place: int | None, good: _Mask) -> NDArray[np.uint32]:
        """Dotted IPv4 addresses, a part after the other: where it ends is where the next begins."""
        assert place is not None
        at, _ = self.field(place)
        end = self._columns[place]
        total = np.zeros(len(at), np.uint32)
        bad = np.zeros(len(at), bool)
        for part in range(4):
            first, second, third = (self._digits[ahead:].take(at) for ahead in range(3))
            if part < 3:
                has_two = second != _DOT_DIGIT
                has_three = has_two & (third != _DOT_DIGIT)
                bad |= has_three & (self._digits[3:].take(at) != _DOT_DIGIT)
            else:
                size = end - at
                has_two, has_three = size >= 2, size >= 3
                bad |= (size < 1) | (size > 3)
            bad |= (first > 9) | (has_two & (second > 9)) | (has_three & (third > 9))
            value = first.astype(np.uint16)
            value += (value * np.uint16(9) + second) * has_two
            value += (value * np.uint16(9) + third) * has_three
            bad |= value > 255
            total <<= np.uint32(8)
            total |= value
            at = at + (has_two.view(np.uint8) + has_three.view(np.uint8) + np.uint8(2))
        good &= ~bad
        return total


def _bits_gone(size: NDArray[np.intp]) -> _Words:
    """How far to shift eight characters that end with a field, to have the field alone."""
    return (np.maximum(8 - size, 0) * 8).astype(np.uint64)


def _number(words: _Words, size: NDArray[np.intp], good: _Mask) -> _Words:
    """What the last `size` (or all eight) of eight characters say."""
    gone = _bits_gone(size)
    digits = (words >> gone) - (_EIGHT * np.uint64(_ZERO) >> gone)
    good &= _are_digits(digits)
    digits = digits << gone
    digits = (digits * np.uint64(10) + (digits >> np.uint64(8))) & _u64(0x00FF00FF00FF00FF)
    digits = (digits * np.uint64(100) + (digits >> np.uint64(16))) & _u64(0x0000FFFF0000FFFF)
    return (digits * np.uint64(10_000) + (digits >> np.uint64(32))) & _u64(0xFFFFFFFF)


def _are_digits(words: _Words) -> _Mask:
    """Whether each byte is 0 to 9."""
    return ((words + _OVER_NINE | words) & _HIGH) == 0


def _digits(
    words: _Words, like: bytes, good: _Mask, places: tuple[int, ...], or_like: bytes | None = None
) -> list[NDArray[np.int64]]:
    """Numbers of two digits at these places (below 0: of one) in eight characters that look like `like`: 0 is a digit."""
    less = words - _u64(int.from_bytes(like, "little"))
    fixed = _u64(int.from_bytes(bytes(0 if each == _ZERO else 255 for each in like), "little"))
    fits = _are_digits(less) & (less & fixed == 0)
    if or_like is not None and not fits.all():
        other = words - _u64(int.from_bytes(or_like, "little"))
        also = ~fits & _are_digits(other) & (other & fixed == 0)
        less, fits = np.where(also, other, less), fits | also
    good &= fits
    twos = less * np.uint64(10) + (less >> np.uint64(8))
    return [
        ((less if place < 0 else twos) >> np.uint64(8 * abs(place)) & np.uint64(255)).astype(np.int64)
        for place in places
    ]


def _distinct(words: _Words, left: _Mask, known: dict[int, Any]) -> Iterator[int]:
    """Each different word once, the known first; `left` keeps those of too many. The caller adds to known."""
    for word in list(known):
        if not left.any():
            return
        left &= words != _u64(word)
        yield word
    while left.any() and len(known) < _MOST_WORDS:
        word = int(words[int(left.argmax())])
        left &= words != _u64(word)
        yield word


def _protocol_of(word: int) -> int | None:
    text = word.to_bytes(8, "little").lstrip(b"\0")
    return protocol_number(text.decode("ascii")) if re.fullmatch(rb"[\w-]+", text) else None


def _month_of(word: int) -> tuple[int, int] | None:
    """When the month of "2024-11-" began (ns), and how many days it has."""
    text = word.to_bytes(8, "little")
    if not re.fullmatch(rb"\d{4}-\d\d-", text):
        return None
    year, month = int(text[:4]), int(text[5:7])
    if not (1970 <= year <= 2200 and 1 <= month <= 12):
        return None
    first, following = date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)
    return (first - date(1970, 1, 1)).days * _DAY_NS, (following - first).days


def _lines(protocol: NDArray[np.uint8], values: list[NDArray[Any]], good: _Mask | None) -> Lines:
    start, src, dst, src_port, dst_port, packets, octets = values
    ports = [each.astype(np.uint16) for each in (src_port, dst_port)]
    has_none = (protocol != TCP) & (protocol != UDP)
    if has_none.any():
        for each in ports:
            each[has_none] = 0
    counts = [each.astype(np.int64) for each in (packets, octets)]
    lines = Lines(4, src, dst, protocol, ports[0], ports[1], start, counts[0], counts[1])
    return lines if good is None else lines.take(good)


def _joined(found: list[Lines]) -> Lines:
    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(each, name) for each in found])

    return Lines(
        4,
        column("src"),
        column("dst"),
        column("protocol"),
        column("src_port"),
        column("dst_port"),
        column("start_ns"),
        column("packets"),
        column("bytes"),
    )
