"""Whole ledgers from one file to another: events with their hashes, and ledgers from before the chain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from enforcer.registry.journal import Journal
from enforcer.registry.reading import ReadConnection, open_to_read
from enforcer.registry.states import IllegalTransition, LedgerEvent
from enforcer.registry.tables import BadLedger


class BadEvent(ValueError):
    """An event that cannot follow; the message says which and why."""


def import_events(path: str, events: Iterable[LedgerEvent]) -> int:
    """Write events into an empty ledger, all or none, and return how many.

    Each must be possible, come next, and have the hash it would have here ("": any). Raises BadEvent, BadLedger.
    """
    journal = Journal(path)
    try:
        if journal.sequence:
            raise BadLedger(f"{path}: has {journal.sequence} events already; write the name of a new file")
        with journal.batch():
            for event in events:
                _take(journal, event)
        return journal.sequence
    finally:
        journal.close()


def migrate(old: str, new: str) -> int:
    """Write the events of a ledger without hash chain into a new file, with one. The old file stays as it is. Raises BadLedger, BadEvent."""
    if Path(new).exists():
        raise BadLedger(f"{new}: is there already; write the name of a new file")
    database = open_to_read(old)
    try:
        if database.execute("PRAGMA user_version").fetchone()[0] != 0:
            raise BadLedger(f"{old}: has a hash chain already; use it as it is")
        return import_events(new, _old_events(database))
    finally:
        database.close()


def _take(journal: Journal, event: LedgerEvent) -> None:
    what = f"event {event.sequence} ({event.action} of registration {event.registration})"
    if event.sequence != journal.sequence + 1:
        raise BadEvent(f"{what}: {journal.sequence + 1} must come next; write every event, in order")
    is_new = event.action == "apply"
    if is_new and event.registration != journal.count + 1:
        raise BadEvent(f"{what}: registration {journal.count + 1} must be the next to apply")
    try:
        number = None if is_new else event.registration
        journal.append(number, event.at_ns, event.action, event.actor, event.reason, event.data)
    except (IllegalTransition, LookupError, TypeError, ValueError) as error:
        raise BadEvent(f"{what}: {error}") from error
    if event.hash not in ("", journal.hash.hex()):
        raise BadEvent(
            f"{what}: its hash is {event.hash}, but {journal.hash.hex()} follows: it or one before was changed"
        )


def _old_events(database: ReadConnection) -> Iterator[LedgerEvent]:
    rows = database.execute(
        "SELECT at_ns, registration, action, actor, reason, data FROM events ORDER BY sequence"
    )
    # Numbered anew: the old file may have skipped one (a transaction that was rolled back).
    for sequence, (at_ns, registration, action, actor, reason, data) in enumerate(rows, start=1):
        yield LedgerEvent(sequence, at_ns, registration, action, actor, reason, json.loads(data))
    if database.has_changed:
        raise BadLedger(f"{database.file}: was written to while it was read; try again")
