"""What happens at the registry because time passes: expiry at its second, reminders, silent and simulated providers."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable

from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import SimulatedProviders

_LOOK_S = 1.0  # another process may write something that is due sooner


async def keep_time(
    ledger: Ledger,
    changed: Callable[[], None],
    providers: SimulatedProviders | None = None,
    clock: Callable[[], int] = time.time_ns,
    look_s: float = _LOOK_S,
    until_changed: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Acts for ever as time passes; calls `changed` after something was written.

    look_s: how long it may sleep, until_changed(seconds) how: it returns early when this process has written something.
    """
    while True:
        until_s = look_s
        try:
            acted = ledger.pass_time()
            acted += providers.answer_due(clock()) if providers else []
            if acted:
                changed()
            ledger.keep_checkpoints()
            for due_ns in (ledger.next_due_ns(), providers.next_ns if providers else None):
                if due_ns is not None:
                    until_s = min(until_s, (due_ns - clock()) / 1e9)
        except sqlite3.OperationalError as error:  # a full disk, or a file that is locked: tried again
            print(f"registry: what is due now could not be written: {error}", file=sys.stderr, flush=True)
        await until_changed(min(max(until_s, 0.005), look_s))
