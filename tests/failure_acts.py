"""How the failure matrix breaks things, and heals them again: each takes a Bench and does it to what really runs there."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from enforcer import kernel_counts
from enforcer.control import ask
from enforcer.dataplanes.netlink import SUBSYSTEM_CONNTRACK, Netfilter, attribute
from tests.failure_bench import Bench
from tests.failure_streams import flood

Step = Callable[[Bench], None]
_FILLS_A_RING_S = 8.0


def lie(mode: str) -> Step:
    def begin(bench: Bench) -> None:
        bench.proxy.mode = mode

    return begin


def honest(bench: Bench) -> None:
    bench.proxy.mode = "honest"


def listen(bench: Bench) -> None:
    """Until the agent listens to the registry's lines: the proxy offers them, whereas it keeps the registry's own offer back."""
    bench.proxy.offers_lines = True
    bench.wait_for(lambda: bench.proxy.listeners)


def dripping_is_named(bench: Bench) -> None:
    """In the status, as a metric, and in the audit."""
    found = bench.status()
    assert found and found["unanswered"]["slow"], found
    assert 'allowlist_unanswered_questions_total{why="slow"}' in ask(bench.socket, "metrics", timeout_s=5)
    begun = [
        line
        for line in bench.lines("failure")
        if (line["condition"], line["state"]) == ("registry-unreachable", "begun")
    ]
    assert begun and "of the answer in" in begun[-1]["text"], begun


def kill(bench: Bench) -> None:
    bench.end("enforcer", signal.SIGKILL)


def start(bench: Bench) -> None:
    bench.start("enforcer")
    bench.wait_for(bench.status, 30)


def restart(bench: Bench) -> None:
    bench.end("enforcer")
    start(bench)


def hang(bench: Bench) -> None:
    bench.send_signal("enforcer", signal.SIGSTOP)


def go_on(bench: Bench) -> None:
    bench.send_signal("enforcer", signal.SIGCONT)


def start_a_second(bench: Bench) -> None:
    with bench.lab.inside():
        done = subprocess.run(
            [sys.executable, "-m", "enforcer", "run", "--config", str(bench.config)],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2 and "another enforcer" in done.stderr, done
    bench.second = done  # type: ignore[attr-defined]


def shrink(bench: Bench) -> None:
    """Fifteen of twenty suspended, in one update, the line that sends among them."""
    bench.proxy.mode = "silent"
    bench.decide(range(1, 16), "suspend")
    bench.proxy.mode = "honest"


def grow_back(bench: Bench) -> None:
    bench.decide(range(1, 16), "renew")


def keep_a_backup(bench: Bench) -> None:
    bench.end("registry")
    shutil.copytree(bench.folder / "ledger", bench.folder / "backup")
    _start_registry(bench)
    for number in range(30, 33):
        bench.register(number)
    bench.wait_for(bench.serial_is_newest)


def restore_the_backup(bench: Bench) -> None:
    bench.end("registry")
    shutil.rmtree(bench.folder / "ledger")
    shutil.copytree(bench.folder / "backup", bench.folder / "ledger")
    _start_registry(bench)


def let_it_overtake(bench: Bench) -> None:
    for number in range(40, 44):
        bench.register(number)


def _start_registry(bench: Bench) -> None:
    bench.start("registry")

    def answers() -> bool:
        with bench.lab.inside(), contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 8080), timeout=1).close()
            return True
        return False

    bench.wait_for(answers, 20)


def approve_too_many(bench: Bench) -> None:
    bench.proxy.mode = "silent"
    bench.many = [bench.register(number) for number in range(50, 60)]  # type: ignore[attr-defined]
    bench.proxy.mode = "honest"


def suspend_them(bench: Bench) -> None:
    bench.decide(bench.many, "suspend")  # type: ignore[attr-defined]


def take_the_rules_away(bench: Bench) -> None:
    argv = {
        "nft": ["nft", "delete", "table", "inet", "allowlist"],
        "bpf": ["tc", "qdisc", "del", "dev", "gc", "clsact"],
        "nfqueue": ["iptables-nft", "-t", "mangle", "-F", "ALLOWLIST"],
    }[bench.dataplane]
    bench.lab.run(*argv)


def fill_the_queue(bench: Bench) -> None:
    hang(bench)
    flood(bench.lab, 70_000, is_vpn=False)


def flood_unread(bench: Bench) -> None:
    """Reports are sampled by the second and the ring of bpf holds 16,000 of them: so long, and so many packets, fill it on any machine."""
    hang(bench)
    filled = time.monotonic() + _FILLS_A_RING_S
    flood(bench.lab, 120_000, is_vpn=True)
    while time.monotonic() < filled:
        flood(bench.lab, 10_000, is_vpn=True)


def fill_conntrack(bench: Bench) -> None:
    """Connections that look real, until the kernel takes no more; the host's limit holds in each namespace (nf_conntrack_core.c)."""
    with bench.lab.inside():
        netfilter = Netfilter()
        try:
            for number in range(kernel_counts.conntrack_room()[1] + 1000):  # type: ignore[index]
                netfilter.send(SUBSYSTEM_CONNTRACK, 0, 0x600, socket.AF_INET, 0, _connection(number))
                if number % 256 == 255:
                    _read_errors(netfilter)
        finally:
            netfilter.close()


