"""The hash chain: each event of a ledger carries the SHA-256 of the hash before it and of itself. Pure.

The canonical form of an event is the JSON list [sequence, at_ns, registration, action, actor, reason, data] without spaces, in
ASCII, with the keys of objects sorted. Whoever rewrites an event must rewrite every hash after it, and then the last hash, the
head, is not what others have noted: an exported head, or the mark that every signed message of the feed carries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enforcer.registry.states import LedgerEvent

HEAD_SCHEMA = "allowlab.ledger-head/1"
GENESIS = hashlib.sha256(b"allowlab.ledger/1").digest()  # stands before the first event


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger stands: how many events it has, the allowlist's serial after them, and the last one's hash."""

    events: int
    serial: int
    hash: str

    def to_json(self) -> dict[str, Any]:
        return {"schema": HEAD_SCHEMA, "events": self.events, "serial": self.serial, "hash": self.hash}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Head:
        """Raises ValueError."""
        if data.get("schema") != HEAD_SCHEMA:
            raise ValueError(
                f"schema is {data.get('schema')!r}; write a head that 'enforcer-registry head' printed"
            )
        try:
            return cls(int(data["events"]), int(data["serial"]), str(data["hash"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a ledger's head: {error}") from error


def canonical(data: Any) -> str:
    """JSON with one way of writing it."""
    return _write(data)


def link(
    previous: bytes,
    sequence: int,
    at_ns: int,
    registration: int,
    action: str,
    actor: str,
    reason: str,
    data_text: str,
) -> bytes:
    """The event's hash. data_text is canonical JSON already, as the ledger's file has it."""
    head = canonical([sequence, at_ns, registration, action, actor, reason])
    return hashlib.sha256(previous + f"{head[:-1]},{data_text}]".encode()).digest()


def event_link(previous: bytes, event: LedgerEvent) -> bytes:
    """The hash that an event has after the one whose hash is `previous`."""
    return link(
        previous, event.sequence, event.at_ns, event.registration, event.action, event.actor, event.reason, canonical(event.data)
    )  # fmt: skip


_write = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
