"""A change of the allowlist is one step for packets: while it is swapped under traffic, none is judged by half a list.

Two flows are probed from a process of their own, each packet the first of its flow, so each is looked up: one of a registration that
every list holds, one of a registration that none holds. A packet of the first that does not arrive, or of the second that does, is misjudged.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TextIO

import pytest

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.dataplanes import DataplaneError
from enforcer.policy import parse_policy
from tests import enforcer_packets as make
from tests.dataplane_lab import Router, router

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
SERVER, PORT = "198.51.100.9", 51820
REGISTERED, UNREGISTERED = "10.200.0.1", "10.200.0.2"
DATAPLANES = ("nft", "bpf", "nfqueue")

# The full size is for -m nightly; the other finds a swap that is not one step as surely (the last test shows it).
SIZES = [
    pytest.param(5_000, 10, 10_000, id="5000-entries"),
    pytest.param(100_000, 50, 100_000, id="100000-entries", marks=pytest.mark.nightly),
]

pytestmark = [pytest.mark.world, pytest.mark.timeout(1200)]


@pytest.fixture
def lab():
    with router() as made:
        with made.inside():  # forgotten before a probe's source port comes again
            Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("5")
        yield made


@pytest.mark.parametrize("name", DATAPLANES)
@pytest.mark.parametrize(("entries", "swaps", "probes"), SIZES)
def test_a_swap_of_the_whole_list_misjudges_no_packet(lab, name, entries, swaps, probes):
    dataplane = opened(lab, name)
    lists = [listing(entries, parity) for parity in (0, 1)]
    with lab.inside(), contextlib.closing(dataplane):
        dataplane.load(lists[0])
        with probing(lab, pairs_a_second(name, entries)) as probe:
            swap, started_s = 0, time.monotonic()
            while swap < swaps or probe.sent() < probes:
                swap += 1
                dataplane.load(lists[swap % 2])
            took_s = time.monotonic() - started_s
    print(row(name, f"{swap} swaps of all {entries:,} entries", took_s, probe))
    assert_judged_well(probe, probes)


@pytest.mark.parametrize("name", DATAPLANES)
@pytest.mark.parametrize(("entries", "swaps", "probes"), SIZES)
def test_a_delta_that_exchanges_entries_and_renews_the_probed_one_misjudges_no_packet(
    lab, name, entries, swaps, probes
):
    dataplane = opened(lab, name)
    now, other = listing(entries, 0), listing(entries, 1)
    gone = list(now.entries)[: entries // 10]
    come = [entry for entry in other.entries.values() if entry.registration not in now.entries][: entries // 10]  # fmt: skip
    with lab.inside(), contextlib.closing(dataplane):
        dataplane.load(now)
        back = [entry for number, entry in now.entries.items() if number in set(gone)]
        with probing(lab, pairs_a_second(name, entries)) as probe:
            swap, started_s = 0, time.monotonic()
            while swap < swaps or probe.sent() < probes:
                removed, added = (back, come) if swap % 2 == 0 else (come, back)
                removals = tuple(Removal(entry.registration, "revoked") for entry in removed)
                dataplane.apply(Delta(swap + 1, swap + 2, (*added, probed(swap)), removals))
                swap += 1
            took_s = time.monotonic() - started_s
    print(row(name, f"{swap} deltas of {2 * len(gone):,} of {entries:,} entries", took_s, probe))
    assert_judged_well(probe, probes)


def test_the_probes_find_a_swap_that_is_not_one_step(lab):
    """The same lists, but each swap takes everything out first and then puts the new one in: two steps."""
    dataplane = opened(lab, "nft")
    lists = [listing(5_000, parity) for parity in (0, 1)]
    with lab.inside(), contextlib.closing(dataplane):
        dataplane.load(lists[0])
        with probing(lab) as probe:
            swap = 0
            while swap < 10 or probe.sent() < 10_000:
                swap += 1
                dataplane.load(Allowlist(1, {}))
                dataplane.load(lists[swap % 2])
    assert probe.lost_of_registered > 0
    assert probe.passed_of_unregistered == 0


def test_the_probes_find_a_list_that_is_open_for_a_moment(lab):
    """Between two lists everything is let pass: what a fail-open swap would do."""
    dataplane = opened(lab, "nft")
    with lab.inside(), contextlib.closing(dataplane):
        dataplane.load(listing(5_000, 0))
        with probing(lab) as probe:
            swap = 0
            while swap < 10 or probe.sent() < 10_000:
                swap += 1
                dataplane.set_fallback("allow")
                dataplane.load(listing(5_000, swap % 2))
                dataplane.set_fallback("keep")
    assert probe.passed_of_unregistered > 0
    assert probe.lost_of_registered == 0


def listing(entries: int, parity: int) -> Allowlist:
    """Lists of both parities share half of their entries, and the probed registration."""
    half = entries // 2
    numbers = [*range(1, half + 1), *range(half * (1 + parity) + 1, half * (2 + parity) + 1)]
    found = {number: entry(number) for number in numbers}
    return Allowlist(1, found | {1_000_000: probed(0)})


def entry(number: int) -> Entry:
    line = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
    return Entry(number, "somebody", (line,), ("198.51.100.0/24",), (PORT,), ("wireguard",))


def probed(turn: int) -> Entry:
    """The probed registration; another turn has other protocols beside, so that a delta changes its cells."""
    protocols = ("wireguard", "ikev2") if turn % 2 else ("wireguard",)
    return Entry(1_000_000, "probed", (f"{REGISTERED}/32",), (f"{SERVER}/32",), (PORT,), protocols)


def opened(lab: Router, name: str):
    """The dataplane in the router's namespace; the test is skipped, with the reason, where it cannot be had."""
    try:
        module = importlib.import_module(f"enforcer.dataplanes.{name}")
    except ModuleNotFoundError as error:
        pytest.skip(f"no {name} dataplane: {error}")
    made = getattr(module, f"{name.capitalize()}Dataplane")
    try:
        with lab.inside():
            return made(STRICT, inside=("gc",)) if name == "bpf" else made(STRICT)
    except DataplaneError as error:
        pytest.skip(f"{name} does not work here: {error}")


