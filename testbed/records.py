"""The record types: written inside the world as things happen, read by score. One JSON object a line.

Every t_ns is nanoseconds on the world's monotonic clock from the start of the scenario; what happened before the start
is negative. `failure` is None or one word of FAILURES. Files: see FILES.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FILES = {
    "event": "events.jsonl",
    "flow": "flows.jsonl.gz",
    "probe": "probes.jsonl.gz",
    "witness": "witness.jsonl.gz",
    "audit": "audit.jsonl.gz",
}

FAILURES = (
    "timeout",
    "connection_refused",
    "connection_reset",
    "host_unreachable",
    "network_unreachable",
    "prohibited",  # ICMP administratively prohibited
    "wrong_answer",
    "tunnel_down",  # nothing was sent: the session is not up
    "harness_error",
)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something the script or the system did.

    kind: "clock" (data: realtime_ns at t 0), "script" (an Event of the plan was begun; name is its name), "ledger"
    (a registration changed state: data registration, number, state, serial), "tunnel" (data tunnel, state: "starting",
    "up", "down"), "fault" (data kind, at, state "begun"/"healed"), "applied" (an enforcer enforces a serial: data
    enforcer, serial), "address" (data subscriber, public4, public6), "bulk" (data: iperf3 figures), "health", "phase", "error".
    """

    t_ns: int
    kind: str
    name: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """One flow attempt. src/dst are as the subscriber's host sent them ("" when nothing was sent); public_src as a gateway sees it.

    scheduled_ns comes from the plan, sent_ns is when the first packet left, done_ns when the answer was complete or the
    attempt failed. For `tunnel-echo` src/dst/ports are those of the tunnel's outer flow (transport "udp", "tcp", "esp").
    sent/received count packets (voice sends many).
    """

    id: str
    stream: str
    subscriber: str
    probe: str
    protocol: str
    target: str
    family: int
    transport: str
    src: str
    src_port: int
    public_src: str
    dst: str
    dst_port: int
    scheduled_ns: int
    sent_ns: int | None
    done_ns: int
    is_delivered: bool
    failure: str | None
    sent: int
    received: int
    rtt_ns: int | None
    registration: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe packet: rtt_ns counts from the scheduled time (None: lost); lag_ns is how late it was sent."""

    flow: str
    sequence: int
    scheduled_ns: int
    lag_ns: int
    rtt_ns: int | None


@dataclass(frozen=True, slots=True)
class WitnessRecord:
    """Packets of one flow and direction that crossed one tap within one time bucket (200 ms).

    node and side ("inside", "outside") name the tap. src/dst/ports as on the wire there; ports are 0 for protocols
    without any (ICMP echo: src_port holds the identifier). transport: "udp", "tcp", "icmp", "icmpv6", "esp", "ah", "gre" or the number.
    """

    node: str
    side: str
    transport: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    first_ns: int
    last_ns: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A decision of an enforcer, from its own audit; t_ns is put on the scenario's clock. See enforcer/audit.py.

    kind: "block" (a packet was stopped), "would-block" (observe mode), "applied" (serial), "refused-update",
    "failure" (a failure behaviour began or ended), "counters".
    """

    t_ns: int
    node: str
    kind: str
    data: dict[str, Any] = field(default_factory=dict)
