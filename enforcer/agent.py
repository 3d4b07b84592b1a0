"""The daemon: follows the feed, keeps the dataplane equal to it, and does what the policy says when something breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.allowlist import Allowlist
from enforcer.audit import Audit, Blocks
from enforcer.config import Config
from enforcer.dataplanes import Dataplane, DataplaneError
from enforcer.enforced import Enforced
from enforcer.failures import Failures, condition_of
from enforcer.follow import Feed, SerialUnknown, Unreachable
from enforcer.intake import Intake
from enforcer.knowledge import Knowledge
from enforcer.policy import Policy
from enforcer.store import Store

TICK_S = 0.1
_SLOW_NS = 1_000_000_000
_COUNTERS_NS = 10_000_000_000
_LONGEST_WAIT_S = 10.0


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
        self._audit, self._clock_ns = audit, clock_ns
        self._feed = Feed(config.feed_url)
        knowledge = Knowledge(policy.match)
        kind = "would-block" if policy.mode == "observe" or policy.action == "observe" else "block"
        self._blocks = Blocks(audit, kind, knowledge.about)
        self._enforced = Enforced(policy, dataplane, knowledge)
        self._failures = Failures(policy, audit, dataplane)
        self._intake = Intake(
            policy, key, self._failures, self._enforced, Store(config.state), audit, clock_ns
        )
        self.take, self.conditions = self._intake.take, self._failures.conditions
        self._started_ns = self._answered_ns = clock_ns()
        self._slow_ns = self._counted_ns = 0
        self._counted: dict[str, Any] = {}
        self._ending = asyncio.Event()

    @property
    def allowlist(self) -> Allowlist | None:
        """What is in force; None when there never was any."""
        return self._intake.allowlist

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
        self._intake.load_kept()
        self.dataplane.beat()

    def reload(self, why: str = "asked") -> None:
        """Load the whole list into the dataplane again."""
        try:
            self._intake.reload(why)
        except DataplaneError as error:
            self._failures.begin(condition_of(error), str(error))

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
            "issued_age_s": round((now_ns - self._intake.issued_ns) / 1e9, 1)
            if self._intake.issued_ns
            else None,
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
                if self._intake.wants_snapshot or self.allowlist is None:
                    message = await self._feed.snapshot()
                else:
                    message = await self._feed.delta(self.allowlist.serial, wait_s)
            except Unreachable:
                await asyncio.sleep(self.config.poll_ns / 1e9)
                continue
            except SerialUnknown:
                self._answered()
                self._intake.wants_snapshot = True
                continue
            self._answered()
            if message is None:
                self._intake.wants_snapshot = self._intake.is_old()
            elif not self.take(message):
                await asyncio.sleep(self.config.poll_ns / 1e9)

    async def _tick_for_ever(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        now_ns = self._clock_ns()
        failure = self.policy.on_failure
        if now_ns - self._answered_ns > failure.registry_unreachable_after_ns:
            self._failures.begin("registry-unreachable")
        if (
            self.allowlist is not None
            and "registry-unreachable" not in self.conditions.lasting
            and now_ns - self._intake.issued_ns > failure.feed_stale_after_ns
        ):
            self._failures.begin("feed-stale", f"issued {(now_ns - self._intake.issued_ns) / 1e9:.0f} s ago")
        self._intake.validity(now_ns)
        self._enforced.end_finishing(now_ns)
        self._blocks.flush(now_ns)
        if now_ns - self._slow_ns >= _SLOW_NS:
            self._slow_ns = now_ns
            self._look_after(now_ns)

    def _look_after(self, now_ns: int) -> None:
        try:
            if not self.dataplane.is_alive():
                self._failures.begin("dataplane-dead", "its rules are gone")
            if "dataplane-dead" in self.conditions.lasting:
                self._intake.reload("dataplane-dead")
            self.dataplane.beat()
            self._enforced.sweep()
            if now_ns - self._counted_ns >= _COUNTERS_NS:
                self._counted_ns = now_ns
                self._write_counters()
        except (DataplaneError, OSError) as error:
            self._failures.begin("dataplane-dead", str(error))

    def _read_stops(self) -> None:
        now_ns = self._clock_ns()
        for stop in self.dataplane.events():
            self._blocks.note(stop, now_ns)

    def _answered(self) -> None:
        self._answered_ns = self._clock_ns()
        self._failures.end("registry-unreachable")

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
