"""The script of a run: what happens when, and what is written down, with a stage that only notes what it is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from testbed.plan.plan import Event, Tunnel
from testbed.records import EventRecord
from testbed.timeline.http_inside import HttpFailed
from testbed.timeline.script import Script
from tests.small_plan import small_plan

MS = 1_000_000


class Registrar:
    def __init__(self, told: list[Any]) -> None:
        self._told = told

    def act(self, action: str, registration: str) -> list[dict[str, Any]]:
        self._told.append((action, registration))
        if action == "approve":
            raise HttpFailed(409, "the ISP has not answered yet")
        return [
            {
                "registration": registration,
                "state": "pending",
                "serial": 0,
                "monotonic_ns": time.monotonic_ns(),
            }
        ]

    def wait_for(self, action: str, registration: str, since_ns: int) -> list[dict[str, Any]]:
        self._told.append(("waited", action, registration))
        if action == "expire":
            raise TimeoutError("the registry should have come to 'expire'")
        return [
            {"registration": registration, "state": None, "serial": 0, "monotonic_ns": time.monotonic_ns()}
        ]


@dataclass
class Stage:
    plan: Any
    told: list[Any] = field(default_factory=list)
    clients: dict[str, Any] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)

    @property
    def registrar(self) -> Registrar:
        return Registrar(self.told)

    def begin_fault(self, name: str, args: dict[str, Any]) -> None:
        self.told.append(("begin", name))
        self.faults.add(name)

    def end_fault(self, name: str) -> None:
        self.told.append(("end", name))
        self.faults.discard(name)

    def is_fault_active(self, name: str) -> bool:
        return name in self.faults


def event(name: str, at_ms: int, action: str, **args: Any) -> Event:
    return Event(name, at_ms * MS, action, args, line=at_ms)


def run(
    *events: Event, stop_after_s: float | None = None, tunnels: tuple[Tunnel, ...] = (), clients=None
) -> tuple[Stage, Script, list[EventRecord]]:
    stage = Stage(small_plan(events=events, tunnels=tunnels), clients=clients or {})
    records: list[EventRecord] = []

    async def main() -> Script:
        stop = asyncio.Event()
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        script = Script(stage, records.append, time.monotonic_ns())  # type: ignore[arg-type]
        await script.run(stop)
        await script.close()
        return script

    return stage, asyncio.run(main()), records


def test_events_of_one_moment_happen_in_the_order_they_are_written():
    people = ("alice/a", "bob/b", "carol/c")

    stage, script, records = run(*(event(name, 10, "apply", registration=name) for name in people))

    assert stage.told == [("apply", name) for name in people]
    assert [record.name for record in records if record.kind == "ledger"] == list(people)
    assert script.problems == []


def test_nothing_happens_before_its_time():
    _, _, records = run(event("late", 120, "apply", registration="alice/a"))

    script = next(record for record in records if record.kind == "script")
    assert script.t_ns >= 120 * MS
    assert script.data["planned_ns"] == 120 * MS


def test_what_the_portal_refuses_is_a_problem_with_its_line_and_the_rest_goes_on():
    stage, script, records = run(
        event("no", 5, "approve", registration="alice/a"), event("yes", 30, "apply", registration="bob/b")
    )

    assert script.problems == ["line 5: approve: HTTP 409: the ISP has not answered yet"]
    assert [record.data["text"] for record in records if record.kind == "error"] == [
        "HTTP 409: the ISP has not answered yet"
    ]
    assert ("apply", "bob/b") in stage.told


def test_a_fault_begins_and_ends_at_its_times():
    stage, _, records = run(
        event("glitch", 10, "fault", kind="allowlist-ignored", at=["gw"], until_ns=60 * MS)
    )

    assert stage.told == [("begin", "glitch"), ("end", "glitch")]
    assert [record.data["state"] for record in records if record.kind == "fault"] == ["begun", "healed"]
    assert [
        record.t_ns >= due * MS
        for record, due in zip([r for r in records if r.kind == "fault"], (10, 60), strict=True)
    ] == [True, True]


def test_a_fault_is_healed_when_the_run_is_stopped_in_its_middle():
    stage, _, records = run(
        event("glitch", 10, "fault", kind="allowlist-ignored", at=["gw"], until_ns=60_000 * MS),
        stop_after_s=0.15,
    )

    assert stage.told == [("begin", "glitch"), ("end", "glitch")]
    assert records[-1].data["state"] == "healed"


def test_stopping_leaves_out_what_has_not_begun():
    stage, _, records = run(event("never", 60_000, "apply", registration="alice/a"), stop_after_s=0.05)

    assert stage.told == []
    assert records == []


def test_tunnels_start_and_stop_at_their_times():
    class Client:
        def start(self) -> None: ...

        async def up(self, timeout_s: float) -> float:
            return 0.0

        def stop(self) -> None: ...

    tunnel = Tunnel("t", "alice", "fra-wireguard", 4, "10.99.1.2", 10 * MS, 80 * MS)
    # Something to do after the tunnel's end, for the script ends with its last event.
    _, _, records = run(
        event("later", 120, "apply", registration="a"), tunnels=(tunnel,), clients={"t": Client()}
    )

    assert [(record.data["state"]) for record in records if record.kind == "tunnel"] == [
        "starting",
        "up",
        "down",
    ]


def test_what_the_registry_does_by_itself_is_waited_for_and_not_done():
    by = {"registration": "alice/fra", "by": "registry"}
    stage, script, records = run(event("r", 10, "remind", **by), event("e", 20, "expire", **by))

    assert stage.told == [("waited", "remind", "alice/fra"), ("waited", "expire", "alice/fra")]
    assert [record.kind for record in records] == ["ledger", "error"]  # nobody's act is written down
    assert script.problems == ["line 20: expire: the registry should have come to 'expire'"]


def test_acts_of_a_desk_are_acts_at_the_portal_and_say_whose():
    stage, _, records = run(event("v", 10, "verify", registration="alice/fra", by="provider"))

    assert stage.told == [("verify", "alice/fra")]
    assert [(record.kind, record.data.get("by")) for record in records] == [
        ("script", "provider"),
        ("ledger", None),
    ]
