"""What became of each flow attempt: the table of DESIGN §5, from ground truth and the witnesses' proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from testbed.plan.plan import Plan, Stream, Subscriber
from testbed.records import FlowRecord
from testbed.score.taps import Stop, Taps
from testbed.score.troubles import Trouble, trouble_at
from testbed.score.truth import Truth

OUTCOMES = (
    "passed",
    "false_block",
    "policy_block",
    "false_pass",
    "infra_down",
    "straddles_change",
    "harness_error",
)

# What routers say when they have no way to the destination: the network's failure, wherever the packet was last seen.
_ROUTING_FAILURES = ("network_unreachable", "host_unreachable")


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt with its outcome. where: the enforcer that stopped it or let it through, or "elsewhere".

    is_entitled: None when that changed meanwhile. proof_ns: when the packet that proves a stop went in, else the moment the
    attempt was sent. why: for people, only where the outcome is not plain.
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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the plan: what the taps saw, links in trouble, and the enforcers' own word on blocks, which is
    asked only where the taps alone prove nothing."""

    taps: Taps
    troubles: Sequence[Trouble] = ()
    says_blocked: Callable[[str, FlowRecord], bool] = lambda _node, _flow: False


def judge_all(plan: Plan, flows: Iterable[FlowRecord], truth: Truth, evidence: Evidence) -> list[Judged]:
    """Every attempt judged, in the order of scheduled time.

    Raises ValueError when a flow names a stream the plan does not have.
    """
    streams = {stream.name: stream for stream in plan.streams}
    subscribers = {subscriber.name: subscriber for subscriber in plan.subscribers}
    judged = []
    for flow in sorted(flows, key=lambda each: (each.scheduled_ns, each.id)):
        stream = streams.get(flow.stream)
        if stream is None:
            raise ValueError(
                f"flows.jsonl.gz: attempt {flow.id} is of stream {flow.stream!r}, which plan.json does not have"
            )
        judged.append(_judge(flow, stream, subscribers[stream.subscriber], truth, evidence))
    return judged


def _judge(
    flow: FlowRecord,
    stream: Stream,
    subscriber: Subscriber,
    truth: Truth,
    evidence: Evidence,
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
    if sight.stop is None:
        if not sight.nodes and any(taps.has_missed(node, sent_ns, flow.done_ns) for node in taps.nodes):
            return judged(
                "harness_error", why="the witnesses lost packets, so nobody can tell where it was stopped"
            )
        return judged("infra_down", "elsewhere", _where_not(flow, sight.nodes))
    if flow.failure in _ROUTING_FAILURES:
        return judged("infra_down", "elsewhere", f"{sight.stop.node} had no route: {flow.failure}")
    if taps.has_missed(sight.stop.node, min(sent_ns, sight.stop.at_ns), flow.done_ns):
        return judged(
            "harness_error", why=f"the witness at {sight.stop.node} lost packets; its word is no proof"
        )
    trouble = trouble_at(evidence.troubles, sight.stop.node, sight.stop.at_ns)
    if trouble is not None and not evidence.says_blocked(sight.stop.node, flow):
        return judged("infra_down", "elsewhere", f"link {trouble.link} at {sight.stop.node} {trouble.what}")
    # A client may be silent for a while: what proves the stop is older than the attempt, and so is the state it was sent in.
    if sight.stop.at_ns < flow.scheduled_ns:
        before = truth.is_entitled(stream, sight.stop.at_ns, flow.done_ns)
        if before is None:
            why = "the client last sent before its registration changed, and has not tried again"
            return judged("straddles_change", why=why)
    return judged("false_block" if entitled else "policy_block", sight.stop.node, stop=sight.stop)


def _where_not(flow: FlowRecord, nodes: tuple[str, ...]) -> str:
    if nodes:
        return f"it crossed {', '.join(nodes)}; the answer was lost elsewhere"
    if flow.sent_ns is None:
        return "nothing was sent, and nothing had been stopped before"
    return "it was seen at no enforcer"
