"""Witnesses in a real kernel: what goes in and what comes out of an enforcing node, without asking it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.links import Links
from testbed.lab.witness import WitnessDied, Witnesses
from testbed.plan.plan import Plan
from testbed.records import WitnessRecord
from testbed.score.reading import read_records
from tests.small_plan import small_plan

pytestmark = pytest.mark.world
DROP = {4: "ip daddr 10.9.0.10 udp dport 51820 drop", 6: "ip6 daddr fd00:9:0::10 udp dport 51820 drop"}
ALICE = {4: "10.1.1.2", 6: "fd00:1:1::2"}
SERVER = {4: "10.9.0.10", 6: "fd00:9::10"}
ROUTES = {
    "isp1": [("0.0.0.0/0", "10.0.0.2"), ("::/0", "fd00:0:0:1::2")],
    "fra": [("0.0.0.0/0", "10.0.0.9"), ("::/0", "fd00:0:0:3::1")],
    "gw": [
        ("10.1.0.0/16", "10.0.0.1"),
        ("fd00:1::/32", "fd00:0:0:1::1"),
        ("10.9.0.0/16", "10.0.0.10"),
        ("fd00:9::/32", "fd00:0:0:3::2"),
    ],
}


@contextmanager
def watched(plan: Plan, run_dir: Path) -> Iterator[tuple[Lab, Witnesses]]:
    with build(plan, run_dir) as lab:
        for node, routes in ROUTES.items():
            for destination, via in routes:
                done = lab.cmd(node, ["ip", "route", "add", destination, "via", via])
                assert done.returncode == 0, done.stderr
        witnesses = Witnesses(lab, run_dir / "witness.jsonl.gz")
        witnesses.start()
        witnesses.set_start(time.monotonic_ns())
        try:
            yield lab, witnesses
        finally:
            witnesses.stop()


def unshaped() -> Plan:
    plan = small_plan()
    plain = (replace(link, rate_bps=None, delay_ns=0, jitter_ns=0, loss_ratio=0.0) for link in plan.links)
    return replace(plan, links=tuple(plain))


def send(lab: Lab, family: int, port: int, count: int) -> int:
    """Datagrams from alice to the server; returns how many arrived."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with lab.inside("srv"):
        incoming = socket.socket(kind, socket.SOCK_DGRAM)
    with lab.inside("alice"):
        outgoing = socket.socket(kind, socket.SOCK_DGRAM)
    with incoming, outgoing:
        incoming.bind((SERVER[family], port))
        incoming.settimeout(0.3)
        outgoing.bind((ALICE[family], 40_000))
        for number in range(count):
            outgoing.sendto(number.to_bytes(4, "big") + b"secret payload", (SERVER[family], port))
        arrived = 0
        try:
            while arrived < count:
                incoming.recv(100)
                arrived += 1
        except TimeoutError:
            pass
        return arrived


def counted(records: list[WitnessRecord], family: int, side: str, port: int) -> int:
    return sum(
        each.packets
        for each in records
        if (each.node, each.side, each.transport) == ("gw", side, "udp")
        and (each.src, each.src_port, each.dst, each.dst_port)
        == (ALICE[family], 40_000, SERVER[family], port)
    )


