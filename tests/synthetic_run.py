"""A run folder made up by rule: what a real run of a glitch, a revocation, an approval and a cable cut would have written.

The story, in seconds: bank, softhouse and callcentre use WireGuard and are registered; household is not. studio applies
at 5, is verified at 8 and approved at 12. From 20 to 30 gateway gw ignores the allowlist ("glitch"). At 33 designer's
address changes. From 38 to 41 the cable is down. callcentre is revoked at 50; the enforcer follows 0.4 s later.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enforcer.policy import load_policy
from testbed.plan.plan import Bulk, Event, Expectation, Plan, Registration, Stream, Subscriber, Tunnel
from testbed.plan.store import write_plan
from testbed.records import FILES, AuditRecord, EventRecord, FlowRecord, ProbeRecord, WitnessRecord
from testbed.timeline.recorder import Recorder
from tests.small_plan import small_plan
from tests.synthetic_state import run_json

S = 1_000_000_000
SERVER = "10.9.0.10"
GLITCH = (20 * S, 30 * S)
CABLE_CUT = (38 * S, 41 * S)
APPROVED, REVOKED, LAG = 12 * S, 50 * S, 400_000_000
ADDRESS_CHANGED = 33 * S
DURATION = 60 * S

PEOPLE = (
    Subscriber("softhouse", "softhouse", "company", "isp1", "static", "10.1.1.2", None),
    Subscriber("bank", "bank", "bank", "isp1", "static", "10.1.2.2", None),
    Subscriber("callcentre", "callcentre", "call-centre", "isp2", "static", "10.2.1.2", None),
    Subscriber(
        "studio", "studio", "freelancer", "isp2", "nat", "10.2.9.1", None, port_first=2000, port_last=3999
    ),
    Subscriber(
        "designer", "designer", "freelancer", "isp2", "dynamic", "10.2.3.2", None, spare4=("10.2.3.77",)
    ),
    Subscriber(
        "household",
        "household",
        "household",
        "isp2",
        "nat",
        "10.2.9.1",
        None,
        port_first=4000,
        port_last=5999,
    ),
)
REGISTERED = {
    "softhouse": "active",
    "bank": "active",
    "callcentre": "active",
    "designer": "active",
    "studio": None,
}


def synthetic_plan(**changes: Any) -> Plan:
    """The plan of the story."""
    streams = []
    for person in PEOPLE:
        for probe, target, every in (("https", "web-fra", S), ("dns", "dns-fra", S // 2)):
            at = tuple(range(S // 10, DURATION - S, every))
            streams.append(
                Stream(f"{probe}-{person.name}", "everyday", person.name, probe, probe, target, 4, at, S)
            )
        name = f"{person.name}/fra-wireguard"
        registration = name if person.name in REGISTERED else None
        vpn = {"registration": registration or name}
        at = tuple(range(S // 4, DURATION - S, S // 2))
        if person.name in ("household", "designer", "studio"):
            probe, target = "handshake", "fra-wireguard"
        else:
            probe, target = "tunnel-echo", f"{person.name}-fra-wireguard"
        streams.append(
            Stream(f"vpn-{person.name}", "vpn", person.name, probe, "wireguard", target, 4, at, S, **vpn)
        )
    registrations = tuple(
        Registration(
            f"{person.name}/fra-wireguard",
            person.name,
            "fra-wireguard",
            ("wireguard",),
            (f"{person.public4}/32",),
            (f"{SERVER}/32",),
            (51820,),
            REGISTERED.get(person.name),
        )
        for person in PEOPLE
    )
    studio = {"registration": "studio/fra-wireguard"}
    values: dict[str, Any] = {
        "scenario": "synthetic",
        "title": "A glitch, a cable cut, an approval and a revocation",
        "description": "Made up by rule; see tests/synthetic_run.py.",
        "scenario_file": "scenarios/synthetic.scenario.yaml",
        "duration_ns": DURATION,
        "policy": load_policy(
            Path(__file__).parent.parent / "enforcer/policies/registered-pairs.policy.yaml"
        ).to_json(),
        "policy_file": "enforcer/policies/registered-pairs.policy.yaml",
        "subscribers": PEOPLE,
        "registrations": registrations,
        "tunnels": tuple(
            Tunnel(f"{name}-fra-wireguard", name, "fra-wireguard", 4, f"10.99.1.{number}", 0, DURATION)
            for number, name in enumerate(("softhouse", "bank", "callcentre"), start=2)
        ),
        "streams": tuple(streams),
        "bulk": (
            Bulk("download", "softhouse", "bulk-fra", None, 2 * S, 5 * S),
            Bulk("glitched", "bank", "bulk-fra", None, 22 * S, 5 * S),
        ),
        "events": (
            Event("apply-studio", 5 * S, "apply", studio, 30, 5),
            Event("verify-studio", 8 * S, "verify", studio, 31, 5),
            Event("approve-studio", APPROVED, "approve", studio, 32, 5),
            Event(
                "glitch",
                GLITCH[0],
                "fault",
                {"kind": "allowlist-ignored", "at": ["gw"], "until_ns": GLITCH[1]},
                33,
                5,
            ),
            Event("new-address", ADDRESS_CHANGED, "change-address", {"subscriber": "designer"}, 34, 5),
            Event(
                "cut",
                CABLE_CUT[0],
                "fault",
                {"kind": "link-down", "at": ["cable"], "until_ns": CABLE_CUT[1]},
                35,
                5,
            ),
            Event(
                "revoke-callcentre", REVOKED, "revoke", {"registration": "callcentre/fra-wireguard"}, 36, 5
            ),
        ),
        "expectations": (
            _expect(
                "registered people keep their VPN", "false_block_ratio", "at_most", 0.0, 40, group=["vpn"]
            ),
            _expect(
                "the bank keeps its VPN before the glitch",
                "false_block_ratio",
                "at_most",
                0.0,
                41,
                until=19 * S,
                subscriber=["bank"],
            ),
            _expect("an approval works within 2 s", "approval_to_first_byte_s", "at_most", 2.0, 42),
            _expect("a revocation works within 1 s", "revocation_to_last_byte_s", "at_most", 1.0, 43),
            _expect("everyday traffic is fast", "rtt_p95_s", "at_most", 0.12, 44, protocol=["dns"]),
            _expect(
                "the glitch is no policy",
                "main_cause",
                "equals",
                "malfunction",
                45,
                from_=GLITCH[0],
                until=GLITCH[1],
            ),
            _expect("p99 of one line", "rtt_p99_s", "at_most", 0.2, 46, stream=["https-bank"], until=30 * S),
            _expect("studio is active", "registration_state", "equals", "active", 47, subscriber=["studio"]),
            _expect("downloads are fast", "goodput_bps", "at_least", 5e6, 48),
        ),
    }
    return small_plan(**{**values, **changes})


def write_synthetic_run(run_dir: Path, plan: Plan | None = None, noise: tuple[str, ...] = ()) -> Plan:
    """Writes plan.json and all records into run_dir; returns the plan."""
    plan = plan or synthetic_plan()
    run_dir.mkdir(parents=True, exist_ok=True)
    write_plan(plan, run_dir / "plan.json")
    play = _Play(plan, random.Random(7))
    recorder = Recorder(run_dir)
    for event in sorted(_events(plan, noise), key=lambda each: each.t_ns):
        recorder.event(event)
    for stream in plan.streams:
        for index, at_ns in enumerate(stream.at_ns):
            flow, probes = play.attempt(stream, index, at_ns)
            recorder.flow(flow)
            for probe in probes:
                recorder.probe(probe)
    for line in sorted(play.audit, key=lambda each: each.t_ns):
        recorder.audit(line)
    recorder.close()
    with (run_dir / FILES["witness"]).open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, 0) as file:
        for record in sorted(play.witness, key=lambda each: each.first_ns):
            file.write(json.dumps(asdict(record)).encode() + b"\n")
    (run_dir / "run.json").write_text(json.dumps(run_json(plan), indent=1))
    return plan


def is_allowed(person: str, at_ns: int, lag_ns: int = LAG) -> bool:
    """Whether the story's enforcer, with its lag, lets this person's VPN through."""
    if GLITCH[0] <= at_ns < GLITCH[1] or person == "household":
        return False
    if person == "studio":
        return at_ns >= APPROVED + lag_ns
    if person == "callcentre":
        return at_ns < REVOKED + lag_ns
    return person != "designer" or at_ns < ADDRESS_CHANGED


@dataclass
class _Play:
    plan: Plan
    random: random.Random
    witness: list[WitnessRecord] = field(default_factory=list)
    audit: list[AuditRecord] = field(
        default_factory=lambda: [
            AuditRecord(-2 * S, "gw", "applied", {"serial": 4}),
            AuditRecord(APPROVED + LAG, "gw", "applied", {"serial": 5}),
            AuditRecord(REVOKED + LAG, "gw", "applied", {"serial": 6}),
        ]
    )

    def attempt(self, stream: Stream, index: int, at_ns: int) -> tuple[FlowRecord, list[ProbeRecord]]:
        person = next(each for each in PEOPLE if each.name == stream.subscriber)
        src = person.public4
        if person.name == "designer" and at_ns >= ADDRESS_CHANGED:
            src = person.spare4[0]
        first, last = person.port_first or 32768, person.port_last or 60999
        port = first + (
            7
            if stream.probe == "tunnel-echo"
            else (sum(stream.name.encode()) + 13 * index) % 900 * 2 + index % 2
        )
        port = min(port, last)
        is_vpn = stream.protocol == "wireguard"
        dst_port = {"https": 443, "dns": 53}.get(stream.protocol, 51820)
        transport = "tcp" if stream.probe == "https" else "udp"
        lag = int(self.random.expovariate(1 / 200_000))
        sent_ns = at_ns + lag
        is_cut = CABLE_CUT[0] <= sent_ns < CABLE_CUT[1]
        is_blocked = is_vpn and not is_allowed(person.name, sent_ns)
        is_lucky = self.random.random() > 0.002
        is_delivered = not is_cut and not is_blocked and is_lucky
        rtt_ns = 48_000_000 + int(self.random.expovariate(1 / 4_000_000)) + (15_000_000 if is_vpn else 0)
        done_ns = at_ns + (rtt_ns if is_delivered else stream.deadline_ns)
        # 10.0.0.1 is what the host itself sends from behind NAT; a gateway sees public_src.
        flow = FlowRecord(
            f"{stream.name}#{index}", stream.name, person.name, stream.probe, stream.protocol, stream.target, 4, transport,
            src, port, src, SERVER, dst_port, at_ns, sent_ns, done_ns, is_delivered, None if is_delivered else "timeout",
            1, int(is_delivered), rtt_ns if is_delivered else None, stream.registration,
        )  # fmt: skip
        there = (transport, src, port, SERVER, dst_port)
        back = (transport, SERVER, dst_port, src, port)
        self._see("inside", there, sent_ns + 5_000_000)
        if is_blocked:
            block = {"reason": "unregistered", "protocol": "wireguard", "transport": transport}
            block |= {"src": src, "src_port": port, "dst": SERVER, "dst_port": dst_port}
            self.audit.append(AuditRecord(sent_ns + 5_100_000, "gw", "block", block))
        elif not is_cut:
            self._see("outside", there, sent_ns + 5_200_000)
            if is_delivered:
                self._see("outside", back, done_ns - 6_000_000)
                self._see("inside", back, done_ns - 5_500_000)
        return flow, [ProbeRecord(flow.id, 0, at_ns, lag, flow.rtt_ns)]

    def _see(self, side: str, flow: tuple[str, str, int, str, int], at_ns: int) -> None:
        self.witness.append(WitnessRecord("gw", side, *flow, at_ns, at_ns, 1, 120))


def _events(plan: Plan, noise: tuple[str, ...]) -> list[EventRecord]:
    found = [EventRecord(0, "clock", "start", {"realtime_ns": 1_731_387_600 * S, "monotonic_ns": 5 * S})]
    numbers = {
        name: number
        for number, name in enumerate([*[n for n in REGISTERED if REGISTERED[n]], "studio"], start=1)
    }
    for person in numbers:
        if person != "studio":
            for action in ("apply", "verify"):
                found.append(_ledger(-3 * S, person, numbers[person], action, None, 4))
            found.append(_ledger(-3 * S, person, numbers[person], "approve", "active", 4))
    found += [
        _ledger(5 * S, "studio", 5, "apply", "pending", 4),
        _ledger(8 * S, "studio", 5, "verify", "pending", 4),
        _ledger(APPROVED, "studio", 5, "approve", "active", 5),
        _ledger(REVOKED, "callcentre", numbers["callcentre"], "revoke", "revoked", 6),
        EventRecord(-2 * S, "applied", "gw", {"enforcer": "gw", "serial": 4}),
        EventRecord(APPROVED + LAG, "applied", "gw", {"enforcer": "gw", "serial": 5}),
        EventRecord(REVOKED + LAG, "applied", "gw", {"enforcer": "gw", "serial": 6}),
        EventRecord(
            ADDRESS_CHANGED,
            "address",
            "designer",
            {"subscriber": "designer", "public4": "10.2.3.77", "public6": None},
        ),
    ]
    for name, kind, at, (from_ns, until_ns) in (
        ("glitch", "allowlist-ignored", "gw", GLITCH),
        ("cut", "link-down", "cable", CABLE_CUT),
    ):
        found.append(EventRecord(from_ns, "fault", name, {"kind": kind, "at": [at], "state": "begun"}))
        found.append(EventRecord(until_ns, "fault", name, {"kind": kind, "at": [at], "state": "healed"}))
    for event in plan.events:
        found.append(
            EventRecord(
                event.at_ns,
                "script",
                event.name,
                {"action": event.action, **event.args, "planned_ns": event.at_ns},
            )
        )
    for tunnel in plan.tunnels:
        about = {"tunnel": tunnel.name, "subscriber": tunnel.subscriber, "server": tunnel.server}
        found.append(EventRecord(0, "tunnel", tunnel.name, {**about, "state": "starting"}))
        found.append(EventRecord(S // 5, "tunnel", tunnel.name, {**about, "state": "up"}))
    for bulk in plan.bulk:
        rate = 9_300_000 if bulk.name == "download" else 8_900_000
        intervals = [
            {
                "start_ns": step * S // 2,
                "duration_ns": S // 2,
                "bytes": rate // 16,
                "goodput_bps": rate - 100_000 * (step % 3),
                "retransmits": 0,
            }
            for step in range(10)
        ]
        data = {
            "bulk": bulk.name,
            "subscriber": bulk.subscriber,
            "service": bulk.service,
            "via": bulk.via,
            "direction": "down",
        }
        data |= {
            "failure": None,
            "detail": "",
            "goodput_bps": rate,
            "received_bytes": rate // 8 * 5,
            "retransmits": 3,
        }
        found.append(
            EventRecord(
                bulk.start_ns, "bulk", bulk.name, {**data, "duration_ns": 5 * S, "intervals": intervals}
            )
        )
    health = {
        "attempts": 2000,
        "lag_p50_ns": 150_000,
        "lag_p99_ns": 900_000,
        "lag_max_ns": 3_000_000,
        "cpu_ratio": 0.21,
    }
    health |= {"cpu_idle_ratio": 0.62, "cpu_steal_ratio": 0.01, "memory_bytes": 740_000_000, "links": {}}
    found.append(
        EventRecord(DURATION, "health", "run", {**health, "is_noisy": bool(noise), "noise": list(noise)})
    )
    return found


def _ledger(t_ns: int, person: str, number: int, action: str, state: str | None, serial: int) -> EventRecord:
    name = f"{person}/fra-wireguard"
    data = {
        "registration": name,
        "number": number,
        "action": action,
        "actor": "officer",
        "state": state,
        "serial": serial,
    }
    return EventRecord(t_ns, "ledger", name, data)


def _expect(
    name: str,
    figure: str,
    comparator: Any,
    bound: float | str,
    line: int,
    from_: int = 0,
    until: int = DURATION,
    **where: list[str],
) -> Expectation:
    return Expectation(
        name, figure, where, from_, until, comparator, bound, "scenarios/synthetic.scenario.yaml", line, 7
    )
