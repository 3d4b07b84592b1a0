"""Everything a plan plays on, brought up in order and measured before use: lab, links, routing, servers, registry, enforcers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from testbed import faults
from testbed.lab.bird import is_settled
from testbed.lab.build import Lab, build
from testbed.lab.calibrate import CalibrationFailed, calibrate
from testbed.lab.calibrate_ends import ProbeFailed
from testbed.lab.capture import capturing
from testbed.lab.links import Backend, HolderDied, Links, LinksUnavailable
from testbed.lab.nat import start_nat
from testbed.lab.ready import NotReady, wait_ready
from testbed.lab.routing import start_routing
from testbed.lab.services import start_services
from testbed.lab.services_https import https_request, is_https_complete
from testbed.lab.vpn import VpnClient, VpnFailed, VpnServers, VpnUnavailable
from testbed.lab.witness import WitnessDied, Witnesses
from testbed.plan.plan import Bulk, Plan
from testbed.records import FILES, EventRecord
from testbed.timeline.enforcers import EnforcerFailed, Enforcers
from testbed.timeline.progress import Progress, counted
from testbed.timeline.registrar import Registrar, RegistryFailed
from testbed.traffic.attempt import Host, Target
from testbed.traffic.bulk import run_bulk
from testbed.traffic.driver import TunnelEnd
from testbed.traffic.handshake_streams import handshake_streams

_ENFORCER_DEADLINE_S = 15.0
_ECHO_PORT = 7


class Broken(Exception):
    """The run cannot give honest figures: why, and the details line by line."""

    def __init__(self, reason: str, details: list[str] | None = None) -> None:
        super().__init__(reason)
        self.details = details or []


@dataclass(frozen=True, slots=True)
class StageOptions:
    """links: backend wanted. enforcer_command: the program under test instead of this project's. captures: NODE[:PORT].

    calibration_must_hold: a link out of tolerance breaks the stage; if not, Stage.calibration_misses tells of it.
    """

    links: Literal["auto"] | Backend = "auto"
    enforcer_command: tuple[str, ...] | None = None
    captures: tuple[str, ...] = ()
    calibration_must_hold: bool = True


class Stage:
    """A context manager; prepare() brings it up, leaving it takes everything down. All attributes exist after prepare()."""

    def __init__(self, plan: Plan, run_dir: Path, options: StageOptions, progress: Progress) -> None:
        self.plan, self.run_dir, self._options, self._progress = plan, run_dir, options, progress
        self._cleanup = contextlib.ExitStack()
        self._faults: dict[str, Any] = {}
        self._changed_address: dict[str, int] = {}
        self.enforcers: Enforcers | None = None
        self._registrar: Registrar | None = None
        self.calibration_misses: list[str] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    async def prepare(self) -> None:
        """Raises Broken, naming what did not come up or what was measured out of tolerance."""
        try:
            await self._prepare()
        except (
            NotReady,
            LinksUnavailable,
            HolderDied,
            ProbeFailed,
            WitnessDied,
            RegistryFailed,
            EnforcerFailed,
            VpnFailed,
            VpnUnavailable,
            FileNotFoundError,
        ) as error:
            raise Broken(*_split(str(error))) from error

    async def _prepare(self) -> None:
        plan, say = self.plan, self._progress.say
        say("build", f"{counted(len(plan.nodes), 'node')}, {counted(len(plan.links), 'link')}")
        log_dir = self.run_dir / "logs"
        log_dir.mkdir(exist_ok=True)
        self.lab: Lab = self._cleanup.enter_context(build(plan, log_dir))
        if self._options.captures:
            captures = capturing(self.lab, self._options.captures, self.run_dir / "captures")
            self._cleanup.enter_context(captures)
        self.links = Links(self.lab, backend=self._options.links)
        self._cleanup.callback(self.links.close)
        await asyncio.to_thread(self.links.start)
        start_nat(self.lab)
        say("routing", "BGP and reachability")
        routing = start_routing(self.lab)
        self._cleanup.callback(routing.close)
        registry = asyncio.create_task(asyncio.to_thread(self._start_registry)) if plan.authority else None
        await asyncio.to_thread(wait_ready, self.lab, routing)
        if is_settled(plan):
            routing.rest()
        serial = await registry if registry is not None else 0
        if plan.policy is not None and plan.enforcers:
            self._start_enforcers(plan.policy)  # they take a second to start; the servers come up meanwhile
        say(
            "services",
            f"{counted(len(plan.services), 'service')}, {counted(len(plan.servers), 'VPN server')}",
        )
        self.services = await asyncio.to_thread(start_services, self.lab)
        self._cleanup.callback(self.services.close)
        await self._start_vpn()
        self.witnesses = Witnesses(self.lab, self.run_dir / FILES["witness"])
        self._cleanup.callback(self.witnesses.stop)
        await asyncio.to_thread(self.witnesses.start)
        if self.enforcers is not None:
            say("enforcers", f"{counted(len(plan.enforcers), 'enforcer')}, allowlist serial {serial}")
            await self.enforcers.wait_applied(serial, _ENFORCER_DEADLINE_S)
        say("calibrate", "measuring each shaped link")
        await self._calibrate()
        self._name_ends()

    async def _calibrate(self) -> None:
        """Raises Broken for a link out of tolerance, unless the options say that it need not hold."""
        try:
            rows = await asyncio.to_thread(calibrate, self.lab, self.links)
        except CalibrationFailed as error:
            rows = error.rows
            first, *self.calibration_misses = str(error).splitlines()
            if self._options.calibration_must_hold:
                if any(row.is_within for row in rows):
                    first += "; the others are within it, so the machine was probably busy: try again when it is idle"
                raise Broken(
                    f"links are not what the plan asks for: {first}", self.calibration_misses
                ) from error
        self._write("calibration.json", [asdict(row) for row in rows])

    def _start_registry(self) -> int:
        self._registrar = Registrar(self.lab, self.plan, self.run_dir / "ledger.sqlite")
        self._cleanup.callback(self._registrar.stop)
        return self._registrar.start()

    async def _start_vpn(self) -> None:
        self.servers = VpnServers(self.lab)
        self._cleanup.callback(self.servers.close)
        await asyncio.to_thread(self.servers.start)
        for node, address in self.servers.echo_endpoints():
            await asyncio.to_thread(self.services.add_echo, node, address)
        self.clients: dict[str, VpnClient] = {
            tunnel.name: self.servers.client(tunnel) for tunnel in self.plan.tunnels
        }

    def _start_enforcers(self, policy: dict[str, Any]) -> None:
        path = self._write("policy.json", policy)
        registrar = self.registrar
        enforcers = Enforcers(self.lab, self.plan, registrar.feed_url, registrar.key_file, path)
        if self._options.enforcer_command is not None:
            enforcers.command = list(self._options.enforcer_command)
        self.enforcers = enforcers
        self._cleanup.callback(enforcers.stop)
        enforcers.start()

    def _name_ends(self) -> None:
        plan = self.plan
        self.hosts = {
            each.name: Host(
                each.name,
                self._inside(each.node),
                each.public4,
                each.public6,
                each.port_first,
                each.port_last,
            )
            for each in plan.subscribers
        }
        self.targets: dict[tuple[str, int], Target] = {}
        for end in (*plan.services, *plan.servers):
            zone = getattr(end, "zone", None)
            self.targets[end.name, 4] = Target(end.name, end.address4, end.port, zone)
            if end.address6 is not None:
                self.targets[end.name, 6] = Target(end.name, end.address6, end.port, zone)
        echo = {server.name: server.inner_server4 for server in plan.servers}
        self.tunnel_ends = {
            tunnel.name: TunnelEnd(echo[tunnel.server], _ECHO_PORT, self.clients[tunnel.name].outer_flow)
            for tunnel in plan.tunnels
        }
        self.handshakes = handshake_streams(plan, self.services.handshake_keys)
        self.https = https_request, is_https_complete

    @property
    def registrar(self) -> Registrar:
        if self._registrar is None:
            raise RuntimeError("the topology has no authority; give it one to register anybody")
        return self._registrar

    def seeded_ledger(self, t0_ns: int) -> Iterator[EventRecord]:
        """The ledger as the scenario finds it, as records before time 0."""
        if self._registrar is None:
            return
        for record in self._registrar.history():
            at_ns = min(record.pop("monotonic_ns") - t0_ns, -1)
            yield EventRecord(at_ns, "ledger", record["registration"], record)

    def change_address(self, subscriber: str) -> tuple[str, str | None]:
        """Give a dynamic line its next spare address. Raises ValueError when it has none left."""
        line = next(each for each in self.plan.subscribers if each.name == subscriber)
        used = self._changed_address.get(subscriber, 0)
        if used >= len(line.spare4):
            raise ValueError(f"{subscriber} has no spare address left ({len(line.spare4)} in the plan)")
        self._changed_address[subscriber] = used + 1
        new6 = line.spare6[used] if used < len(line.spare6) else None
        self.lab.change_address(subscriber, line.spare4[used], new6)
        host = self.hosts[subscriber]
        host.public4 = line.spare4[used].split("/")[0]
        host.public6 = new6.split("/")[0] if new6 else host.public6
        return host.public4, host.public6

    def prefixes_now(self, registration: str) -> list[str]:
        """The addresses a registrant's line has at this moment, as they are written on the form."""
        wanted = next(each for each in self.plan.registrations if each.name == registration)
        host = self.hosts[wanted.subscriber]
        return [f"{host.public4}/32", *([f"{host.public6}/128"] if host.public6 else [])]

    def begin_fault(self, name: str, args: dict[str, Any]) -> None:
        """Raises ValueError for an unknown kind, RuntimeError or OSError when it cannot be made."""
        self._faults[name] = faults.begin(self, args)

    def end_fault(self, name: str) -> None:
        self._faults.pop(name).end()

    def is_fault_active(self, name: str) -> bool:
        return name in self._faults

    async def run_bulk(self, t0_ns: int, event: Callable[[EventRecord], None], stop: asyncio.Event) -> None:
        """The plan's iperf3 phases at their times; each one's figures become an event, also when they are a failure."""

        async def one(bulk: Bulk) -> None:
            await asyncio.sleep(max(0.0, (t0_ns + bulk.start_ns - time.monotonic_ns()) / 1e9))
            figures = await asyncio.to_thread(run_bulk, self.lab, bulk)
            event(EventRecord(time.monotonic_ns() - t0_ns, "bulk", bulk.name, figures))

        if not self.plan.bulk:
            return
        phases: asyncio.Future[Any] = asyncio.gather(*(one(bulk) for bulk in self.plan.bulk))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({phases, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if phases.done():
                phases.result()
        except ValueError as error:
            raise Broken(str(error)) from error
        finally:
            stopped.cancel()
            phases.cancel()
            await asyncio.gather(phases, return_exceptions=True)

    def died(self) -> list[str]:
        """What has ended on its own since the start, one sentence each."""
        died = [
            *self.links.health(),
            *self.witnesses.health(),
            *self.services.health(),
            *self.servers.health(),
        ]
        if self.enforcers is not None:
            died += [
                f"the enforcer on {node} died; see logs/enforcer-{node}.log" for node in self.enforcers.dead()
            ]
        return died

    def _inside(self, node: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
        return lambda: self.lab.inside(node)

    def _write(self, name: str, value: Any) -> Path:
        path = self.run_dir / name
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return path


def _split(text: str) -> tuple[str, list[str]]:
    first, *rest = text.splitlines() or ["the lab did not come up"]
    return first, rest