def wait_for(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_a_drop_between_the_taps_is_seen_inside_and_not_outside_and_no_drop_on_both_sides(tmp_path: Path):
    with watched(unshaped(), tmp_path) as (lab, _witnesses):
        passed = {family: send(lab, family, 51820, 10) for family in (4, 6)}
        rules = "add table inet f; add chain inet f c { type filter hook forward priority 0; };"
        rules += "".join(f"add rule inet f c {rule};" for rule in DROP.values())
        assert lab.cmd("gw", ["nft", rules]).returncode == 0
        blocked = {family: send(lab, family, 51820, 20) for family in (4, 6)}
        control = {family: send(lab, family, 53, 20) for family in (4, 6)}
        assert lab.cmd("gw", ["nft", "delete table inet f"]).returncode == 0
        again = {family: send(lab, family, 51820, 10) for family in (4, 6)}
    assert (passed, blocked) == ({4: 10, 6: 10}, {4: 0, 6: 0})
    assert (control, again) == ({4: 20, 6: 20}, {4: 10, 6: 10})
    records = read_records(tmp_path).witness
    for family in (4, 6):
        assert counted(records, family, "inside", 51820) == 40
        assert counted(records, family, "outside", 51820) == 20
        assert counted(records, family, "inside", 53) == counted(records, family, "outside", 53) == 20


def test_buckets_are_short_and_times_count_from_the_start(tmp_path: Path):
    with watched(unshaped(), tmp_path) as (lab, witnesses):
        t0_ns = time.monotonic_ns()
        witnesses.set_start(t0_ns)
        for _ in range(5):
            send(lab, 4, 53, 3)
            time.sleep(0.1)
        until_ns = time.monotonic_ns() - t0_ns
    records = [each for each in read_records(tmp_path).witness if each.transport == "udp"]
    assert len(records) >= 4
    for each in records:
        assert 0 <= each.first_ns <= each.last_ns <= until_ns
        assert each.last_ns - each.first_ns < 200_000_000
        assert each.bytes == each.packets * (20 + 8 + 18)


def test_payload_is_never_written(tmp_path: Path):
    with watched(unshaped(), tmp_path) as (lab, _witnesses):
        send(lab, 4, 53, 5)
    assert b"secret" not in gzip.decompress((tmp_path / "witness.jsonl.gz").read_bytes())


def test_a_killed_witness_leaves_what_it_wrote_and_is_noticed(tmp_path: Path):
    with watched(unshaped(), tmp_path) as (lab, witnesses):
        send(lab, 4, 53, 10)
        wait_for(lambda: counted(read_records(tmp_path).witness, 4, "outside", 53) == 10)
        assert witnesses.health() == []
        assert witnesses.pid is not None
        os.kill(witnesses.pid, signal.SIGKILL)
        wait_for(lambda: bool(witnesses.health()))
        assert "the witness died (exit code -9)" in witnesses.health()[0]
        with pytest.raises(WitnessDied):
            witnesses.lost()
    records = read_records(tmp_path)
    assert counted(records.witness, 4, "inside", 53) == 10
    assert records.truncated == ["witness.jsonl.gz"]
    assert not records.unreadable


def test_what_the_witness_lost_is_counted_by_node_and_written(tmp_path: Path):
    """Stopped (SIGSTOP) it cannot empty its rings; what then does not fit is lost, and it says so."""
    with watched(unshaped(), tmp_path) as (lab, witnesses):
        assert witnesses.lost() == {"gw": 0}
        assert witnesses.pid is not None
        os.kill(witnesses.pid, signal.SIGSTOP)
        for _ in range(5):
            send(lab, 4, 53, 10_000)
        os.kill(witnesses.pid, signal.SIGCONT)
        assert witnesses.lost()["gw"] > 0
        lost = witnesses.lost()["gw"]
    rows = [each for each in read_records(tmp_path).witness if each.transport == "lost"]
    assert sum(each.packets for each in rows) == lost
    assert {each.node for each in rows} == {"gw"}


def test_loss_on_a_line_beside_the_gateway_is_not_between_its_taps(tmp_path: Path):
    plan = unshaped()
    lossy = (replace(link, loss_ratio=0.5) if link.name == "cable" else link for link in plan.links)
    with watched(replace(plan, links=tuple(lossy)), tmp_path) as (lab, _witnesses):
        links = Links(lab)
        links.start()
        try:
            arrived = send(lab, 4, 53, 200)
        finally:
            links.close()
    assert 50 < arrived < 150
    records = read_records(tmp_path).witness
    assert counted(records, 4, "inside", 53) == counted(records, 4, "outside", 53) == 200


def test_without_enforcers_there_is_an_empty_readable_file(tmp_path: Path):
    with build(replace(unshaped(), enforcers=()), tmp_path) as lab:
        witnesses = Witnesses(lab, tmp_path / "witness.jsonl.gz")
        witnesses.start()
        witnesses.set_start(0)
        assert witnesses.lost() == {}
        witnesses.stop()
        witnesses.stop()
    assert gzip.decompress((tmp_path / "witness.jsonl.gz").read_bytes()) == b""


def test_an_interface_that_is_not_there_is_named(tmp_path: Path):
    plan = unshaped()
    wrong = (replace(plan.enforcers[0], outside=("no-such-if",)),)
    with build(replace(plan, enforcers=wrong), tmp_path) as lab:
        with pytest.raises(OSError, match="witness at gw, interface no-such-if: No such device"):
            Witnesses(lab, tmp_path / "witness.jsonl.gz").start()


def test_every_line_is_json(tmp_path: Path):
    with watched(unshaped(), tmp_path) as (lab, _witnesses):
        send(lab, 6, 53, 5)
    for line in gzip.decompress((tmp_path / "witness.jsonl.gz").read_bytes()).splitlines():
        WitnessRecord(**json.loads(line))
