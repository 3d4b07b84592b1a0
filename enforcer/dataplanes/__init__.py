"""Where packets are decided. Every dataplane agrees with `enforcer.decide.decide` on verdict and reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from enforcer.allowlist import Allowlist, Delta
from enforcer.decide import Fallback, Lookup


class DataplaneError(Exception):
    """The kernel refused a change, or lacks what is needed; nothing was changed. The text says what and what to do."""


class TableFull(DataplaneError):
    """The allowlist does not fit the dataplane's table; what was loaded before is still enforced."""


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes since the dataplane was opened, over all its reloads."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Stop:
    """One stopped (or, observing, recorded) packet. transport: "udp", "tcp", "esp", … or the number; ports 0 without any."""

    time_ns: int
    reason: str
    protocol: str | None
    transport: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    inside: str = ""
    outside: str = ""


class Dataplane(Protocol):
    """The contract. Entries given to it are valid now and count under the policy: both are the caller's work (enforced.py)."""

    name: str

    @property
    def lookup(self) -> Lookup:
        """What is loaded, made ready for lookups: what the kernel should find."""
        ...

    def load(self, allowlist: Allowlist) -> None:
        """Enforce this list instead of whatever was loaded, in one step. Raises DataplaneError, TableFull.

        It takes seconds for a long list, so it may run in a thread of its own; meanwhile only beat, counters, is_alive, events
        and lost_events may be called.
        """
        ...

    def apply(self, delta: Delta) -> None:
        """Apply a delta in one step. Live flows of removed registrations are cut, or may finish, as the policy says."""
        ...

    def revoke(self, registrations: Iterable[int]) -> None:
        """Cut the live flows of registrations that are no longer loaded (the end of let-finish)."""
        ...

    def set_fallback(self, fallback: Fallback) -> None:
        """What the policy says about a failure that lasts now; "keep" when none does."""
        ...

    def beat(self) -> None:
        """Say that the agent lives, for policies with an agent-dead behaviour."""
        ...

    def sweep(self) -> int:
        """Take the registrations' numbers off flows that were cut; returns how many. The cut itself does not wait for it."""
        ...

    def counters(self) -> dict[str, Count]:
        """By reason; stopped packets by "reason.protocol" ("reason.unseen": in the middle of a flow)."""
        ...

    def is_alive(self) -> bool:
        """Whether what was loaded is still there."""
        ...

    def fileno(self) -> int:
        """Readable when `events` has something."""
        ...

    def events(self) -> list[Stop]:
        """The stopped packets reported since the last call; never waits."""
        ...

    def lost_events(self) -> int:
        """How many reports were lost so far because nobody read them in time (their packets are counted nevertheless)."""
        ...

    def close(self, remove: bool = False) -> None:
        """Let go of it. What is loaded stays in the kernel unless remove."""
        ...