@dataclass
class Probe:
    """What a sender has sent, and what became of it, known when `probing` has ended."""

    counter: socket.socket
    pairs: int = 0
    arrived: dict[str, set[int]] = field(default_factory=lambda: {REGISTERED: set(), UNREGISTERED: set()})

    def sent(self) -> int:
        """Packets so far, both flows."""
        with contextlib.suppress(BlockingIOError):
            while data := self.counter.recv(8, socket.MSG_DONTWAIT):
                (self.pairs,) = struct.unpack("=Q", data)
        return 2 * self.pairs

    @property
    def lost_of_registered(self) -> int:
        return self.pairs - len(self.arrived[REGISTERED])

    @property
    def missing(self) -> list[int]:
        """Numbers of the registered line's packets that did not arrive, the first ten."""
        return sorted(set(range(self.pairs)) - self.arrived[REGISTERED])[:10]

    @property
    def passed_of_unregistered(self) -> int:
        return len(self.arrived[UNREGISTERED])


def pairs_a_second(name: str, entries: int) -> int:
    """What the dataplane keeps up with while it changes: nfqueue makes its new list in the same Python that answers packets."""
    return 500 if name == "nfqueue" and entries > 5_000 else 2_000


def row(name: str, changes: str, took_s: float, probe: Probe) -> str:
    """A line of the table: -rP shows it."""
    misjudged = probe.lost_of_registered + probe.passed_of_unregistered
    return (
        f"{name:8} {changes} in {took_s:.0f} s, {2 * probe.pairs:,} probe packets: {len(probe.arrived[REGISTERED]):,} of the registered "
        f"line arrived, {probe.pairs - probe.passed_of_unregistered:,} of the other were stopped, {misjudged} misjudged"
    )


