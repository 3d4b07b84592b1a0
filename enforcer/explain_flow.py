"""What is decided about a flow, by which rule and entry, and what would have to change for it to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from enforcer.allowlist import Allowlist, Entry
from enforcer.conditions import CONDITIONS
from enforcer.decide import REASONS, Fallback, Flow, Verdict, decide, recognise
from enforcer.explain_near import entry_words, moment, near, touching
from enforcer.known import Known
from enforcer.packet import Packet
from enforcer.policy import Policy
from enforcer.question import Asked


@dataclass(frozen=True, slots=True)
class Answer:
    """rule: the key of the policy that decided. changes: what would let the flow pass, the least work first; () when it passes."""

    asked: Asked
    verdict: Verdict
    rule: str
    serial: int
    entry: Entry | None
    why: str
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        packet = self.asked.packet
        return {
            "src": packet.src_text,
            "dst": packet.dst_text,
            "asked": self.asked.name,
            "transport": self.asked.transport,
            "port": packet.dst_port or None,
            "protocol": self.verdict.protocol,
            "action": self.verdict.action,
            "passes": self.verdict.passes,
            "reason": self.verdict.reason,
            "rule": self.rule,
            "serial": self.serial,
            "registration": self.entry.registration if self.entry else None,
            "entry": self.entry.to_json() if self.entry else None,
            "why": self.why,
            "changes": list(self.changes),
            "notes": list(self.notes),
        }


def answer(asked: Asked, known: Known, now_ns: int, fallback: Fallback | None = None) -> Answer:
    """now_ns: Unix time of the flow. fallback: a failure's behaviour then; left out, what the running enforcer says."""
    fallback = known.fallback if fallback is None else fallback
    policy, packet = known.policy, asked.packet
    found = touching(packet, known.allowlist)
    entries = Allowlist(known.allowlist.serial, {entry.registration: entry for entry in found})
    verdict = decide(packet, Flow(), entries, policy, now_ns, fallback)
    entry = entries.entries.get(verdict.registration or 0)
    rule, why = _rule(packet, verdict, entry, known)
    changes: list[str] = []
    if verdict.reason in ("unregistered", "fail-closed"):
        if verdict.reason == "fail-closed":
            changes += _failures(known, "block")
            later = answer(asked, known, now_ns, "keep")
            if later.verdict.passes:
                changes.append(f"nothing else: without the failure it passes ({later.why})")
            else:
                changes += later.changes
        else:
            changes += near(asked, recognised_kind(packet, policy), found, known, now_ns)
    notes = _notes(asked, verdict, policy)
    return Answer(asked, verdict, rule, known.allowlist.serial, entry, why, tuple(changes), tuple(notes))


def recognised_kind(packet: Packet, policy: Policy) -> str:
    """The class of cells a packet is looked up in; "" when nothing shows a VPN."""
    found = recognise(packet, policy)
    return found.kind if found else ""


def _rule(packet: Packet, verdict: Verdict, entry: Entry | None, known: Known) -> tuple[str, str]:
    policy = known.policy
    match verdict.reason:
        case "registered" if entry is not None:
            until = (
                "without an end" if entry.valid_until_ns is None else f"until {moment(entry.valid_until_ns)}"
            )
            return f"match: {policy.match}", f"{entry_words(entry)} covers it, {until}"
        case "exempt":
            for item in policy.exempt:
                alone = replace(policy, exempt=(item,))
                if decide(packet, Flow(), Allowlist(0), alone, 0).reason == "exempt":
                    why = f"the exemption {item.name!r} fits: {item.reason.strip()} Its owner is {item.owner}"
                    return f"exempt: {item.name}", why
        case "not-vpn" | "not-yet":
            return "governs, recognise-by", REASONS[verdict.reason]
        case "fail-open":
            return _failure_rule(known, "allow"), REASONS["fail-open"]
        case "fail-closed":
            return _failure_rule(known, "block"), REASONS["fail-closed"]
    rule = f"unregistered: {policy.action}" + (" (mode: observe)" if policy.mode == "observe" else "")
    return rule, f"{REASONS['unregistered']} ({known.source})"


def _failure_rule(known: Known, behaviour: str) -> str:
    names = [name for name, do in known.lasting.items() if do == behaviour]
    return f"on-failure: {', '.join(names) or behaviour}"


def _failures(known: Known, behaviour: str) -> list[str]:
    lines = [
        f"end the failure {name!r}: {CONDITIONS.get(name, name)}; while it lasts the policy's on-failure says {do}"
        for name, do in known.lasting.items()
        if do == behaviour
    ]
    return lines or [f"end the failure for which the policy says {behaviour}"]


def _notes(asked: Asked, verdict: Verdict, policy: Policy) -> list[str]:
    notes = []
    is_bare = asked.transport in ("udp", "tcp") and not asked.packet.payload
    if is_bare and verdict.reason in ("not-vpn", "not-yet") and "first-packets" in policy.recognise_by:
        notes.append(
            "only its addresses and port were asked about: a first message of a VPN protocol inside it would be judged"
        )
    if policy.mode == "observe":
        notes.append("the policy only observes: nothing is stopped")
    if verdict.action == "police" and policy.police_bps:
        notes.append(f"it is slowed down to {policy.police_bps} bit/s a flow, not stopped")
    return notes
