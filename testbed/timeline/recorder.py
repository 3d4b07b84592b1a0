"""Writes records as they happen, so that a run that dies at any moment leaves files that can be read up to then."""

from __future__ import annotations

import gzip
import json
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from testbed.records import FILES, AuditRecord, EventRecord, FlowRecord, ProbeRecord

# Fast and small enough: level 1 costs a third of level 6 and the files are a few MB (zlib manual, "deflateInit").
_COMPRESSION_LEVEL = 1
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make another for each line


class Recorder:
    """One open file per record kind in a run folder. Not thread-safe; call flush() about once a second.

    events.jsonl is flushed at each line; the compressed files end in a complete deflate block after each flush().
    Raises OSError when the disk is full: the run is broken then, and what was flushed stays.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._files: dict[str, IO[str]] = {}
        self._raw: dict[str, Any] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        for kind in ("event", "flow", "probe", "audit"):
            self._open(kind, run_dir / FILES[kind])

    def event(self, record: EventRecord) -> None:
        self._write("event", record)
        self._files["event"].flush()

    def flow(self, record: FlowRecord) -> None:
        self._write("flow", record)

    def probe(self, record: ProbeRecord) -> None:
        self._write("probe", record)

    def audit(self, record: AuditRecord) -> None:
        self._write("audit", record)

    def flush(self) -> None:
        for kind, file in self._files.items():
            file.flush()
            if kind in self._raw:
                self._raw[kind].flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        for raw in self._raw.values():
            raw.close()
        self._files.clear()

    def _open(self, kind: str, path: Path) -> None:
        if path.suffix == ".gz":
            self._raw[kind] = path.open("wb")
            stream = gzip.GzipFile(
                filename="", fileobj=self._raw[kind], mode="wb", compresslevel=_COMPRESSION_LEVEL, mtime=0
            )
            self._files[kind] = _TextOver(stream)  # type: ignore[assignment]
        else:
            self._files[kind] = path.open("w", encoding="utf-8")

    def _write(self, kind: str, record: Any) -> None:
        names = self._names.get(kind)
        if names is None:
            names = self._names[kind] = tuple(field.name for field in fields(record))
        self._files[kind].write(_encode({name: getattr(record, name) for name in names}) + "\n")


class _TextOver:
    """The little of a text file that the recorder needs, over gzip; io.TextIOWrapper would hide Z_SYNC_FLUSH."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def write(self, text: str) -> None:
        self._lines.append(text)

    def flush(self) -> None:
        if self._lines:
            self._stream.write("".join(self._lines).encode())
            self._lines.clear()
            self._stream.flush()

    def close(self) -> None:
        self.flush()
        self._stream.close()
