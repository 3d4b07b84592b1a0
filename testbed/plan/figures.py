"""The figures a scenario can expect something of: what each measures and in which unit. score computes exactly these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from enforcer import units

Unit = Literal["ratio", "s", "bps", "person-minutes", "count", "word"]
Of = Literal["attempts", "bulk", "approvals", "revocations", "tunnels", "registrations"]

OUTCOMES = (
    "passed",
    "false_pass",
    "false_block",
    "policy_block",
    "not_back",
    "infra_down",
    "straddles_change",
    "harness_error",
)
CAUSES = ("policy", "propagation", "malfunction", "overload", "fail_mode")
STATES = ("pending", "active", "suspended", "expired", "revoked", "rejected")


@dataclass(frozen=True, slots=True)
class Figure:
    """of: what the figure is about, so that one over nothing can be refused. least: attempts it needs to mean anything.

    needs_real_time: in virtual time, where processors are infinitely fast, it says nothing.
    """

    unit: Unit
    of: Of
    summary: str
    words: tuple[str, ...] = ()
    least: int = 1
    needs_real_time: bool = False


FIGURES: dict[str, Figure] = {
    "false_block_ratio": Figure("ratio", "attempts", "false blocks / attempts of people who were entitled"),
    "false_pass_ratio": Figure(
        "ratio", "attempts", "false passes / attempts of people who were not entitled"
    ),
    "delivered_ratio": Figure("ratio", "attempts", "delivered / all attempts"),
    "rtt_p50_s": Figure(
        "s", "attempts", "median round-trip time from the scheduled time, delivered attempts", least=2
    ),
    "rtt_p95_s": Figure("s", "attempts", "95th percentile of the same", least=20),
    "rtt_p99_s": Figure("s", "attempts", "99th percentile of the same", least=100),
    "goodput_bps": Figure(
        "bps", "bulk", "median goodput of the bulk phases that lie in the window", needs_real_time=True
    ),
    "application_to_approval_s": Figure("s", "approvals", "longest time from an application to its approval"),
    "approval_to_first_byte_s": Figure(
        "s", "approvals", "longest time from an approval to the first delivered attempt"
    ),
    "revocation_to_last_byte_s": Figure(
        "s", "revocations", "longest time from a revocation to the last delivered attempt"
    ),
    "person_minutes_lost": Figure(
        "person-minutes", "attempts", "minutes without service of entitled people, summed"
    ),
    "sessions_cut": Figure("count", "tunnels", "tunnels that carried data and then were falsely blocked"),
    "time_to_restore_s": Figure(
        "s",
        "attempts",
        "longest time from an entitled person's first failed attempt until one got through again",
    ),
    "registration_state": Figure(
        "word", "registrations", "state of the registrations at the window's end", STATES
    ),
    "main_cause": Figure("word", "attempts", "the commonest cause of false blocks and false passes", CAUSES),
    "outcome_count": Figure("count", "attempts", "attempts with the outcome named"),
}


def parse_bound(figure: Figure, value: Any) -> float | str:
    """A bound as people write it, in the figure's unit (s, bits/s, 0..1, minutes, a number, a word). Raises UnitError."""
    match figure.unit:
        case "ratio":
            return units.parse_ratio(value)
        case "s":
            return units.parse_duration(value) / units.NS_PER_S
        case "person-minutes":
            return units.parse_duration(value) / units.NS_PER_S / 60
        case "bps":
            return float(units.parse_rate(value))
        case "count":
            return _count(value)
        case "word":
            return _word(figure, value)


def _count(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise units.UnitError(f"'{value}' is not a number of things", "write a whole number without a unit")
    return float(value)


def _word(figure: Figure, value: Any) -> str:
    if value not in figure.words:
        raise units.UnitError(f"'{value}' is not possible here", "write one of " + ", ".join(figure.words))
    return str(value)
