"""The dataplanes and decide() agree on verdict and reason, packet by packet, through a real kernel."""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass, replace
from importlib.resources import files

import pytest

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.cells import Index
from enforcer.dataplanes.nfqueue import NfqueueDataplane
from enforcer.dataplanes.nft import NftDataplane
from enforcer.decide import CLEAR, REVOKED, UNJUDGED, Flow, Verdict, decide
from enforcer.packet import parse
from enforcer.policy import Exemption, NamedEndpoint, parse_policy
from tests import enforcer_packets as make
from tests.dataplane_lab import router, wait_until

STRICT = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text())
_EXEMPT = Exemption("epdg", "", ("ikev2", "esp"), ("198.51.100.64/26", "2001:db8:9::40/122"), (500, 4500), ())
POLICIES = {
    "strict": replace(STRICT, exempt=(_EXEMPT,)),
    "subscriber-reject": replace(STRICT, match="subscriber", action="reject"),
    "endpoint-observe": replace(STRICT, match="endpoint", mode="observe", exempt=(_EXEMPT,)),
    "ports-only": replace(STRICT, recognise_by=("ports",), live_flows="let-finish", let_finish_ns=10**15),
    "few": replace(
        STRICT,
        governs=("wireguard", "esp", "openconnect"),
        recognise_by=("first-packets",),
        named_endpoints=(NamedEndpoint("openconnect", ("198.51.100.8/29", "2001:db8:9::8/125"), (443,)),),
    ),
}
LINES = {4: [f"10.0.{block}.{host}" for block in (0, 1) for host in (1, 2, 7)],
         6: [f"fd00:0:0:{block}::{host}" for block in (0, 1) for host in (1, 2, 7)]}  # fmt: skip
SERVERS = {4: [f"198.51.100.{host}" for host in (7, 8, 9, 70)], 6: [f"2001:db8:9::{host}" for host in ("7", "8", "9", "46")]}  # fmt: skip
PORTS = (51820, 1194, 500, 4500, 1701, 1723, 53, 443, 123, 8443, 3478, 33000, 1024)
PAYLOADS = [
    make.WIREGUARD_INITIATION,
    make.WIREGUARD_RESPONSE,
    make.WIREGUARD_DATA,
    make.OPENVPN_RESET,
    make.OPENVPN_RESET_TLS_AUTH,
    make.OPENVPN_RESET_TLS_CRYPT,
    make.OPENVPN_RESET_TLS_CRYPT_V2,
    make.OPENVPN_SERVER_RESET,
    make.OPENVPN_DATA,
    make.IKE_SA_INIT,
    make.IKEV1_MAIN_MODE,
    b"\0\0\0\0" + make.IKE_SA_INIT,
    make.L2TP_SCCRQ,
    make.PPTP_REQUEST,
    b"",
    b"\xff",
    *(payload for _, _, payload in make.LOOK_ALIKES.values()),
]
ENTRIES = [
    Entry(1, "a", ("10.0.0.1/32", "fd00::1/128"), ("198.51.100.7/32", "2001:db8:9::7/128"), (51820, 8443), ("wireguard",)),
    Entry(2, "b", ("10.0.0.0/24", "fd00::/64"), ("198.51.100.8/32", "2001:db8:9::8/128")),
    Entry(3, "c", ("10.0.1.2/32", "fd00:0:0:1::2/128"), ("198.51.100.0/24", "2001:db8:9::/64"), (), ("ikev2", "openvpn-udp")),
    Entry(4, "d", ("10.0.0.2/31", "fd00::2/127"), ("0.0.0.0/0", "::/0"), (1194,), ("openvpn-tcp", "openvpn-udp", "pptp")),
    Entry(5, "e", ("10.0.0.1/32", "fd00::1/128"), ("198.51.100.7/32", "2001:db8:9::7/128")),
    Entry(6, "f", ("0.0.0.0/0", "::/0"), ("198.51.100.9/32", "2001:db8:9::9/128"), (500, 4500, 1723), ("ikev2", "pptp")),
]  # fmt: skip

