"""How fast `enforcer replay` is: judging alone, and whole runs over Parquet, CSV and captures; with each run's peak memory.

    python benchmarks/replay.py                       # 10,000,000 flows, 3,000,000 packets; needs 8 GB in the temporary folder
    python benchmarks/replay.py --flows 1000000 --packets 300000

Figures are flows or packets by second of processor time (user and system, all threads), for the machine may be shared, and by second of
the clock; whole runs are held on one core, and each is the median of --repeats. A whole run is the command as a user types it: start of
Python, allowlist, reading, judging, check against decide(), report. "No start" leaves out what the same command takes for one flow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.replay_traffic import MAPPING, Logs, entries, lines, write_captures
from enforcer.policy import load_policy
from enforcer.replay.judge import Judge
from enforcer.replay.replay_log import LogReplay
from enforcer.replay.result import Result, Side

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "enforcer" / "replay" / "examples" / "border.policy.yaml"
_BATCH = 1 << 17


class Run(NamedTuple):
    """One command: processor seconds, seconds, largest resident memory in bytes."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def judging_alone(people: int, repeats: int) -> None:
    """Two columns: the verdicts alone, and all that a run does with lines that are read (counted, and a sample checked)."""
    print(f"\njudging, {people:,} registrations, batches of {_BATCH:,} IPv4 flows; flows/s per core")
    print(f"{'VPN':>6} {'verdicts alone':>16} {'checked, counted':>18}")
    policy, registered = load_policy(POLICY), entries(people)
    judge = Judge(policy, registered)
    draw = np.random.default_rng(1)
    for share in (0.0, 0.02, 0.1, 0.5, 1.0):
        batch = lines(draw, _BATCH, people, share)
        whole = LogReplay(Result("benchmark", "text", [Side(policy, "")]), [registered], "either")
        whole.add(batch)  # the first batch is checked more
        figures = []
        for work in (lambda batch=batch: judge.unseen(batch, judge(batch)), partial(whole.add, batch)):
            took = []
            for _ in range(max(repeats, 5)):
                begun = time.process_time()
                for _ in range(4):
                    work()
                took.append((time.process_time() - begun) / 4)
            figures.append(_BATCH / statistics.median(took))
        print(f"{share:>6.0%} {figures[0]:>16,.0f} {figures[1]:>18,.0f}", flush=True)


def whole_run(path: Path, allowlist: Path, core: int) -> Run:
    argv = [
        sys.executable,
        "-m",
        "enforcer",
        "replay",
        str(path),
        "--policy",
        str(POLICY),
        "--allowlist",
        str(allowlist),
        "--json",
        *(["--map", MAPPING] if path.name == "mapped.csv" else []),
    ]
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {core})
        os.chdir(ROOT)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.execve(argv[0], argv, os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(argv)} ended with status {status}")
    return Run(usage.ru_utime + usage.ru_stime, time.perf_counter() - begun, usage.ru_maxrss * 1024)


def reading_alone(path: Path) -> float:
    """Processor seconds of Arrow's own reader for the file, nothing done with what it reads: the yardstick."""
    begun = time.process_time()
    if path.suffix == ".parquet":
        for _ in parquet.ParquetFile(path, pre_buffer=False).iter_batches(_BATCH, use_threads=False):
            pass
    else:
        types = {name: pa.string() for name in ("srcAddr", "dstAddr", "source", "destination")}
        types |= {"firstSeen": pa.timestamp("ns"), "proto": pa.dictionary(pa.int32(), pa.string())}
        reader = csv.open_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=8 << 20),
            convert_options=csv.ConvertOptions(column_types=types),
        )
        for _ in reader:
            pass
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flows", type=int, default=10_000_000)
    parser.add_argument("--packets", type=int, default=3_000_000)
    parser.add_argument("--registrations", type=int, default=100_000)
    parser.add_argument("--vpn-share", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    judging_alone(options.registrations, options.repeats)
    with tempfile.TemporaryDirectory(prefix="replay-benchmark-") as name:
        folder = Path(name)
        allowlist = folder / "allowlist.json"
        listed = [entry.to_json() for entry in entries(options.registrations)]
        allowlist.write_text(json.dumps({"serial": 1, "entries": listed}))
        logs = Logs(folder)
        logs.write(options.flows, options.registrations, options.vpn_share)
        captures = {each: folder / f"capture.{each}" for each in ("pcap", "pcapng")}
        write_captures(captures["pcap"], captures["pcapng"], options.packets)
        nothing = folder / "nothing.csv"
        nothing.write_bytes(b"\n".join(logs.paths["nfdump CSV"].open("rb").read(4096).splitlines()[:2]))
        print(
            f"\nwhole runs, one core; {options.flows:,} flows ({options.vpn_share:.0%} VPN), {options.packets:,} packets, "
            f"{options.registrations:,} entries; a second of processor and one of the clock, each with the start and without"
        )
        print(
            f"{'file':<20} {'size':>9} {'by processor':>12} {'(no start)':>12} {'by clock':>12} {'(no start)':>12} "
            f"{'Arrow reads':>12} {'peak memory':>12}"
        )
        core = max(os.sched_getaffinity(0))
        start = _middle([whole_run(nothing, allowlist, core) for _ in range(options.repeats)])
        for what, path in (logs.paths | captures).items():
            runs = [whole_run(path, allowlist, core) for _ in range(options.repeats)]
            _print(what, path, options.packets if what in captures else options.flows, runs, start)
        print(
            f"{'start alone':<20} {'':>9} {start.cpu_s:>10.2f} s {'':>12} {start.wall_s:>10.2f} s"
            f"{start.peak_bytes / 1e6:>36,.0f} MB"
        )
    print(f"\nload average {os.getloadavg()[0]:.1f}")


def _middle(runs: list[Run]) -> Run:
    return Run(
        statistics.median(run.cpu_s for run in runs),
        statistics.median(run.wall_s for run in runs),
        max(run.peak_bytes for run in runs),
    )


def _print(what: str, path: Path, count: int, runs: list[Run], start: Run) -> None:
    run = _middle(runs)
    reading = ""
    if path.suffix in (".parquet", ".csv"):
        with ProcessPoolExecutor(
            1, get_context("spawn")
        ) as apart:  # its memory would be a child's at the fork
            reading = f"{count / apart.submit(reading_alone, path).result():,.0f}"
    rates = [
        f"{count / max(seconds, 1e-9):>12,.0f}"
        for whole, begin in ((run.cpu_s, start.cpu_s), (run.wall_s, start.wall_s))
        for seconds in (whole, whole - begin)
    ]
    print(
        f"{what:<20} {path.stat().st_size / 1e6:>6,.0f} MB {' '.join(rates)} {reading:>12} {run.peak_bytes / 1e6:>9,.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
