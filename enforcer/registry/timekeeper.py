"""What happens at the registry because time passes: expiry at its second, reminders, silent and simulated providers."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Callable

from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import SimulatedProviders

_LONGEST_NAP_S = (
    1.0  # another process may write something that is due sooner; simulated providers answer in between
)


async def keep_time(
    ledger: Ledger,
    changed: Callable[[], None],
    providers: SimulatedProviders | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> None:
    """Acts for ever as time passes; calls `changed` after something was written."""
    while True:
        until_s = _LONGEST_NAP_S
        try:
            acted = ledger.pass_time()
            acted += providers.answer_due(clock()) if providers else []
            if acted:
                changed()
            ledger.keep_checkpoints()
            due_ns = ledger.next_due_ns()
            if due_ns is not None:
                until_s = (due_ns - clock()) / 1e9
        except sqlite3.OperationalError as error:  # a full disk, or a file that is locked: tried again
            print(f"registry: what is due now could not be written: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(min(max(until_s, 0.005), _LONGEST_NAP_S))
