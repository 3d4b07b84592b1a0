"""The score's parts on small cases: intervals, what the taps prove, when blame is withheld, why a false block happened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.policy import AuditRules, Policy, load_policy
from enforcer.privacy import Addresses
from testbed.plan.plan import Registration, Stream, Subscriber, Tunnel
from testbed.records import AuditRecord, EventRecord, FlowRecord, WitnessRecord
from testbed.score.cause import EnforcerHistory, explain
from testbed.score.intervals import percentile, samples_needed, wilson
from testbed.score.outcomes import Evidence, Judged, judge_all
from testbed.score.taps import Taps
from testbed.score.troubles import troubles
from testbed.score.truth import truth_of
from testbed.score.written import written
from tests.small_plan import small_plan

MS, S = 1_000_000, 1_000_000_000
ALICE = Subscriber("alice", "alice", "company", "isp1", "static", "10.1.1.2", "fd00:1:1::2")
CAROL = Subscriber(
    "carol", "carol", "freelancer", "isp1", "nat", "10.1.1.9", None, port_first=2000, port_last=2999
)
STRICT = load_policy("enforcer/policies/registered-pairs.policy.yaml")
VPN = Stream(
    "vpn",
    "g",
    "alice",
    "handshake",
    "wireguard",
    "fra-wireguard",
    4,
    (S,),
    S,
    registration="alice/fra-wireguard",
)
WEB = Stream("web", "g", "alice", "https", "https", "web-fra", 4, (S,), S)
ECHO = replace(VPN, name="echo", probe="tunnel-echo", target="alice-fra")
REGISTRATION = Registration(
    "alice/fra-wireguard",
    "alice",
    "fra-wireguard",
    ("wireguard",),
    ("10.1.1.2/32",),
    ("10.9.0.10/32",),
    (51820,),
    "active",
)
PLAN = small_plan(
    subscribers=(ALICE, CAROL),
    streams=(VPN, WEB, ECHO),
    registrations=(REGISTRATION,),
    tunnels=(Tunnel("alice-fra", "alice", "fra-wireguard", 4, "10.99.1.2", 0, 10 * S),),
    policy=STRICT.to_json(),
)
THERE = ("udp", "10.1.1.2", 40000, "10.9.0.10", 51820)
BACK = ("udp", "10.9.0.10", 51820, "10.1.1.2", 40000)


def flow(stream: Stream = VPN, delivered: bool = False, **changes) -> FlowRecord:
    values = {
        "id": f"{stream.name}#0", "stream": stream.name, "subscriber": stream.subscriber, "probe": stream.probe,
        "protocol": stream.protocol, "target": stream.target, "family": 4, "transport": "udp", "src": "10.1.1.2",
        "src_port": 40000, "public_src": "10.1.1.2", "dst": "10.9.0.10", "dst_port": 51820, "scheduled_ns": S, "sent_ns": S,
        "done_ns": 2 * S, "is_delivered": delivered, "failure": None if delivered else "timeout", "sent": 1,
        "received": int(delivered), "rtt_ns": None, "registration": stream.registration,
    }  # fmt: skip
    return FlowRecord(**{**values, **changes})


def seen(side: str, at_ns: int, ends=THERE, packets: int = 1, last_ns: int | None = None) -> WitnessRecord:
    return WitnessRecord("gw", side, *ends, at_ns, last_ns or at_ns, packets, packets * 100)


# Somebody else's packet: the witness was awake.
OTHER = seen("inside", S, ("udp", "10.2.1.2", 5, "10.9.0.10", 53))


def judge(attempt: FlowRecord, *witness: WitnessRecord, plan=PLAN, events=(), audit=()) -> Judged:
    history = EnforcerHistory(audit)
    evidence = Evidence(Taps(plan, [OTHER, *witness]), troubles(plan, events), history.says_blocked)
    truth = truth_of(plan, events)
    [judged] = judge_all(plan, [attempt], truth, evidence)
    policy = Policy.from_json(plan.policy) if plan.policy else None
    return explain(judged, plan, policy, truth, history)


def ledger(t_ns: int, state: str, serial: int) -> EventRecord:
    data = {
        "registration": "alice/fra-wireguard",
        "number": 1,
        "action": "x",
        "state": state,
        "serial": serial,
    }
    return EventRecord(t_ns, "ledger", "alice/fra-wireguard", data)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_gives_the_published_bounds(k, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3 (81 of 263), and by the formula."""
    interval = wilson(k, n)
    assert interval.low == pytest.approx(low, abs=5e-5) and interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_holds_the_share_and_stays_inside(k, n):
    if k > n:
        with pytest.raises(ValueError):
            wilson(k, n)
        return
    interval = wilson(k, n)
    assert 0 <= interval.low <= (k / n if n else 0.5) <= interval.high <= 1


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 2), (0.95, 20), (0.99, 100)])
def test_a_percentile_needs_samples_beyond_it(quantile, needed):
    assert samples_needed(quantile) == needed
    assert percentile([1.0] * (needed - 1), quantile).value is None
    assert percentile([1.0] * needed, quantile).value == 1.0


