"""Attempts through a tunnel that an enforcer brought down: charged to the block while it lasts, told apart once it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testbed.plan.plan import Registration, Tunnel, VpnServer
from testbed.records import AuditRecord, EventRecord, FlowRecord, WitnessRecord
from testbed.score import score
from testbed.score.outcomes import Judged
from testbed.score.reading import Records
from testbed.score.summary import judged_attempts
from testbed.score.truth import truth_of
from tests.test_score_parts import ECHO, MS, PLAN, REGISTRATION, S, flow, ledger, seen

PORT = 40000
APPLIED = AuditRecord(-S, "gw", "applied", {"serial": 1})
ACTIVE = ledger(-2 * S, "active", 1)
GLITCH = (20 * S, 120 * S)  # the gateway treats a registered tunnel like the rest
QUIET = 60 * S  # long after the client's last packet, and long before its next


def udp(port: int = PORT, is_reply: bool = False):
    ends = ("10.1.1.2", port, "10.9.0.10", 51820)
    return ("udp", *(ends[2:] + ends[:2] if is_reply else ends))


def through(at_ns: int, ends=None, size: int = 100, packets: int = 1) -> list[WitnessRecord]:
    """Packets that went in and came out a millisecond later."""
    ends = ends or udp()
    sides = ("inside", "outside") if ends[3] == "10.9.0.10" else ("outside", "inside")
    return [
        replace(seen(side, at_ns + later, ends, packets), bytes=size * packets)
        for side, later in zip(sides, (0, MS), strict=True)
    ]


def stopped(at_ns: int, ends=None, size: int = 100) -> list[WitnessRecord]:
    return through(at_ns, ends, size)[:1]


def block(at_ns: int, ends=None, count: int = 1) -> AuditRecord:
    transport, src, src_port, dst, dst_port = ends or udp()
    data = {"reason": "unregistered", "protocol": "wireguard", "transport": transport, "count": count}
    data |= {"src": src, "src_port": src_port, "dst": dst, "dst_port": dst_port}
    return AuditRecord(at_ns, "gw", "block", data | {"registration": 1, "registration_state": "active"})


def fault(from_ns: int = GLITCH[0], until_ns: int | None = GLITCH[1], kind="allowlist-ignored", at="gw"):
    data = {"kind": kind, "at": [at]}
    events = [EventRecord(from_ns, "fault", kind, {**data, "state": "begun"})]
    if until_ns is not None:
        events.append(EventRecord(until_ns, "fault", kind, {**data, "state": "healed"}))
    return events


def silent(at_ns: int, **changes) -> FlowRecord:
    """An attempt for which nothing could be sent: the tunnel has no interface, its client no socket."""
    values = {"src": "", "dst": "", "src_port": 0, "dst_port": 0, "sent_ns": None, "failure": "tunnel_down"}
    values |= {"id": f"echo#{at_ns}", "scheduled_ns": at_ns, "done_ns": at_ns + S, "sent": 0}
    return flow(ECHO, **{**values, **changes})


def swallowed(at_ns: int, **changes) -> FlowRecord:
    """One that a client in back-off took and threw away; the record names the inner address, for there is no outer flow."""
    return silent(
        at_ns,
        **{"sent_ns": at_ns, "failure": "timeout", "sent": 1, "dst": "10.99.1.1", "dst_port": 7, **changes},
    )


def delivered(at_ns: int) -> FlowRecord:
    return flow(
        ECHO, delivered=True, id=f"echo#{at_ns}", scheduled_ns=at_ns, sent_ns=at_ns, done_ns=at_ns + 50 * MS
    )


def judge(*attempts: FlowRecord, witness=(), events=(ACTIVE,), audit=(APPLIED,), plan=PLAN) -> list[Judged]:
    other = seen("inside", S, ("udp", "10.2.1.2", 5, "10.9.0.10", 53))  # the witness was awake
    records = Records(list(events), list(attempts), [], [other, *witness], list(audit))
    return judged_attempts(plan, records, truth_of(plan, records.events))


@pytest.mark.parametrize("made", [silent, swallowed])
def test_what_a_brought_down_tunnel_loses_is_charged_to_the_block(made):
    """The last packet of its client was stopped 30 s ago and none got through since: blocked, through its tunnel."""
    events = [ACTIVE, *fault()]
    [judged] = judge(
        made(QUIET),
        witness=[*through(10 * S), *stopped(30 * S)],
        events=events,
        audit=[APPLIED, block(30 * S)],
    )
    assert (judged.outcome, judged.where, judged.cause) == ("false_block", "gw", "malfunction")
    assert judged.is_through_tunnel
    assert judged.rule is not None
    assert (judged.rule.reason, judged.rule.protocol, judged.rule.registration) == (
        "unregistered", "wireguard", 1,
    )  # fmt: skip
    # Controls: no packet stopped; stopped, and another got through since.
    [control] = judge(made(QUIET), witness=through(10 * S), events=events)
    assert (control.outcome, control.cause) == ("infra_down", None)
    [control] = judge(made(QUIET), witness=[*stopped(30 * S), *through(40 * S)], events=events)
    assert control.outcome == "infra_down"


def test_a_loss_on_a_link_stays_the_networks():
    """The tunnel's packets cross the gateway, or never reach it: no enforcer is to blame, whatever it did an hour before."""
    lost_behind = through(59_990 * MS)
    for witness in (
        lost_behind,
        [*stopped(30 * S), *through(35 * S), *lost_behind],
        [*stopped(30 * S), *through(35 * S)],
    ):
        [judged] = judge(
            swallowed(QUIET, sent_ns=QUIET), witness=witness, events=[ACTIVE, *fault(20 * S, 32 * S)]
        )
        assert (judged.outcome, judged.is_through_tunnel) == ("infra_down", False)


