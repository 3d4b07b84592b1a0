"""What became of each flow attempt: the table of DESIGN §5, from ground truth and the witnesses' proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from testbed.plan.plan import Plan, Stream, Subscriber
from testbed.records import FlowRecord, WitnessRecord
from testbed.score.carriers import Carriers
from testbed.score.taps import Stop, Taps
from testbed.score.troubles import Trouble, trouble_at
from testbed.score.truth import Truth

OUTCOMES = (
    "passed",
    "false_block",
    "policy_block",
    "false_pass",
    "not_back",
    "infra_down",
    "straddles_change",
    "harness_error",
)

# What routers say when they have no way to the destination: the network's failure, wherever the packet was last seen.
_ROUTING_FAILURES = ("network_unreachable", "host_unreachable")


@dataclass(frozen=True, slots=True)
class Rule:
    """What an enforcer wrote in its audit of a block: the reason, the kind of VPN, and the registration it knew of, if any."""

    reason: str
    protocol: str | None = None
    registration: int | None = None
    registration_state: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt with its outcome. where: the enforcer that stopped it or let it through, or "elsewhere".

    is_entitled: None when that changed meanwhile. proof_ns: when the packet that proves a stop went in, else the moment the
    attempt was sent. why: for people, only where the outcome is not plain. is_through_tunnel: nothing of it reached the enforcer, which
    had stopped the packets of its tunnel before and let none through since. lifted_ns: when that was over ("not_back" only).
    rule: what the enforcer's audit says of the block; None when it names none.
    """

    flow: FlowRecord
    stream: Stream
    subscriber: Subscriber
    is_entitled: bool | None
    outcome: str
    where: str | None
    proof_ns: int
    stop: Stop | None = None
    why: str = ""
    cause: str | None = None
    is_through_tunnel: bool = False
    lifted_ns: int | None = None
    rule: Rule | None = None

    @property
    def carrier(self) -> FlowRecord:
        """The attempt as the flow whose packets were stopped: of an attempt through a tunnel, the tunnel's."""
        row = self.stop.row if self.stop else None
        return self.flow if row is None or self.stream.probe != "tunnel-echo" else carrier_of(self.flow, row)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the plan: what the taps saw, of the attempts and of the tunnels' own packets, links in trouble, and the
    enforcers' own word on blocks, which is asked only where the taps alone prove nothing.

    lifted_ns: (node, flow, when it was stopped, now) -> when that was over, None while it lasts (testbed.score.lifting). is_down: whether a
    fault had taken a link away at a moment.
    """

    taps: Taps
    troubles: Sequence[Trouble] = ()
    says_blocked: Callable[[str, FlowRecord], bool] = lambda _node, _flow: False
    lifted_ns: Callable[[str, FlowRecord, int, int], int | None] = lambda *_: None
    is_down: Callable[[str, int], bool] = lambda _link, _t_ns: False


def carriers_of(plan: Plan, flows: Iterable[FlowRecord], evidence: Evidence) -> Carriers:
    """What became of the tunnels' own packets, by the same evidence."""
    return Carriers(plan, evidence.taps, list(flows), lambda node, row: _is_block(evidence, node, row))


def judge_all(
    plan: Plan,
    flows: Iterable[FlowRecord],
    truth: Truth,
    evidence: Evidence,
    carriers: Carriers | None = None,
) -> list[Judged]:
    """Every attempt judged, in the order of scheduled time. carriers: those of the same flows and evidence, if they are there.

    Raises ValueError when a flow names a stream the plan does not have.
    """
    flows = list(flows)
    carriers = carriers or carriers_of(plan, flows, evidence)
    streams = {stream.name: stream for stream in plan.streams}
    subscribers = {subscriber.name: subscriber for subscriber in plan.subscribers}
    judged = []
    for flow in sorted(flows, key=lambda each: (each.scheduled_ns, each.id)):
        stream = streams.get(flow.stream)
        if stream is None:
            raise ValueError(
                f"flows.jsonl.gz: attempt {flow.id} is of stream {flow.stream!r}, which plan.json does not have"
            )
        judged.append(_judge(flow, stream, subscribers[stream.subscriber], truth, evidence, carriers))
    return judged


