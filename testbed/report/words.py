"""Numbers and names as people read them: one way to write a time, a rate, a share and a cause, everywhere in a report."""

from __future__ import annotations

from typing import Any

OUTCOME_WORDS = {
    "passed": "passed",
    "false_block": "blocked by mistake",
    "false_pass": "passed by mistake",
    "policy_block": "blocked as the policy says",
    "not_back": "tunnel not yet back after a block",
    "infra_down": "lost in the network",
    "straddles_change": "under way during a change",
    "harness_error": "not told (test-bed error)",
}
# The same where there is no room, as heads of columns.
OUTCOME_HEADS = {
    "passed": "passed",
    "false_block": "blocked wrongly",
    "false_pass": "passed wrongly",
    "policy_block": "by policy",
    "not_back": "not yet back",
    "infra_down": "lost",
    "straddles_change": "changing",
    "harness_error": "not told",
}
CAUSE_WORDS = {
    "policy": "the policy as written excludes them",
    "propagation": "the enforcer's copy of the allowlist was old",
    "malfunction": "the enforcer did not do what its own allowlist says",
    "overload": "the enforcer was overloaded",
    "fail_mode": "the policy's behaviour on a failure was in force",
}
# A false pass of these causes is told in its own words: CAUSE_WORDS says why somebody was blocked.
_PASS_CAUSE_WORDS = {"policy": "the policy as written lets them pass"}
FIGURE_WORDS = {
    "false_block_ratio": "false blocks",
    "false_pass_ratio": "false passes",
    "delivered_ratio": "delivered",
    "rtt_p50_s": "round trip, median",
    "rtt_p95_s": "round trip, 95th percentile",
    "rtt_p99_s": "round trip, 99th percentile",
    "goodput_bps": "goodput, median",
    "application_to_approval_s": "application to approval, longest",
    "approval_to_first_byte_s": "approval to first byte, longest",
    "revocation_to_last_byte_s": "revocation to last byte, longest",
    "person_minutes_lost": "summed time without service",
    "sessions_cut": "sessions cut while entitled",
    "time_to_restore_s": "time to restore, longest",
    "registration_state": "state of the registration",
    "main_cause": "main cause",
}
COMPARATOR_WORDS = {"at_most": "at most", "at_least": "at least", "equals": "is"}
_NONE = "–"


def cause_words(cause: str, outcome: str, is_observing: bool = False) -> str:
    """Why a "false_block" or a "false_pass" happened; is_observing: the policy's mode is observe, so it stops nobody."""
    if outcome != "false_pass":
        return CAUSE_WORDS.get(cause, cause)
    words = _PASS_CAUSE_WORDS.get(cause) or CAUSE_WORDS.get(cause, cause)
    return f"{words}: it only observes" if cause == "policy" and is_observing else words


def figure_words(figure: str) -> str:
    name, _, outcome = figure.partition(":")
    if name == "outcome_count":
        return f"attempts {OUTCOME_WORDS.get(outcome, outcome)}"
    return FIGURE_WORDS.get(name, name)


def value_words(value: Any, unit: str) -> str:
    """A figure's value with its unit; "–" for none."""
    if value is None:
        return _NONE
    if isinstance(value, str):
        return CAUSE_SHORT.get(value, value)
    match unit:
        case "ratio":
            return percent(value)
        case "s":
            return seconds(value)
        case "bps":
            return rate(value)
        case "person-minutes":
            return lasting(round(value * 60, 6))  # so that it reads as the same time in ns does
        case "count":
            return number(round(value))
    return str(value)


CAUSE_SHORT = {"fail_mode": "failure behaviour"}


def percent(ratio: float | None) -> str:
    """A share of 0..1: never rounded to 0 % or 100 % when it is neither."""
    if ratio is None:
        return _NONE
    value = ratio * 100
    if value in (0, 100):
        return f"{value:.0f}\u00a0%"
    for digits in (1, 2, 3):
        text = f"{value:.{digits}f}"
        if float(text) not in (0, 100):
            return f"{text.removesuffix('.0')}\u00a0%"
    return "<\u00a00.001\u00a0%" if value < 50 else ">\u00a099.999\u00a0%"


def seconds(value: float) -> str:
    if abs(value) < 1e-3:
        return f"{value * 1e6:.0f}\u00a0µs" if value else "0 s"
    if abs(value) < 1:
        return f"{value * 1e3:.3g}\u00a0ms" if abs(value) < 0.1 else f"{value * 1e3:.0f}\u00a0ms"
    if abs(value) < 100:
        return f"{value:.3g}\u00a0s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes:02}\u00a0min" if hours else f"{minutes}\u00a0min {rest:02}\u00a0s"


def lasting(value: float) -> str:
    """How long people went without, in seconds: tenths of a second stay seconds ("0.2 s"), for nobody counts an outage in ms."""
    return f"{value:.2g}\u00a0s" if 0.1 <= value < 1 else seconds(value)


def from_ns(value: int | None) -> str:
    return _NONE if value is None else seconds(value / 1e9)


def clock(t_ns: int, beside_ns: int = 0) -> str:
    """A moment of the scenario, from its start: 12.3 s, 4:05, 1:02:33. beside_ns: a later one that it stands with, whose unit it takes."""
    total = t_ns / 1e9
    if max(total, beside_ns / 1e9) < 100:
        return f"{total:.1f}\u00a0s"
    minutes, rest = divmod(int(total), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(bps: float) -> str:
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bps >= factor:
            return f"{bps / factor:.3g}\u00a0{unit}"
    return f"{bps:.0f}\u00a0bit/s"


def size(count: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g}\u00a0{unit}"
    return f"{count}\u00a0B"


def number(count: int) -> str:
    """A count with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def where_words(where: dict[str, list[str]]) -> str:
    """Which attempts an expectation is about."""
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in sorted(where.items())) or "everything"
