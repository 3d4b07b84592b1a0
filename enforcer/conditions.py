"""What is broken now, and what the policy says about it. Pure state; the agent tells it what it sees."""

from __future__ import annotations

from dataclasses import dataclass, field

from enforcer.decide import Fallback
from enforcer.policy import OnFailure

# A share of few entries says nothing: revoking one of two is not a registry gone wrong. Below this many it never counts.
SMALLEST_SHRINK = 10

CONDITIONS = {
    "no-allowlist-yet": "the enforcer has never had a good allowlist",
    "registry-unreachable": "the registry does not answer",
    "feed-stale": "the registry answers, but its newest message was issued long ago",
    "feed-shrinks": "an update removes more of the list than the policy lets one update remove",
    "signature-wrong": "a message is not signed by the registry's key",
    "serial-wrong": "a message's serial goes back, or does not follow",
    "table-full": "the allowlist does not fit the dataplane's table",
    "dataplane-dead": "the dataplane's rules are gone or cannot be changed",
    "agent-dead": "this agent was stopped, or one before it was killed; meanwhile the kernel did what the policy says",
    "queue-full": "more packets waited for a decision than the kernel keeps",
    "conntrack-full": "the kernel's table of connections is full: it drops packets of new flows before any rule sees them",
    "reports-lost": "the kernel reported stopped packets faster than they were read; its counters have them all",
    "disk-full": "the audit or the state cannot be written",
    "clock-jumped": "the wall clock was set; the enforcer goes on by its own",
}

# The kernel acts on these by itself, on the packets they concern; they say nothing about the rest of the traffic.
_BY_THE_KERNEL = frozenset({"agent-dead", "queue-full", "conntrack-full", "reports-lost"})


@dataclass(slots=True)
class Conditions:
    """begin and end return whether something changed; `fallback` is what all that last now come to."""

    policy: OnFailure
    lasting: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, 0))

    def behaviour(self, condition: str) -> str:
        """The policy's word; "keep" where no policy has a say."""
        return getattr(self.policy, condition.replace("-", "_"), "keep")

    def begin(self, condition: str) -> bool:
        if condition in self.lasting:
            return False
        self.lasting[condition] = self.behaviour(condition)
        self.times[condition] += 1
        return True

    def end(self, condition: str) -> bool:
        return self.lasting.pop(condition, None) is not None

    @property
    def fallback(self) -> Fallback:
        """ "block" wins over "allow", and both over "keep"."""
        wanted = {
            behaviour for condition, behaviour in self.lasting.items() if condition not in _BY_THE_KERNEL
        }
        return "block" if "block" in wanted else "allow" if "allow" in wanted else "keep"


def shrinks_too_much(before: int, removed: int, limit_ratio: float) -> bool:
    """Whether an update that removes so many of so many entries counts as shrinking."""
    return removed >= SMALLEST_SHRINK and removed > before * limit_ratio
