"""The audit's file: whole lines or none, never more of them on the disk than allowed, and an exact count of those it had no room for."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class AuditFile:
    """PATH is written; when it is most_bytes long it becomes PATH.1, that one PATH.2, and so on: the oldest is deleted.

    lost: lines that could not be written. failing: why the last one could not; "" when it could. Any thread may write.
    """

    def __init__(self, path: Path, most_bytes: int, most_files: int) -> None:
        """Raises OSError when the file cannot be opened."""
        self.lost = 0
        self.failing = ""
        self._path, self._most_bytes, self._most_files = path, most_bytes, most_files
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, line: bytes) -> bool:
        """Append a line. False, and counted, when there is no room for it."""
        with self._lock:
            try:
                if self._size and self._size + len(line) > self._most_bytes:
                    self._turn()
                written = os.write(self._file, line)
                if written < len(line):  # the disk took a part of it
                    os.ftruncate(self._file, self._size)
                    raise OSError("no room for a whole line")
            except OSError as error:
                self.lost += 1
                self.failing = error.strerror or str(error)
                return False
            self._size += len(line)
            self.failing = ""
            return True

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size

    def _turn(self) -> None:
        for number in range(self._most_files - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._most_files == 1:
            self._path.unlink()
        os.close(self._file)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path if not number else self._path.with_name(f"{self._path.name}.{number}")
