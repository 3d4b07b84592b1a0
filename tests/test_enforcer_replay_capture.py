"""Captures: what is reported is what decide says of each packet, whatever is remembered, skipped or cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from enforcer import capture
from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import is_valid
from enforcer.decide import JUDGED_AGAIN, Flow, decide
from enforcer.packet import parse
from enforcer.policy import load_policy
from enforcer.replay.flows import IDLE_CLOSED_NS, IDLE_NS, IDLE_OTHER_NS, final
from enforcer.replay.frames import frames
from enforcer.replay.judge import REASONS, STOPPED
from enforcer.replay.replay_capture import CaptureReplay
from enforcer.replay.result import Result, Side
from enforcer.replay.source import Source
from tests import enforcer_packets as make
from tests.replay_examples import FOLDER

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "captures"
BORDER = load_policy(FOLDER / "border.policy.yaml")
LINE, SERVER, OTHER = "203.0.113.7", "198.51.100.9", "203.0.113.8"
LINE6, SERVER6 = "2001:db8:7::1", "2001:db8:9::9"
START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
STOPPING = {reason for reason, stopped in zip(REASONS, STOPPED, strict=True) if stopped}


class Watched(CaptureReplay):
    """Keeps each flow as it ends: its ends, protocol, reason and what was recognised, a policy each."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.ended = []

    def _end(self, flow):
        said = tuple((REASONS[final(each)], each.protocol) for each in flow.standings)
        self.ended.append((flow.protocol, flow.ends, said, flow.packets, flow.bytes))
        super()._end(flow)


def run(packets, policy=BORDER, entries=(), against=None, at_ns=None, **more):
    """packets: (time_ns, IP packet). Gives the result and the flows as they ended."""
    sides = [Side(policy, "p"), *([Side(against, "q")] if against else [])]
    result = Result("test", "pcap", sides, at_ns=at_ns)
    replay = Watched(result, [entries] * len(sides), **more)
    replay.run((time_ns, 101, data, 0, len(data)) for time_ns, data in packets)
    replay.finish()
    return result, replay.ended


def by_packets(packets, policy, entries):
    """What run must find, each packet asked of decide: packets and bytes by reason, and flows by their final word."""
    allowlist = Allowlist(1, {entry.registration: entry for entry in entries})
    flows, sums, ended, fragments = {}, {}, {}, {}

    def add(reason, length):
        count, octets = sums.get(reason, (0, 0))
        sums[reason] = (count + 1, octets + length)

    def end(flow):
        word = flow["stopped"] or flow["reason"]
        ended[word] = ended.get(word, 0) + 1

    for time_ns, data in packets:
        packet = parse(data)
        identity = (packet.src, packet.dst, packet.protocol, data[4:6])
        if packet.is_fragment:
            flow = fragments.get(identity)
            add(flow["reason"] if flow else "fragment", len(data))
            if flow:
                flow["last"] = max(flow["last"], time_ns)
            continue
        ends = frozenset({(packet.src, packet.src_port), (packet.dst, packet.dst_port)})
        gre = packet.payload[1] & 7 if packet.protocol == 47 else 0
        key = (packet.version, packet.protocol, gre, ends)
        flow = flows.get(key)
        reopens = flow and flow["closed"] and packet.tcp_flags & 0x12 == 0x02
        if flow and (reopens or time_ns - flow["last"] > flow["idle"]):
            end(flow)
            flow = None
        if not flow:
            idle = IDLE_NS.get(packet.protocol, IDLE_OTHER_NS)
            flow = flows[key] = {
                "mark": 0,
                "reason": "",
                "stopped": "",
                "last": time_ns,
                "closed": False,
                "idle": idle,
            }
        mark = flow["mark"]
        entry = allowlist.entries.get(mark)
        ended_ns = (
            entry.valid_until_ns
            if entry and mark not in JUDGED_AGAIN and not is_valid(entry, time_ns)
            else None
        )
        verdict = decide(packet, Flow(mark, ended_ns), allowlist, policy, time_ns)
        if not (flow["stopped"] and verdict.reason in ("not-vpn", "not-yet")):
            flow["mark"], flow["reason"] = verdict.mark, verdict.reason
            if verdict.reason in STOPPING:
                flow["stopped"] = flow["stopped"] or verdict.reason
        add(flow["reason"], len(data))
        flow["last"] = max(flow["last"], time_ns)
        if packet.tcp_flags & 0x05:
            flow["closed"], flow["idle"] = True, IDLE_CLOSED_NS
        if packet.version == 4 and data[6] & 0x20:
            fragments[identity] = flow
    for flow in flows.values():
        end(flow)
    return sums, ended


