"""Flow logs as Lines, batch by batch in bounded memory: CSV (also compressed) and Parquet. Damage is noted, what is whole is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from enforcer.replay.convert import Converter, NotLines
from enforcer.replay.lines import Lines
from enforcer.replay.mapping import Mapping, choose
from enforcer.replay.regular import Regular, layout_of
from enforcer.replay.source import Damage, Damages, Source

# Large enough that a block's fixed costs vanish, small enough for a few of them in memory.
_BLOCK_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_BATCH_LINES = 1 << 17
_HEAD_BYTES = 1 << 16
_MOST_IRREGULAR = 3  # blocks on end, and no more is tried without Arrow
_MOST_BAD_LINES = 1000
_COLUMN_BUFFER_BYTES, _SMALL_GROUP_BYTES = 1 << 20, 128 << 20
# Of a text that stands in a dictionary, with its share of that. An address in full takes 11 and more.
_MOST_INDEX_BYTES = 5
# A zone at the end of a time: "Z", "+05", "+0500", "+05:00".
_ZONE = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$")
# What nfdump prints after the flows (1.6: "Summary" and two lines; 1.7 without -q: sentences).
_TRAILER = re.compile(
    rb"^(Summary|flows,bytes,packets,|\d+,\d+,\d+,\d+,\d+,\d+\s*$|Time window:|Total flows processed:|Sys:|No matched flows)"
)


_NEITHER = "it is neither a capture (pcap, pcapng) nor a flow log (CSV with a header line, Parquet)"


class NotAFlowLog(ValueError):
    """The file is no flow log that can be read: what it is, and what to do."""


class Log:
    """A flow log; `lines()` reads it once. mapping is known when it is made; damages grows while it is read."""

    def __init__(self, source: Source, given: Mapping | None, has_moment: bool, time_zone: str) -> None:
        self.source = source
        self.damages = Damages()
        self.notes: list[str] = []
        self._time_zone = time_zone
        self._is_parquet = source.kind() == "parquet"
        try:
            if self._is_parquet:
                if source.is_compressed:
                    raise ValueError(
                        "Parquet inside a compressed file cannot be read; unpack it (Parquet compresses by itself)"
                    )
                self._file = _open_parquet(source.path)
                self.mapping = choose(self._file.schema_arrow.names, given, has_moment)
                self._file = _open_parquet(source.path, self.mapping.columns["proto"])
            else:
                self._read_header(given, has_moment)
        except ValueError as error:
            raise NotAFlowLog(f"{source.path}: {error}") from error
        self._converter = Converter(self.mapping, time_zone)

    def lines(self) -> Iterator[Lines]:
        """All lines that can be read."""
        yield from self._parquet() if self._is_parquet else self._text()

    def _read_header(self, given: Mapping | None, has_moment: bool) -> None:
        first = b""
        while b"\n" not in first and len(first) < _BLOCK_BYTES:
            more = self.source.read(1 << 16)
            if not more:
                break
            first += more
        header, _, self._rest = first.partition(b"\n")
        self._offset = len(header) + 1
        text = header.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
        if not text:
            raise ValueError(self.source.breaks or "it is empty")
        if "\0" in text or "\ufffd" in text:
            raise ValueError(_NEITHER)
        self._separator = max(",;\t|", key=text.count)
        self._header = [name.strip().strip('"') for name in text.split(self._separator)]
        if len(self._header) < 5:
            raise ValueError(f"{_NEITHER}; its first line is {text[:80]!r}")
        if any(re.fullmatch(r"[\d.:]+", name) for name in self._header):
            raise ValueError(
                "its first line is a flow and no header; nfdump -q leaves the header out: run it without -q"
            )
        self._header_line = header.strip()
        self.mapping = choose(self._header, given, has_moment)

    def _text(self) -> Iterator[Lines]:
        """Blocks that end with a line; a block that does not convert is halved until the wrong lines stand alone."""
        line = 2
        self._types: dict[str, pa.DataType] | None = None
        self._regular: Regular | None = None
        self._irregular = 0
        self._counted: int | None = None  # lines of the last block, where that was found by the way
        # One buffer for all blocks: new memory for each costs as much as parsing does.
        held = bytearray(_BLOCK_BYTES + len(self._rest))
        held[: len(self._rest)] = self._rest
        size, is_end = len(self._rest), False
        while not is_end:
            size, is_end = self._fill(held, size)
            end = size if is_end else held.rfind(b"\n", 0, size) + 1
            if end:
                yield from self._whole(held, end, line)
                line += held.count(b"\n", 0, end) if self._counted is None else self._counted
                self._offset += end
                held[: size - end] = held[end:size]
                size -= end
            elif size == len(held):
                held.extend(bytes(_BLOCK_BYTES))  # a line longer than the buffer
            if self.damages.count > _MOST_BAD_LINES:
                what = f"more than {_MOST_BAD_LINES:,} lines are wrong; the rest was not read"
                self.damages.add(Damage(self._offset, what, line))
                return
        if self.source.breaks:
            self.damages.add(Damage(self._offset, self.source.breaks))

    def _fill(self, held: bytearray, size: int) -> tuple[int, bool]:
        """Read until the buffer is full. Returns how much it holds, and whether the file has ended."""
        while size < len(held):
            with memoryview(held) as view, view[size : size + _PIECE_BYTES] as free:
                more = self.source.read_into(free)
            if not more:
                return size, True
            size += more
        return size, False

    def _whole(self, held: bytearray, end: int, line: int) -> Iterator[Lines]:
        """The lines of a block, which is mostly without damage."""
        # Parsed where it stands; what comes of it is copied.
        block = memoryview(held)[:end]
        if self._types is None and bytes(block[:_HEAD_BYTES]).strip():
            self._types = self._guess_types(bytes(block[:_HEAD_BYTES]))
            first = bytes(block[:_HEAD_BYTES]).split(b"\n", 1)[0].decode("utf-8", "replace")
            layout = layout_of(self.mapping, self._header, self._separator, self._time_zone, first)
            self._regular = Regular(layout) if layout else None
        try:
            found = self._regular_lines(block)
            if found is None and self._types is not None:
                found = list(self._converter.lines(self._table(pa.py_buffer(block))))
        except (pa.ArrowInvalid, NotLines):
            found = None
        if found is None:
            yield from self._block(bytes(block), line, self._offset)
        else:
            yield from found

    def _regular_lines(self, block: memoryview) -> list[Lines] | None:
        """What can be read without Arrow, and the few lines that cannot, with it. Raises as it does."""
        self._counted = None
        if self._regular is None:
            return None
        parsed = self._regular.parse(block)
        self._counted = parsed.size if parsed else None
        self._irregular = 0 if parsed else self._irregular + 1
        if self._irregular == _MOST_IRREGULAR:
            self._regular = None
        if parsed is None:
            return None
        odd = self._converter.lines(self._table(pa.py_buffer(parsed.odd))) if parsed.odd else ()
        return [parsed.lines, *odd] if len(parsed.lines) else list(odd)

    def _block(self, block: bytes, line: int, offset: int) -> Iterator[Lines]:
        if not block.strip():
            return
        if self._types is None:
            self._types = self._guess_types(block)
        try:
            found = list(self._converter.lines(self._table(pa.py_buffer(block))))
        except (pa.ArrowInvalid, NotLines) as error:
            if block.count(b"\n", 0, len(block.rstrip())) == 0:
                if not _TRAILER.match(block) and block.strip() != self._header_line:
                    self.damages.add(Damage(offset, _words(error, self._header), line))
                return
            if self.damages.count > _MOST_BAD_LINES:
                return
            middle = block.find(b"\n", len(block) // 2) + 1
            if middle in (0, len(block)):
                middle = block.rfind(b"\n", 0, len(block) - 1) + 1
            yield from self._block(block[:middle], line, offset)
            yield from self._block(block[middle:], line + block.count(b"\n", 0, middle), offset + middle)
            return
        yield from found

    def _table(self, block: pa.Buffer) -> pa.Table:
        return csv.read_csv(
            pa.BufferReader(block),
            # A block at once: threads and pieces of it take twice the processor's time, and small pieces are judged slowly.
            read_options=csv.ReadOptions(
                column_names=self._header, use_threads=False, block_size=block.size + 1
            ),
            parse_options=csv.ParseOptions(delimiter=self._separator),
            convert_options=csv.ConvertOptions(
                column_types=self._types,
                include_columns=list(dict.fromkeys(self.mapping.columns.values())),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )

    def _guess_types(self, block: bytes) -> dict[str, pa.DataType]:
        """The types of the columns; only whether times name a zone is looked up in the first line."""
        types: dict[str, pa.DataType] = {}
        for name, column in self.mapping.columns.items():
            if name in ("src", "dst"):
                types[column] = pa.string()
            elif name == "proto":
                types[column] = pa.dictionary(pa.int32(), pa.string())
            elif name in ("src-port", "dst-port"):
                types[column] = pa.float64()
            elif name == "start":
                types[column] = self._time_type(column, block)
            else:
                types[column] = pa.int64()
        return types

    def _time_type(self, column: str, block: bytes) -> pa.DataType:
        fields = block.split(b"\n", 1)[0].decode("utf-8", "replace").split(self._separator)
        place = self._header.index(column)
        text = fields[place].strip().strip('"') if place < len(fields) else ""
        if self.mapping.unit_ns is not None:
            return pa.float64() if "." in text else pa.int64()
        if re.fullmatch(r"[\d.]+", text):
            raise NotAFlowLog(
                f"{self.source.path}: column {column!r} has numbers for times ({text}); say of which unit: "
                f"--map start={column}@s,… (or ms, us, ns; a mapping file says unit:)"
            )
        if _ZONE.search(text) and len(text) > 10:
            return pa.timestamp("ns", "UTC")
        self.notes.append(f"times in the log name no zone: read as {self._time_zone}")
        return pa.timestamp("ns")

    def _parquet(self) -> Iterator[Lines]:
        columns = list(dict.fromkeys(self.mapping.columns.values()))
        metadata = self._file.metadata
        starts = self.mapping.columns.get("start")
        if starts is not None:
            kind = self._file.schema_arrow.field(starts).type
            if pa.types.is_timestamp(kind) and kind.tz is None:
                self.notes.append(f"times in the log name no zone: read as {self._time_zone}")
        for group in range(metadata.num_row_groups):
            done = 0
            try:
                # With threads of Arrow's it takes twice the processor's time.
                batches = self._file.iter_batches(
                    _BATCH_LINES, row_groups=[group], columns=columns, use_threads=False
                )
                for batch in batches:
                    found = list(self._converter.lines(pa.Table.from_batches([batch])))
                    done += len(batch)
                    yield from found
            except (pa.ArrowException, OSError, NotLines, UnicodeDecodeError) as error:
                part = metadata.row_group(group)
                offset = min(
                    part.column(index).dictionary_page_offset or part.column(index).data_page_offset
                    for index in range(part.num_columns)
                )
                lost = part.num_rows - done
                what = f"row group {group}: {_words(error, [])}; {lost:,} of its {part.num_rows:,} flows were left out"
                self.damages.add(Damage(offset, what))


def _open_parquet(path: Path, proto: str | None = None) -> parquet.ParquetFile:
    """proto: the column of protocols, which are few."""
    try:
        file = parquet.ParquetFile(path)
        texts = _repeating(file) | {proto}
        names = [
            field.name
            for field in file.schema_arrow
            if field.name in texts and pa.types.is_string(field.type)
        ]
        # To read a row group in one go is faster; but it may be all of a large file.
        sizes = [
            file.metadata.row_group(each).total_byte_size for each in range(file.metadata.num_row_groups)
        ]
        if max(sizes, default=0) <= _SMALL_GROUP_BYTES:
            return parquet.ParquetFile(path, read_dictionary=names)
        return parquet.ParquetFile(
            path, read_dictionary=names, pre_buffer=False, buffer_size=_COLUMN_BUFFER_BYTES
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"it begins as Parquet and cannot be read ({error}). Parquet's index stands at its end (byte {path.stat().st_size:,}): "
            "a file that was cut off has lost it; write it again"
        ) from error


def _repeating(file: parquet.ParquetFile) -> set[str]:
    """Columns of texts that are parsed fastest by their dictionary.

    Where the writer gave the dictionary up, to make one again takes five times what parsing each text does.
    """
    metadata = file.metadata
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        for index in range(part.num_columns):
            column = part.column(index)
            sizes[column.path_in_schema] = (
                sizes.get(column.path_in_schema, 0) + column.total_uncompressed_size
            )
    return {name for name, size in sizes.items() if size <= _MOST_INDEX_BYTES * metadata.num_rows}


def _words(error: Exception, header: list[str]) -> str:
    """Arrow's message about a value, with the column's name for its number."""
    text = str(error)
    found = re.match(r"In CSV column #(\d+): (?:Row #\d+: )?(.*)", text, re.S)
    if found and int(found[1]) < len(header):
        kind = re.match(r"CSV conversion error to (.*): invalid value '(.*)'", found[2], re.S)
        if kind:
            return f"column {header[int(found[1])]!r}: {kind[2]!r} is no {_KINDS.get(kind[1].split('[')[0], kind[1])}"
        return f"column {header[int(found[1])]!r}: {found[2]}"
    found = re.match(r"CSV parse error: (?:Row #\d+: )?Expected (\d+) columns, got (\d+)", text)
    if found:
        return f"{found[2]} columns where the header has {found[1]}"
    return text.splitlines()[0] if text else type(error).__name__


_KINDS = {"double": "number", "int64": "whole number", "timestamp": "time"}
