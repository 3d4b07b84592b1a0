"""The daemon: follows the feed, keeps the dataplane equal to it, and does what the policy says when something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
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
from enforcer.follow import Feed
from enforcer.following import Follower
from enforcer.intake import Intake
from enforcer.knowledge import Knowledge
from enforcer.policy import Policy
from enforcer.registry.feed import FeedError
from enforcer.registry.roll import KeyRing
from enforcer.service import notify
from enforcer.store import Store
from enforcer.thrifty import ThriftyLoop

TICK_S = 0.1
_BEAT_NS = 1_000_000_000
_COUNTERS_NS = 10_000_000_000
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
        self.feed = Feed(config.feed_url, within_s=config.feed_within_s, least_bps=config.feed_least_bps)
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
        self.unreachable = ""
        self._rising = {name: kernel_counts.Rising() for name in _COUNTED}
        self._is_aside = False
        self._beating: asyncio.Future[None] | None = None
        self._ending = asyncio.Event()
        self._alarm: asyncio.Future[None] | None = None

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
        if isinstance(loop, ThriftyLoop):
            self.clock.keep_by(loop.now_ns)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self.reload_aside("SIGHUP")))
        ticking = asyncio.create_task(self._tick_for_ever())
        await self._aside(self.start)
        notify("READY=1")
        loop.add_reader(self.dataplane.fileno(), self._read_stops)
        tasks = [asyncio.create_task(self._follower().run()), ticking]
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
        await self._until_free()
        self._is_aside = True
        gc.disable()  # a collection among a million new entries stops every thread for a second
        try:
            return await asyncio.to_thread(work, *arguments)
        finally:
            gc.enable()
            gc.freeze()
            self._is_aside = False
            self._stir()

    async def _until_free(self) -> None:
        while self._is_aside:
            await asyncio.sleep(TICK_S)

    def _follower(self) -> Follower:
        def unreachable(why: str) -> None:
            self.unreachable = why

        return Follower(
            self.config, self.policy.on_failure, self.feed, self.intake, self.conditions,
            aside=self._aside, free=self._until_free, answered=self.note_answer, unreachable=unreachable,
            changed=self._stir,
        )  # fmt: skip

    def note_answer(self) -> None:
        """The registry has answered, whatever it said."""
        self.answered_ns, self.unreachable = self.clock.since_boot_ns(), ""
        if not self._is_aside:
            self.failures.end("registry-unreachable")
        self._stir()  # else it would wake again soon, to find that there was an answer

    async def _tick_for_ever(self) -> None:
        while True:
            self.tick()
            await self._until_due()

    async def _until_due(self) -> None:
        """Until something is to be done by the clock, or may be; a watchful agent comes ten times a second anyhow."""
        if self.config.is_watchful:
            await asyncio.sleep(TICK_S)
            return
        loop = asyncio.get_running_loop()
        while (left_ns := self._due_ns(boot_ns := self.clock.since_boot_ns()) - boot_ns) > 0:
            self._alarm = loop.create_future()
            handle = loop.call_at(loop.time() + left_ns / 1e9, self._stir)
            await self._alarm
            handle.cancel()

    def _stir(self) -> None:
        """Look anew at what is due next."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _due_ns(self, boot_ns: int) -> int:
        """When `tick` will next have something to do, by the clock since boot."""
        failure, lasting = self.policy.on_failure, self.conditions.lasting
        due = [self._slow_ns + self.config.look_ns, self._beat_ns + self._beat_every_ns()]
        if (blocks_ns := self.blocks.due_ns) is not None:
            due.append(blocks_ns)
        if "registry-unreachable" not in lasting:
            due.append(self.answered_ns + failure.registry_unreachable_after_ns + 1)
        ahead_ns = self.clock.now_ns() - boot_ns
        if self.allowlist is not None and not lasting.keys() & {"feed-stale", "registry-unreachable"}:
            due.append(self.intake.issued_ns + failure.feed_stale_after_ns + 1 - ahead_ns)
        if (by_list_ns := self.enforced.due_ns) is not None:
            due.append(by_list_ns - ahead_ns)
        return min(due)

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
            self.failures.begin("registry-unreachable", self.feed.begun or self.unreachable)
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
        if boot_ns - self._slow_ns >= self.config.look_ns:
            self._slow_ns = boot_ns
            self._look_after(boot_ns)

    def _beat(self, boot_ns: int) -> None:
        late_ns = boot_ns - self._beat_ns
        failure = self.policy.on_failure
        after_ns = failure.agent_dead_after_ns
        if late_ns < self._beat_every_ns() or (self._beating and not self._beating.done()):
            return
        self._beat_ns = boot_ns
        notify("WATCHDOG=1")
        if (
            self._is_aside
        ):  # the kernel may be at the list for a second; whoever loads it tells what is broken
            self._beating = asyncio.get_running_loop().run_in_executor(None, self._beat_aside)
            return
        try:
            if failure.agent_dead != "keep":  # else nothing in the kernel asks for it
                self.dataplane.beat()
        except (DataplaneError, OSError) as error:
            self.failures.begin("dataplane-dead", str(error))
        if late_ns > max(after_ns, 2 * self._beat_every_ns()):
            self.failures.begin("agent-dead", f"nothing was done for {late_ns / 1e9:.1f} s")
            self.failures.end("agent-dead")

    def _beat_every_ns(self) -> int:
        # A beat may be late by half of `after` and more on a busy machine.
        quarter_ns = self.policy.on_failure.agent_dead_after_ns // 4
        if self.config.is_watchful:
            return min(_BEAT_NS, quarter_ns)
        # Where the kernel does not ask for it, a beat only tells of an agent that hung.
        return self.config.look_ns if self.policy.on_failure.agent_dead == "keep" else quarter_ns

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
            if not self.config.is_watchful and self.blocks.due_ns is not None:
                self._stir()

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


_COUNTED = ("reports-lost", "conntrack-full")
_FULL_QUEUE = 60_000  # of 65,536 packets: what passes for want of room the kernel does not count


def _ring(key: Ed25519PublicKey, store: Store) -> tuple[KeyRing, str]:
    """The keys trusted from before; and what is wrong with the roll-overs that are kept, if it is."""
    try:
        return KeyRing(key, store.rolls()), ""
    except (FeedError, ValueError) as error:  # such as after another key was put into the configuration
        return KeyRing(key), f"the key roll-overs kept in {store.folder} are not used: {error}"
