"""The daemon: follows the feed, keeps the dataplane equal to it, and does what the policy says when something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer import kernel_counts
from enforcer.allowlist import Allowlist
from enforcer.audit import Audit, Blocks
from enforcer.clock import Clock
from enforcer.config import Config
from enforcer.dataplanes import Count, Dataplane, DataplaneError, Stop
from enforcer.enforced import Enforced
from enforcer.failures import Failures, condition_of
from enforcer.follow import Feed, NotOffered, SerialUnknown, Unreachable
from enforcer.intake import Intake
from enforcer.knowledge import Knowledge
from enforcer.policy import Policy
from enforcer.registry.feed import FeedError
from enforcer.registry.roll import KeyRing
from enforcer.service import notify
from enforcer.store import Store

TICK_S = 0.1
_SLOW_NS = 1_000_000_000
_COUNTERS_NS = 10_000_000_000
_LONGEST_WAIT_S = 10.0
_ASIDE_BYTES = 1 << 18  # a longer message takes more than a tick; another thread reads it
_MOST_STOPS = 100_000  # reports that wait while a list is loaded


class Agent:
    """One enforcer. Everything it does ends in the audit."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        dataplane: Dataplane,
        key: Ed25519PublicKey,
        audit: Audit,
        clock: Clock | None = None,
    ) -> None:
        self.config, self.policy, self.dataplane = config, policy, dataplane
        self.audit, self.clock = audit, clock or Clock()
        self.feed = Feed(config.feed_url)
        knowledge = Knowledge(policy.match)
        kind = "would-block" if policy.mode == "observe" or policy.action == "observe" else "block"
        self.enforced = Enforced(policy, dataplane, knowledge)
        self.blocks = Blocks(audit, kind, self.enforced.about, most_lines=config.audit_lines)
        self.failures = Failures(policy, audit, dataplane)
        self._store = Store(config.state)
        ring, self._unused_rolls = _ring(key, self._store)
        self.intake = Intake(policy, ring, self.failures, self.enforced, self._store, audit, self.clock)
        self.take, self.conditions = self.intake.take, self.failures.conditions
        self.started_ns = self.answered_ns = self.clock.since_boot_ns()
        self.counts: dict[str, Count] = {}
        self.stops_dropped = self.queue_dropped = 0
        self._waiting: list[Stop] = []
        self._slow_ns = self._counted_ns = self._beat_ns = self.started_ns
        self._counted: dict[str, Any] = {}
        self._keys_seen, self.unreachable = 0, ""
        self._rising = {name: kernel_counts.Rising() for name in _COUNTED}
        self._is_aside = False
        self._beating: asyncio.Future[None] | None = None
        self._ending = asyncio.Event()

    @property
    def is_aside(self) -> bool:
        """Whether a list is being loaded."""
        return self._is_aside

    @property
    def allowlist(self) -> Allowlist | None:
        """What is in force; None when there never was any."""
        return self.intake.allowlist

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. What is in the kernel stays there: the policy's agent-dead behaviour takes over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self.reload_aside("SIGHUP")))
        ticking = asyncio.create_task(self._tick_for_ever())
        await self._aside(self.start)
        notify("READY=1")
        loop.add_reader(self.dataplane.fileno(), self._read_stops)
        tasks = [asyncio.create_task(self._follow()), ticking]
        ended = asyncio.create_task(self._ending.wait())
        try:
            done, _ = await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ended}:
                task.result()  # raises what ended it
        finally:
            notify("STOPPING=1")
            for task in (*tasks, ended):
                task.cancel()
            await asyncio.wait([*tasks, ended])
            loop.remove_reader(self.dataplane.fileno())
            await self.feed.close()
            self._stop()

    def start(self) -> None:
        """Load what was kept from before, or say that there is nothing. Raises DataplaneError when not even that can be loaded."""
        self.audit.write(
            "started",
            pid=os.getpid(),
            policy=self.policy.name,
            mode=self.policy.mode,
            dataplane=self.dataplane.name,
            feed=self.config.feed_url,
            addresses=self.audit.addresses.told(),
        )
        if self._unused_rolls:
            self.failures.refuse("bad-key-roll", self._unused_rolls)
        with contextlib.suppress(OSError):  # a full disk is found out when something is to be kept
            if self._store.begin_running():
                self.failures.begin("agent-dead", "the agent before this one ended without saying so")
        with contextlib.suppress(
            DataplaneError
        ):  # what an agent before this one loaded is in force until ours is
            self.dataplane.beat()
        self.intake.load_kept()
        self.dataplane.beat()
        self.failures.end("agent-dead")
        self._look_at_counts()

    def reload(self, why: str = "asked") -> None:
        """Load the whole list into the dataplane again."""
        try:
            self.intake.reload(why)
        except DataplaneError as error:
            self.failures.begin(condition_of(error), str(error))

    async def reload_aside(self, why: str) -> None:
        """As `reload`, without keeping anything else waiting."""
        await self._aside(self.reload, why)

    async def _aside(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do it in another thread. Meanwhile the loop beats, reads reports and answers, and leaves the dataplane's rules alone."""
        while self._is_aside:
            await asyncio.sleep(TICK_S)
        self._is_aside = True
        gc.disable()  # a collection among a million new entries stops every thread for a second
        try:
            return await asyncio.to_thread(work, *arguments)
        finally:
            gc.enable()
            gc.freeze()
            self._is_aside = False

    async def _follow(self) -> None:
        while True:
            try:
                was_useful = await self._ask()
            except Unreachable as error:
                self.unreachable, was_useful = str(error), False
            if not was_useful:
                await asyncio.sleep(self.config.poll_ns / 1e9)

    async def _ask(self) -> bool:
        """One question to the registry. False: the answer was of no use, so the next may wait. Raises Unreachable."""
        intake, began_s = self.intake, time.monotonic()
        if intake.wants_standing and intake.allowlist is not None:
            with contextlib.suppress(NotOffered):
                message = await self.feed.standing()
                await self._answered()
                return intake.take_standing(message)
            intake.wants_standing, intake.wants_snapshot = False, True
        if intake.wants_snapshot or intake.allowlist is None:
            message = await self.feed.snapshot(intake.tag)
            await self._answered()
            if message is None:
                intake.wants_snapshot, intake.wants_standing = False, True
                return True
        else:
            wait_s = self._wait_s()
            try:
                message = await self.feed.delta(intake.allowlist.serial, wait_s)
            except SerialUnknown:
                await self._answered()
                intake.wants_snapshot = True
                return True
            await self._answered()
            if message is None:
                intake.wants_standing = intake.is_old() or not _ENDED_BY_A_SIGN.isdisjoint(
                    self.conditions.lasting
                )
                # Whoever answers at once is not asked again at once.
                return time.monotonic() - began_s > wait_s / 2
        if len(message) > _ASIDE_BYTES:
            was_taken = await self._aside(self.take, message)
        else:
            while self._is_aside:
                await asyncio.sleep(TICK_S)
            was_taken = self.take(message)
        if "signature-wrong" in self.conditions.lasting:
            self._keys_seen = -1  # perhaps the key was rolled over
        return was_taken

    def _wait_s(self) -> float:
        return min(_LONGEST_WAIT_S, max(0.2, self.policy.on_failure.registry_unreachable_after_ns / 2e9))

    async def _answered(self) -> None:
        self.note_answer()
        if self.feed.announced != self._keys_seen:
            announced = self.feed.announced
            with contextlib.suppress(NotOffered):
                self.intake.learn_keys(await self.feed.rolls())
            self._keys_seen = announced

    def note_answer(self) -> None:
        """The registry has answered, whatever it said."""
        self.answered_ns, self.unreachable = self.clock.since_boot_ns(), ""
        if not self._is_aside:
            self.failures.end("registry-unreachable")

    async def _tick_for_ever(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        """What is due: beats, validity, the behaviour of failures that have lasted long enough, lines of the audit."""
        boot_ns = self.clock.since_boot_ns()
        self._beat(boot_ns)
        if self._is_aside:
            return
        now_ns = self.clock.now_ns()
        self._note_waiting(boot_ns)
        failure = self.policy.on_failure
        if boot_ns - self.answered_ns > failure.registry_unreachable_after_ns:
            self.failures.begin("registry-unreachable")
        age_ns = now_ns - self.intake.issued_ns
        if (
            self.allowlist is not None
            and "registry-unreachable" not in self.conditions.lasting
            and age_ns > failure.feed_stale_after_ns
        ):
            self.failures.begin("feed-stale", f"issued {age_ns / 1e9:.0f} s ago")
        self._look_at_clock()
        self._look_at_queue()
        self.intake.validity(now_ns)
        self.enforced.end_finishing(now_ns)
        self.blocks.flush(boot_ns)
        if boot_ns - self._slow_ns >= _SLOW_NS:
            self._slow_ns = boot_ns
            self._look_after(boot_ns)

    def _beat(self, boot_ns: int) -> None:
        late_ns = boot_ns - self._beat_ns
        after_ns = self.policy.on_failure.agent_dead_after_ns
        # A beat may be late by half of `after` and more on a busy machine.
        if late_ns < min(_SLOW_NS, after_ns // 4) or (self._beating and not self._beating.done()):
            return
        self._beat_ns = boot_ns
        notify("WATCHDOG=1")
        if (
            self._is_aside
        ):  # the kernel may be at the list for a second; whoever loads it tells what is broken
            self._beating = asyncio.get_running_loop().run_in_executor(None, self._beat_aside)
            return
        try:
            self.dataplane.beat()
        except (DataplaneError, OSError) as error:
            self.failures.begin("dataplane-dead", str(error))
        if late_ns > after_ns:
            self.failures.begin("agent-dead", f"nothing was done for {late_ns / 1e9:.1f} s")
            self.failures.end("agent-dead")

    def _beat_aside(self) -> None:
        with contextlib.suppress(DataplaneError, OSError):
            self.dataplane.beat()

    def _look_at_clock(self) -> None:
        jump_ns = self.clock.jump_ns()
        if jump_ns:
            if "clock-jumped" not in self.conditions.lasting:
                self.intake.wants_standing = True
            self.failures.begin("clock-jumped", f"the wall clock is {jump_ns / 1e9:+.1f} s off")
        else:
            self.failures.end("clock-jumped")

    def _look_after(self, boot_ns: int) -> None:
        try:
            if not self.dataplane.is_alive():
                self.failures.begin("dataplane-dead", "its rules are gone")
            if "dataplane-dead" in self.conditions.lasting:
                self.intake.reload("dataplane-dead")
            self.enforced.sweep()
            self._look_at_counts()
        except (DataplaneError, OSError) as error:
            self.failures.begin("dataplane-dead", str(error))
        self._look_at_disk()
        if boot_ns - self._counted_ns >= _COUNTERS_NS:
            self._counted_ns = boot_ns
            self._write_counters()

    def _look_at_counts(self) -> None:
        self.counts = self.dataplane.counters()
        counted = {
            "reports-lost": self.reports_lost,
            "conntrack-full": kernel_counts.conntrack_drops() if self.dataplane.name != "bpf" else 0,
        }
        for condition, count in counted.items():
            if self._rising[condition].look(count):
                self.failures.begin(condition)
            else:
                self.failures.end(condition)

    def _look_at_queue(self) -> None:
        queue = kernel_counts.queue(self.config.log_group) if self.dataplane.name == "nfqueue" else None
        if queue is None:
            return
        if queue.dropped > self.queue_dropped or queue.waiting >= _FULL_QUEUE:
            self.failures.begin("queue-full", f"{queue.waiting} packets wait")
        elif queue.waiting < _FULL_QUEUE // 2:
            self.failures.end("queue-full")
        self.queue_dropped = max(queue.dropped, self.queue_dropped)

    def _look_at_disk(self) -> None:
        self.audit.tell_lost()
        if self.audit.failing:
            self.failures.begin("disk-full", f"{self.config.audit}: {self.audit.failing}")
        elif "disk-full" in self.conditions.lasting:
            with contextlib.suppress(OSError):
                self.intake.keep_again()
                self.failures.end("disk-full")

    @property
    def reports_lost(self) -> int:
        """Reports about stopped packets that nobody read in time."""
        return self.dataplane.lost_events() + self.stops_dropped

    def _read_stops(self) -> None:
        stops = self.dataplane.events()
        room = _MOST_STOPS - len(self._waiting)
        self._waiting += stops[:room]
        self.stops_dropped += max(0, len(stops) - room)
        if not self._is_aside:
            self._note_waiting(self.clock.since_boot_ns())

    def _note_waiting(self, boot_ns: int) -> None:
        waiting, self._waiting = self._waiting, []
        for stop in waiting:
            self.blocks.note(stop, boot_ns)

    def _write_counters(self) -> None:
        counts = {
            name: {"packets": count.packets, "bytes": count.bytes}
            for name, count in sorted(self.counts.items())
            if count.packets
        }
        if counts != self._counted:
            self._counted = counts
            self.audit.write(
                "counters", counters=counts, reported=self.blocks.reported, reports_lost=self.reports_lost
            )

    def _stop(self) -> None:
        self._read_stops()
        self.blocks.flush(self.clock.since_boot_ns(), everything=True)
        try:
            self._look_at_counts()
        except (DataplaneError, OSError) as error:
            self.audit.write(
                "failure", condition="dataplane-dead", state="begun", behaviour="none", text=str(error)
            )
        self._write_counters()
        failure = self.policy.on_failure
        self.audit.write(
            "stopped",
            leaves="the rules as they are loaded",
            agent_dead=failure.agent_dead,
            agent_dead_after_ns=failure.agent_dead_after_ns,
        )
        with contextlib.suppress(OSError):
            self._store.end_running()


_ENDED_BY_A_SIGN = frozenset({"clock-jumped", "signature-wrong", "serial-wrong"})  # of life
_COUNTED = ("reports-lost", "conntrack-full")
_FULL_QUEUE = 60_000  # of 65,536 packets: what passes for want of room the kernel does not count


def _ring(key: Ed25519PublicKey, store: Store) -> tuple[KeyRing, str]:
    """The keys trusted from before; and what is wrong with the roll-overs that are kept, if it is."""
    try:
        return KeyRing(key, store.rolls()), ""
    except (FeedError, ValueError) as error:  # such as after another key was put into the configuration
        return KeyRing(key), f"the key roll-overs kept in {store.folder} are not used: {error}"
