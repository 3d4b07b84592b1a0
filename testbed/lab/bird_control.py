"""Asks a running BIRD over its control socket: 0.2 ms, where starting birdc costs 4 ms and a fork."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

# A reply line is "CODE-text" with more to come or "CODE text" as the last; a continuation starts with a space and has
# the code of the line before (BIRD user's guide, "Remote control"). 8xxx are run-time errors, 9xxx syntax errors.
_LINE = re.compile(r"^(\d{4})([- ])(.*)$")


class BirdError(RuntimeError):
    """BIRD refused a command; the message is BIRD's own."""


@dataclass(frozen=True, slots=True)
class ProtocolState:
    """One line of `show protocols`: state is "up", "start", "down"; info says more ("Established", "Active …")."""

    name: str
    kind: str
    state: str
    info: str

    @property
    def is_established(self) -> bool:
        return self.info.startswith("Established")


class BirdControl:
    """A connection to one BIRD. Raises OSError when it does not listen or does not answer within timeout_s."""

    def __init__(self, path: Path, timeout_s: float = 2.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        self._rest = b""
        try:
            self._socket.connect(str(path))
            self._reply()  # the greeting
        except BaseException:
            self._socket.close()
            raise

    def ask(self, command: str) -> list[tuple[int, str]]:
        """Send one command; return its reply as (code, text) lines. Raises BirdError for an error reply."""
        self._socket.sendall(command.encode() + b"\n")
        lines = self._reply()
        if lines[-1][0] >= 8000:
            raise BirdError(f"bird: {command}: {lines[-1][1]}")
        return lines

    def protocols(self) -> dict[str, ProtocolState]:
        """All protocol instances by name."""
        found = {}
        for code, text in self.ask("show protocols"):
            if code == 1002:
                name, kind, _table, state, _since, *info = text.split(None, 5)
                found[name] = ProtocolState(name, kind, state, info[0].strip() if info else "")
        return found

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> BirdControl:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _reply(self) -> list[tuple[int, str]]:
        lines: list[tuple[int, str]] = []
        while True:
            line = self._line()
            match = _LINE.match(line)
            if match is None:
                lines.append((lines[-1][0] if lines else 0, line[1:]))
                continue
            lines.append((int(match[1]), match[3]))
            if match[2] == " ":
                return lines

    def _line(self) -> str:
        while b"\n" not in self._rest:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("bird closed its control socket")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")