pytestmark = pytest.mark.world


@dataclass(frozen=True)
class Sent:
    """A packet, the side it starts from, and the key of its conntrack flow."""

    data: bytes
    from_server: bool
    flow: tuple


def random_packet(rng: random.Random) -> Sent:
    version = rng.choice((4, 6))
    line, server = rng.choice(LINES[version]), rng.choice(SERVERS[version])
    from_server = rng.random() < 0.3
    src, dst = (server, line) if from_server else (line, server)
    options = {}
    if version == 4 and rng.random() < 0.1:
        options["options"] = b"\x01\x01\x01\x00"
    if version == 6 and rng.random() < 0.15:
        options["extensions"] = rng.choice(
            (((60, b"\1\4\0\0\0\0"),), ((0, b"\1\4\0\0\0\0"), (60, b"\1\4\0\0\0\0")))
        )
    kind = rng.choices(("udp", "tcp", "ip"), (6, 4, 2))[0]
    if kind == "ip":
        protocol = rng.choice((50, 51, 47, 115, 4, 132, 89))
        payload = rng.choice(
            (make.GRE_PPTP, make.GRE_PLAIN, b"\0\0\1\1" + b"\xa5" * 40, b"\x11\4" + b"\xa5" * 40)
        )
        if protocol == 51:  # a whole header, with UDP behind it
            inside = make.udp(src, dst, 33000 + random_packet.count % 30000, rng.choice(PORTS), b"x" * 8)[
                -16:
            ]
            random_packet.count += 1  # conntrack sees through the header in IPv6: each is a flow of its own
            payload = b"\x11\4" + b"\0" * 22 + inside
            flow = (51, *sorted((src, dst))) if version == 4 else ("new", random_packet.count)
            return Sent(make.ip(src, dst, protocol, payload, **options), from_server, flow)
        flow = (protocol, *sorted((src, dst)))
        if protocol == 47 and payload is make.GRE_PPTP:  # conntrack tells its two directions apart by call id
            flow = ("pptp", src, dst)
        return Sent(make.ip(src, dst, protocol, payload, **options), from_server, flow)
    near = rng.choice((40000, 40001, 1194, 51820, 500))
    ports = (rng.choice(PORTS), near) if from_server else (near, rng.choice(PORTS))
    payload = rng.choice(PAYLOADS)
    if rng.random() < 0.2:
        payload = (
            bytes(rng.choice((0x01, 0x02, 0x04, 0x38, 0x40, 0x48, 0x50, 0)) for _ in range(3)) + payload[3:]
        )
    flow = (kind, *sorted(((src, ports[0]), (dst, ports[1]))))
    if kind == "udp":
        return Sent(make.udp(src, dst, *ports, payload, **options), from_server, flow)
    # Every TCP packet opens a flow of its own: what conntrack thinks of sequences of flags is not what is tested.
    own = 10000 + random_packet.count % 23000
    random_packet.count += 1
    ports = (ports[0], own) if from_server else (own, ports[1])
    if rng.random() < 0.5:
        payload = make.behind_length(payload)
    flags = rng.choice((make.SYN, make.SYN | make.ACK, make.ACK, make.ACK | make.PSH))
    if flags & make.SYN:
        payload = b""
    return Sent(
        make.tcp(src, dst, *ports, flags, payload, acknowledge=1, **options),
        from_server,
        ("new", rng.random()),
    )


random_packet.count = 0


