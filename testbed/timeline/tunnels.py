"""Brings the plan's tunnels up and down at their times and writes down when each was really up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from testbed.plan.plan import Tunnel
from testbed.records import EventRecord

# A client that cannot connect keeps trying until its tunnel's stop; this only bounds one wait.
_POLL_S = 3600.0


class Client(Protocol):
    """A VPN client of the lab (testbed.lab.vpn)."""

    def start(self) -> None: ...

    async def up(self, timeout_s: float) -> float: ...

    def stop(self) -> None: ...


class TunnelRunner:
    """One task per tunnel. `event` takes the records; times in them are relative to t0_ns."""

    def __init__(self, event: Callable[[EventRecord], None], t0_ns: int) -> None:
        self._event = event
        self._t0_ns = t0_ns
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, tunnel: Tunnel, client: Client) -> None:
        """Start the client now; a second call for a running tunnel does nothing."""
        task = self._tasks.get(tunnel.name)
        if task is None or task.done():
            self._tasks[tunnel.name] = asyncio.create_task(self._connect(tunnel, client))

    def end(self, tunnel: Tunnel, client: Client) -> None:
        task = self._tasks.pop(tunnel.name, None)
        if task is None:
            return
        task.cancel()
        client.stop()
        self._say(tunnel, "down")

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _connect(self, tunnel: Tunnel, client: Client) -> None:
        self._say(tunnel, "starting")
        await asyncio.to_thread(client.start)
        await client.up(_POLL_S)
        self._say(tunnel, "up")

    def _say(self, tunnel: Tunnel, state: str) -> None:
        data = {
            "tunnel": tunnel.name,
            "subscriber": tunnel.subscriber,
            "server": tunnel.server,
            "state": state,
        }
        self._event(EventRecord(time.monotonic_ns() - self._t0_ns, "tunnel", tunnel.name, data))