def _judge(
    flow: FlowRecord,
    stream: Stream,
    subscriber: Subscriber,
    truth: Truth,
    evidence: Evidence,
    carriers: Carriers,
) -> Judged:
    taps = evidence.taps
    sent_ns = flow.sent_ns if flow.sent_ns is not None else flow.scheduled_ns
    entitled = truth.is_entitled(stream, flow.scheduled_ns, flow.done_ns)

    def judged(outcome: str, where: str | None = None, why: str = "", stop: Stop | None = None) -> Judged:
        at_ns = stop.at_ns if stop else sent_ns
        return Judged(flow, stream, subscriber, entitled, outcome, where, at_ns, stop, why)

    if flow.failure == "harness_error":
        return judged("harness_error", why="the test-bed could not carry out or finish the attempt")
    if entitled is None:
        return judged("straddles_change", why="the registration changed while the attempt was under way")
    if flow.is_delivered:
        if entitled:
            return judged("passed")
        sight = taps.sight(flow, stream, subscriber)
        return judged("false_pass", sight.nodes[0] if sight.nodes else None)
    if not taps.nodes:
        return judged("infra_down", "elsewhere", "there is no enforcer")
    if not taps.count:
        return judged(
            "harness_error", why="the witnesses wrote nothing, so nobody can tell where it was stopped"
        )
    sight = taps.sight(flow, stream, subscriber)
    stop = sight.stop or _shut(carriers, stream, sent_ns, flow.done_ns)
    if stop is None:
        if not sight.nodes and any(taps.has_missed(node, sent_ns, flow.done_ns) for node in taps.nodes):
            return judged(
                "harness_error", why="the witnesses lost packets, so nobody can tell where it was stopped"
            )
        if entitled and (back := _coming_back(carriers, evidence, stream, flow, sent_ns)) is not None:
            lifted_ns, stop = back
            late = judged("not_back", stop.node, "its tunnel was just being set up again", stop)
            return replace(late, is_through_tunnel=True, lifted_ns=lifted_ns)
        return judged("infra_down", "elsewhere", _where_not(flow, sight.nodes))
    if flow.failure in _ROUTING_FAILURES:
        return judged("infra_down", "elsewhere", f"{stop.node} had no route: {flow.failure}")
    if taps.has_missed(stop.node, min(sent_ns, stop.at_ns), flow.done_ns):
        return judged("harness_error", why=f"the witness at {stop.node} lost packets; its word is no proof")
    is_older = stop.at_ns < flow.scheduled_ns
    carrier = flow if stop.row is None or not is_older else carrier_of(flow, stop.row)
    trouble = trouble_at(evidence.troubles, stop.node, stop.at_ns)
    if trouble is not None and not evidence.says_blocked(stop.node, carrier):
        return judged("infra_down", "elsewhere", f"link {trouble.link} at {stop.node} {trouble.what}")
    outcome = "false_block" if entitled else "policy_block"
    if not is_older:
        return judged(outcome, stop.node, stop=stop)
    # A client may be silent for a while: what proves the stop is older than the attempt, and so is the state it was sent in.
    if truth.is_entitled(stream, stop.at_ns, flow.done_ns) is None:
        why = "the client last sent before its registration changed, and has not tried again"
        return judged("straddles_change", why=why)
    if evidence.is_down(access := _access_link(carriers.plan, subscriber), sent_ns):
        return judged(
            "infra_down",
            "elsewhere",
            f"its own line ({access}) was down, whatever {stop.node} had stopped before",
        )
    lifted_ns = evidence.lifted_ns(stop.node, carrier, stop.at_ns, sent_ns) if entitled else None
    if lifted_ns is not None:
        why = f"{stop.node} would have let it through again, but its client had not tried since"
        late = judged("not_back", stop.node, why, stop)
        return replace(late, is_through_tunnel=True, lifted_ns=lifted_ns)
    return replace(judged(outcome, stop.node, stop=stop), is_through_tunnel=True)


def carrier_of(flow: FlowRecord, row: WitnessRecord) -> FlowRecord:
    """The attempt as a flow of its tunnel's packets that a tap saw: with their ends, in the client's direction, and at their time."""
    is_request = flow.public_src == row.src or (flow.public_src != row.dst and row.dst_port == flow.dst_port)
    src, src_port, dst, dst_port = row.src, row.src_port, row.dst, row.dst_port
    if not is_request:
        src, src_port, dst, dst_port = dst, dst_port, src, src_port
    return replace(
        flow,
        transport=row.transport,
        src=src,
        public_src=src,
        src_port=src_port,
        dst=dst,
        dst_port=dst_port,
        scheduled_ns=row.first_ns,
        done_ns=row.last_ns,
    )


def _access_link(plan: Plan, subscriber: Subscriber) -> str:
    ends = ((link.name, (link.a.node, link.b.node)) for link in plan.links if link.kind == "access")
    return next((name for name, nodes in ends if subscriber.node in nodes), "")


def _shut(carriers: Carriers, stream: Stream, sent_ns: int, done_ns: int) -> Stop | None:
    """What shows that the attempt's tunnel was shut when it ended, or at least when it began."""
    if stream.probe != "tunnel-echo":
        return None
    return carriers.shut_at(stream.target, done_ns) or carriers.shut_at(stream.target, sent_ns)


def _coming_back(
    carriers: Carriers, evidence: Evidence, stream: Stream, flow: FlowRecord, sent_ns: int
) -> tuple[int, Stop] | None:
    """(when the block was over, its last stop) of a tunnel whose client got through again a moment ago and is not up yet."""
    found = carriers.opened_before(stream.target, sent_ns) if stream.probe == "tunnel-echo" else None
    if found is None:
        return None
    opened_ns, stop = found
    carrier = flow if stop.row is None else carrier_of(flow, stop.row)
    lifted_ns = evidence.lifted_ns(stop.node, carrier, stop.at_ns, sent_ns)
    return (opened_ns if lifted_ns is None else min(lifted_ns, opened_ns)), stop


def _is_block(evidence: Evidence, node: str, row: WitnessRecord) -> bool:
    """Whether a packet of a tunnel that is missing between the taps was stopped by the enforcer, not by the node's own links."""
    if evidence.taps.has_missed(node, row.first_ns, row.last_ns):
        return False
    if trouble_at(evidence.troubles, node, row.last_ns) is None:
        return True
    # Of whose attempt it is asked is of no matter: only its ends and its time are.
    return evidence.says_blocked(node, _flow_of(row))


def _flow_of(row: WitnessRecord) -> FlowRecord:
    return FlowRecord(
        "", "", "", "", "", "", 4, row.transport, row.src, row.src_port, row.src, row.dst, row.dst_port,
        row.first_ns, row.first_ns, row.last_ns, False, None, 0, 0, None,
    )  # fmt: skip


def _where_not(flow: FlowRecord, nodes: tuple[str, ...]) -> str:
    if nodes:
        return f"it crossed {', '.join(nodes)}; the answer was lost elsewhere"
    if flow.sent_ns is None:
        return "nothing was sent, and nothing had been stopped before"
    return "it was seen at no enforcer"