def disagreement(lab, dataplane, index, policy, marks, ended, sent) -> str | None:
    """Send one packet; say how the kernel and decide() differ about it, if they do. marks is kept as conntrack keeps it."""
    packet = parse(sent.data)
    mark = marks.get(sent.flow, UNJUDGED)
    expected = decide(packet, Flow(mark, ended.get(mark)), index, policy, 1)
    source, sink = (lab.server, lab.client) if sent.from_server else (lab.client, lab.server)
    with lab.inside():
        before = dataplane.counters()
        seen = len(sink.collect())
        source.send(sent.data)
        changes = wait_until(lambda: changed(before, dataplane.counters()), within_s=2.0)
    if expected.passes:
        marks[sent.flow] = expected.mark
        with contextlib.suppress(AssertionError):  # what did not arrive is told below
            wait_until(lambda: len(sink.collect()) > seen, within_s=2.0)
    arrived = any(
        parse(each).payload == packet.payload and parse(each).src == packet.src
        for each in sink.collect()[seen:]
    )
    word = counted_as(expected)
    if changes != {word: 1} or arrived != expected.passes:
        return (
            f"mark {mark:#x}: decide says {expected.action}, {word}; the kernel counted {changes} and "
            f"{'delivered' if arrived else 'did not deliver'} {sent.data.hex()}"
        )
    return None


def counted_as(verdict: Verdict) -> str:
    """The counter that a packet with this verdict goes into."""
    if verdict.reason in ("unregistered", "revoked", "fail-closed"):
        return f"{verdict.reason}.{verdict.protocol or 'unseen'}"
    return verdict.reason


def changed(before, after) -> dict[str, int]:
    """By how many packets each counter grew; those that did."""
    changes = {
        name: count.packets - (before[name].packets if name in before else 0) for name, count in after.items()
    }
    return {name: change for name, change in changes.items() if change}


def compare(make_dataplane, name: str, seed: int, count: int) -> None:
    policy, rng = POLICIES[name], random.Random(seed)
    with router() as lab:
        with lab.inside():
            dataplane = make_dataplane(policy)
            held = {entry.registration: entry for entry in ENTRIES}
            dataplane.load(Allowlist(1, held))
        index = Index(policy.match, held.values())
        marks, ended = {}, {}
        for number in range(count):
            if number % 50 == 49:
                come_or_go(lab, dataplane, index, policy, marks, ended, rng)
            sent = random_packet(rng)
            found = disagreement(lab, dataplane, index, policy, marks, ended, sent)
            assert found is None, f"seed {seed}, packet {number}: {found}"
        with lab.inside():
            dataplane.close()


def come_or_go(lab, dataplane, index, policy, marks, ended, rng) -> None:
    """A registration ends, or comes back; then, half of the time, the flows that were cut are swept (nfqueue does so at once)."""
    entry = rng.choice(ENTRIES)
    number = entry.registration
    if number in index.entries:
        delta = Delta(1, 2, (), (Removal(number, "revoked"),))
        index.remove(number)
        ended[number] = 1
    else:
        delta = Delta(1, 2, (entry,), ())
        index.add(entry)
    is_swept = rng.random() < 0.5
    with lab.inside():
        dataplane.apply(delta)
        if is_swept:
            dataplane.sweep()
    if policy.live_flows == "cut" and (is_swept or dataplane.name == "nfqueue"):
        for flow, mark in marks.items():
            if 0 < mark < CLEAR and mark not in index.entries:
                marks[flow] = REVOKED


@pytest.mark.parametrize("name", POLICIES)
def test_nft_agrees_with_decide(name):
    compare(NftDataplane, name, seed=20241110, count=500)


@pytest.mark.parametrize("name", POLICIES)
def test_nfqueue_agrees_with_decide(name):
    compare(NfqueueDataplane, name, seed=20241110, count=100)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("make_dataplane", [NftDataplane, NfqueueDataplane], ids=["nft", "nfqueue"])
def test_a_dataplane_agrees_with_decide_on_many(make_dataplane):
    """100,000 packets over all policies; -rP shows the table."""
    on_many(make_dataplane)


def on_many(make_dataplane, count: int = int(os.environ.get("ALLOWLAB_PACKETS", "100000")) // 5) -> None:
    from tests.dataplane_many import Tally, compare_many

    tally = Tally()
    for number, name in enumerate(POLICIES):
        compare_many(make_dataplane, name, int(os.environ.get("ALLOWLAB_SEED", "7")) + number, count, tally)
    print(tally)
    assert tally.counts.total() == count * len(POLICIES)
