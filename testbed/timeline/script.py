"""Carries out the plan's events at their times: people at the portal, lines that change address, tunnels, faults, links."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from itertools import groupby
from typing import Any

from testbed.plan.plan import Event, Tunnel
from testbed.plan.script_actions import PORTAL
from testbed.records import EventRecord
from testbed.timeline.http_inside import HttpFailed
from testbed.timeline.stage import Stage
from testbed.timeline.tunnels import TunnelRunner

# What follows from an act never comes sooner after it than planned; this is for two clocks read one after the other.
_EARLY_NS = 50_000_000


class Script:
    """The events of one run. `problems` lists the ones that could not be carried out, in words for the user."""

    def __init__(self, stage: Stage, event: Callable[[EventRecord], None], t0_ns: int) -> None:
        self._stage = stage
        self._event = event
        self._t0_ns = t0_ns
        self._tunnels = TunnelRunner(event, t0_ns)
        # What happens to one registration happens in order, also where an answer takes longer than the time to the next event.
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.problems: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Until the last event is done or stop is set; faults still active are healed either way."""
        plan = self._stage.plan
        jobs: list[tuple[int, Coroutine[Any, Any, None]]] = []
        for tunnel in plan.tunnels:
            jobs.append((tunnel.start_ns, self._begin_tunnel(tunnel)))
            if tunnel.stop_ns < plan.duration_ns:
                jobs.append((tunnel.stop_ns, self._end_tunnel(tunnel)))
        for at_ns, events in groupby(plan.events, key=lambda event: event.at_ns):
            jobs.append((at_ns, self._carry_out_all(list(events))))
        for event in plan.events:
            if event.action == "fault":
                jobs.append((int(event.args["until_ns"]), self._heal(event)))
        tasks = [
            asyncio.create_task(self._at(when_ns, job))
            for when_ns, job in sorted(jobs, key=lambda job: job[0])
        ]
        stopped = asyncio.create_task(stop.wait())
        everything: asyncio.Future[Any] = asyncio.gather(*tasks)
        try:
            await asyncio.wait({everything, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                everything.result()
        finally:
            stopped.cancel()
            everything.cancel()
            await asyncio.gather(everything, return_exceptions=True)
            await self.heal_all()

    async def close(self) -> None:
        await self._tunnels.close()

    async def heal_all(self) -> None:
        for event in self._stage.plan.events:
            if event.action == "fault":
                await self._heal(event)

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._t0_ns

    async def _at(self, when_ns: int, job: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.sleep(max(0.0, (when_ns - self.now_ns()) / 1e9))
        except asyncio.CancelledError:
            job.close()
            raise
        await job

    async def _begin_tunnel(self, tunnel: Tunnel) -> None:
        self._tunnels.begin(tunnel, self._stage.clients[tunnel.name])

    async def _end_tunnel(self, tunnel: Tunnel) -> None:
        self._tunnels.end(tunnel, self._stage.clients[tunnel.name])

    async def _carry_out_all(self, events: list[Event]) -> None:
        """Events of one moment, in the order they are written, so that registrations get the same numbers in each run."""
        for event in events:
            async with self._turns[event.args.get("registration", event.name)]:
                await self._carry_out(event)

    async def _carry_out(self, event: Event) -> None:
        if event.args.get("by") != "registry":
            data = {"action": event.action, **event.args, "planned_ns": event.at_ns}
            self._event(EventRecord(self.now_ns(), "script", event.name, data))
        try:
            await self._do(event)
        except (OSError, HttpFailed, RuntimeError, ValueError) as error:
            self.problems.append(f"line {event.line}: {event.action}: {error}")
            self._event(
                EventRecord(self.now_ns(), "error", event.name, {"action": event.action, "text": str(error)})
            )

    async def _do(self, event: Event) -> None:
        stage, args = self._stage, event.args
        if args.get("by") == "registry":
            since_ns = self._t0_ns + event.at_ns - _EARLY_NS
            for record in await asyncio.to_thread(
                stage.registrar.wait_for, event.action, args["registration"], since_ns
            ):
                self._ledger(record)
        elif event.action == "change-address-form":
            prefixes = stage.prefixes_now(args["registration"])
            for record in await asyncio.to_thread(
                stage.registrar.change_address, args["registration"], prefixes
            ):
                self._ledger(record)
        elif event.action in PORTAL:
            for record in await asyncio.to_thread(stage.registrar.act, event.action, args["registration"]):
                self._ledger(record)
        elif event.action == "change-address":
            public4, public6 = await asyncio.to_thread(stage.change_address, args["subscriber"])
            data = {"subscriber": args["subscriber"], "public4": public4, "public6": public6}
            self._event(EventRecord(self.now_ns(), "address", args["subscriber"], data))
        elif event.action in ("connect", "disconnect"):
            tunnel = next(each for each in stage.plan.tunnels if each.name == args["tunnel"])
            await (self._begin_tunnel(tunnel) if event.action == "connect" else self._end_tunnel(tunnel))
        elif event.action == "fault":
            begun_ns = self.now_ns()  # the first packet is hit somewhere within the call
            await asyncio.to_thread(stage.begin_fault, event.name, args)
            self._fault(event, "begun", begun_ns)
        elif event.action == "set-link":
            changes = {key: value for key, value in args.items() if key != "link"}
            await asyncio.to_thread(stage.links.change, args["link"], **changes)
        else:
            raise ValueError(f"no such action: {event.action}")

    async def _heal(self, event: Event) -> None:
        if not self._stage.is_fault_active(event.name):
            return
        try:
            await asyncio.to_thread(self._stage.end_fault, event.name)
        except (OSError, RuntimeError, ValueError) as error:
            self.problems.append(f"line {event.line}: fault could not be healed: {error}")
            self._event(
                EventRecord(self.now_ns(), "error", event.name, {"action": "heal", "text": str(error)})
            )
            return
        self._fault(event, "healed", self.now_ns())

    def _fault(self, event: Event, state: str, at_ns: int) -> None:
        data = {"kind": event.args["kind"], "at": list(event.args["at"]), "state": state}
        self._event(EventRecord(at_ns, "fault", event.name, data))

    def _ledger(self, record: dict[str, Any]) -> None:
        """A state change, at the ledger's own time rather than when its answer came back."""
        at_ns = record.pop("monotonic_ns") - self._t0_ns
        self._event(EventRecord(at_ns, "ledger", record["registration"], record))