HOSTS = {4: [LINE, SERVER, "192.0.2.10"], 6: [LINE6, SERVER6]}
MESSAGES = [
    make.WIREGUARD_INITIATION,
    make.WIREGUARD_RESPONSE,
    make.WIREGUARD_DATA,
    make.OPENVPN_RESET,
    make.IKE_SA_INIT,
    make.L2TP_SCCRQ,
    b"",
    b"\x16\x03\x01" + b"\xa5" * 40,
]
PORTS = [40000, 51820, 8443, 443]


@some.composite
def packets(draw):
    """A few hosts talking, with gaps that end flows and cross registrations' beginnings and ends."""
    found, time_ns = [], START_NS
    for _ in range(draw(some.integers(1, 60))):
        time_ns += draw(some.sampled_from([0, SECOND_NS, 10 * SECOND_NS, 125 * SECOND_NS, 700 * SECOND_NS]))
        version = draw(some.sampled_from([4, 4, 6]))
        src, dst = draw(some.permutations(HOSTS[version]))[:2]
        kind = draw(
            some.sampled_from(
                ["udp", "udp", "udp", "tcp", "tcp", "esp", "gre", "icmp", "fragment", "options"]
            )
        )
        ports = draw(some.sampled_from(PORTS)), draw(some.sampled_from(PORTS))
        message = draw(some.sampled_from(MESSAGES))
        if kind == "udp":
            data = make.udp(src, dst, *ports, message)
        elif kind == "tcp":
            flags = draw(some.sampled_from([0x02, 0x12, 0x10, 0x18, 0x11, 0x04]))
            data = make.tcp(src, dst, *ports, flags, b"" if flags != 0x18 else make.behind_length(message))
        elif kind == "options" and version == 4:
            data = make.udp(src, dst, *ports, message, options=b"\1\1\1\1")
        elif kind == "fragment" and version == 4:
            whole = make.udp(src, dst, *ports, message)
            offset = draw(some.integers(0, 1)) * 3
            data = make.ip(src, dst, 17, whole[20:], tag=draw(some.integers(1, 2)), fragment=(offset, True))
        else:
            payload = draw(some.sampled_from([make.GRE_PPTP, make.GRE_PLAIN]))
            data = make.ip(src, dst, {"esp": 50, "gre": 47}.get(kind, 1), payload)
        found.append((time_ns, data))
    return found


@some.composite
def entries(draw):
    found = []
    for registration in range(1, draw(some.integers(1, 4))):
        begins = draw(some.sampled_from([0, START_NS + 15 * SECOND_NS]))
        ends = draw(some.sampled_from([None, START_NS + 5 * SECOND_NS, START_NS + 300 * SECOND_NS]))
        lines = draw(some.sampled_from([(f"{LINE}/32", "2001:db8:7::/64"), ("203.0.113.0/24",)]))
        points = draw(some.sampled_from([(f"{SERVER}/32", f"{SERVER6}/128"), ("0.0.0.0/0", "::/0")]))
        ports = draw(some.sampled_from([(), (51820,)]))
        found.append(Entry(registration, f"r{registration}", lines, points, ports, (), begins, ends))
    return found


@settings(max_examples=100, deadline=None)
@given(
    packets(),
    entries(),
    some.sampled_from(["drop", "reject", "police"]),
    some.sampled_from(["enforce", "observe"]),
    some.sampled_from(["cut", "let-finish"]),
)
def test_what_is_counted_is_what_decide_says_of_each_packet(sent, registered, action, mode, live_flows):
    policy = replace(
        BORDER,
        action=action,
        mode=mode,
        live_flows=live_flows,
        let_finish_ns=20 * SECOND_NS if live_flows == "let-finish" else None,
    )
    result, _ = run(sent, policy, registered)
    sums, ended = by_packets(sent, policy, registered)
    counted = result.sides[0].totals.reasons()
    assert {reason: tuple(each[1:]) for reason, each in counted.items() if each[1]} == sums
    assert {reason: each[0] for reason, each in counted.items() if each[0]} == ended
    assert result.seen[1] == len(sent) and result.seen[0] == sum(ended.values())


def test_two_policies_are_judged_as_each_is_alone():
    by_line = replace(BORDER, match="subscriber", action="police")
    registered = [Entry(1, "a", (f"{LINE}/32",), ("192.0.2.1/32",))]
    sent = [
        (START_NS + number * SECOND_NS, make.udp(line, SERVER, 40000, 51820, make.WIREGUARD_INITIATION))
        for number, line in enumerate([LINE, OTHER, LINE])
    ]
    both, _ = run(sent, BORDER, registered, by_line)
    for side, alone in zip(
        both.sides, (run(sent, policy, registered)[0] for policy in (BORDER, by_line)), strict=True
    ):
        assert np.array_equal(side.totals.by, alone.sides[0].totals.by)
    change = both.pairs.changes[REASONS.index("unregistered"), REASONS.index("registered")]
    assert change.tolist() == [1, 2, 2 * len(sent[0][1])]


