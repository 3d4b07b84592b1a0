"""Real traffic that nobody wrote for this project: nothing but VPN is stopped, and every handshake in it is recognised."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from enforcer.allowlist import Allowlist
from enforcer.capture import read
from enforcer.decide import Flow, decide
from enforcer.packet import parse
from tests.test_enforcer_decide import STRICT

CAPTURES = Path(__file__).resolve().parents[1] / ".." / "shared" / "captures"
_TRANSPORTS = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMPV6", 50: "ESP", 51: "AH", 47: "GRE"}

# Flows labelled VPN that pass, and why (docs/captures.md says more). Keyed by capture and the flow's ports.
EXPLAINED = {
    ("anyconnect-vpn.pcap", 8008): "TLS on a local port: its headers are those of HTTPS",
    ("openvpn.pcap", 60201): "begins with the server's answer, on a port that says nothing (443)",
    ("softether.pcap", 51381): "SoftEther's own UDP protocol is not a documented standard",
    ("softether.pcap", 37504): "SoftEther inside HTTP",
}

pytestmark = pytest.mark.skipif(not CAPTURES.is_dir(), reason="the folder ../shared/captures is not here")


@cache
def flows(name):
    """Each flow's stopped packets' protocols, by transport and ends."""
    marks, stopped = {}, {}
    for frame in read(CAPTURES / name):
        packet = parse(frame.data)
        if not packet.version:
            continue
        ends = frozenset({(packet.src_text, packet.src_port), (packet.dst_text, packet.dst_port)})
        key = (_TRANSPORTS.get(packet.protocol, str(packet.protocol)), ends)
        found = decide(packet, Flow(marks.get(key, 0)), Allowlist(0), STRICT, 0)
        marks[key] = found.mark
        stopped.setdefault(key, set())
        if not found.passes:
            stopped[key].add(found.protocol)
    return stopped


@cache
def labels():
    found = defaultdict(dict)
    with (CAPTURES / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            ends = frozenset((row[f"{end}_address"], int(row[f"{end}_port"] or 0)) for end in ("a", "b"))
            found[row["capture"]][row["transport"], ends] = row["category"]
    return found


def names():
    return sorted(path.name for path in CAPTURES.glob("*.pcap*")) if CAPTURES.is_dir() else []


@pytest.mark.parametrize("name", names())
def test_nothing_but_vpn_is_stopped(name):
    for key, protocols in flows(name).items():
        label = labels()[name].get(key)
        if key[0] == "GRE" and protocols == {"pptp"}:
            continue  # labelled by what is inside: PPTP's GRE is a VPN whatever it carries
        assert not protocols or label == "VPN", f"{key} is labelled {label} and taken for {protocols}"


@pytest.mark.parametrize("name", names())
def test_every_flow_labelled_vpn_is_stopped_or_explained(name):
    for key, label in labels()[name].items():
        if label == "VPN" and key in flows(name) and not flows(name)[key]:
            ports = {port for _, port in key[1]}
            assert any((name, port) in EXPLAINED for port in ports), f"{key} passes, and nothing says why"


def test_no_explanation_is_left_over():
    passing = {
        (name, port)
        for name in names()
        for key, label in labels()[name].items()
        if label == "VPN" and key in flows(name) and not flows(name)[key]
        for _, port in key[1]
    }
    assert EXPLAINED.keys() <= passing
