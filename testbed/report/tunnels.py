"""The tunnels that enforcers brought down, as rows of words, and whether their audits agree with the taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.report.when import when_of
from testbed.report.words import from_ns, number, plural


@dataclass(frozen=True, slots=True)
class TunnelDown:
    """One stretch in which a tunnel was down. agrees: whether taps and audit count the same packets; None where the audit cannot say."""

    tunnel: str
    who: str
    down: str
    over: str
    back: str
    stopped: str
    through: str
    not_back: str
    rule: str
    registration: str
    packets: str
    agrees: bool | None


def tunnels_down(summary: dict[str, Any]) -> list[TunnelDown]:
    """A row for each time an enforcer brought a tunnel down, by when."""
    return [_row(row, summary) for row in summary["tunnels_down"]]


def audit_words(summary: dict[str, Any]) -> str:
    """Of how many blocked attempts the enforcers' audits name the flow."""
    audit = summary["audit"]
    if not audit["blocked"]:
        return ""
    named = "all of them" if audit["in_audit"] == audit["blocked"] else number(audit["in_audit"])
    return f"Of {plural(audit['blocked'], 'attempt')} stopped by the taps' word the enforcers' audits name {named}."


def disagreement(summary: dict[str, Any]) -> str:
    """A sentence where an audit counts other packets than the taps saw stopped, or names not all attempts; "" where they agree.

    Nor is anything said of a run that was cut short: what its programs had not written yet is missing from either.
    """
    if summary["outcome"] in ("broken", "interrupted"):
        return ""
    audit = summary["audit"]
    odd = [row.tunnel for row in tunnels_down(summary) if row.agrees is False]
    told = []
    if audit["in_audit"] < audit["blocked"]:
        missing = audit["blocked"] - audit["in_audit"]
        told.append(
            f"the enforcers' audits name no block for {number(missing)} of {plural(audit['blocked'], 'attempt')}"
        )
    if odd:
        told.append(
            f"they list another number of packets for {', '.join(odd[:3])}{' and others' if len(odd) > 3 else ''}"
        )
    return (
        f"By the taps' word, which is what counts here, more or less was stopped than by the enforcers': {'; '.join(told)}."
        if told
        else ""
    )


def _row(row: dict[str, Any], summary: dict[str, Any]) -> TunnelDown:
    when, counts, packets, rule = when_of(summary), row["attempts"], row["packets"], row["rule"]
    back = "not back" if row["back_ns"] is None else when.moment(row["back_ns"])
    if row["back_ns"] is not None and row["lifted_ns"] is not None:
        back += f", {from_ns(max(0, row['back_ns'] - row['lifted_ns']))} later"
    in_audit = packets["in_audit"]
    return TunnelDown(
        row["tunnel"],
        f"{row['subscriber']} ({row['kind']})",
        when.moment(row["from_ns"]),
        "not known" if row["lifted_ns"] is None else when.moment(row["lifted_ns"]),
        back,
        number(counts["stopped"]),
        number(counts["through_tunnel"]),
        number(counts["not_back"]),
        f"{row['where']}: {rule['reason']} {rule['protocol'] or ''}".rstrip()
        if rule
        else f"{row['where']}: not in its audit",
        _registration(row),
        f"{number(packets['stopped'])}, {'–' if in_audit is None else number(in_audit)}",
        None if in_audit is None else in_audit == packets["stopped"],
    )


def _registration(row: dict[str, Any]) -> str:
    """The registration the enforcer named, and what it said of it; that of the ledger where it named none."""
    rule = row["rule"] or {}
    number_, state = rule.get("registration"), rule.get("registration_state")
    if number_ is None:
        return (
            f"registered: {row['registration']}; the audit names no registration"
            if row["registration"]
            else ""
        )
    return (
        f"registration {number_} ({row['registration']}), {state}"
        if state
        else f"registration {number_} ({row['registration']})"
    )