def test_a_lost_probe_is_later_than_any_other():
    samples = [float(each) for each in range(97)] + [None] * 3
    assert percentile(samples, 0.95).value == 94.0
    late = percentile(samples, 0.99)
    assert late.value is None and late.reason == "3 of 100 had no answer, so p99 is not finite"


def test_a_percentiles_interval_holds_it_and_may_be_open():
    found = percentile([float(each) for each in range(1000)], 0.99)
    assert found.interval.low is not None and found.interval.high is not None and found.value is not None
    assert found.interval.low < found.value < found.interval.high
    assert percentile([float(each) for each in range(100)], 0.99).interval.high is None


def test_stopped_at_the_enforcer_is_a_false_block_and_passing_it_is_not():
    assert judge(flow(), seen("inside", S + 5 * MS)).outcome == "false_block"
    assert judge(flow(), seen("inside", S + 5 * MS), seen("outside", S + 6 * MS)).outcome == "infra_down"
    assert judge(flow()).outcome == "infra_down"
    assert judge(flow(delivered=True), seen("inside", S + 5 * MS)).outcome == "passed"


def test_an_answer_stopped_at_the_enforcer_is_a_block_too():
    out = (seen("inside", S + 5 * MS), seen("outside", S + 6 * MS))
    judged = judge(flow(), *out, seen("outside", S + 50 * MS, BACK))
    assert judged.outcome == "false_block" and judged.stop is not None and judged.stop.direction == "reply"
    control = judge(flow(), *out, seen("outside", S + 50 * MS, BACK), seen("inside", S + 70 * MS, BACK))
    assert control.outcome == "infra_down"


def test_a_packet_still_held_between_the_taps_is_not_stopped():
    """The cable holds packets for its 20 ms between the gateway's two taps."""
    reply = seen("outside", 2 * S - 5 * MS, BACK)
    out = (seen("inside", S + 5 * MS), seen("outside", S + 6 * MS))
    assert judge(flow(), *out, reply, seen("inside", 2 * S + 15 * MS, BACK)).outcome == "infra_down"
    assert judge(flow(), *out, reply).outcome == "false_block"


def test_a_connection_whose_payload_is_stopped_was_blocked():
    """The TCP handshake passes, as it must; the first payload and its repeats do not."""
    ends = ("tcp", "10.1.1.2", 40000, "10.9.0.10", 443)
    packets = [seen("inside", S + 5 * MS, ends, 2), seen("outside", S + 6 * MS, ends, 2)]
    packets += [seen("inside", S + 300 * MS, ends, 3, S + 900 * MS)]
    attempt = flow(WEB, transport="tcp", dst_port=443)
    assert judge(attempt, *packets).outcome == "false_block"
    assert (
        judge(attempt, *packets, seen("outside", S + 301 * MS, ends, 3, S + 901 * MS)).outcome == "infra_down"
    )