def assert_judged_well(probe: Probe, probes: int) -> None:
    assert 2 * probe.pairs >= probes
    assert probe.passed_of_unregistered == 0
    assert probe.lost_of_registered == 0, f"not arrived: {probe.missing} of {probe.pairs}"


@contextlib.contextmanager
def probing(lab: Router, pairs_a_second: int = 2_000) -> Iterator[Probe]:
    """Meanwhile one process sends pairs of packets and another notes which arrive; both are ended with the block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told, tells = os.pipe()
    stop_sender, ends_sender = os.pipe()
    stop_taker, ends_taker = os.pipe()
    sender = _child(
        lambda: _send(lab, theirs, stop_sender, pairs_a_second), closing=(ends_sender, ends_taker, told)
    )
    taker = _child(lambda: _take(lab, tells, stop_taker), closing=(ends_taker, ends_sender, told))
    for descriptor in (tells, stop_sender, stop_taker):
        os.close(descriptor)
    theirs.close()
    probe = Probe(ours)
    try:
        deadline = time.monotonic() + 10
        while probe.sent() == 0:
            assert time.monotonic() < deadline, "nothing is sent"
            time.sleep(0.001)
        yield probe
    finally:
        os.close(ends_sender)
        os.waitpid(sender, 0)
        probe.sent()
        os.close(ends_taker)
        data = b""
        while part := os.read(told, 1 << 20):
            data += part
        os.waitpid(taker, 0)
        os.close(told)
        ours.close()
    for line, number in struct.iter_unpack("=4sI", data):
        probe.arrived[socket.inet_ntoa(line)].add(number)


def _child(work: Callable[[], None], closing: tuple[int, ...]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for descriptor in closing:
            os.close(descriptor)
        work()
        code = 0
    finally:
        os._exit(code)


def _send(lab: Router, counter: socket.socket, stop: int, pairs_a_second: int) -> None:
    """Each pair from a source port of its own, for 25 s at 2,000 a second. 2 million pairs in all.

    It waits while an NFQUEUE is long: what a full queue loses says nothing about the swap.
    """
    os.set_blocking(stop, False)
    with lab.inside():
        queues = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").open()  # noqa: SIM115 (the process ends)
    start, number = time.monotonic(), 0
    for number in range(2_000_000):
        port = 1024 + number % 50_000
        for line in (REGISTERED, UNREGISTERED):
            lab.client.send(make.udp(line, SERVER, port, PORT, struct.pack("!I", number)))
        with contextlib.suppress(BlockingIOError):
            counter.send(struct.pack("=Q", number + 1), socket.MSG_DONTWAIT)
        while time.monotonic() < start + number / pairs_a_second:
            time.sleep(0.0005)
        if number % 50 == 0:
            while _queued(queues) > 2_000:
                time.sleep(0.005)
        try:
            os.read(stop, 1)
        except BlockingIOError:
            continue
        break
    counter.setblocking(True)
    counter.send(struct.pack("=Q", number + 1))
    counter.shutdown(socket.SHUT_WR)


def _queued(queues: TextIO) -> int:
    """The packets that wait in the namespace's longest queue: its third column. 0 without any."""
    queues.seek(0)
    return max((int(line.split()[2]) for line in queues), default=0)


def _take(lab: Router, tells: int, stop: int) -> None:
    opened = lab.server.socket
    opened.settimeout(0.05)
    os.set_blocking(stop, False)
    found = bytearray()
    is_ending = False
    quiet = 0
    while quiet < 10:
        try:
            frame, address = opened.recvfrom(2048)
        except TimeoutError:
            if not is_ending:
                with contextlib.suppress(BlockingIOError):
                    is_ending = os.read(stop, 1) == b""
            quiet += is_ending
            continue
        packet = frame[14:]
        if address[2] != socket.PACKET_OUTGOING and packet[16:20] == socket.inet_aton(SERVER):
            found += struct.pack("=4sI", packet[12:16], int.from_bytes(packet[28:32], "big"))
    while found:
        del found[: os.write(tells, found)]
