"""Input files of any kind as a stream of bytes: what they are, how far reading has come, and where they break."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from enforcer.yamlfile import FileError, Problem

Kind = Literal["pcap", "pcapng", "parquet", "text"]

_PCAP = {struct.pack(order + "I", number) for order in "<>" for number in (0xA1B2C3D4, 0xA1B23C4D)}
_PCAPNG, _PARQUET, _GZIP, _ZSTD = b"\x0a\x0d\x0d\x0a", b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


_HEADER_BYTES = 24  # pcap-savefile(5); a pcapng's first block is longer
_REMEDY = "give a capture (pcap, pcapng) or a flow log (CSV, Parquet)"


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a file is not what it should be. offset: bytes into it (uncompressed); line counts from 1; lost says what was left out."""

    offset: int
    what: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"byte {self.offset:,}" if self.line is None else f"line {self.line:,} (byte {self.offset:,})"
        return f"{place}: {self.what}"


@dataclass(slots=True)
class Damages:
    """What was found wrong in a file: the first few, and how many in all."""

    first: list[Damage] = field(default_factory=list)
    count: int = 0

    def add(self, damage: Damage) -> None:
        self.count += 1
        if len(self.first) < 10:
            self.first.append(damage)


class BrokenStream(Exception):
    """A compressed file ends or breaks in its middle."""


def open_recording(path: Path) -> Source:
    """A capture or a flow log. Raises FileError for what cannot be one, and says what it seems to be."""
    if path.is_dir():
        raise _wrong(path, "is a folder")
    try:
        source = Source(path)
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from error
    kind, head = source.kind(), source.peek(_HEADER_BYTES)
    seems = None
    if not head:
        seems = "it is empty"
    elif kind in ("pcap", "pcapng") and len(head) < _HEADER_BYTES:
        seems = f"no capture: it ends in the middle of its header, after {len(head)} bytes"
    elif kind == "text":
        seems = _seems(path, head)
    if seems:
        source.close()
        raise _wrong(path, seems)
    return source


def _wrong(path: Path, what: str) -> FileError:
    return FileError([Problem(str(path), 1, 1, "", what, _REMEDY)])


def _seems(path: Path, head: bytes) -> str | None:
    if path.name.endswith((".policy.yaml", ".policy.yml")):
        return "this is a policy, not a recording of traffic"
    if head.startswith(b"SQLite format 3\0"):
        return "this is a registry's ledger, not a recording of traffic"
    if head.lstrip()[:1] == b"{":
        return "this is JSON (an allowlist or an audit?), not a recording of traffic"
    return None


class Source:
    """A file to be read once from its start. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._raw = path.open("rb")
        magic = self._raw.read(4)
        self._raw.seek(0)
        self._stream: BinaryIO = self._raw
        if magic[:2] == _GZIP:
            self._stream = gzip.GzipFile(fileobj=self._raw)  # type: ignore[assignment]
        elif magic == _ZSTD:
            import pyarrow

            self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(self._raw, "r"), "zstd")  # type: ignore[assignment]
        self.is_compressed = self._stream is not self._raw
        self._held = b""
        self.breaks: str | None = None

    def kind(self) -> Kind:
        """What the file is by its first bytes. Text is everything else."""
        magic = self.peek(4)
        if magic in _PCAP:
            return "pcap"
        if magic == _PCAPNG:
            return "pcapng"
        return "parquet" if magic == _PARQUET else "text"

    def peek(self, size: int) -> bytes:
        """The first bytes, which are read again later; fewer when the file has no more."""
        while len(self._held) < size:
            held, self._held = self._held, b""
            part = self.read(size - len(held))
            self._held = held + part
            if not part:
                break
        return self._held[:size]

    def read(self, size: int) -> bytes:
        """At most size bytes, b"" at the end. A compressed stream that breaks ends, and `breaks` says how."""
        if self._held:
            held, self._held = self._held[:size], self._held[size:]
            return held
        if self.breaks:
            return b""
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.breaks = f"the compressed file breaks off: {error}"
        except OSError as error:
            if not self.is_compressed or error.errno is not None:
                raise
            self.breaks = f"the compressed file breaks off: {error}"
        return b""

    def read_into(self, free: memoryview) -> int:
        """What read(len(free)) does, put where it is wanted; returns how much."""
        if self._stream is self._raw and not self._held:
            return self._raw.readinto(free)  # type: ignore[attr-defined]
        part = self.read(len(free))
        free[: len(part)] = part
        return len(part)

    def progress(self) -> float:
        """How much of the file was read, 0..1."""
        return self._raw.tell() / self.size if self.size else 1.0

    def close(self) -> None:
        self._raw.close()
