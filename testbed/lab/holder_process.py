"""Starts the holder and talks to it: sockets and rules in the nodes' namespaces, then orders as JSON lines."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from testbed.lab.holder_placement import Place
from testbed.lab.holder_rules import Hold, place
from testbed.lab.nfnetlink import Nfnetlink, queue_bind

# An enforcer's NFQUEUE dataplane on the same node counts from 0.
FIRST_QUEUE = 30_000
# Packets one direction of a link may hold; the kernel drops more. 50,000 are one second of the most a holder carries.
QUEUE_PACKETS = 50_000
_RECEIVE_BYTES = 32 << 20
_ANSWER_TIMEOUT_S = 10.0
_SO_RCVBUFFORCE = 33


class HolderDied(RuntimeError):
    """The holder ended or does not answer; nothing passes its links any more."""


class _Lab(Protocol):
    log_dir: Path

    def inside(self, node: str) -> contextlib.AbstractContextManager[None]: ...
    def port(self, node: str, interface: str) -> Any: ...


class HolderProcess:
    """settings: for each place's name delay_ns, jitter_ns and loss_ratio. Raises NfnetlinkError when a kernel cannot do it."""

    def __init__(
        self, lab: _Lab, places: Sequence[Place], settings: Mapping[str, Mapping[str, float]], seed: int
    ) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self._log = lab.log_dir / "holder.log"
        self._numbers: dict[str, dict[int, str]] = {}
        for each in places:
            queues = self._numbers.setdefault(each.interface.node, {})
            queues[FIRST_QUEUE + len(queues)] = each.name
        by_name = {each.name: each for each in places}
        ours, theirs = socket.socketpair()
        sockets: list[Nfnetlink] = []
        try:
            orders: list[dict[str, Any]] = []
            for node, queues in self._numbers.items():
                _allow_descriptors(len(sockets))
                connection = self._open(node, queues, by_name, settings)
                sockets.append(connection)
                rows = [
                    {"number": number, "name": name, "seed": f"{seed}/{name}", **settings[name]}
                    for number, name in queues.items()
                ]
                orders.append({"fd": connection.socket.fileno(), "queues": rows})
            self._process = self._spawn(theirs, [each.socket.fileno() for each in sockets])
            self._control = ours
            self._control.settimeout(_ANSWER_TIMEOUT_S)
            self._answers = self._control.makefile("rb")
            self._order({"sockets": orders})
        except BaseException:
            ours.close()
            raise
        finally:
            # The holder has them; the last copy's end unbinds the queues.
            theirs.close()
            for connection in sockets:
                connection.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def set(self, name: str, *, delay_ns: int, jitter_ns: int, loss_ratio: float) -> None:
        """From now on packets of this link and direction get these. Raises HolderDied."""
        self._order({"set": name, "delay_ns": delay_ns, "jitter_ns": jitter_ns, "loss_ratio": loss_ratio})

    def counters(self) -> dict[str, Any]:
        """The holder's own, and for each link what the kernel dropped because the queue (or the socket) was full."""
        counters = self._order({"counters": True})
        for name, dropped in self._kernel_drops():
            counters["links"][name]["queue_full"] = dropped
        return counters

    def health(self) -> list[str]:
        """A sentence when it is dead."""
        if self._process.poll() is None:
            return []
        return [
            f"the holder of the links' packets died (exit code {self._process.returncode}); see {self._log}"
        ]

    def close(self) -> None:
        """Release what is held and end it."""
        self._answers.close()
        self._control.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _open(
        self,
        node: str,
        queues: Mapping[int, str],
        by_name: Mapping[str, Place],
        settings: Mapping[str, Mapping[str, float]],
    ) -> Nfnetlink:
        with self._lab.inside(node):
            connection = Nfnetlink()
        try:
            _enlarge(connection.socket)
            connection.request(
                [
                    queue_bind(
                        number,
                        QUEUE_PACKETS,
                        keeps_segments=settings[name]["loss_ratio"] == 0,
                        what=f"{node}: queue {number}",
                    )
                    for number, name in queues.items()
                ]
            )
            holds = [
                Hold(self._lab.port(node, by_name[name].interface.name).index, by_name[name].way, number)
                for number, name in queues.items()
            ]
            place(connection, holds, node)
        except BaseException:
            connection.close()
            raise
        connection.socket.setblocking(False)
        return connection

    def _spawn(self, control: socket.socket, fds: list[int]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "testbed.lab.holder", str(control.fileno())],
                pass_fds=[control.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.sendall(json.dumps(order).encode() + b"\n")
                line = self._answers.readline()
            except (OSError, ValueError) as error:
                raise HolderDied(
                    f"the holder of the links' packets does not answer ({error}); see {self._log}"
                ) from error
        if not line:
            raise HolderDied(f"the holder of the links' packets is gone; see {self._log}")
        return json.loads(line)

    def _kernel_drops(self) -> Iterator[tuple[str, int]]:
        for node, queues in self._numbers.items():
            with self._lab.inside(node):
                text = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text(encoding="ascii")
            for line in text.splitlines():
                # queue number, port, waiting, copy mode, copy range, dropped (full), dropped (socket), last id, 1
                fields = [int(each) for each in line.split()]
                if fields[0] in queues:
                    yield queues[fields[0]], fields[5] + fields[6]


def _enlarge(connection: socket.socket) -> None:
    """A large receive buffer; as much as the system allows where more needs a privilege (the kernel counts what is lost)."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    except PermissionError:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)


def _allow_descriptors(opened: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if opened % 256 == 0 and soft != resource.RLIM_INFINITY:
        wanted = soft + 256
        if hard == resource.RLIM_INFINITY or wanted <= hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
