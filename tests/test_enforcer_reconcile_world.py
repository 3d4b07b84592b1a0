"""The enforcer's counters are what a tap on both sides of it counts: every packet, by verdict, to the last one."""

from __future__ import annotations

import socket
import time
from collections import Counter

import pytest

from enforcer.decide import REASONS
from enforcer.packet import parse
from tests.dataplane_traffic import OTHER_LINE
from tests.failure_bench import bench
from tests.failure_streams import Streams, flood

pytestmark = pytest.mark.world

_OUTGOING = 4  # linux/if_packet.h PACKET_OUTGOING
_STOPPED = ("unregistered", "revoked", "fail-closed")


class Tap:
    """IP packets that came into the router by an interface, and went out of it: packets and bytes, by what they are."""

    def __init__(self, lab):
        self.came, self.went = Counter(), Counter()
        self.came_bytes = Counter()
        with lab.inside():
            # No protocol until they are bound: else they begin with packets of every interface.
            self._sockets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2)]
            for name, each in zip(("gc", "gs"), self._sockets, strict=True):
                each.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
                each.bind((name, 3))  # ETH_P_ALL

    def read(self):
        for each in self._sockets:
            while True:
                try:
                    frame, address = each.recvfrom(1 << 16, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if frame[12:14] not in (b"\x08\0", b"\x86\xdd"):
                    continue
                if is_of_the_link(frame[14:]):
                    continue
                what = kind(frame[14:])
                if address[2] == _OUTGOING:
                    self.went[what] += 1
                else:
                    self.came[what] += 1
                    self.came_bytes[what] += len(frame) - 14

    def lost(self):
        """What the tap itself missed (packet(7), PACKET_STATISTICS)."""
        return sum(int.from_bytes(each.getsockopt(263, 6, 8)[4:], "little") for each in self._sockets)

    def close(self):
        for each in self._sockets:
            each.close()


def is_of_the_link(data):
    """IPv6's own housekeeping (neighbours, groups), which no router forwards: RFC 4861 section 4, RFC 3810 section 5."""
    if data[0] >> 4 != 6:
        return False
    is_neighbour = data[6] == 58 and 133 <= data[40] <= 137
    return is_neighbour or data[8:10] == b"\xfe\x80" or data[24] == 0xFF


def kind(data):
    packet = parse(data)
    if 33001 in (packet.src_port, packet.dst_port):
        return "other"
    return (
        "unregistered"
        if packet.src_text in OTHER_LINE.values() or packet.src_text.startswith("10.1.")
        else "registered"
    )


@pytest.mark.parametrize("dataplane", ["nft", "bpf", pytest.param("nfqueue", marks=pytest.mark.nightly)])
def test_counters_are_what_a_tap_counts(dataplane, tmp_path):
    with bench(tmp_path / "bench", dataplane, {}) as made:
        made.begin()
        tap = Tap(made.lab)
        with Streams(made.lab):
            time.sleep(1.5)  # traffic, not waiting
            flood(made.lab, 2000, is_vpn=True)
            flood(made.lab, 2000, is_vpn=False)
        tap.read()

        def counted():
            tap.read()
            found = made.status()
            assert found is not None
            return sum(found["counters"].values()) == tap.came.total()

        made.wait_for(counted)
        found = made.status()
        assert found is not None and tap.lost() == 0
        by_reason, by_bytes = Counter(), Counter()
        for name, count in found["counters"].items():
            assert name.partition(".")[0] in REASONS
            by_reason[name.partition(".")[0]] += count
            by_bytes[name.partition(".")[0]] += found["counter_bytes"][name]
        stopped = sum(by_reason[reason] for reason in _STOPPED)
        assert (
            stopped
            == tap.came.total() - tap.went.total()
            == tap.came["unregistered"] - tap.went["unregistered"]
            > 2000
        )
        assert sum(by_reason.values()) - stopped == tap.went.total()
        names = {"registered": "registered", "other": "not-vpn", "unregistered": "unregistered"}
        for what, reason in names.items():
            assert by_reason[reason] == tap.came[what], what
            assert by_bytes[reason] == tap.came_bytes[what], what
        assert tap.went["registered"] == tap.came["registered"] > 0
        assert tap.went["other"] == tap.came["other"] > 2000
        listed = sum(line["count"] for kind in ("block", "not-listed") for line in made.lines(kind))
        assert listed <= stopped  # the log may know less than the counters, never more
        tap.close()
