"""Signed messages in, an enforced allowlist out: what the registry sends is checked, kept and put into the dataplane, or refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from enforcer.allowlist import Allowlist
from enforcer.audit import Audit
from enforcer.cells import check_prefixes
from enforcer.clock import Clock
from enforcer.conditions import shrinks_too_much
from enforcer.dataplanes import DataplaneError
from enforcer.enforced import Applied, Enforced, differing
from enforcer.failures import Failures, condition_of
from enforcer.policy import Policy
from enforcer.registry.feed import (
    BadSignature,
    Diverged,
    FeedError,
    OlderSerial,
    SignedDelta,
    Snapshot,
    snapshot_tag,
    verify,
    verify_standing,
)
from enforcer.registry.roll import KeyRing
from enforcer.store import Store

_MOST_AS_DELTA = 20_000  # changes; a snapshot that differs by more is loaded whole
_AGAIN_NS = 1_000_000_000


class Intake:
    """allowlist: what is in force (None: never any). issued_ns: when its newest message was signed (Unix)."""

    def __init__(
        self,
        policy: Policy,
        ring: KeyRing,
        failures: Failures,
        enforced: Enforced,
        store: Store,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self.allowlist: Allowlist | None = None
        self.issued_ns = 0
        self.mark = ""
        self.wants_snapshot, self.wants_standing = True, False
        self.last_load_ns = 0
        self.ring = ring
        self._policy, self._failures = policy, failures
        self._enforced, self._store, self._audit, self._clock = enforced, store, audit, clock
        self._is_kept = True

    def load_kept(self) -> None:
        """Enforce what was kept from before, or say that there is nothing. Raises DataplaneError when not even that can be loaded."""
        kept = None
        try:
            kept = self._store.load(self.ring.all)
        except FeedError as error:
            self._failures.refuse(
                error.word, f"the allowlist kept in {self._store.folder} is not used: {error}"
            )
        if kept is None:
            self._failures.begin("no-allowlist-yet")
            self._enforced.dataplane.load(Allowlist(0))
        else:
            self.allowlist, self.issued_ns, self.mark = kept.allowlist, kept.issued_ns, kept.mark
            self.wants_snapshot = False
            self.wants_standing = self.is_old()
            self._audit.write("applied", **self._load_whole(kept.allowlist, "state"))

    def reload(self, why: str) -> None:
        """The whole list into the dataplane again. Raises DataplaneError."""
        if self.allowlist is None:
            self._enforced.dataplane.load(Allowlist(0))
            self._failures.end("dataplane-dead")
            return
        line = self._load_whole(self.allowlist, "reload", why=why)
        self._failures.end("dataplane-dead")
        self._audit.write("applied", **line)  # only now is it wholly in force

    def take(self, message: bytes) -> bool:
        """Check a signed message and enforce it. False, and nothing changed, when it is refused."""
        current = self.allowlist
        try:
            update = verify(
                message,
                self.ring.trusted(self._clock.now_ns()),
                current.serial if current else None,
                allow_empty=current is None or not current.entries,
            )
            self._failures.end("signature-wrong")
            if isinstance(update, SignedDelta):
                if current is None:
                    raise OlderSerial("a delta came before any snapshot")
                self._check_mark(update.from_mark, current.serial)
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
            self.wants_snapshot = isinstance(error, Diverged) or not self.wants_snapshot
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

    def take_standing(self, message: bytes) -> bool:
        """A sign of life: the list in force is as fresh as this message when the registry stands where we do. False: refused."""
        assert self.allowlist is not None
        try:
            standing = verify_standing(message, self.ring.trusted(self._clock.now_ns()))
            self._failures.end("signature-wrong")
            if standing.serial < self.allowlist.serial:
                raise OlderSerial(
                    f"the registry is at serial {standing.serial}; {self.allowlist.serial} is enforced"
                )
            if standing.serial == self.allowlist.serial:
                self._check_mark(standing.mark, standing.serial)
        except FeedError as error:
            if isinstance(error, BadSignature):
                self._failures.begin("signature-wrong", str(error))
            if isinstance(error, OlderSerial):
                self._failures.begin("serial-wrong", str(error))
            self.wants_snapshot = self.wants_snapshot or isinstance(error, Diverged)
            self.wants_standing = not self.wants_snapshot
            self._failures.refuse(error.word, str(error))
            return False
        self.wants_standing = False
        self._failures.end("serial-wrong")
        if standing.serial == self.allowlist.serial and standing.issued_ns > self.issued_ns:
            self.issued_ns = standing.issued_ns
            self._clock.hear(standing.issued_ns)
            if not self.is_old():
                self._failures.end("feed-stale")
        return True

    def learn_keys(self, messages: Iterable[str]) -> None:
        """Follow the registry's key roll-overs; what must not be followed is refused, and changes nothing."""
        known = len(self.ring.messages)
        try:
            for roll in self.ring.learn(messages, self._clock.now_ns()):
                self._audit.write(
                    "key-rolled",
                    key=roll.key,
                    not_before_ns=roll.not_before_ns,
                    old_until_ns=roll.old_until_ns,
                )
        except FeedError as error:
            self._failures.refuse(error.word, str(error))
        if len(self.ring.messages) > known:
            self._keep(lambda: self._store.keep_rolls(self.ring.messages))

    def keep_again(self) -> None:
        """The disk has room again: ask for what it missed."""
        self._store.probe()
        if not self._is_kept:
            self._keep(lambda: self._store.keep_rolls(self.ring.messages))
            self.wants_snapshot = True

    @property
    def tag(self) -> str | None:
        """The entity tag of the list in force, unless the whole snapshot is wanted whatever the registry has."""
        if self.allowlist is None or not self.mark or self._store.is_long or not self._is_kept:
            return None
        return snapshot_tag(self.allowlist.serial, self.mark)

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
        return self._clock.now_ns() - self.issued_ns > self._policy.on_failure.feed_stale_after_ns / 2

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
                line = self._load_whole(new, how)
            elif not is_same:
                line = self._apply(new, touched, states, how)
        except DataplaneError as error:
            self._failures.begin(condition_of(error), str(error))
            self._failures.refuse(condition_of(error), str(error))
            return False
        self.allowlist, self.issued_ns, self.mark = new, update.issued_ns, update.mark
        self._clock.hear(update.issued_ns)
        keep = self._store.keep_delta if is_delta else self._store.keep_snapshot
        self._keep(lambda: keep(message), is_whole=not is_delta)
        self.wants_snapshot = self._store.is_long if is_delta else False
        self._failures.accepted()
        self._failures.end("no-allowlist-yet", "feed-shrinks", "table-full", "dataplane-dead", "feed-stale")
        if line is not None:  # only now is it wholly in force: a failure's behaviour may have held until here
            self._audit.write("applied", **line)
        return True

    def _check_mark(self, mark: str, serial: int) -> None:
        if mark and self.mark and mark != self.mark:
            raise Diverged(
                f"the registry came to serial {serial} another way (its ledger was restored from a backup); the whole list is asked for"
            )

    def _keep(self, write: Callable[[], None], is_whole: bool = False) -> None:
        """Onto the disk. What finds no room there is in force all the same."""
        try:
            write()
        except OSError as error:
            self._is_kept = False
            self._failures.begin("disk-full", f"{self._store.folder}: {error.strerror or error}")
        else:
            self._is_kept = self._is_kept or is_whole

    def _load_whole(self, allowlist: Allowlist, how: str, **more: Any) -> dict[str, Any]:
        """The whole list into the dataplane. Returns the audit line's data. Raises DataplaneError."""
        began_ns = time.monotonic_ns()
        applied = self._enforced.load(allowlist, self._clock.now_ns())
        return self._line(how, allowlist.serial, applied, began_ns) | more

    def _apply(
        self, new: Allowlist, touched: Iterable[int], states: dict[int, str], how: str
    ) -> dict[str, Any]:
        """What changed into the dataplane, in one step. Returns the audit line's data. Raises DataplaneError."""
        began_ns = time.monotonic_ns()
        applied = self._enforced.apply(new, touched, states, self._clock.now_ns())
        return self._line(how, new.serial, applied, began_ns)

    def _line(self, how: str, serial: int, applied: Applied, began_ns: int) -> dict[str, Any]:
        self.last_load_ns = time.monotonic_ns() - began_ns
        return {
            "serial": serial,
            "how": how,
            "entries": len(self._enforced.loaded),
            "added": applied.added,
            "removed": applied.removed,
            "took_ns": self.last_load_ns,
        }