def test_what_follows_a_stopped_packet_falls_with_it_until_a_registration_begins():
    begins = START_NS + 10 * SECOND_NS
    registered = [Entry(1, "a", (f"{LINE}/32",), (f"{SERVER}/32",), valid_from_ns=begins)]
    hello = make.udp(LINE, SERVER, 40000, 8443, make.WIREGUARD_INITIATION)
    answer = make.udp(SERVER, LINE, 8443, 40000, make.WIREGUARD_RESPONSE)
    sent = [
        (START_NS, hello),
        (START_NS + 1, answer),
        (begins - 1, answer),
        (begins, answer),
        (begins + 1, hello),
    ]
    result, _ = run(sent, BORDER, registered)
    counted = result.sides[0].totals.reasons()
    assert counted["unregistered"][:2] == [1, 4]  # the answers alone would say nothing
    assert counted["registered"][:2] == [0, 1]
    control, _ = run([(START_NS, answer)], BORDER, registered)
    assert list(control.sides[0].totals.reasons()) == ["not-vpn"]


def test_a_moment_given_is_when_all_is_judged():
    registered = [Entry(1, "a", (f"{LINE}/32",), (f"{SERVER}/32",), valid_until_ns=START_NS + SECOND_NS)]
    sent = [
        (START_NS + number * SECOND_NS, make.udp(LINE, SERVER, 40000, 51820, b"x")) for number in range(3)
    ]
    assert list(run(sent, BORDER, registered, at_ns=START_NS)[0].sides[0].totals.reasons()) == ["registered"]
    late = run(sent, BORDER, registered, at_ns=START_NS + 9 * SECOND_NS)[0].sides[0].totals.reasons()
    assert list(late) == ["unregistered"]
    assert run(sent, BORDER, registered)[0].sides[0].totals.reasons()["revoked"] == [1, 2, 58]


def test_few_packets_need_a_decision():
    data = make.udp(LINE, SERVER, 40000, 443, b"\xc0" * 30)
    result, _ = run([(START_NS + number, data) for number in range(1000)])
    assert result.capture.decided == 1
    assert result.sides[0].totals.reasons() == {"not-vpn": [1, 1000, 1000 * len(data)]}


def test_the_flow_table_is_bounded_and_says_what_it_let_go():
    sent = [
        (START_NS + number, make.udp(f"10.0.{number >> 8}.{number & 255}", SERVER, 40000, 51820, b"x"))
        for number in range(1000)
    ]
    result, _ = run(sent, most_flows=100)
    assert result.capture.forgotten > 0
    assert result.seen == [1000, 1000, 29 * 1000]
    assert result.sides[0].totals.reasons() == {"unregistered": [1000, 1000, 29 * 1000]}
    control, _ = run(sent)
    assert control.capture.forgotten == 0 and control.seen == result.seen


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the folder ../shared/captures is not here")
@pytest.mark.parametrize(
    "path", sorted(CAPTURES.glob("*.pcap*")) if CAPTURES.is_dir() else [], ids=lambda path: path.name
)
def test_real_captures_give_what_decide_says_flow_by_flow(path):
    """The flows that are stopped, and as what, are those of a plain loop over capture.read, parse and decide."""
    expected, marks = {}, {}
    for frame in capture.read(path):
        packet = parse(frame.data)
        if not packet.version:
            continue
        key = (packet.protocol, frozenset({(packet.src, packet.src_port), (packet.dst, packet.dst_port)}))
        verdict = decide(packet, Flow(marks.get(key, 0)), Allowlist(0), BORDER, frame.time_ns)
        marks[key] = verdict.mark
        if not verdict.passes:
            expected.setdefault(key, set()).add(verdict.protocol)
    result = Result("test", "pcap", [Side(BORDER, "p")])
    replay = Watched(result, [[]])
    source = Source(path)
    replay.run(frames(source, result.damages))
    replay.finish()
    found = {}
    for protocol, (src, src_port, dst, dst_port), ((reason, said),), _, _ in replay.ended:
        if reason in STOPPING:
            found.setdefault((protocol, frozenset({(src, src_port), (dst, dst_port)})), set()).add(said)
    assert found == expected
    assert result.damages.count == 0
