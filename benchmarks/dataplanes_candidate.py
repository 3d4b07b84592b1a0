"""One dataplane in a process of its own: so its memory is its own, and one that decides in Python has a processor to itself.

The measuring process calls `Candidate.ask`; what needs the dataplane and the road in one process is measured in here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import selectors
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dataplanes_others import IntervalSet, IpSet, Plain, PythonQueue, Tracking
from dataplanes_stream import Stream
from dataplanes_world import Burst, Road, ends, enter, entry, inside, make_road

from enforcer.allowlist import Allowlist, Delta, Removal
from enforcer.dataplanes.netlink import SUBSYSTEM_CONNTRACK, Netfilter
from enforcer.policy import parse_policy

OURS = ("bpf", "nft", "nfqueue")
OTHERS = {
    "plain": Plain,
    "tracking": Tracking,
    "interval set": IntervalSet,
    "ipset": IpSet,
    "python queue": PythonQueue,
}
_PATIENCE_S = 5.0


class Unavailable(Exception):
    """This candidate cannot run here; the text says why."""


class Candidate:
    """A dataplane on its own road, holding entries 0 to size. close() unmakes both."""

    def __init__(self, name: str, size: int) -> None:
        """Raises Unavailable."""
        self.name, self.size = name, size
        self.road, self._held = make_road()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, self.road), daemon=True)
        self._process.start()
        theirs.close()
        self.sender = self.road.sender()
        with inside(self.road.router):
            self._netfilter = Netfilter()
        try:
            self.loaded: dict[str, float] = self.ask("load", size)
        except (OSError, Unavailable) as error:
            self.close()
            raise Unavailable(str(error)) from error

    def ask(self, what: str, *arguments: Any) -> Any:
        """Raises what the other process raised."""
        self._pipe.send((what, arguments))
        try:
            is_good, answer = self._pipe.recv()
        except EOFError:
            raise Unavailable(f"{self.name}: its process died at {what}") from None
        if not is_good:
            raise answer
        return answer

    def forget_flows(self) -> None:
        """Empty the router's connection tracking."""
        for family in (2, 10):
            self._netfilter.request(SUBSYSTEM_CONNTRACK, 2, family, b"")  # IPCTNL_MSG_CT_DELETE of all

    def close(self) -> None:
        self._pipe.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.sender.close()
        self._netfilter.close()
        for each in self._held:
            os.close(each)


class Ours:
    """A dataplane of the package, given the same calls as the others."""

    def __init__(self, name: str) -> None:
        try:
            module = importlib.import_module(f"enforcer.dataplanes.{name}")
        except ModuleNotFoundError as error:
            raise Unavailable(f"the package has no {name} dataplane ({error})") from error
        policy = parse_policy(
            (files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text("utf-8")
        )
        made = getattr(module, f"{name.capitalize()}Dataplane")
        try:
            self.dataplane = made(policy, inside=("gc",)) if name == "bpf" else made(policy)
        except Exception as error:  # whatever it says is the reason it is not measured
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        self._serial = 1

    def load(self, indices: Sequence[int]) -> Callable[[], None]:
        """Prepares the list, so that only its loading is timed."""
        shared: dict[Any, Any] = {}
        allowlist = Allowlist(1, {index + 1: entry(index, shared) for index in indices})
        return lambda: self.dataplane.load(allowlist)

    def delta(self, add: Sequence[int], remove: Sequence[int]) -> Callable[[], None]:
        delta = Delta(
            self._serial,
            self._serial + 1,
            tuple(map(entry, add)),
            tuple(Removal(index + 1, "revoked") for index in remove),
        )
        self._serial += 1
        return lambda: self.dataplane.apply(delta)

    def register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self.dataplane.fileno(), selectors.EVENT_READ, self.dataplane.events)


