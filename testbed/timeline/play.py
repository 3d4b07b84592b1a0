"""Plays one plan inside the world: build, measure, play, take down; what was measured stays on disk whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from enforcer.thrifty import run
from testbed.lab.links import HolderDied
from testbed.lab.witness import WitnessDied
from testbed.plan.plan import Plan
from testbed.plan.store import read_plan
from testbed.records import EventRecord
from testbed.timeline.health import CpuTimes, noise_reasons
from testbed.timeline.progress import Progress
from testbed.timeline.recorder import Recorder
from testbed.timeline.script import Script
from testbed.timeline.stage import Broken, Stage, StageOptions
from testbed.traffic.driver import Driver, DriverHealth

# Between "everything is ready" and the first attempt: time for every schedule to be on the ticker.
_LEAD_NS = 300_000_000
# After the last attempt: time for the last records of enforcers and witnesses (their buckets are 200 ms).
_SETTLE_S = 0.5


@dataclass(slots=True)
class Played:
    """How playing ended: exit_code 0 played, 3 broken, 130 interrupted; reason and details for people."""

    exit_code: int
    reason: str = ""
    details: list[str] = field(default_factory=list)


def play(run_dir: Path, options: StageOptions, is_stop_asked: Callable[[], bool] = lambda: False) -> Played:
    """Read plan.json in run_dir, play it, write the records beside it. Never raises for what a user can cause.

    SIGINT and SIGTERM end it; is_stop_asked says whether one came before this call.
    """
    progress = Progress()
    plan = read_plan(run_dir / "plan.json")
    playing = _play(plan, run_dir, options, progress, is_stop_asked)
    played = run(playing, is_thrifty=plan.clock == "virtual")
    _write_json(run_dir / "phases.json", progress.durations_s())
    if played.exit_code:
        _write_json(run_dir / "broken.json", {"reason": played.reason, "details": played.details})
    return played


async def _play(
    plan: Plan, run_dir: Path, options: StageOptions, progress: Progress, is_stop_asked: Callable[[], bool]
) -> Played:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if is_stop_asked():
        return Played(130, "interrupted before the lab was built")
    recorder = Recorder(run_dir)
    failures: list[str] = []

    def note_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours failed: attempts may be missing, so the run must not be called good."""
        error = context.get("exception")
        failures.append(f"{context['message']}: {error!r}")
        _loop.default_exception_handler(context)
        stop.set()

    loop.set_exception_handler(note_failure)
    try:
        with Stage(plan, run_dir, options, progress) as stage:
            preparing = asyncio.create_task(stage.prepare())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
                return Played(130, "interrupted while the lab was being built")
            stopping.cancel()
            await preparing
            played = await _run(stage, recorder, progress, stop)
            if failures:
                return Played(3, "the test-bed itself failed; see logs/inside.log", failures)
            return played
    except Broken as error:
        return Played(3, str(error), error.details)
    except (OSError, HolderDied, WitnessDied) as error:
        return Played(3, _reason(error))
    finally:
        with contextlib.suppress(OSError):
            recorder.close()


def _reason(error: BaseException) -> str:
    """What went wrong first: a full disk ends the witness too, whose end is then what is raised last."""
    first = error
    while first.__context__ is not None:
        first = first.__context__
    if isinstance(first, OSError):
        where = f": {first.filename}" if first.filename else ""
        return f"{first.strerror or first}{where}; free some disk or memory and run again"
    return str(error)