def test_a_flow_that_went_on_after_a_lost_packet_was_not_stopped():
    """One packet of three vanished between the taps, and later ones came through: that is loss, not a block."""
    inside = seen("inside", S + 5 * MS, packets=3, last_ns=S + 190 * MS)
    went_on = seen("outside", S + 6 * MS, packets=2, last_ns=S + 191 * MS)
    assert judge(flow(), inside, went_on).outcome == "infra_down"
    assert judge(flow(), inside, replace(went_on, last_ns=S + 100 * MS)).outcome == "false_block"


def test_a_witness_that_missed_packets_then_proves_nothing():
    inside = seen("inside", S + 5 * MS)
    missed = WitnessRecord("gw", "outside", "lost", "", 0, "", 0, S, S + 100 * MS, 7, 0)
    assert judge(flow(), inside, missed).outcome == "harness_error"
    assert judge(flow(), missed).outcome == "harness_error"
    earlier = replace(missed, first_ns=-9 * S, last_ns=-8 * S)
    assert judge(flow(), inside, earlier).outcome == "false_block"
    assert judge(flow(), inside, replace(missed, node="other-gw")).outcome == "false_block"


def test_a_full_queue_at_the_gateway_is_no_block_unless_the_enforcer_says_so():
    def health(name: str, dropped: int) -> EventRecord:
        return EventRecord(
            9 * S,
            "health",
            "run",
            {"links": {"backend": "nfqueue", "links": {name: {"rate_dropped": dropped}}}},
        )

    inside = seen("inside", S + 5 * MS)
    assert judge(flow(), inside, events=[health("cable/ab", 3)]).outcome == "infra_down"
    assert judge(flow(), inside, events=[health("cable/ab", 0)]).outcome == "false_block"
    assert judge(flow(), inside, events=[health("cable/ba", 3)]).outcome == "false_block"  # what fra sends


def test_emulated_loss_is_between_the_taps_only_where_netem_makes_it():
    lossy = replace(PLAN, links=tuple(replace(link, loss_ratio=0.1) for link in PLAN.links))

    def run_with(backend: str) -> str:
        health = EventRecord(9 * S, "health", "run", {"links": {"backend": backend, "links": {}}})
        return judge(flow(), seen("inside", S + 5 * MS), plan=lossy, events=[health]).outcome

    assert (run_with("netem"), run_with("nfqueue")) == ("infra_down", "false_block")


@pytest.mark.parametrize("failure", ["network_unreachable", "host_unreachable"])
def test_a_router_that_says_it_has_no_route_is_believed(failure):
    assert judge(flow(failure=failure), seen("inside", S + 5 * MS)).outcome == "infra_down"
    assert judge(flow(failure="prohibited"), seen("inside", S + 5 * MS)).outcome == "false_block"


