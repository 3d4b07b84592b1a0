"""The daemon: follows the feed, keeps the dataplane equal to it, and does what the policy says when something breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.allowlist import Allowlist
from enforcer.audit import Audit, Blocks
from enforcer.cells import check_prefixes
from enforcer.conditions import CONDITIONS, Conditions, shrinks_too_much
from enforcer.config import Config
from enforcer.dataplanes import Dataplane, DataplaneError, TableFull
from enforcer.enforced import Applied, Enforced, differing
from enforcer.follow import Feed, SerialUnknown, Unreachable
from enforcer.knowledge import Knowledge
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

TICK_S = 0.1
_SLOW_NS = 1_000_000_000
_COUNTERS_NS = 10_000_000_000
_LONGEST_WAIT_S = 10.0
_MOST_AS_DELTA = 20_000  # changes; a snapshot that differs by more is loaded whole


class Agent:
    """One enforcer. Everything it does ends in the audit. clock_ns is Unix time."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        dataplane: Dataplane,
        key: Ed25519PublicKey,
        audit: Audit,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config, self.policy, self.dataplane = config, policy, dataplane
        self.conditions = Conditions(policy.on_failure)
        self.allowlist: Allowlist | None = None
        self._key, self._audit, self._clock_ns = key, audit, clock_ns
        self._store = Store(config.state)
        self._feed = Feed(config.feed_url)
        self._knowledge = Knowledge(policy.match)
        kind = "would-block" if policy.mode == "observe" or policy.action == "observe" else "block"
        self._blocks = Blocks(audit, kind, lambda stop: self._knowledge.about(stop))
        self._enforced = Enforced(policy, dataplane, self._knowledge)
        self._started_ns = self._answered_ns = clock_ns()
        self._issued_ns = 0
        self._wants_snapshot = True
        self._refused: tuple[str, str] | None = None
        self._slow_ns = self._counted_ns = 0
        self._counted: dict[str, Any] = {}
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. What is in the kernel stays there: the policy's agent-dead behaviour takes over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload, "SIGHUP")
        self.start()
        loop.add_reader(self.dataplane.fileno(), self._read_stops)
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._tick_for_ever())]
        ended = asyncio.create_task(self._ending.wait())
        try:
            done, _ = await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ended}:
                task.result()  # raises what ended it
        finally:
            for task in (*tasks, ended):
                task.cancel()
            await asyncio.wait([*tasks, ended])
            loop.remove_reader(self.dataplane.fileno())
            await self._feed.close()
            self._stop()

    def start(self) -> None:
        """Load what was kept from before, or say that there is nothing. Raises DataplaneError when not even that can be loaded."""
        self._audit.write(
            "started",
            pid=os.getpid(),
            policy=self.policy.name,
            mode=self.policy.mode,
            dataplane=self.dataplane.name,
            feed=self.config.feed_url,
        )
        kept = None
        try:
            kept = self._store.load(self._key)
        except FeedError as error:
            self._refuse(error.word, f"the allowlist kept in {self.config.state} is not used: {error}")
        if kept is None:
            self._begin("no-allowlist-yet")
            self.dataplane.load(Allowlist(0))
        else:
            self.allowlist, self._issued_ns = kept
            self._wants_snapshot = False
            self._audit.write("applied", **self._load_whole("state"))
        self.dataplane.beat()

    def reload(self, why: str = "asked") -> None:
        """Load the whole list into the dataplane again."""
        if self.allowlist is None:
            self.dataplane.load(Allowlist(0))
            return
        try:
            self._audit.write("applied", **self._load_whole("reload", why=why))
        except DataplaneError as error:
            self._begin(_condition(error), str(error))

    def status(self) -> dict[str, Any]:
        now_ns = self._clock_ns()
        counts = self.dataplane.counters()
        return {
            "pid": os.getpid(),
            "uptime_s": round((now_ns - self._started_ns) / 1e9, 1),
            "policy": self.policy.name,
            "mode": self.policy.mode,
            "dataplane": self.dataplane.name,
            "serial": None if self.allowlist is None else self.allowlist.serial,
            "entries": len(self.allowlist.entries) if self.allowlist else 0,
            "loaded": len(self._enforced.loaded),
            "issued_age_s": round((now_ns - self._issued_ns) / 1e9, 1) if self._issued_ns else None,
            "answered_age_s": round((now_ns - self._answered_ns) / 1e9, 1),
            "failures": dict(self.conditions.lasting),
            "failure_counts": {name: count for name, count in self.conditions.times.items() if count},
            "fallback": self.conditions.fallback,
            "counters": {name: count.packets for name, count in sorted(counts.items()) if count.packets},
            "reports_lost": self.dataplane.lost_events(),
        }

    async def _follow(self) -> None:
        wait_s = min(_LONGEST_WAIT_S, max(0.2, self.policy.on_failure.registry_unreachable_after_ns / 2e9))
        while True:
            try:
                if self._wants_snapshot or self.allowlist is None:
                    message = await self._feed.snapshot()
                else:
                    message = await self._feed.delta(self.allowlist.serial, wait_s)
            except Unreachable:
                await asyncio.sleep(self.config.poll_ns / 1e9)
                continue
            except SerialUnknown:
                self._answered()
                self._wants_snapshot = True
                continue
            self._answered()
            if message is None:
                self._wants_snapshot = self._is_old()
            elif not self.take(message):
                await asyncio.sleep(self.config.poll_ns / 1e9)

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
            self._end("signature-wrong")
            if isinstance(update, SignedDelta):
                if current is None:
                    raise OlderSerial("a delta came before any snapshot")
                new, removed = current.after(update.delta), len(update.delta.remove)
            else:
                new = update.allowlist
                removed = len(current.entries.keys() - new.entries.keys()) if current else 0
        except FeedError as error:
            if isinstance(error, BadSignature):
                self._begin("signature-wrong", str(error))
            if isinstance(error, OlderSerial):
                self._begin("serial-wrong", str(error))
            # The other kind may be right: everybody revoked is an empty snapshot, which is refused, and a delta, which is not.
            self._wants_snapshot = not self._wants_snapshot
            self._refuse(error.word, str(error))
            return False
        self._end("serial-wrong")
        if current and shrinks_too_much(
            len(current.entries), removed, self.policy.on_failure.feed_shrinks_more_than_ratio
        ):
            text = f"serial {new.serial} removes {removed} of {len(current.entries)} entries"
            self._begin("feed-shrinks", text)
            if self.conditions.behaviour("feed-shrinks") != "accept":
                self._refuse("shrinks", text)
                return False
        return self._enforce(update, new, message)

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
            self._refuse("bad-entry", str(error))
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
            self._begin(_condition(error), str(error))
            self._refuse(_condition(error), str(error))
            return False
        self.allowlist, self._issued_ns = new, update.issued_ns
        self._wants_snapshot = self._store.is_long if is_delta else False
        self._store.keep_delta(message) if is_delta else self._store.keep_snapshot(message)
        self._refused = None
        for condition in ("no-allowlist-yet", "feed-shrinks", "table-full", "dataplane-dead", "feed-stale"):
            self._end(condition)
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

    def _is_old(self) -> bool:
        """Whether a fresh message is worth asking for, before the feed counts as stale."""
        return self._clock_ns() - self._issued_ns > self.policy.on_failure.feed_stale_after_ns / 2

    async def _tick_for_ever(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        now_ns = self._clock_ns()
        failure = self.policy.on_failure
        if now_ns - self._answered_ns > failure.registry_unreachable_after_ns:
            self._begin("registry-unreachable")
        if (
            self.allowlist is not None
            and "registry-unreachable" not in self.conditions.lasting
            and now_ns - self._issued_ns > failure.feed_stale_after_ns
        ):
            self._begin("feed-stale", f"issued {(now_ns - self._issued_ns) / 1e9:.0f} s ago")
        self._validity(now_ns)
        self._enforced.end_finishing(now_ns)
        self._blocks.flush(now_ns)
        if now_ns - self._slow_ns >= _SLOW_NS:
            self._slow_ns = now_ns
            self._look_after(now_ns)

    def _validity(self, now_ns: int) -> None:
        due = self._enforced.take_due(now_ns)
        if due and self.allowlist is not None:
            try:
                self._audit.write("applied", **self._apply(self.allowlist, due, {}, "validity"))
            except DataplaneError as error:
                self._begin(_condition(error), str(error))
                self._enforced.put_back(due, now_ns + _SLOW_NS)

    def _look_after(self, now_ns: int) -> None:
        try:
            if not self.dataplane.is_alive():
                self._begin("dataplane-dead", "its rules are gone")
            if "dataplane-dead" in self.conditions.lasting:
                self._restore()
            self.dataplane.beat()
            self._enforced.sweep()
            if now_ns - self._counted_ns >= _COUNTERS_NS:
                self._counted_ns = now_ns
                self._write_counters()
        except (DataplaneError, OSError) as error:
            self._begin("dataplane-dead", str(error))

    def _restore(self) -> None:
        """Raises DataplaneError when the dataplane is still dead."""
        if self.allowlist is None:
            self.dataplane.load(Allowlist(0))
            self._end("dataplane-dead")
            return
        line = self._load_whole("reload", why="dataplane-dead")
        self._end("dataplane-dead")
        self._audit.write("applied", **line)

    def _read_stops(self) -> None:
        now_ns = self._clock_ns()
        for stop in self.dataplane.events():
            self._blocks.note(stop, now_ns)

    def _answered(self) -> None:
        self._answered_ns = self._clock_ns()
        self._end("registry-unreachable")

    def _line(self, how: str, serial: int, applied: Applied, began_ns: int) -> dict[str, Any]:
        return {
            "serial": serial,
            "how": how,
            "entries": len(self._enforced.loaded),
            "added": applied.added,
            "removed": applied.removed,
            "took_ns": time.monotonic_ns() - began_ns,
        }

    def _refuse(self, word: str, text: str) -> None:
        if self._refused != (word, text):  # the same again and again is one line
            self._refused = (word, text)
            self._audit.write("refused-update", word=word, text=text)

    def _begin(self, condition: str, text: str = "") -> None:
        if self.conditions.begin(condition):
            self._failure(condition, "begun", text or CONDITIONS[condition])

    def _end(self, condition: str) -> None:
        if self.conditions.end(condition):
            self._failure(condition, "ended", "")

    def _failure(self, condition: str, state: str, text: str) -> None:
        behaviour, fallback = self.conditions.behaviour(condition), self.conditions.fallback
        self._audit.write(
            "failure", condition=condition, state=state, behaviour=behaviour, fallback=fallback, text=text
        )
        try:
            self.dataplane.set_fallback(fallback)
        except DataplaneError as error:
            # The dataplane is what is broken; the next load brings the fallback with it.
            self._audit.write(
                "failure", condition="dataplane-dead", state="begun", behaviour="none", text=str(error)
            )

    def _write_counters(self) -> None:
        counts = {
            name: {"packets": count.packets, "bytes": count.bytes}
            for name, count in sorted(self.dataplane.counters().items())
            if count.packets
        }
        if counts != self._counted:
            self._counted = counts
            self._audit.write(
                "counters",
                counters=counts,
                reported=self._blocks.reported,
                reports_lost=self.dataplane.lost_events(),
            )

    def _stop(self) -> None:
        self._read_stops()
        self._blocks.flush(self._clock_ns(), everything=True)
        try:
            self._write_counters()
        except OSError as error:
            self._audit.write(
                "failure", condition="dataplane-dead", state="begun", behaviour="none", text=str(error)
            )
        failure = self.policy.on_failure
        self._audit.write(
            "stopped",
            leaves="the rules as they are loaded",
            agent_dead=failure.agent_dead,
            agent_dead_after_ns=failure.agent_dead_after_ns,
        )


def _condition(error: DataplaneError) -> str:
    return "table-full" if isinstance(error, TableFull) else "dataplane-dead"
