"""Captures for Wireshark, where somebody asked for one: `--capture NODE[:PORT]`.

One program for each capture (capture_ring.py) writes while the lab runs, so a run that is killed leaves a readable file. It
has the node's interfaces by name, each packet's direction, and the plan's nodes as names for their addresses.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.lab import pcapng
from testbed.lab.build import Lab
from testbed.plan.plan import Plan

_START_DEADLINE_S = 5.0
_STOP_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class CaptureWish:
    """What to capture on a node: everything, one TCP or UDP port's packets, or one interface's."""

    node: str
    port: int | None = None
    interface: str | None = None

    @property
    def name(self) -> str:
        return "-".join(str(part) for part in (self.node, self.port, self.interface) if part is not None)


@dataclass(slots=True)
class _Running:
    wish: CaptureWish
    file: Path
    log: Path
    process: subprocess.Popen[Any]


def parse_wish(text: str, plan: Plan) -> CaptureWish:
    """NODE, NODE:NUMBER (a TCP or UDP port) or NODE:NAME (an interface). Raises ValueError saying what there is."""
    node, separator, rest = text.partition(":")
    known = sorted(each.name for each in plan.nodes)
    if node not in known:
        raise ValueError(f"--capture {text}: there is no node '{node}'; nodes are {', '.join(known)}")
    if not separator:
        return CaptureWish(node)
    if rest.isdecimal():
        if not 1 <= int(rest) <= 65535:
            raise ValueError(f"--capture {text}: a port is 1 to 65535")
        return CaptureWish(node, port=int(rest))
    interfaces = [end.name for link in plan.links for end in (link.a, link.b) if end.node == node]
    if rest not in interfaces:
        raise ValueError(
            f"--capture {text}: '{rest}' is neither a port number nor an interface of {node} ({', '.join(interfaces)})"
        )
    return CaptureWish(node, interface=rest)


@contextmanager
def capturing(lab: Lab, wishes: Sequence[str], directory: Path) -> Iterator[None]:
    """Capture while inside; the files are directory/NODE[-PORT].pcapng.

    Raises ValueError for a wrong wish, RuntimeError when a capture does not start.
    """
    captures = Captures(lab, wishes, directory)
    captures.start()
    try:
        yield
    finally:
        captures.stop()


class Captures:
    """Captures of one lab: start(), then stop(), which gives the files."""

    def __init__(self, lab: Lab, wishes: Sequence[str], directory: Path) -> None:
        self._lab, self._directory = lab, directory
        self._wishes = list(dict.fromkeys(parse_wish(text, lab.plan) for text in wishes))
        self._running: list[_Running] = []

    def start(self) -> None:
        """Every capture listens when this returns. Raises RuntimeError."""
        if not self._wishes:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for wish in self._wishes:
            self._running.append(self._spawn(wish))
        for running in self._running:
            _wait_listening(running)

    def stop(self) -> list[Path]:
        """End the captures, with every packet until now written; their files. Raises RuntimeError when one died before."""
        died = [each for each in self._running if each.process.poll() is not None]
        for running in self._running:
            if running not in died:
                running.process.terminate()
        for running in self._running:
            try:
                running.process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        files = [running.file for running in self._running]
        self._running.clear()
        if died:
            raise RuntimeError(
                "; ".join(f"the capture on {each.wish.node} died: {_said(each)}" for each in died)
            )
        return files

    def _spawn(self, wish: CaptureWish) -> _Running:
        name = f"capture-{wish.name}"
        file = self._directory / f"{wish.name}.pcapng"
        comment = f"{self._lab.plan.scenario}: node {wish.node}"
        file.write_bytes(pcapng.section(comment) + pcapng.names(address_names(self._lab.plan)))
        log = self._lab.log_dir / f"{name}.log"
        log.write_bytes(b"")
        argv = [sys.executable, "-m", "testbed.lab.capture_ring", str(file)]
        if wish.port is not None:
            argv += ["--port", str(wish.port)]
        if wish.interface is not None:
            argv += ["--index", str(self._lab.port(wish.node, wish.interface).index)]
        root = Path(__file__).resolve().parents[2]
        return _Running(wish, file, log, self._lab.spawn(wish.node, argv, log=name, cwd=root))


def address_names(plan: Plan) -> dict[str, str]:
    """A name for each address of the plan: its node, with the interface for routers."""
    names: dict[str, str] = {}
    forwards = {node.name for node in plan.nodes if node.forwards}
    for link in plan.links:
        for end in (link.a, link.b):
            name = f"{end.node}.{end.name}" if end.node in forwards else end.node
            names.update({address.split("/")[0]: name for address in (*end.ipv4, *end.ipv6)})
    for bridge in plan.bridges:
        names.update({address.split("/")[0]: bridge.node for address in (*bridge.ipv4, *bridge.ipv6)})
    for node in plan.nodes:
        names.update({each.split("/")[0]: node.name for each in (node.loopback4, node.loopback6) if each})
    return names


def _wait_listening(running: _Running) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while b"listening" not in running.log.read_bytes():
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the capture on {running.wish.node} did not start: {_said(running)}")
        time.sleep(0.005)


def _said(running: _Running) -> str:
    lines = running.log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} (see {running.log.name})"
