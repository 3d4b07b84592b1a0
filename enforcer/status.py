"""What an agent says about itself: `enforcer status`, as data and as an operator reads it."""

from __future__ import annotations

import os
from typing import Any

from enforcer import kernel_counts
from enforcer.agent import Agent
from enforcer.conditions import CONDITIONS
from enforcer.config import missing_interfaces
from enforcer.units import render_duration

_S = 1_000_000_000


def status(agent: Agent) -> dict[str, Any]:
    """JSON-ready. Ages in seconds; issued_age_s: since the newest message was signed; answered_age_s: since the registry answered.

    waits_for: why it did not, or what of an answer has come. unanswered: questions without an answer, by enforcer.follow.WHYS.
    """
    now_ns, boot_ns, intake = agent.clock.now_ns(), agent.clock.since_boot_ns(), agent.intake
    room = kernel_counts.conntrack_room() if agent.dataplane.name != "bpf" else None
    return {
        "pid": os.getpid(),
        "uptime_s": round((boot_ns - agent.started_ns) / _S, 1),
        "policy": agent.policy.name,
        "mode": agent.policy.mode,
        "dataplane": agent.dataplane.name,
        "serial": None if agent.allowlist is None else agent.allowlist.serial,
        "entries": len(agent.allowlist.entries) if agent.allowlist else 0,
        "loaded": len(agent.enforced.loaded),
        "last_load_s": round(intake.last_load_ns / _S, 6) if intake.last_load_ns else None,
        "issued_age_s": round((now_ns - intake.issued_ns) / _S, 1) if intake.issued_ns else None,
        "answered_age_s": round((boot_ns - agent.answered_ns) / _S, 1),
        "unanswered": dict(agent.feed.unanswered),
        "waits_for": agent.feed.begun or agent.unreachable or None,
        "failures": dict(agent.conditions.lasting),
        "failure_counts": {name: count for name, count in agent.conditions.times.items() if count},
        "fallback": agent.conditions.fallback,
        "refused": dict(agent.failures.refused),
        "counters": {name: count.packets for name, count in sorted(agent.counts.items()) if count.packets},
        "counter_bytes": {name: count.bytes for name, count in sorted(agent.counts.items()) if count.packets},
        "reports": agent.blocks.reported,
        "reports_lost": agent.reports_lost,
        "audit_lines_lost": agent.audit.lost,
        "conntrack": None if room is None else {"used": room[0], "most": room[1]},
        "conntrack_drops": kernel_counts.conntrack_drops() if room else 0,
        "queue_drops": agent.queue_dropped,
        "keys": len(intake.ring.all),
        "missing_interfaces": missing_interfaces((*agent.config.inside, *agent.config.outside)),
    }


def render(found: dict[str, Any]) -> str:
    """The same for a person: first whether all is well, then what is enforced, then what was counted."""
    lasting: dict[str, str] = found["failures"]
    head = "all is well" if not lasting else f"{len(lasting)} thing{'s' * (len(lasting) > 1)} wrong"
    lines = [f"enforcer {found['pid']}, up {_age(found['uptime_s'])}: {head}"]
    lines += [f"  {name}: {CONDITIONS[name]}; the policy says {do}" for name, do in lasting.items()]
    if found["fallback"] != "keep":
        every = "every VPN flow passes" if found["fallback"] == "allow" else "no VPN flow passes"
        lines.append(f"  so now {every}, registered or not")
    if found.get("missing_interfaces"):
        lines.append(
            f"  interfaces of the configuration that are not here: {', '.join(found['missing_interfaces'])}"
        )
    serial = "none yet" if found["serial"] is None else str(found["serial"])
    rows = [
        ("policy", f"{found['policy']} ({found['mode']}), dataplane {found['dataplane']}"),
        (
            "serial",
            f"{serial}, {found['entries']} entr{'y' if found['entries'] == 1 else 'ies'}, {found['loaded']} valid now",
        ),
        ("signed", f"{_age(found['issued_age_s'])} ago" if found["issued_age_s"] is not None else "never"),
        ("registry", f"answered {_age(found['answered_age_s'])} ago" + _waiting(found)),
        (
            "last change",
            "none" if found["last_load_s"] is None else f"took {found['last_load_s'] * 1000:.3g} ms",
        ),
    ]
    if found["conntrack"]:
        rows.append(("connections", f"{found['conntrack']['used']} of at most {found['conntrack']['most']}"))
    rows.append(("failures so far", _pairs(found["failure_counts"])))
    rows.append(("refused updates", _pairs(found["refused"])))
    lost = f", {found['reports_lost']} lost" if found["reports_lost"] else ""
    rows.append(("reports", f"{found['reports']} stopped packets reported{lost}"))
    if found["audit_lines_lost"]:
        rows.append(("audit", f"{found['audit_lines_lost']} lines had no room"))
    lines += [f"{name:<16} {text}" for name, text in rows]
    lines.append("packets")
    width = max((len(name) for name in found["counters"]), default=0)
    lines += [
        f"  {name:<{width}}  {count:>12}  {found['counter_bytes'][name]:>15} bytes"
        for name, count in found["counters"].items()
    ]
    return "\n".join(lines if found["counters"] else [*lines, "  none yet"])


def _waiting(found: dict[str, Any]) -> str:
    why = f"; {found['waits_for']}" if found["waits_for"] else ""
    return why + (f" (unanswered so far: {_pairs(found['unanswered'])})" if found["unanswered"] else "")


def _age(seconds: float) -> str:
    if seconds < 0:
        return f"-{_age(-seconds)}"
    return f"{seconds:.1f}s" if seconds < 60 else render_duration(int(seconds) * _S)


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