def empty_conntrack(bench: Bench) -> None:
    bench.lab.run("conntrack", "-D", "-m", "0x7ffffff0")


def _connection(number: int) -> bytes:
    """linux/netfilter/nfnetlink_conntrack.h: tuples, status seen-reply|assured|confirmed, timeout, mark."""
    source = struct.pack("!I", 0x0B000000 + number // 50_000)
    target = socket.inet_aton("192.0.2.77")
    port = struct.pack("!H", 1024 + number % 50_000)
    there = struct.pack("!H", 9)

    def way(kind: int, src: bytes, dst: bytes, sport: bytes, dport: bytes) -> bytes:
        addresses = attribute(1 | 0x8000, attribute(1, src) + attribute(2, dst))
        ports = attribute(2 | 0x8000, attribute(1, b"\x11") + attribute(2, sport) + attribute(3, dport))
        return attribute(kind | 0x8000, addresses + ports)

    return (
        way(1, source, target, port, there)
        + way(2, target, source, there, port)
        + attribute(3, struct.pack("!I", 2 | 4 | 8))
        + attribute(7, struct.pack("!I", 600))
        + attribute(8, struct.pack("!I", 0x7FFFFFF0))
    )


def _read_errors(netfilter: Netfilter) -> None:
    netfilter.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError, OSError):
        while True:
            netfilter.socket.recv(1 << 16)
    netfilter.socket.setblocking(True)


def small_disk(bench: Bench) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(bench.folder / "disk")], check=True)


def fill_the_disk(bench: Bench) -> None:
    with (bench.folder / "disk/filling").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
    bench.made = bench.register(70)  # type: ignore[attr-defined]


def clear_the_disk(bench: Bench) -> None:
    (bench.folder / "disk/filling").unlink()


def disk_has_it_again(bench: Bench) -> None:
    """What the disk missed is there: every lost line is counted, and a new agent starts with the newest list."""
    found = bench.status()
    assert found is not None
    if found["audit_lines_lost"]:  # a policy that lets everything pass may have had nothing to write
        bench.wait_for(lambda: bench.lines("lines-lost"))
    assert sum(line["count"] for line in bench.lines("lines-lost")) == found["audit_lines_lost"]
    serial = found["serial"]
    bench.wait_for(
        lambda: f'\\"serial\\":{serial}' in (bench.folder / "disk/state/snapshot.json").read_text()
    )


def settable_clock(folder: Path) -> dict[str, str]:
    """The environment of a program whose wall clock set_clock sets, and no other clock. In a namespace there is no clock_settime(2)."""
    library, ahead = folder / "settable_clock.so", folder / "ahead"
    source = Path(__file__).with_name("settable_clock.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    ahead.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(ahead)}


def set_clock(hours: int) -> Step:
    def begin(bench: Bench) -> None:
        with (bench.folder.parent / "ahead").open("r+b") as file:
            file.write((hours * 3600 * 10**9).to_bytes(8, sys.byteorder, signed=True))

    return begin


def one_more(bench: Bench) -> None:
    bench.register(30)
    bench.wait_for(bench.serial_is_newest)
