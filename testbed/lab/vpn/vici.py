"""strongSwan's control protocol, as much of it as a lab needs: load, initiate, list, over a Unix socket.

Format: strongSwan's src/libcharon/plugins/vici/README.md. Values are str or bytes; a list holds values; a dict is a section.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

_REQUEST, _RESPONSE, _REGISTER, _CONFIRM, _EVENT = 0, 1, 3, 5, 7
_SECTION_START, _SECTION_END, _KEY_VALUE, _LIST_START, _LIST_ITEM, _LIST_END = 1, 2, 3, 4, 5, 6

Message = dict[str, Any]


class ViciError(RuntimeError):
    """charon refused a command; the message is charon's own."""


class Vici:
    """One connection to a charon. Raises OSError when nobody listens at the path."""

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Vici:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def request(self, command: str, message: Message | None = None) -> Message:
        """Send a command and return its answer. Raises ViciError when the answer says it failed."""
        self._send(bytes((_REQUEST,)) + _name(command) + encode(message or {}))
        kind, body = self._receive()
        if kind != _RESPONSE:
            raise ViciError(f"{command}: charon does not know this command")
        answer = decode(body)
        if answer.get("success", "yes") != "yes":
            raise ViciError(f"{command}: {answer.get('errmsg', 'refused without a reason')}")
        return answer

    def streamed(self, command: str, event: str) -> list[Message]:
        """Send a command that answers with events, and return them all."""
        self._send(bytes((_REGISTER,)) + _name(event))
        if self._receive()[0] != _CONFIRM:
            raise ViciError(f"charon does not know the event {event}")
        self._send(bytes((_REQUEST,)) + _name(command))
        events = []
        while True:
            kind, body = self._receive()
            if kind != _EVENT:
                return events
            events.append(decode(body[1 + body[0] :]))

    def _send(self, packet: bytes) -> None:
        self._socket.sendall(struct.pack("!I", len(packet)) + packet)

    def _receive(self) -> tuple[int, bytes]:
        (size,) = struct.unpack("!I", self._exactly(4))
        packet = self._exactly(size)
        return packet[0], packet[1:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise ConnectionResetError("charon closed its control socket")
            data += part
        return data


def encode(message: Message) -> bytes:
    """A message as charon reads it. Raises struct.error for a value over 65535 bytes."""
    parts = []
    for key, value in message.items():
        if isinstance(value, dict):
            parts.append(bytes((_SECTION_START,)) + _name(key) + encode(value) + bytes((_SECTION_END,)))
        elif isinstance(value, list):
            items = b"".join(bytes((_LIST_ITEM,)) + _value(item) for item in value)
            parts.append(bytes((_LIST_START,)) + _name(key) + items + bytes((_LIST_END,)))
        else:
            parts.append(bytes((_KEY_VALUE,)) + _name(key) + _value(value))
    return b"".join(parts)


def decode(data: bytes) -> Message:
    """The message in data, values as text. Raises ValueError for an element of an unknown kind."""
    root: Message = {}
    stack, items, at = [root], [], 0
    while at < len(data):
        kind, at = data[at], at + 1
        if kind == _SECTION_END:
            stack.pop()
        elif kind == _LIST_END:
            items = []
        elif kind == _LIST_ITEM:
            text, at = _text(data, at)
            items.append(text)
        elif kind in (_SECTION_START, _LIST_START, _KEY_VALUE):
            key, at = data[at + 1 : at + 1 + data[at]].decode(), at + 1 + data[at]
            if kind == _KEY_VALUE:
                stack[-1][key], at = _text(data, at)
            elif kind == _LIST_START:
                stack[-1][key] = items = []
            else:
                stack[-1][key] = section = {}
                stack.append(section)
        else:
            raise ValueError(f"vici element of kind {kind}")
    return root


def _name(name: str) -> bytes:
    data = name.encode()
    return bytes((len(data),)) + data


def _value(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("!H", data, at)
    return data[at + 2 : at + 2 + size].decode(errors="replace"), at + 2 + size
