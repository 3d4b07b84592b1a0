"""A ledger as it was: every registration's state after any of its events. Kept up with checkpoints, derived from events."""

from __future__ import annotations

import gc
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.registry.states import LedgerEvent, Registration, State, after, next_state

STEP = 65_536  # events between checkpoints: replaying so many states takes about a tenth of a second
STATES: tuple[State, ...] = get_args(State)
_CODES = {state: code for code, state in enumerate(STATES, start=1)}
_TOLD = ("change-address", "answer-appeal")  # what they lead to depends on more than the action


@dataclass(frozen=True, slots=True)
class StateAt:
    """All registrations as they stood after the event `sequence`, when the allowlist's serial was `serial`.

    What it says of one registration, or lists, is read from the ledger when asked for; close neither before that.
    """

    sequence: int
    serial: int
    _states: bytes
    _database: sqlite3.Connection = field(repr=False)

    def __len__(self) -> int:
        return len(self._states)

    def state(self, number: int) -> State | None:
        """None: it was not applied for yet."""
        return STATES[self._states[number - 1] - 1] if 1 <= number <= len(self._states) else None

    def counts(self) -> dict[State, int]:
        """How many registrations were in each state; those with none left out."""
        found = Counter(self._states)
        return {state: found[code] for code, state in enumerate(STATES, start=1) if found[code]}

    def numbers(self, state: State) -> list[int]:
        """The registrations that were in a state."""
        code = _CODES[state]
        return [number for number, found in enumerate(self._states, start=1) if found == code]

    def registration(self, number: int) -> Registration | None:
        """As it stood; None: it was not applied for yet."""
        return replayed(events_of(self._database, number, self.sequence))

    def registrations(self) -> Iterator[Registration]:
        """All as they stood, by number. One after the other, so that a million need no memory."""
        before: Registration | None = None
        for event in events_of(self._database, None, self.sequence):
            if before is not None and before.number != event.registration:
                yield before
                before = None
            before = after(before, event)
        if before is not None:
            yield before

    def allowlist(self) -> Allowlist:
        """The allowlist at the serial."""
        return allowlist_at(self._database, self.serial)


def state_after(database: sqlite3.Connection, sequence: int) -> StateAt:
    """The state after the event of that sequence; 0 is before the first."""
    row = database.execute(
        "SELECT serial FROM changes WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1", (sequence,)
    ).fetchone()
    return StateAt(sequence, row[0] if row else 0, bytes(_states(database, sequence)), database)


def write_checkpoints(database: sqlite3.Connection, last: int) -> None:
    """Write those that are missing up to the event `last`; call it where a tenth of a second does not matter."""
    newest = database.execute("SELECT coalesce(max(sequence), 0) FROM checkpoints").fetchone()[0]
    for sequence in range(newest + STEP, last + 1, STEP):
        packed = zlib.compress(bytes(_states(database, sequence)), 1)
        database.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (sequence, packed))


def wrong_checkpoints(database: sqlite3.Connection) -> list[int]:
    """Those that do not say what the events say, from the first event on; none when all do."""
    kept = dict(database.execute("SELECT sequence, states FROM checkpoints ORDER BY sequence"))
    states, at, wrong = bytearray(), 0, []
    for sequence, packed in kept.items():
        _play(database, states, at, sequence)
        at = sequence
        if zlib.decompress(packed) != states:
            wrong.append(sequence)
    return wrong


def allowlist_at(database: sqlite3.Connection, serial: int) -> Allowlist:
    """The allowlist as it was at a serial that is there."""
    # In the order of the serials, a registration's last change stays; only what is left is parsed.
    texts: dict[int, str | None] = dict(
        database.execute(
            "SELECT registration, entry FROM changes WHERE serial <= ? ORDER BY serial", (serial,)
        )
    )
    # A million new objects, none of them garbage: collecting between them would take longer than making them.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return Allowlist(serial, {number: _entry(json.loads(text)) for number, text in texts.items() if text})
    finally:
        if was_collecting:
            gc.enable()


def delta_between(database: sqlite3.Connection, since: int, serial: int) -> Delta | None:
    """What changed between two serials that are there, each registration's last change only; None when nothing did."""
    if since == serial:
        return None
    # +registration: by serial, not through the index that is in order of registrations.
    rows = database.execute(
        "SELECT registration, state, entry, max(serial) FROM changes WHERE serial > ? AND serial <= ? GROUP BY +registration",
        (since, serial),
    ).fetchall()
    add = tuple(Entry.from_json(json.loads(entry)) for _, _, entry, _ in rows if entry is not None)
    remove = tuple(Removal(number, state) for number, state, entry, _ in rows if entry is None)
    return Delta(since, serial, add, remove)


def _entry(data: dict[str, Any]) -> Entry:
    """`Entry.from_json` of what this ledger wrote itself, so without its checks: half the time of a long list."""
    return Entry(
        data["registration"],
        data["registrant"],
        tuple(data["subscriber_prefixes"]),
        tuple(data["endpoint_prefixes"]),
        tuple(data["endpoint_ports"]),
        tuple(data["protocols"]),
        data["valid_from_ns"],
        data["valid_until_ns"],
        data.get("category", ""),
    )


def replayed(events: Iterator[LedgerEvent]) -> Registration | None:
    """What one registration's events come to."""
    found: Registration | None = None
    for event in events:
        found = after(found, event)
    return found


def events_of(database: sqlite3.Connection, number: int | None, last: int) -> Iterator[LedgerEvent]:
    """One registration's events up to a sequence; with None everybody's, one registration after the other."""
    one = "registration = ? AND" if number is not None else "? IS NULL AND"
    rows = database.execute(
        f"SELECT {COLUMNS} FROM events WHERE {one} sequence <= ? ORDER BY registration, sequence",
        (number, last),
    )
    return map(event_of, rows)


COLUMNS = "sequence, at_ns, registration, action, actor, reason, data, hash"


def event_of(columns: tuple) -> LedgerEvent:
    """The event that a row of COLUMNS is."""
    sequence, at_ns, registration, action, actor, reason, data, hash_ = columns
    return LedgerEvent(sequence, at_ns, registration, action, actor, reason, json.loads(data), hash_.hex())


def _states(database: sqlite3.Connection, sequence: int) -> bytearray:
    """A state's code for each registration, by number from 1."""
    row = database.execute(
        "SELECT sequence, states FROM checkpoints WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1",
        (sequence,),
    ).fetchone()
    at, states = (row[0], bytearray(zlib.decompress(row[1]))) if row else (0, bytearray())
    _play(database, states, at, sequence)
    return states


def _play(database: sqlite3.Connection, states: bytearray, first: int, last: int) -> None:
    """Bring states, as after the event `first`, to those after the event `last`."""
    rows = database.execute(
        "SELECT registration, action, CASE WHEN action IN (?, ?) THEN data END FROM events "
        "WHERE sequence > ? AND sequence <= ? ORDER BY sequence",
        (*_TOLD, first, last),
    )
    for number, action, data in rows:
        if action == "apply":
            states.append(_CODES["pending"])
            continue
        was = STATES[states[number - 1] - 1]
        states[number - 1] = _CODES[next_state(was, action, json.loads(data) if data else {})]