def test_a_line_that_is_down_is_the_networks_whatever_was_stopped_before():
    witness = stopped(30 * S)
    down = fault(50 * S, 70 * S, "link-down", "acc-alice")
    judged = judge(silent(QUIET), silent(80 * S), witness=witness, events=[ACTIVE, *fault(), *down])
    assert [each.outcome for each in judged] == ["infra_down", "false_block"]
    elsewhere = fault(50 * S, 70 * S, "link-down", "acc-bob")
    [control] = judge(silent(QUIET), witness=witness, events=[ACTIVE, *fault(), *elsewhere])
    assert control.outcome == "false_block"


def test_once_the_block_is_over_a_tunnel_that_is_not_back_is_told_apart():
    """The fault is healed at 120 s; the client, which waits by its own timers, tries again at 150 s."""
    witness = [*stopped(110 * S), *through(150 * S), *through(150 * S + 20 * MS, udp(is_reply=True))]
    attempts = [swallowed(119 * S), swallowed(121 * S), swallowed(149 * S), delivered(151 * S)]
    judged = judge(*attempts, witness=witness, events=[ACTIVE, *fault()])
    assert [each.outcome for each in judged] == ["false_block", "not_back", "not_back", "passed"]
    assert [each.lifted_ns for each in judged] == [None, GLITCH[1], GLITCH[1], None]
    assert judged[1].cause == "malfunction" and judged[1].where == "gw"
    # Control: never healed, so in force until the end.
    judged = judge(*attempts[:3], witness=stopped(110 * S), events=[ACTIVE, *fault(until_ns=None)])
    assert {each.outcome for each in judged} == {"false_block"}
    # Control: wrong by itself, without a fault whose end is known: in force until packets get through.
    judged = judge(*attempts[:3], witness=witness, events=[ACTIVE])
    assert {each.outcome for each in judged} == {"false_block"}


def test_a_tunnel_that_is_just_coming_back_is_not_yet_back():
    """Its client's packets get through again at 150 s; an attempt sent before its session is up is not the network's loss."""
    witness = [*stopped(110 * S), *through(150 * S), *through(150 * S + 20 * MS, udp(is_reply=True))]
    events = [ACTIVE, *fault()]
    judged = judge(
        swallowed(150 * S + 300 * MS), delivered(152 * S), swallowed(153 * S), witness=witness, events=events
    )
    assert [each.outcome for each in judged] == ["not_back", "passed", "infra_down"]
    [late] = judge(swallowed(156 * S), witness=witness, events=events)
    assert late.outcome == "infra_down"  # it has had its time


def test_a_stopped_answer_shuts_a_tunnel_too():
    there = through(30 * S)
    [judged] = judge(silent(QUIET), witness=[*there, *stopped(30 * S + 20 * MS, udp(is_reply=True))])
    assert (judged.outcome, judged.stop and judged.stop.direction) == ("false_block", "reply")
    [control] = judge(silent(QUIET), witness=[*there, *through(30 * S + 20 * MS, udp(is_reply=True))])
    assert control.outcome == "infra_down"