async def _run(stage: Stage, recorder: Recorder, progress: Progress, stop: asyncio.Event) -> Played:
    plan = stage.plan
    t0_ns = time.monotonic_ns() + _lead_ns(plan)
    period_s = _chore_period_s(plan)
    stage.witnesses.set_start(t0_ns)
    realtime_ns = time.time_ns() + t0_ns - time.monotonic_ns()
    recorder.event(EventRecord(0, "clock", "start", {"realtime_ns": realtime_ns, "monotonic_ns": t0_ns}))
    for record in stage.seeded_ledger(t0_ns):
        recorder.event(record)
    script = Script(stage, recorder.event, t0_ns)
    driver = Driver(
        streams=plan.streams,
        hosts=stage.hosts,
        targets=stage.targets,
        tunnels=stage.tunnel_ends,
        handshakes=stage.handshakes,
        https=stage.https,
        sink=recorder,
    )
    cpu = CpuTimes.now()
    chores = [asyncio.create_task(_each(period_s, lambda: _chores(stage, recorder, progress, script, t0_ns)))]
    bulk = asyncio.create_task(stage.run_bulk(t0_ns, recorder.event, stop))
    scripting = asyncio.create_task(script.run(stop))
    watching = asyncio.create_task(_watch(stage, stop, 2 * period_s))
    health = await driver.run(t0_ns, stop)
    await asyncio.gather(bulk, scripting)
    was_interrupted = stop.is_set() and not watching.done()
    died = watching.result() if watching.done() else []
    watching.cancel()
    if not stop.is_set():
        await _until_end(plan, t0_ns, stop)
    await asyncio.sleep(_SETTLE_S)
    progress.say("stop", "taking the lab down")
    for chore in chores:
        chore.cancel()
    _take_audit(stage, recorder, t0_ns)
    recorder.event(_health_event(script.now_ns(), health, cpu, stage))
    await script.close()
    await asyncio.to_thread(stage.witnesses.stop)
    recorder.flush()
    if died:
        return Played(3, died[0], died[1:])
    if was_interrupted:
        return Played(130, f"interrupted {script.now_ns() / 1e9:.0f} s into the scenario")
    if script.problems:
        return Played(
            3, f"{len(script.problems)} event(s) of the script could not be carried out", script.problems
        )
    return Played(0)


def _lead_ns(plan: Plan) -> int:
    """From now to time 0. In virtual time that is the scenario's start by the clock, so records say its real times."""
    if plan.clock != "virtual":
        return _LEAD_NS
    left_ns = round(datetime.fromisoformat(plan.starts_at).timestamp()) * 10**9 - time.time_ns()
    if left_ns < _LEAD_NS:
        raise Broken(f"the lab was ready {-left_ns / 1e9:.1f} s of virtual time after the scenario's start")
    return left_ns


def _chore_period_s(plan: Plan) -> float:
    """Twice a second; in virtual time a waking costs real time, so it is some hundreds a run."""
    return 0.5 if plan.clock == "real" else max(0.5, plan.duration_ns / 1e9 / 400)


async def _until_end(plan: Plan, t0_ns: int, stop: asyncio.Event) -> None:
    left_s = (t0_ns + plan.duration_ns - time.monotonic_ns()) / 1e9
    if left_s > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), left_s)


async def _watch(stage: Stage, stop: asyncio.Event, period_s: float) -> list[str]:
    """Ends the run when a part of the lab has died that nobody meant to end."""
    while True:
        await asyncio.sleep(period_s)
        died = await asyncio.to_thread(stage.died)
        if died:
            stop.set()
            return died


async def _each(period_s: float, chore: Any) -> None:
    while True:
        await asyncio.sleep(period_s)
        chore()


def _chores(stage: Stage, recorder: Recorder, progress: Progress, script: Script, t0_ns: int) -> None:
    _take_audit(stage, recorder, t0_ns)
    recorder.flush()
    at_s = max(0.0, script.now_ns() / 1e9)
    progress.say("play", stage.plan.scenario, at_s, stage.plan.duration_ns / 1e9)


def _take_audit(stage: Stage, recorder: Recorder, t0_ns: int) -> None:
    if stage.enforcers is None:
        return
    for node in stage.enforcers.running:
        for record in stage.enforcers.new_audit(node, t0_ns):
            recorder.audit(record)
            if record.kind == "applied":
                recorder.event(
                    EventRecord(
                        record.t_ns, "applied", node, {"enforcer": node, "serial": record.data.get("serial")}
                    )
                )


def _health_event(now_ns: int, health: DriverHealth, cpu: CpuTimes, stage: Stage) -> EventRecord:
    idle_ratio, steal_ratio = CpuTimes.now().shares_since(cpu)
    reasons = noise_reasons(lag_p99_ns=health.lag_p99_ns, idle_ratio=idle_ratio, steal_ratio=steal_ratio)
    data = {
        **asdict(health),
        "cpu_idle_ratio": round(idle_ratio, 4),
        "cpu_steal_ratio": round(steal_ratio, 4),
        "links": stage.links.counters(),
        "witness_lost": stage.witnesses.lost(),
        "is_noisy": bool(reasons),
        "noise": reasons,
        # In virtual time the pages differ with how many names the host's folders have, and nothing else of a run may.
        "memory_bytes": _resident_bytes() if stage.plan.clock == "real" else 0,
    }
    return EventRecord(now_ns, "health", "run", data)


def _resident_bytes() -> int:
    """Proportional memory of every process in this world (PID namespace), from /proc/PID/smaps_rollup."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            rollup = (entry / "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += next(
            (int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0
        )
    return total


def _write_json(path: Path, value: Any) -> None:
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
