"""The parts of the timeline that need no lab: records on disk, exact timing, progress, health, an enforcer's audit."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from testbed.plan.plan import EnforcerPlacement, Tunnel
from testbed.records import EventRecord, ProbeRecord
from testbed.timeline.enforcers import EnforcerFailed, Enforcers
from testbed.timeline.health import LAG_LIMIT_NS, noise_reasons
from testbed.timeline.progress import Progress
from testbed.timeline.recorder import Recorder
from testbed.timeline.tunnels import TunnelRunner
from testbed.traffic.ticker import Ticker
from tests.small_plan import small_plan

ROOT = Path(__file__).parent.parent


def test_records_are_readable_after_the_writer_is_killed(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from testbed.timeline.recorder import Recorder; from testbed.records import *\n"
        f"r = Recorder(Path({str(tmp_path)!r}))\n"
        "r.event(EventRecord(1, 'script', 'a')); r.probe(ProbeRecord('f#0', 0, 0, 0, 5)); r.flush()\n"
        "r.probe(ProbeRecord('f#1', 0, 0, 0, 5)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert json.loads((tmp_path / "events.jsonl").read_text())["name"] == "a"
    text = zlib.decompressobj(31).decompress((tmp_path / "probes.jsonl.gz").read_bytes()).decode()
    assert [json.loads(line)["flow"] for line in text.splitlines()] == ["f#0"]


def test_a_closed_record_file_is_ordinary_gzip(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.probe(ProbeRecord("f#0", 0, 0, 0, None))
    recorder.close()

    with gzip.open(tmp_path / "probes.jsonl.gz", "rt") as file:
        assert [json.loads(line) for line in file] == [
            {"flow": "f#0", "sequence": 0, "scheduled_ns": 0, "lag_ns": 0, "rtt_ns": None}
        ]


def test_the_ticker_runs_jobs_in_order_of_their_times_and_not_before():
    ran: list[tuple[str, int]] = []

    async def main() -> None:
        ticker = Ticker(asyncio.get_running_loop())
        start = time.monotonic_ns()
        for name, after_ms in (("c", 30), ("a", 5), ("b", 10)):
            due = start + after_ms * 1_000_000
            ticker.at(due, lambda name=name, due=due: ran.append((name, time.monotonic_ns() - due)))
        done = asyncio.Event()
        ticker.at(start + 40_000_000, done.set)
        await asyncio.wait_for(done.wait(), 10)
        ticker.close()
        ticker.close()

    asyncio.run(main())

    assert [name for name, _ in ran] == ["a", "b", "c"]
    assert all(late_ns >= 0 for _, late_ns in ran)


def test_a_job_may_schedule_an_earlier_one_while_others_wait():
    ran = []

    async def main() -> None:
        ticker = Ticker(asyncio.get_running_loop())
        now = time.monotonic_ns()
        done = asyncio.Event()
        ticker.at(now + 60_000_000, lambda: (ran.append("late"), done.set()))
        ticker.at(now + 5_000_000, lambda: ticker.at(now + 10_000_000, lambda: ran.append("early")))
        await asyncio.wait_for(done.wait(), 10)
        ticker.close()

    asyncio.run(main())

    assert ran == ["early", "late"]


def test_progress_is_one_json_object_a_line_and_survives_a_reader_that_left():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.say("build", "8 nodes")
    progress.say("play", "small", 1.25, 10)
    stream_text = stream.getvalue()
    stream.close()
    progress.say("stop", "gone")

    assert [json.loads(line) for line in stream_text.splitlines()] == [
        {"phase": "build", "text": "8 nodes"},
        {"phase": "play", "text": "small", "at_s": 1.2, "of_s": 10},
    ]
    assert set(progress.durations_s()) == {"build", "play", "stop"}


def test_a_run_is_noisy_only_beyond_its_limits():
    quiet = {"lag_p99_ns": LAG_LIMIT_NS, "idle_ratio": 0.5, "steal_ratio": 0.0}

    assert noise_reasons(**quiet) == []
    assert "late" in noise_reasons(**{**quiet, "lag_p99_ns": LAG_LIMIT_NS + 1})[0]
    assert "hypervisor" in noise_reasons(**{**quiet, "steal_ratio": 0.2})[0]
    assert "idle" in noise_reasons(**{**quiet, "idle_ratio": 0.0})[0]


class Spawns:
    """Starts the given Python code instead of an enforcer."""

    def __init__(self, log_dir: Path, code: str) -> None:
        self.log_dir, self._code = log_dir, code

    def spawn(self, node, argv, log, **options):
        with (self.log_dir / f"{log}.log").open("wb") as file:
            return subprocess.Popen([sys.executable, "-c", self._code], stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture
def enforcers(tmp_path, monkeypatch):
    monkeypatch.setattr("testbed.timeline.enforcers._STATE_ROOT", tmp_path / "state")
    plan = small_plan(enforcers=(EnforcerPlacement("gw", ("isp1", "isp2"), ("cable",)),))

    def make(code: str) -> Enforcers:
        return Enforcers(
            Spawns(tmp_path, code), plan, "http://192.0.2.1/feed", tmp_path / "key", tmp_path / "policy.json"
        )

    return make


def applied(serial: int, ns: int = 5) -> str:
    return json.dumps(
        {"kind": "applied", "serial": serial, "monotonic_ns": ns, "realtime_ns": 0, "time": "t"}
    )


def test_an_enforcer_that_dies_at_the_start_is_named_with_the_end_of_its_log(enforcers):
    made = enforcers("print('no nft here'); raise SystemExit(3)")
    made.start()

    with pytest.raises(EnforcerFailed, match=r"the enforcer on gw ended with exit code 3: no nft here"):
        asyncio.run(made.wait_applied(0, 20))
    assert made.dead() == ["gw"]


def test_waiting_ends_when_the_audit_says_the_serial_is_applied(enforcers, tmp_path):
    audit = tmp_path / "enforcer-gw.audit.jsonl"
    made = enforcers(
        f"import time; open({str(audit)!r}, 'w').write({applied(3)!r} + chr(10)); time.sleep(60)"
    )
    made.start()
    try:
        asyncio.run(made.wait_applied(3, 20))
        with pytest.raises(EnforcerFailed, match="did not apply serial 4"):
            asyncio.run(made.wait_applied(4, 0.1))
    finally:
        made.stop()


def test_a_half_written_audit_line_waits_for_its_end(enforcers, tmp_path):
    made = enforcers("import time; time.sleep(60)")
    made.start()
    try:
        audit = tmp_path / "enforcer-gw.audit.jsonl"
        line = applied(1, ns=1_000) + "\n"
        audit.write_text(line + line[:20])
        first = made.new_audit("gw", t0_ns=400)
        audit.write_text(line + line)
        second = made.new_audit("gw", t0_ns=400)
    finally:
        made.stop()

    assert [(record.t_ns, record.kind, record.data["serial"]) for record in first] == [(600, "applied", 1)]
    assert len(second) == 1


def test_a_killed_enforcer_is_not_taken_for_one_that_died(enforcers):
    made = enforcers("import time; time.sleep(60)")
    made.start()
    made.kill("gw")
    was_dead = made.dead()
    made.restart("gw")
    made.stop()

    assert was_dead == []


def test_a_tunnel_is_up_when_its_client_says_so_and_down_when_it_was_ended():
    events: list[EventRecord] = []

    class Client:
        def __init__(self) -> None:
            self.is_stopped = False

        def start(self) -> None: ...

        async def up(self, timeout_s: float) -> float:
            await asyncio.sleep(0.01)
            return 0.01

        def stop(self) -> None:
            self.is_stopped = True

    async def main() -> Client:
        runner = TunnelRunner(events.append, time.monotonic_ns())
        tunnel, client = Tunnel("t", "alice", "fra", 4, "10.99.1.2", 0, 10), Client()
        runner.begin(tunnel, client)
        async with asyncio.timeout(10):
            while len(events) < 2:
                await asyncio.sleep(0.005)
        runner.end(tunnel, client)
        await runner.close()
        return client

    client = asyncio.run(main())

    assert [event.data["state"] for event in events] == ["starting", "up", "down"]
    assert client.is_stopped