def test_what_a_server_sends_to_a_connection_left_behind_shuts_nothing():
    """The client is back from another port; what the server still sends to the old one is stopped, and no matter."""
    back = [*through(40 * S, udp(PORT + 1)), *through(40 * S + 20 * MS, udp(PORT + 1, is_reply=True))]
    witness = [*through(10 * S), *back, *stopped(50 * S, udp(is_reply=True))]
    [judged] = judge(silent(QUIET), witness=witness)
    assert judged.outcome == "infra_down"
    [control] = judge(silent(QUIET), witness=[*witness, *stopped(51 * S, udp(PORT + 1, is_reply=True))])
    assert control.outcome == "false_block"


def tcp_plan():
    server = VpnServer("fra-tcp", "srv", "openvpn-tcp", "10.9.0.10", None, 1194, "10.99.2.0/24", "10.99.2.1")
    tunnel = Tunnel("alice-tcp", "alice", "fra-tcp", 4, "10.99.2.2", 0, 200 * S)
    stream = replace(ECHO, protocol="openvpn-tcp", target="alice-tcp", registration="alice/fra-tcp")
    registration = Registration(
        "alice/fra-tcp", "alice", "fra-tcp", ("openvpn-tcp",), ("10.1.1.2/32",), ("10.9.0.10/32",), (1194,), "active"
    )  # fmt: skip
    return replace(
        PLAN,
        servers=(*PLAN.servers, server),
        tunnels=(*PLAN.tunnels, tunnel),
        streams=(*PLAN.streams[:2], stream),
        registrations=(REGISTRATION, registration),
    )


def test_a_tcp_handshake_that_gets_through_proves_nothing_for_what_it_would_carry():
    there = ("tcp", "10.1.1.2", PORT, "10.9.0.10", 1194)
    back = ("tcp", "10.9.0.10", 1194, "10.1.1.2", PORT)
    handshake = [*through(30 * S, there, 60), *through(30 * S + 20 * MS, back, 60)]
    closing = [*through(36 * S, there, 52), *through(36 * S + 20 * MS, back, 52)]
    attempt = silent(QUIET, target="alice-tcp", protocol="openvpn-tcp", registration="alice/fra-tcp")
    payload_stopped = [*handshake, *stopped(30 * S + 50 * MS, there, 138), *closing]
    [judged] = judge(attempt, witness=payload_stopped, plan=tcp_plan())
    assert judged.outcome == "false_block"
    carried = [*payload_stopped, *through(40 * S, there, 138)]
    [control] = judge(attempt, witness=carried, plan=tcp_plan())
    assert control.outcome == "infra_down"


def test_a_probe_of_the_same_line_to_the_same_server_is_not_its_tunnel():
    probe = flow(id="vpn#1", src_port=41000, scheduled_ns=30 * S, sent_ns=30 * S, done_ns=31 * S)
    witness = [*through(10 * S), *stopped(30 * S, udp(41000))]
    assert [each.outcome for each in judge(probe, silent(QUIET), witness=witness)] == [
        "false_block",
        "infra_down",
    ]
    assert (
        judge(silent(QUIET), witness=witness)[0].outcome == "false_block"
    )  # control: whose else would it be


def test_the_old_copy_that_shut_a_tunnel_is_over_when_the_enforcer_has_the_new_one():
    """Approved at 25 s, enforced at 45 s: the last packet was stopped at 30 s by the older copy."""
    plan = replace(PLAN, registrations=(replace(REGISTRATION, initial="pending"),))
    events = [ledger(-2 * S, "pending", 1), ledger(25 * S, "active", 2)]
    audit = [APPLIED, AuditRecord(45 * S, "gw", "applied", {"serial": 2})]
    attempts = [silent(40 * S), silent(50 * S)]
    judged = judge(*attempts, witness=stopped(30 * S), events=events, audit=audit, plan=plan)
    assert [each.outcome for each in judged] == ["false_block", "not_back"]
    assert [each.cause for each in judged] == ["propagation"] * 2
    assert judged[1].lifted_ns == 45 * S


def test_a_declared_failure_that_shut_a_tunnel_is_over_when_it_ends():
    failure = {"condition": "registry-unreachable", "behaviour": "block"}
    audit = [
        APPLIED,
        AuditRecord(20 * S, "gw", "failure", {**failure, "state": "begun"}),
        AuditRecord(45 * S, "gw", "failure", {**failure, "state": "ended"}),
    ]
    judged = judge(silent(40 * S), silent(50 * S), witness=stopped(30 * S), audit=audit)
    assert [(each.outcome, each.cause) for each in judged] == [
        ("false_block", "fail_mode"),
        ("not_back", "fail_mode"),
    ]