class _Server:
    """What the candidate's process does when asked."""

    def __init__(self, name: str, road: Road, selector: selectors.BaseSelector) -> None:
        self._road, self._selector = road, selector
        if name in OTHERS:
            missing = [program for program in OTHERS[name].needs if shutil.which(program) is None]
            if missing:
                raise Unavailable(f"{missing[0]} is not installed")
        self._held: Any = OTHERS[name]() if name in OTHERS else Ours(name)
        self._next = 0
        if hasattr(self._held, "register"):
            self._held.register(selector)

    def load(self, size: int) -> dict[str, float]:
        """Seconds; and megabytes: the process's peak, what it has now, its child programs' peak."""
        if isinstance(self._held, Ours):
            step = self._held.load(range(size))
        else:
            step = lambda: self._held.load(range(size))  # noqa: E731
        seconds = _timed(step)
        self._next = size
        status = Path("/proc/self/status").read_text()  # ru_maxrss would hold the parent's
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        is_own = isinstance(
            self._held, Ours
        )  # our programs' children are compilers, and run before the list is there
        return {"seconds": seconds, "peak_mb": peak if is_own else max(peak, child), "now_mb": _resident_mb()}

    def one_added(self, most: int, budget_s: float) -> list[float]:
        """Seconds from the call that adds one entry until its first packet has arrived; each was blocked before.

        The packet is sent when the call returns, so each figure holds the whole call.
        """
        found: list[float] = []
        sender, receiver = self._road.sender(), self._road.receiver()
        end = time.monotonic() + budget_s
        while len(found) < most and (not found or time.monotonic() < end):
            index = self._unused()
            frame = self._road.frame(index)
            if self._arrives(sender, receiver, frame, 0.0002 if len(found) > 20 else 0.02):
                raise AssertionError(f"a packet of entry {index} passed before it was registered")
            step = self._step([index], [])
            start = time.perf_counter()
            step()
            while not self._arrives(sender, receiver, frame, 0.01):
                if time.perf_counter() - start > _PATIENCE_S:
                    raise AssertionError(f"no packet of entry {index} passed within {_PATIENCE_S} s")
            found.append(time.perf_counter() - start)
        sender.close()
        receiver.close()
        return found

    def many_changes(self, changes: int, most: int, budget_s: float) -> list[float]:
        """Seconds for one delta that adds and removes half as many each. Afterwards the one passes and the other does not."""
        found: list[float] = []
        end = time.monotonic() + budget_s
        new = [self._unused() for _ in range(changes // 2)]
        self._step(new, [])()
        while len(found) < most and (not found or time.monotonic() < end):
            old, new = new, [self._unused() for _ in range(changes // 2)]
            found.append(_timed(self._step(new, old)))
            sender, receiver = self._road.sender(), self._road.receiver()
            added, removed = (self._road.frame(each[0], port=40001) for each in (new, old))
            if not self._arrives(sender, receiver, added, 1.0):
                raise AssertionError("an entry of the delta does not pass")
            if self._arrives(sender, receiver, removed, 0.02):
                raise AssertionError("a removed entry still passes")
            sender.close()
            receiver.close()
        return found

    def updates(self, count: int, budget_s: float) -> list[tuple[int, float, int]]:
        """(updates, resident megabytes, descriptors) at each tenth of so many single changes at a steady size.

        It ends before the last when its time is over.
        """
        found: list[tuple[int, float, int]] = []
        end = time.monotonic() + budget_s
        before = self._unused()
        self._step([before], [])()
        for number in range(1, count + 1):
            after = self._unused()
            self._step([after], [before])()
            before = after
            if number % 100 == 0 and isinstance(self._held, Ours):
                self._held.dataplane.sweep()
                self._pump()
            if number % (count // 10) == 0:
                found.append((number, _resident_mb(), len(list(Path("/proc/self/fd").iterdir()))))
                if len(found) > 1 and time.monotonic() > end:
                    break
        return found

    def revocations(self, flows: int, most: int, budget_s: float) -> dict[str, Any]:
        """Seconds from the call until the last packet of a live flow left, at so many tracked flows; packets after the call."""
        tracked = [index for index in range(flows * 4 // 3 + 4) if index & 3 != 3][:flows]
        sender = self._road.sender()
        for start in range(0, len(tracked), 200):
            Burst([self._road.frame(index) for index in tracked[start : start + 200]]).send(sender)
            self._pump()
        count = int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
        latencies, calls, sweeps, after, unusable = [], [], [], 0, 0
        chosen = tracked[:: max(1, len(tracked) // (2 * most))]
        processors = os.sched_getaffinity(0)
        if len(processors) > 1:  # the sender has one to itself, or it would pause whenever the call runs
            os.sched_setaffinity(0, processors - {max(processors)})
        end = time.monotonic() + budget_s
        for index in chosen:
            if len(latencies) == most or time.monotonic() > end:
                break
            with Stream(self._road, index, max(processors)) as stream:
                stream.reaches(20, self._pump)
                step = self._step([], [index])
                start = time.monotonic_ns()
                step()
                done = time.monotonic_ns()
                stream.sends_until(done + 1_000_000, self._pump)
                start_of_sweep = time.monotonic()
                if isinstance(self._held, Ours):
                    self._held.dataplane.sweep()
                sweeps.append(time.monotonic() - start_of_sweep)
                stream.sends_until(time.monotonic_ns() + 500_000, self._pump)
            after += sum(stamp > done for stamp in stream.arrived)
            if not stream.sent_between(start, done):
                unusable += 1  # nothing was sent during the call: nothing was tried
                continue
            latencies.append(max(0, max(stream.arrived) - start) / 1e9)
            calls.append((done - start) / 1e9)
        os.sched_setaffinity(0, processors)
        sender.close()
        return {"flows": len(tracked), "tracked": count, "seconds": latencies, "calls": calls, "sweeps": sweeps, "after": after, "unusable": unusable}  # fmt: skip

    def _unused(self) -> int:
        """The index of an entry that was never loaded, of a protocol over UDP."""
        while ends(self._next)[3] == "openvpn-tcp":
            self._next += 1
        self._next += 1
        return self._next - 1

    def _step(self, add: Sequence[int], remove: Sequence[int]) -> Callable[[], None]:
        if isinstance(self._held, Ours):
            return self._held.delta(add, remove)
        return lambda: self._held.change(add, remove)

    def _pump(self) -> None:
        """Let a dataplane that decides in this process do so."""
        for key, _ in self._selector.select(0):
            if callable(key.data):
                key.data()

    def _arrives(self, sender: socket.socket, receiver: socket.socket, frame: bytes, within_s: float) -> bool:
        sender.send(frame)
        wanted = frame[14 + 12 : 14 + 24]  # addresses and ports
        end = time.perf_counter() + within_s
        while True:
            self._pump()
            try:
                if receiver.recv(2048, socket.MSG_DONTWAIT)[12:24] == wanted:
                    return True
            except BlockingIOError:
                if time.perf_counter() > end:
                    return False


def _serve(pipe: Connection, name: str, road: Road) -> None:
    enter(road.router)
    selector = selectors.DefaultSelector()
    selector.register(pipe, selectors.EVENT_READ, None)
    server: _Server | None = None
    while True:
        is_asked = False
        for key, _ in selector.select():
            if key.data is None:
                is_asked = True
            else:
                key.data()
        if not is_asked:
            continue
        try:
            what, arguments = pipe.recv()
        except EOFError:
            return
        try:
            server = server or _Server(name, road, selector)
            pipe.send((True, getattr(server, what)(*arguments)))
        except Exception as error:  # it is raised again where it was asked for
            pipe.send((False, error if isinstance(error, (Unavailable, AssertionError)) else OSError(f"{type(error).__name__}: {error}")))  # fmt: skip


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
