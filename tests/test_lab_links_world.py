"""Links in a real kernel: delay, jitter, loss and rate as asked, changed in place, through routers that translate, and never silently gone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from testbed.lab.build import Lab, build
from testbed.lab.calibrate import CalibrationFailed, calibrate
from testbed.lab.calibrate_ends import ProbeFailed
from testbed.lab.holder_process import HolderDied
from testbed.lab.links import Links, LinksUnavailable
from testbed.lab.nat import start_nat
from testbed.lab.netlink_qdisc import qdiscs
from testbed.plan.plan import Link, Nat, Plan, Tolerances
from tests.small_plan import small_plan

pytestmark = pytest.mark.world
MS = 1_000_000


def shaped(plan: Plan | None = None, **links: dict[str, float]) -> Plan:
    """The small plan with nothing shaped but what is given by link name (- is _)."""
    plan = plan or small_plan()
    plain: dict[str, float | None] = {"rate_bps": None, "delay_ns": 0, "jitter_ns": 0, "loss_ratio": 0.0}
    found: list[Link] = []
    for link in plan.links:
        wanted = links.get(link.name.replace("-", "_"), {})
        found.append(replace(link, **{**plain, **wanted}))  # type: ignore[arg-type]
    return replace(plan, links=tuple(found))


@contextmanager
def running(
    plan: Plan, log_dir: Path, backend="auto", also_held: tuple[str, ...] = ()
) -> Iterator[tuple[Lab, Links]]:
    with build(plan, log_dir) as lab, closing(Links(lab, backend, also_held=also_held)) as links:
        links.start()
        yield lab, links


@contextmanager
def udp_pair(lab: Lab, sender: str, receiver: str, address: str, port: int = 9000):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.inside(receiver):
        incoming = socket.socket(family, socket.SOCK_DGRAM)
    with lab.inside(sender):
        outgoing = socket.socket(family, socket.SOCK_DGRAM)
    with incoming, outgoing:
        incoming.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        incoming.bind((address, port))
        incoming.settimeout(2.0)
        outgoing.connect((address, port))
        yield outgoing, incoming


def one_way_ms(outgoing: socket.socket, incoming: socket.socket, probes: int = 7) -> float:
    """The median of single probes, each sent when the one before has arrived."""
    delays = []
    for number in range(probes):
        sent = time.monotonic_ns()
        outgoing.send(number.to_bytes(4, "big"))
        assert incoming.recv(100) == number.to_bytes(4, "big")
        delays.append((time.monotonic_ns() - sent) / MS)
    return median(delays)


def settles_at(pair: tuple[socket.socket, socket.socket], asked_ms: float) -> bool:
    """Whether the delay is what was asked, within 1 ms: never less; more only while the machine is too busy to look."""
    deadline = time.monotonic() + 20
    while True:
        measured = one_way_ms(*pair)
        assert measured > asked_ms - 1, measured
        if measured < asked_ms + 1:
            return True
        assert time.monotonic() < deadline, measured


def refill(lab: Lab, node: str) -> None:
    """Routes that BGP would bring."""
    for destination, via in {
        "isp1": [("0.0.0.0/0", "10.0.0.2"), ("::/0", "fd00:0:0:1::2")],
        "fra": [("0.0.0.0/0", "10.0.0.9"), ("::/0", "fd00:0:0:3::1")],
        "gw": [("10.1.0.0/16", "10.0.0.1"), ("fd00:1::/32", "fd00:0:0:1::1")]
        + [("10.9.0.0/16", "10.0.0.10"), ("fd00:9::/32", "fd00:0:0:3::2")],
    }[node]:
        done = lab.cmd(node, ["ip", "route", "add", destination, "via", via])
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("address", ["10.0.0.10", "fd00:0:0:3::2"])
def test_a_delay_is_there_each_way_and_changes_in_place(tmp_path: Path, address: str):
    plan = shaped(cable={"delay_ns": 20 * MS})
    back = {"10.0.0.10": "10.0.0.9", "fd00:0:0:3::2": "fd00:0:0:3::1"}[address]
    with running(plan, tmp_path) as (lab, links):
        with udp_pair(lab, "gw", "fra", address) as there, udp_pair(lab, "fra", "gw", back) as home:
            assert settles_at(there, 20)
            assert settles_at(home, 20)
            links.change("cable", delay_ns=5 * MS, direction="ab")
            assert settles_at(there, 5)
            assert settles_at(home, 20)
            links.change("cable", delay_ns=0)
            assert settles_at(there, 0)
            assert settles_at(home, 0)


def test_a_change_loses_and_reorders_nothing(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 30 * MS, "rate_bps": 50_000_000}), tmp_path) as (lab, links):
        with udp_pair(lab, "gw", "fra", "10.0.0.10") as (outgoing, incoming):
            for number in range(300):
                outgoing.send(number.to_bytes(4, "big"))
                if number % 50 == 25:
                    links.change(
                        "cable", delay_ns=(30 - number // 10) * MS, rate_bps=50_000_000 - number * 50_000
                    )
            assert [int.from_bytes(incoming.recv(100), "big") for _ in range(300)] == list(range(300))
            with lab.netlink("gw") as connection:
                assert (
                    len(
                        [
                            each
                            for each in qdiscs(connection, lab.port("gw", "cable").index)
                            if each.kind == "tbf"
                        ]
                    )
                    == 1
                )


def test_jitter_keeps_the_order(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 10 * MS, "jitter_ns": 5 * MS}), tmp_path) as (lab, _links):
        with udp_pair(lab, "gw", "fra", "10.0.0.10") as (outgoing, incoming):
            for number in range(500):
                outgoing.send(number.to_bytes(4, "big"))
            assert [int.from_bytes(incoming.recv(100), "big") for _ in range(500)] == list(range(500))


def test_loss_is_the_share_asked_for_and_can_be_ended(tmp_path: Path):
    # Delays are not what this is about, and a fifth of few probes says little of them on a busy machine.
    patient = replace(shaped(cable={"loss_ratio": 0.2}), tolerances=Tolerances(delay_floor_ns=50_000_000))
    with running(patient, tmp_path) as (lab, links):
        rows = {(row.direction, row.figure): row for row in calibrate(lab, links)}
        assert rows["ab", "loss"].samples == 300
        assert links.counters()["links"]["cable/ab"]["lost"] > 0
        links.change("cable", loss_ratio=0.0)
        before = links.counters()["links"]["cable/ab"]["lost"]
        with udp_pair(lab, "gw", "fra", "10.0.0.10") as (outgoing, incoming):
            one_way_ms(outgoing, incoming, probes=100)
        assert links.counters()["links"]["cable/ab"]["lost"] == before


def test_every_figure_of_the_small_plan_is_within_tolerance(tmp_path: Path):
    with running(small_plan(), tmp_path) as (lab, links):
        rows = calibrate(lab, links)
    seen = {(row.link, row.direction, row.figure, row.family) for row in rows}
    for link in ("acc-alice", "isp1-gw", "cable"):
        for direction in ("ab", "ba"):
            assert {
                (link, direction, "delay", 4),
                (link, direction, "delay", 6),
                (link, direction, "rate", 4),
            } <= seen
    assert all(row.is_within for row in rows)
    assert not [row for row in rows if row.link == "acc-srv"]  # not shaped: not measured


@pytest.mark.parametrize(
    ("wrong", "figure"),
    [
        ({"delay_ns": 22 * MS}, "delay"),
        ({"rate_bps": 80_000_000}, "rate"),
        ({"loss_ratio": 0.5}, "loss"),
        ({"jitter_ns": MS}, "jitter"),
    ],
)
def test_calibration_catches_a_link_that_is_not_what_was_asked(tmp_path: Path, wrong: dict, figure: str):
    asked = {"delay_ns": 20 * MS, "rate_bps": 100_000_000, "jitter_ns": 4 * MS if figure == "jitter" else 0}
    with running(shaped(cable=asked), tmp_path) as (lab, links):
        asked_shape = links.shape("cable", "ab")
        links.change("cable", **wrong, direction="ab")
        links._shapes["cable", "ab"] = asked_shape  # the plan still asks for what it asked
        with pytest.raises(CalibrationFailed, match=f"link cable/ab .*{figure} asked") as failure:
            calibrate(lab, links)
        missed = {(row.direction, row.figure) for row in failure.value.rows if not row.is_within}
        assert ("ab", figure) in missed
        assert not [each for each in missed if each[0] == "ba"]  # control: the other direction is fine
        assert all(row.tries == 3 for row in failure.value.rows if not row.is_within)


def test_a_dead_holder_stops_the_links_and_is_noticed(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 5 * MS}), tmp_path, "nfqueue") as (lab, links):
        with udp_pair(lab, "gw", "fra", "10.0.0.10") as (outgoing, incoming):
            assert settles_at((outgoing, incoming), 5)
            assert links.health() == []
            assert links.holder_pid is not None
            os.kill(links.holder_pid, signal.SIGKILL)
            deadline = time.monotonic() + 5
            while not links.health() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "the holder of the links' packets died (exit code -9)" in links.health()[0]
            incoming.settimeout(0.3)
            outgoing.send(b"late")
            with pytest.raises(TimeoutError):  # nothing passes undelayed
                incoming.recv(100)
        with pytest.raises(HolderDied):
            links.change("cable", delay_ns=MS)
        with pytest.raises((ProbeFailed, CalibrationFailed)):
            calibrate(lab, links)


def test_new_flows_survive_a_hold_behind_address_translation(tmp_path: Path):
    """isp1 translates and holds what leaves for the gateway: a burst of a new flow must not be dropped half-tracked."""
    nat = Nat("isp1", "10.1.1.2", "10.1.200.1", 20_000, 20_999, "alice")
    plan = shaped(
        replace(small_plan(), nats=(nat,)), isp1_gw={"delay_ns": 20 * MS}, acc_alice={"delay_ns": 5 * MS}
    )
    with running(plan, tmp_path) as (lab, links):
        start_nat(lab)
        for node in ("isp1", "gw", "fra"):
            refill(lab, node)
        with udp_pair(lab, "alice", "srv", "10.9.0.10") as (outgoing, incoming):
            for number in range(100):
                outgoing.send(number.to_bytes(4, "big"))
            sources = set()
            for number in range(100):
                data, source = incoming.recvfrom(100)
                assert int.from_bytes(data, "big") == number
                sources.add(source)
            assert len(sources) == 1
            ((address, port),) = sources
            assert address == "10.1.200.1" and 20_000 <= port <= 20_999
            incoming.sendto(b"answer", (address, port))
            outgoing.settimeout(2.0)
            assert outgoing.recv(100) == b"answer"


def test_a_fragmented_packet_arrives_whole_and_late(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 10 * MS}), tmp_path) as (lab, _links):
        for address in ("10.0.0.10", "fd00:0:0:3::2"):
            with udp_pair(lab, "gw", "fra", address) as (outgoing, incoming):
                sent = time.monotonic()
                outgoing.send(bytes(5000))
                assert len(incoming.recv(9000)) == 5000
                assert time.monotonic() - sent >= 0.0099


def test_what_a_node_sends_itself_is_not_delayed(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 50 * MS}), tmp_path) as (lab, _links):
        for node, address in (
            ("fra", "10.0.0.10"),
            ("fra", "fd00:0:0:3::2"),
            ("gw", "10.0.0.9"),
            ("fra", "127.0.0.1"),
        ):
            with udp_pair(lab, node, node, address) as pair:
                assert one_way_ms(*pair) < 2


def test_tcp_gets_the_rate_through_a_delayed_link(tmp_path: Path):
    with running(shaped(cable={"delay_ns": 10 * MS, "rate_bps": 50_000_000}), tmp_path) as (lab, links):
        with lab.inside("fra"), socket.create_server(("10.0.0.10", 9001)) as server:
            with lab.inside("gw"):
                client = socket.create_connection(("10.0.0.10", 9001))
            peer, _ = server.accept()
            client.setblocking(False)
            received, start, end = 0, 0.0, time.monotonic() + 2.5
            with client, peer:
                peer.setblocking(False)
                while time.monotonic() < end:
                    for each in (client, peer):
                        try:
                            if each is client:
                                client.send(bytes(60_000))
                            elif got := len(peer.recv(1 << 20)):
                                if not start and time.monotonic() > end - 1.5:
                                    received, start = 0, time.monotonic()
                                received += got
                        except BlockingIOError:
                            pass
                rate = received * 8 / (time.monotonic() - start)
        assert 42e6 < rate < 50e6
        assert links.counters()["lateness_ns"]["p50"] < 5 * MS if links.backend == "nfqueue" else True


def test_rate_alone_needs_no_holder_and_can_be_lifted_and_set_again(tmp_path: Path):
    with running(shaped(cable={"rate_bps": 20_000_000}), tmp_path) as (lab, links):
        assert links.holder_pid is None
        assert {row.figure for row in calibrate(lab, links)} == {"delay", "loss", "rate"}
        links.change("cable", rate_bps=0)
        assert calibrate(lab, links) == []
        links.change("cable", rate_bps=40_000_000)
        calibrate(lab, links)


def test_a_link_that_was_not_prepared_says_so_and_a_prepared_one_changes(tmp_path: Path):
    with running(shaped(), tmp_path, also_held=("cable",)) as (lab, links):
        with pytest.raises(ValueError, match="acc-srv was not prepared for delay"):
            links.change("acc-srv", delay_ns=MS)
        with pytest.raises(ValueError, match="loss_ratio 1.5 is out of range"):
            links.change("cable", loss_ratio=1.5)
        with pytest.raises(KeyError):
            links.change("no-such-link", delay_ns=MS)
        links.change("cable", delay_ns=8 * MS)
        with udp_pair(lab, "gw", "fra", "10.0.0.10") as pair:
            assert settles_at(pair, 8)


def kernel_has_netem(tmp_path: Path) -> bool:
    with build(shaped(), tmp_path / "probe") as lab:
        return Links(lab)._kernel_has_netem()


def test_netem_is_refused_in_a_sentence_where_the_kernel_has_none(tmp_path: Path):
    if kernel_has_netem(tmp_path):
        pytest.skip("this kernel has netem")
    with build(shaped(cable={"delay_ns": MS}), tmp_path) as lab:
        with pytest.raises(LinksUnavailable, match="no netem .* use '--links nfqueue'"):
            Links(lab, "netem").start()
        with pytest.raises(ValueError, match="unknown"):
            Links(lab, "tc")  # type: ignore[arg-type]


def test_netem_gives_what_was_asked(tmp_path: Path):
    if not kernel_has_netem(tmp_path):
        pytest.skip("this kernel has no netem (CONFIG_NET_SCH_NETEM)")
    wanted = {"delay_ns": 20 * MS, "jitter_ns": 5 * MS, "loss_ratio": 0.02, "rate_bps": 50_000_000}
    with running(shaped(cable=wanted), tmp_path, "netem") as (lab, links):
        calibrate(lab, links)
        links.change("cable", delay_ns=10 * MS, jitter_ns=0, loss_ratio=0.0, rate_bps=20_000_000)
        calibrate(lab, links)


def test_links_of_a_kernel_error_name_the_link(tmp_path: Path):
    with build(shaped(cable={"rate_bps": 4}), tmp_path) as lab:
        with pytest.raises((ValueError, OSError), match="cable") as failure:
            Links(lab).start()
        assert getattr(failure.value, "errno", errno.EINVAL)