def test_a_tunnel_shut_while_it_was_nobodys_right_straddles_the_change_and_is_else_the_policys():
    plan = replace(PLAN, registrations=(replace(REGISTRATION, initial="pending"),))
    judged = judge(
        silent(20 * S),
        silent(QUIET),
        witness=stopped(10 * S),
        events=[ledger(30 * S, "active", 1)],
        plan=plan,
    )
    assert [each.outcome for each in judged] == ["policy_block", "straddles_change"]


def test_a_witness_that_missed_packets_since_cannot_say_that_none_got_through():
    missed = WitnessRecord("gw", "outside", "lost", "", 0, "", 0, 40 * S, 40 * S + MS, 3, 0)
    [judged] = judge(silent(QUIET), witness=[*stopped(30 * S), missed])
    assert judged.outcome == "harness_error"
    [judged] = judge(silent(QUIET), witness=[*stopped(30 * S), replace(missed, first_ns=S, last_ns=S + MS)])
    assert judged.outcome == "false_block"


def test_a_link_in_trouble_at_the_gateway_shuts_no_tunnel_unless_the_enforcer_says_so():
    down = fault(29 * S, 31 * S, "link-down", "cable")
    [judged] = judge(silent(QUIET), witness=stopped(30 * S), events=[ACTIVE, *down])
    assert judged.outcome == "infra_down"
    [judged] = judge(
        silent(QUIET), witness=stopped(30 * S), events=[ACTIVE, *down], audit=[APPLIED, block(30 * S)]
    )
    assert judged.outcome == "false_block"


def run_of_a_glitch() -> Records:
    """A tunnel is stopped at 22 s and 30 s, healed at 120 s, back at 150 s; an attempt every 10 s, one lost behind the gateway at 160 s."""
    attempts = [delivered(10 * S)]
    attempts += [swallowed(at_s * S) for at_s in range(21, 150, 10)] + [
        delivered(155 * S),
        swallowed(162 * S),
    ]
    witness = [*through(10 * S), *stopped(21 * S), *stopped(30 * S)]
    witness += [*through(150 * S), *through(150 * S + 20 * MS, udp(is_reply=True)), *through(162 * S)]
    audit = [APPLIED, block(21 * S), block(30 * S)]
    return Records([ACTIVE, *fault()], attempts, [], witness, audit)


def scored(records: Records) -> dict:
    return score(replace(PLAN, duration_ns=200 * S), records)


def test_the_summary_adds_up():
    summary = scored(run_of_a_glitch())
    table = summary["all"]
    assert table["outcomes"] == {
        "passed": 2, "false_block": 10, "policy_block": 0, "false_pass": 0, "not_back": 3, "infra_down": 1,
        "straddles_change": 0, "harness_error": 0,
    }  # fmt: skip
    assert (table["false_block"]["k"], table["false_block"]["n"]) == (10, 16)
    assert table["causes"]["false_block"] == {"malfunction": 10}
    assert table["through_tunnel"]["false_block"] == 9
    [row] = summary["tunnels_down"]
    assert row["attempts"] == {"stopped": 1, "through_tunnel": 9, "not_back": 3, "other": 0}
    assert (row["from_ns"], row["lifted_ns"], row["until_ns"]) == (21 * S, 120 * S, 155 * S)
    assert row["rule"] == {
        "reason": "unregistered", "protocol": "wireguard", "registration": 1, "registration_state": "active",
    }  # fmt: skip
    assert row["packets"] == {"stopped": 2, "in_audit": 2}
    assert summary["audit"] == {"blocked": 10, "in_audit": 10}
    assert summary["harm"]["person_ns_not_back"] == (155 - 121) * S
    assert summary["harm"]["person_ns_lost_to_false_blocks"] == (155 - 21) * S


def test_the_summary_says_where_the_audit_and_the_taps_disagree():
    """Both ways: an audit that names nothing of it, and one that counts more packets than the taps saw stopped."""
    records = run_of_a_glitch()
    silent_audit = replace(records, audit=[APPLIED])
    summary = scored(silent_audit)
    assert summary["audit"] == {"blocked": 10, "in_audit": 0}
    assert summary["tunnels_down"][0]["packets"] == {"stopped": 2, "in_audit": 0}
    assert summary["tunnels_down"][0]["rule"] is None
    assert summary["all"]["false_block"]["k"] == 10  # the enforcer is not asked whether it blocked
    more = replace(records, audit=[*records.audit, block(31 * S, count=5)])
    assert scored(more)["tunnels_down"][0]["packets"] == {"stopped": 2, "in_audit": 7}