def test_while_a_link_is_down_the_taps_alone_prove_no_block():
    fault = {"kind": "link-down", "at": ["cable"]}
    events = [
        EventRecord(S // 2, "fault", "cut", {**fault, "state": "begun"}),
        EventRecord(3 * S, "fault", "cut", {**fault, "state": "healed"}),
    ]
    inside = seen("inside", S + 5 * MS)
    assert judge(flow(), inside, events=events).outcome == "infra_down"
    ends = {"src": "10.1.1.2", "src_port": 40000, "dst": "10.9.0.10", "dst_port": 51820}
    block = AuditRecord(S + 5 * MS, "gw", "block", {"reason": "unregistered", **ends})
    assert judge(flow(), inside, events=events, audit=[block]).outcome == "false_block"
    assert judge(flow(), inside, events=[]).outcome == "false_block"  # control: no fault


def test_a_silent_client_is_judged_by_what_it_sent_last():
    """Nothing new is sent: the last packet, 6 s ago or 20 s ago, was stopped, or was not."""
    attempt = flow(ECHO, scheduled_ns=30 * S, sent_ns=None, done_ns=31 * S, failure="tunnel_down", sent=0)
    assert judge(attempt, seen("inside", 25 * S)).outcome == "false_block"
    assert judge(attempt, seen("inside", 25 * S), seen("outside", 25 * S + MS)).outcome == "infra_down"
    assert judge(attempt, seen("inside", 10 * S)).outcome == "false_block"
    assert judge(attempt, seen("inside", 10 * S), seen("outside", 10 * S + MS)).outcome == "infra_down"


def test_a_client_silent_since_before_its_approval_straddles_it():
    plan = replace(PLAN, registrations=(replace(REGISTRATION, initial="pending"),))
    events = [ledger(28 * S, "active", 1)]
    attempt = flow(ECHO, scheduled_ns=30 * S, sent_ns=None, done_ns=31 * S, failure="tunnel_down", sent=0)
    assert judge(attempt, seen("inside", 25 * S), plan=plan, events=events).outcome == "straddles_change"
    assert judge(attempt, seen("inside", 29 * S), plan=plan, events=events).outcome == "false_block"


def test_neighbours_behind_one_address_are_told_apart_by_their_ports():
    mine = ("udp", "10.1.1.9", 2400, "10.9.0.10", 51820)
    theirs = ("udp", "10.1.1.9", 3400, "10.9.0.10", 51820)
    echo = replace(ECHO, subscriber="carol")
    plan = replace(PLAN, streams=(echo,))
    attempt = flow(echo, subscriber="carol", public_src="10.1.1.9", src_port=2400)
    assert judge(attempt, seen("inside", S + MS, theirs), plan=plan).outcome == "infra_down"
    assert (
        judge(attempt, seen("inside", S + MS, mine), seen("outside", S + 2 * MS, theirs), plan=plan).outcome
        == "false_block"
    )


def test_a_call_that_lost_most_packets_elsewhere_was_not_blocked():
    voice = replace(WEB, name="voice", probe="voice", protocol="voice", packets=10)
    plan = replace(PLAN, streams=(voice,))
    ends = ("udp", "10.1.1.2", 40000, "10.9.0.10", 16384)
    attempt = flow(voice, dst_port=16384, sent=10, received=2)
    one_lost = (
        seen("inside", S + MS, ends, 10, S + 190 * MS),
        seen("outside", S + 2 * MS, ends, 9, S + 190 * MS),
    )
    assert judge(attempt, *one_lost, plan=plan).outcome == "infra_down"
    most_lost = (one_lost[0], seen("outside", S + 2 * MS, ends, 3, S + 190 * MS))
    assert judge(attempt, *most_lost, plan=plan).outcome == "false_block"


def test_without_an_enforcer_every_loss_is_the_networks():
    plan = replace(PLAN, enforcers=(), policy=None)
    assert judge(flow(), seen("inside", S + MS), plan=plan).outcome == "infra_down"


APPLIED = AuditRecord(-S, "gw", "applied", {"serial": 1})
STOPPED = seen("inside", S + 5 * MS)


@pytest.mark.parametrize(
    ("cause", "changes", "events", "audit"),
    [
        ("malfunction", {}, [ledger(-2 * S, "active", 1)], [APPLIED]),
        ("policy", {"public_src": "10.1.1.77"}, [ledger(-2 * S, "active", 1)], [APPLIED]),
        ("propagation", {}, [ledger(-2 * S, "pending", 1), ledger(S // 2, "active", 2)], [APPLIED]),
        ("malfunction", {}, [ledger(-2 * S, "pending", 1), ledger(S // 2, "active", 2)], [AuditRecord(S - 1, "gw", "applied", {"serial": 2})]),
        ("fail_mode", {}, [ledger(-2 * S, "active", 1)], [APPLIED, AuditRecord(0, "gw", "failure", {"condition": "registry-unreachable", "state": "begun", "behaviour": "block"})]),
        ("malfunction", {}, [ledger(-2 * S, "active", 1)], [APPLIED, AuditRecord(0, "gw", "failure", {"condition": "registry-unreachable", "state": "begun", "behaviour": "keep"})]),
        ("overload", {}, [ledger(-2 * S, "active", 1)], [APPLIED, AuditRecord(0, "gw", "failure", {"condition": "table-full", "state": "begun", "behaviour": "keep"})]),
    ],
)  # fmt: skip
def test_why_a_false_block_happened(cause, changes, events, audit):
    plan = replace(PLAN, registrations=(replace(REGISTRATION, initial="pending"),))
    src = changes.get("public_src", "10.1.1.2")
    judged = judge(flow(**changes), replace(STOPPED, src=src), plan=plan, events=events, audit=audit)
    assert (judged.outcome, judged.cause) == ("false_block", cause), judged.why


def test_a_failure_that_ended_explains_nothing_later():
    failure = {"condition": "registry-unreachable", "behaviour": "block"}
    audit = [
        AuditRecord(0, "gw", "failure", {**failure, "state": "begun"}),
        AuditRecord(S // 2, "gw", "failure", {**failure, "state": "ended"}),
    ]
    judged = judge(flow(), STOPPED, events=[ledger(-2 * S, "active", 1)], audit=[APPLIED, *audit])
    assert judged.cause == "malfunction"


def test_why_a_false_pass_happened():
    passing = (seen("inside", S + 5 * MS), seen("outside", S + 6 * MS))
    revoked = [ledger(-2 * S, "active", 1), ledger(S // 2, "revoked", 2)]
    newest = AuditRecord(S // 2 + 1, "gw", "applied", {"serial": 2})
    assert judge(flow(delivered=True), *passing, events=revoked, audit=[APPLIED]).cause == "propagation"
    assert (
        judge(flow(delivered=True), *passing, events=revoked, audit=[APPLIED, newest]).cause == "malfunction"
    )
    by_line = replace(PLAN, policy=load_policy("enforcer/policies/observe-only.policy.yaml").to_json())
    assert (
        judge(flow(delivered=True), *passing, events=revoked, audit=[APPLIED, newest], plan=by_line).cause
        == "policy"
    )
    nobody = replace(PLAN, enforcers=(), policy=None)
    assert judge(flow(delivered=True), events=revoked, plan=nobody).cause == "policy"


@pytest.mark.parametrize("protocol", ["wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "l2tp", "pptp"])
def test_the_written_policy_stops_each_protocol_unless_registered(protocol):
    transport = "tcp" if protocol in ("openvpn-tcp", "pptp") else "udp"
    ports = {
        "wireguard": 51820,
        "openvpn-udp": 1194,
        "openvpn-tcp": 1194,
        "ikev2": 500,
        "l2tp": 1701,
        "pptp": 1723,
    }
    attempt = flow(protocol=protocol, transport=transport, dst_port=ports[protocol])
    registered = replace(REGISTRATION, protocols=(protocol,), endpoint_ports=())
    truth = truth_of(replace(PLAN, registrations=(registered,)), [])
    assert written(attempt, STRICT, truth.entries_at(0)).passes
    assert not written(attempt, STRICT, []).passes
    assert written(flow(WEB, transport="tcp", dst_port=443), STRICT, []).passes


@pytest.mark.parametrize("setting", ["full", "prefix", "keyed-hash"])
def test_an_enforcers_word_about_a_block_is_found_whatever_its_audit_keeps_of_addresses(setting: str) -> None:
    policy = replace(STRICT, audit=AuditRules(setting))
    own, other = flow(), flow(src_port=40001)
    shown = Addresses(policy.audit)
    ends = {"src": shown.shown(own.public_src), "dst": shown.shown(own.dst)}
    ports = {"src_port": own.src_port, "dst_port": own.dst_port}
    line = AuditRecord(own.scheduled_ns, "gw", "block", ends | ports)
    history = EnforcerHistory([line], policy=policy)
    assert history.says_blocked("gw", own)
    assert not history.says_blocked("gw", other)  # control


def test_the_ledgers_entries_have_the_category_the_form_gives() -> None:
    for kind, category in (("company", "company"), ("hospital", "other")):
        truth = truth_of(replace(PLAN, subscribers=(replace(ALICE, kind=kind), CAROL)), [])
        [entry] = truth.entries_at(0)
        assert entry.category == category
