"""Signed messages in, an enforced allowlist out: what the registry sends is checked, kept and put into the dataplane, or refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.allowlist import Allowlist
from enforcer.audit import Audit
from enforcer.cells import check_prefixes
from enforcer.conditions import shrinks_too_much
from enforcer.dataplanes import DataplaneError
from enforcer.enforced import Applied, Enforced, differing
from enforcer.failures import Failures, condition_of
from enforcer.policy import Policy
from enforcer.registry.feed import (
    BadSignature,
    FeedError,
    OlderSerial,
    SignedDelta,
    Snapshot,
    verify,
)
from enforcer.store import Store

_MOST_AS_DELTA = 20_000  # changes; a snapshot that differs by more is loaded whole
_AGAIN_NS = 1_000_000_000


class Intake:
    """allowlist: what is in force (None: never any). issued_ns: when its newest message was signed (Unix)."""

    def __init__(
        self,
        policy: Policy,
        key: Ed25519PublicKey,
        failures: Failures,
        enforced: Enforced,
        store: Store,
        audit: Audit,
        clock_ns: Callable[[], int],
    ) -> None:
        self.allowlist: Allowlist | None = None
        self.issued_ns = 0
        self.wants_snapshot = True
        self._policy, self._key, self._failures = policy, key, failures
        self._enforced, self._store, self._audit, self._clock_ns = enforced, store, audit, clock_ns

    def load_kept(self) -> None:
        """Enforce what was kept from before, or say that there is nothing. Raises DataplaneError when not even that can be loaded."""
        kept = None
        try:
            kept = self._store.load(self._key)
        except FeedError as error:
            self._failures.refuse(
                error.word, f"the allowlist kept in {self._store.folder} is not used: {error}"
            )
        if kept is None:
            self._failures.begin("no-allowlist-yet")
            self._enforced.dataplane.load(Allowlist(0))
        else:
            self.allowlist, self.issued_ns = kept
            self.wants_snapshot = False
            self._audit.write("applied", **self._load_whole("state"))

    def reload(self, why: str) -> None:
        """The whole list into the dataplane again. Raises DataplaneError."""
        if self.allowlist is None:
            self._enforced.dataplane.load(Allowlist(0))
            self._failures.end("dataplane-dead")
            return
        line = self._load_whole("reload", why=why)
        self._failures.end("dataplane-dead")
        self._audit.write("applied", **line)  # only now is it wholly in force

    def take(self, message: bytes) -> bool:
        """Check a signed message and enforce it. False, and nothing changed, when it is refused."""
        current = self.allowlist
        try:
            update = verify(
                message,
                self._key,
                current.serial if current else None,
                allow_empty=current is None or not current.entries,
            )
            self._failures.end("signature-wrong")
            if isinstance(update, SignedDelta):
                if current is None:
                    raise OlderSerial("a delta came before any snapshot")
                new, removed = current.after(update.delta), len(update.delta.remove)
            else:
                new = update.allowlist
                removed = len(current.entries.keys() - new.entries.keys()) if current else 0
        except FeedError as error:
            if isinstance(error, BadSignature):
                self._failures.begin("signature-wrong", str(error))
            if isinstance(error, OlderSerial):
                self._failures.begin("serial-wrong", str(error))
            # The other kind may be right: everybody revoked is an empty snapshot, which is refused, and a delta, which is not.
            self.wants_snapshot = not self.wants_snapshot
            self._failures.refuse(error.word, str(error))
            return False
        self._failures.end("serial-wrong")
        if current and shrinks_too_much(
            len(current.entries), removed, self._policy.on_failure.feed_shrinks_more_than_ratio
        ):
            text = f"serial {new.serial} removes {removed} of {len(current.entries)} entries"
            self._failures.begin("feed-shrinks", text)
            if self._failures.conditions.behaviour("feed-shrinks") != "accept":
                self._failures.refuse("shrinks", text)
                return False
        return self._enforce(update, new, message)

    def validity(self, now_ns: int) -> None:
        """Registrations whose validity begins or ends by now come and go."""
        due = self._enforced.take_due(now_ns)
        if due and self.allowlist is not None:
            try:
                self._audit.write("applied", **self._apply(self.allowlist, due, {}, "validity"))
            except DataplaneError as error:
                self._failures.begin(condition_of(error), str(error))
                self._enforced.put_back(due, now_ns + _AGAIN_NS)

    def is_old(self) -> bool:
        """Whether a fresh message is worth asking for, before the feed counts as stale."""
        return self._clock_ns() - self.issued_ns > self._policy.on_failure.feed_stale_after_ns / 2

    def _enforce(self, update: Snapshot | SignedDelta, new: Allowlist, message: bytes) -> bool:
        current = self.allowlist
        is_delta = isinstance(update, SignedDelta)
        how = "delta" if is_delta else "snapshot"
        states = {}
        if is_delta:
            states = {removal.registration: removal.state for removal in update.delta.remove}
            touched = {*states, *(entry.registration for entry in update.delta.add)}
        else:
            touched = differing(current.entries if current else {}, new.entries)
        is_same = current is not None and not touched and new.serial == current.serial
        try:
            for number in touched & new.entries.keys():
                check_prefixes(new.entries[number])
        except ValueError as error:
            self._failures.refuse("bad-entry", str(error))
            return False
        line: dict[str, Any] | None = None
        try:
            if current is None or len(touched) > _MOST_AS_DELTA:
                self.allowlist = new
                line = self._load_whole(how)
            elif not is_same:
                line = self._apply(new, touched, states, how)
        except DataplaneError as error:
            self.allowlist = current
            self._failures.begin(condition_of(error), str(error))
            self._failures.refuse(condition_of(error), str(error))
            return False
        self.allowlist, self.issued_ns = new, update.issued_ns
        self.wants_snapshot = self._store.is_long if is_delta else False
        self._store.keep_delta(message) if is_delta else self._store.keep_snapshot(message)
        self._failures.accepted()
        self._failures.end("no-allowlist-yet", "feed-shrinks", "table-full", "dataplane-dead", "feed-stale")
        if line is not None:  # only now is it wholly in force: a failure's behaviour may have held until here
            self._audit.write("applied", **line)
        return True

    def _load_whole(self, how: str, **more: Any) -> dict[str, Any]:
        """The whole list into the dataplane. Returns the audit line's data. Raises DataplaneError."""
        assert self.allowlist is not None
        began_ns = time.monotonic_ns()
        applied = self._enforced.load(self.allowlist, self._clock_ns())
        return self._line(how, self.allowlist.serial, applied, began_ns) | more

    def _apply(
        self, new: Allowlist, touched: Iterable[int], states: dict[int, str], how: str
    ) -> dict[str, Any]:
        """What changed into the dataplane, in one step. Returns the audit line's data. Raises DataplaneError."""
        began_ns = time.monotonic_ns()
        applied = self._enforced.apply(new, touched, states, self._clock_ns())
        return self._line(how, new.serial, applied, began_ns)

    def _line(self, how: str, serial: int, applied: Applied, began_ns: int) -> dict[str, Any]:
        return {
            "serial": serial,
            "how": how,
            "entries": len(self._enforced.loaded),
            "added": applied.added,
            "removed": applied.removed,
            "took_ns": time.monotonic_ns() - began_ns,
        }
