"""The agent's Unix socket: one JSON object a line asked, one answered. `status`, `reload`, `metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

Commands = dict[str, Callable[[], Any]]  # what a function returns is answered; a coroutine is waited for


class NobodyListens(Exception):
    """No agent answers at this socket."""


async def serve(path: Path, commands: Commands) -> asyncio.Server:
    """Answer until the server is closed. Raises OSError; ValueError when another agent answers there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            ask(path, "status", timeout_s=1.0)
        except NobodyListens:
            path.unlink()  # left by an agent that was killed
        except TimeoutError:
            raise ValueError(
                f"another enforcer holds {path} and does not answer; end it, or configure another control socket"
            ) from None
        else:
            raise ValueError(
                f"another enforcer answers at {path}; stop it, or configure another control socket"
            )
    old = os.umask(0o177)  # only this user
    try:
        return await asyncio.start_unix_server(lambda reader, writer: _answer(reader, writer, commands), path)
    finally:
        os.umask(old)


def ask(path: Path, command: str, timeout_s: float = 5.0) -> Any:
    """The agent's answer. Raises NobodyListens, TimeoutError; ValueError with the agent's words when it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NobodyListens(f"no enforcer answers at {path}") from error
        connection.sendall(json.dumps({"do": command}).encode() + b"\n")
        answer = json.loads(connection.makefile().readline() or '{"error": "no answer"}')
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["answer"]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
    with contextlib.suppress(ConnectionError, asyncio.LimitOverrunError, ValueError):
        while line := await reader.readline():
            writer.write(json.dumps(await _reply(line, commands)).encode() + b"\n")
            await writer.drain()
    writer.close()


async def _reply(line: bytes, commands: Commands) -> dict[str, Any]:
    try:
        command = json.loads(line)["do"]
    except (ValueError, KeyError, TypeError):
        return {"error": 'write one JSON object a line: {"do": "status"}'}
    if command not in commands:
        return {"error": f"unknown command {command!r}; write one of {', '.join(commands)}"}
    answer = commands[command]()
    return {"answer": await answer if inspect.isawaitable(answer) else answer}
