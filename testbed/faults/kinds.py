"""The kinds of fault a scenario can name: what each strikes and which arguments it takes. Pure; the plan checks against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Strikes = Literal["enforcer", "link", "authority"]
ArgumentType = Literal["int", "ratio"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    strikes says what the names in `at` must be: a node that carries an enforcer, a link, or the authority's node.
    arguments are what the event may give beside `kind`, `at` and `until_ns`; integers carry their unit in the name,
    a "ratio" is 0..1. needs_one_of: at least one of these must be given.
    """

    name: str
    strikes: Strikes
    summary: str
    arguments: dict[str, ArgumentType] = field(default_factory=dict)
    needs_one_of: tuple[str, ...] = ()


_CHANGES: dict[str, ArgumentType] = {
    "rate_bps": "int",
    "delay_ns": "int",
    "jitter_ns": "int",
    "loss_ratio": "ratio",
}

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "allowlist-ignored",
            "enforcer",
            "the gateway stops honouring the allowlist while its agent believes that all is well",
        ),
        Kind("link-down", "link", "the link carries nothing, both ends lose carrier; routing goes round it"),
        Kind(
            "link-degrade",
            "link",
            "the link's rate, delay, jitter or loss becomes what is given",
            _CHANGES,
            tuple(_CHANGES),
        ),
        Kind("registry-unreachable", "authority", "nothing reaches the registry, and nothing comes from it"),
        Kind(
            "enforcer-crash",
            "enforcer",
            "the enforcer's process dies at once (SIGKILL) and is started again at the end",
        ),
    )
}
