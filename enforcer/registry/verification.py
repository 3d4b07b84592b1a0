"""Whether a ledger's file is what was written: every hash, every transition, and everything that is derived from the events."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from enforcer.registry import standing
from enforcer.registry.chain import GENESIS, Head, link
from enforcer.registry.journal import change
from enforcer.registry.past import events_of, wrong_checkpoints
from enforcer.registry.states import IllegalTransition, Registration, after

_ROWS = (
    "SELECT sequence, at_ns, registration, action, actor, reason, data, hash FROM events ORDER BY sequence"
)
_TELL_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class Verified:
    """head: where the chain stands. sequence: of the first event that does not fit (None: all do); differs: how, in a sentence."""

    head: Head
    sequence: int | None = None
    differs: str = ""

    @property
    def is_whole(self) -> bool:
        return not self.differs


@dataclass(frozen=True, slots=True)
class Witness:
    """What somebody noted of a ledger: the hash after so many events, or that of the event which led to a serial."""

    hash: str
    events: int | None = None
    serial: int | None = None


def verify_chain(
    database: sqlite3.Connection,
    witnesses: tuple[Witness, ...] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Verified:
    """Recompute every hash from the first event on, then compare the witnesses. Reads each event once."""
    expected, previous, serial = 1, GENESIS, 0
    for row in database.execute(_ROWS):
        sequence, *_ = row
        if sequence != expected:
            where = "the first is" if expected == 1 else f"after {expected - 1} comes"
            return _broken(expected, previous, f"event {expected} is missing: {where} {sequence}")
        found = link(previous, *row[:-1])
        if found != row[-1]:
            what = f"event {sequence} ({row[3]} of registration {row[2]} by {row[4]})"
            differs = f"{what} does not give its hash: {row[-1].hex()} is written, {found.hex()} follows from it and the one before"
            return _broken(sequence, previous, differs)
        previous, expected = found, expected + 1
        if sequence % _TELL_EVERY == 0:
            progress(sequence)
    serial = database.execute("SELECT coalesce(max(serial), 0) FROM changes").fetchone()[0]
    head = Head(expected - 1, serial, previous.hex())
    given = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    if given is not None and given[0] > head.events:
        return Verified(
            head, head.events + 1, f"events {head.events + 1} to {given[0]} are missing at the end"
        )
    for witness in witnesses:
        if told := _witnessed(database, witness, head):
            return Verified(head, *told)
    return Verified(head)


def verify_derived(
    database: sqlite3.Connection, head: Head, progress: Callable[[int], None] = lambda _: None
) -> Verified:
    """Replay every registration, and compare `changes`, `standing` and the checkpoints with what follows. Raises nothing."""
    before: Registration | None = None
    last = 0
    changes = database.execute(
        "SELECT registration, sequence, state, entry FROM changes ORDER BY registration, serial"
    )
    standings = database.execute("SELECT * FROM standing ORDER BY registration")
    for seen, event in enumerate(events_of(database, None, head.events)):
        if before is not None and before.number != event.registration:
            if told := _standing(standings.fetchone(), before, last):
                return Verified(head, last, told)
            before = None
        old = before.entry() if before else None
        try:
            before = after(before, event)
        except (IllegalTransition, KeyError, TypeError, ValueError) as error:
            return Verified(head, event.sequence, f"event {event.sequence} was not possible: {error}")
        new, last = before.entry(), event.sequence
        if old != new:
            written, expected = changes.fetchone(), (before.number, last, *change(before, new))
            if written != expected:
                return Verified(
                    head, last, f"the allowlist's changes say {written} where event {last} gives {expected}"
                )
        if seen % _TELL_EVERY == 0:
            progress(seen)
    if before is not None and (told := _standing(standings.fetchone(), before, last)):
        return Verified(head, last, told)
    if (left := changes.fetchone()) is not None:
        return Verified(head, left[1], f"the allowlist's changes say {left}, which no event gives")
    if (left := standings.fetchone()) is not None:
        return Verified(head, left[1], f"registration {left[0]} is listed, and no event is about it")
    rows = database.execute("SELECT serial, sequence FROM changes ORDER BY serial").fetchall()
    for place, (serial, sequence) in enumerate(rows, start=1):
        if serial != place or (place > 1 and sequence <= rows[place - 2][1]):
            return Verified(head, sequence, f"serial {place} is missing or not in the order of the events")
    if wrong := wrong_checkpoints(database):
        return Verified(
            head, wrong[0], f"the checkpoint after event {wrong[0]} does not say what the events say"
        )
    return Verified(head)


def _broken(sequence: int, previous: bytes, differs: str) -> Verified:
    return Verified(Head(sequence - 1, 0, previous.hex()), sequence, differs)


def _standing(row: tuple | None, registration: Registration, sequence: int) -> str:
    expected = standing.row(registration, sequence)
    if row == expected:
        return ""
    return f"registration {registration.number} is listed as {row} where its events give {expected}"


def _witnessed(database: sqlite3.Connection, witness: Witness, head: Head) -> tuple[int, str] | None:
    """The first event that cannot be what the witness saw, and why."""
    if witness.events is not None:
        sequence, what = witness.events, f"{witness.events} events"
    else:
        what = f"serial {witness.serial}"
        if (witness.serial or 0) > head.serial:
            return (
                head.events + 1,
                f"there was a serial {witness.serial}; this ledger ends at {head.serial}: its end was cut off, or it is older",
            )
        row = database.execute("SELECT sequence FROM changes WHERE serial = ?", (witness.serial,)).fetchone()
        sequence = row[0] if row else 0
    if sequence > head.events:
        return (
            head.events + 1,
            f"events {head.events + 1} to {sequence} are missing at the end: there were {what}",
        )
    row = database.execute("SELECT hash FROM events WHERE sequence = ?", (sequence,)).fetchone()
    found = (row[0] if row else GENESIS).hex()
    if found != witness.hash:
        return (
            sequence,
            f"after {what} the hash was {witness.hash}; it is {found} now: events up to {sequence} were rewritten",
        )
    return None
