"""What a run in virtual time cannot measure: processors there take no time, so whatever they limit or delay is not seen."""

from __future__ import annotations

from typing import Any

NEEDS = "needs a real-time run"
# Figure -> what it is, for people. In summary.json these stand under needs_real_time; where they would stand themselves is null.
NEEDS_REAL_TIME = {
    "goodput_bps": "goodput, with an enforcer in the way or without: no processor limits it",
    "added_latency_ns": "latency that an enforcer adds: deciding takes no time",
    "apply_delay_ns": "the processor's share of the wait from a decision to its effect; timers and the network's share are exact",
    "overload": "overload of a processor or a queue: none is ever busy",
    "noise": "noise: late probes, load, time taken by a hypervisor",
}
# Of a run's health: what is about processors.
_OF_PROCESSORS = ("lag_p50_ns", "lag_p99_ns", "lag_max_ns", "cpu_ratio", "cpu_idle_ratio", "cpu_steal_ratio")
_OF_GOODPUT = ("goodput_bps", "received_bytes", "retransmits", "intervals")


def needs_real_time(clock: str) -> dict[str, str]:
    """The figures that this clock cannot give, each with what it is."""
    return dict(NEEDS_REAL_TIME) if clock == "virtual" else {}


def health_of(clock: str, health: dict[str, Any]) -> dict[str, Any]:
    """The run's health as this clock can tell it: in virtual time what is about processors is None."""
    if clock != "virtual":
        return health
    return {key: None if key in _OF_PROCESSORS else value for key, value in health.items()}


def bulk_of(clock: str, phase: dict[str, Any]) -> dict[str, Any]:
    """A bulk phase as this clock can tell it: in virtual time that it was, not how fast."""
    if clock != "virtual":
        return phase
    kept = {key: value for key, value in phase.items() if key not in _OF_GOODPUT}
    return kept | {"goodput_bps": None, "intervals": [], "needs": "real-time run"}
