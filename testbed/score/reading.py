"""Reads the records of a run folder, as far as they go: a run that died leaves files that end in the middle of a line."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from testbed.records import FILES, AuditRecord, EventRecord, FlowRecord, ProbeRecord, WitnessRecord

_CHUNK_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS  # zlib manual, inflateInit2: 16 more means gzip

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Records:
    """Everything a run wrote, in file order; events and audit by time.

    unreadable: file name -> how many lines could not be read; truncated: files that end before their proper end, after
    which an unknown number of lines was never written.
    """

    events: list[EventRecord] = field(default_factory=list)
    flows: list[FlowRecord] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)
    witness: list[WitnessRecord] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    truncated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_records(run_dir: Path) -> Records:
    """The records of a run. A missing file is an empty one and is named in `missing`. Raises OSError for others."""
    records = Records()
    _read(run_dir / FILES["event"], EventRecord, records.events, records)
    _read(run_dir / FILES["flow"], FlowRecord, records.flows, records)
    _read(run_dir / FILES["probe"], ProbeRecord, records.probes, records)
    _read(run_dir / FILES["witness"], WitnessRecord, records.witness, records)
    _read(run_dir / FILES["audit"], AuditRecord, records.audit, records)
    records.events.sort(key=lambda event: event.t_ns)
    records.audit.sort(key=lambda line: line.t_ns)
    return records


def _read(path: Path, kind: type[Record], into: list[Record], records: Records) -> None:
    if not path.exists():
        records.missing.append(path.name)
        return
    names = frozenset(each.name for each in fields(kind))  # type: ignore[arg-type]
    unreadable = 0
    for line in _lines(path, records):
        try:
            row: Any = json.loads(line)
            # Fields that a later version added are left out; fields that are missing make the line unreadable.
            into.append(kind(**{name: value for name, value in row.items() if name in names}))
        except (ValueError, TypeError, AttributeError):
            unreadable += 1
    if unreadable:
        records.unreadable[path.name] = unreadable


def _lines(path: Path, records: Records) -> Iterator[bytes]:
    rest = b""
    for block in _plain(path, records) if path.suffix == ".gz" else _raw(path):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        if path.name not in records.truncated:
            records.truncated.append(path.name)
        yield rest


def _raw(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            yield block


def _plain(path: Path, records: Records) -> Iterator[bytes]:
    """Whatever can be decompressed; the writer flushes complete deflate blocks, so little is lost at the end."""
    inflate = zlib.decompressobj(_GZIP)
    for block in _raw(path):
        while block:
            try:
                yield inflate.decompress(block)
            except zlib.error:
                records.truncated.append(path.name)
                return
            block = inflate.unused_data
            if inflate.eof:
                inflate = zlib.decompressobj(_GZIP) if block else inflate
            else:
                block = b""
    if not inflate.eof:
        records.truncated.append(path.name)
        yield inflate.flush()
