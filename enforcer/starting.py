"""What `enforcer run` tells the person who started it: that it waits and for what, then that it enforces. A line each, on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator

from enforcer.agent import Agent
from enforcer.config import Config, missing_interfaces

_LOOK_S = 0.1
# A registry that comes and goes is told of once a minute, before the first list once in 5 s; the audit has each time.
_QUIET_NS, _QUIET_AT_FIRST_NS = 60_000_000_000, 5_000_000_000


async def tell(agent: Agent) -> None:
    """For ever: a line when it first enforces, and one when it waits for the registry."""
    said_ns, is_enforcing, said = -_QUIET_NS, False, ""
    look_s = max(_LOOK_S, agent.config.look_ns / 10e9)
    while True:
        if not is_enforcing and agent.allowlist is not None and not agent.is_aside:
            is_enforcing = True
            say(enforcing(agent))
        waiting, now_ns = waits_for(agent), agent.clock.since_boot_ns()
        if waiting is None:
            said = ""
        elif waiting != said and now_ns - said_ns >= (_QUIET_NS if is_enforcing else _QUIET_AT_FIRST_NS):
            said, said_ns = waiting, now_ns
            say(waiting)
        await asyncio.sleep(look_s)


def enforcing(agent: Agent) -> str:
    """Such as: enforcing serial 1, 1 entry, nft, policy registered-pairs."""
    assert agent.allowlist is not None
    count, policy = len(agent.allowlist.entries), agent.policy
    does = "enforcing" if policy.mode == "enforce" else "observing (nothing is stopped)"
    entries = f"{count:,} entr{'y' if count == 1 else 'ies'}"
    return f"{does} serial {agent.allowlist.serial}, {entries}, {agent.dataplane.name}, policy {policy.name}"


def waits_for(agent: Agent) -> str | None:
    """What the agent waits for; None when the registry answers and there is a list."""
    if agent.unreachable:
        return f"waiting for {agent.unreachable}"
    if agent.allowlist is None and agent.failures.refused:
        words = ", ".join(agent.failures.refused)
        return f"waiting for a good list: that of {agent.config.feed_url} is refused ({words}; the audit says more)"
    return None


def warnings(config: Config) -> Iterator[str]:
    """What is allowed and probably not meant."""
    for name in missing_interfaces((*config.inside, *config.outside)):
        yield f"warning: {config.file} names the interface {name!r}, and there is none here (`ip -br link`)"


def say(text: str) -> None:
    """A line on stderr, if anybody is there."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
