"""How fast `enforcer replay` is: judging alone, and whole runs over Parquet, CSV and a capture; with each run's peak memory.

    python benchmarks/replay.py                       # 20,000,000 flows, 3,000,000 packets; needs 4 GB in the temporary folder
    python benchmarks/replay.py --flows 1000000 --packets 300000

Figures are per core: flows or packets by second of processor time (user and system), for the machine may be shared; whole runs are held
on one core, and each is the median of --repeats. A whole run is the command as a user types it: start of Python, allowlist, reading,
judging, check against decide(), report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from enforcer.allowlist import Entry
from enforcer.policy import load_policy
from enforcer.replay.judge import Judge
from enforcer.replay.lines import Lines
from enforcer.replay.replay_log import LogReplay
from enforcer.replay.result import Result, Side

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "enforcer" / "replay" / "examples" / "border.policy.yaml"
_BATCH = 1 << 17
_START_NS = 1_731_229_200_000_000_000


class Run(NamedTuple):
    """One command: processor seconds, seconds, largest resident memory in bytes."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def entries(count: int) -> list[Entry]:
    """Half with a named port; one in a hundred IPv6."""
    found = []
    for number in range(count):
        low = f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        line, server = f"10.{low}/32", f"198.{low}/32"
        if number % 100 == 0:
            line, server = f"2001:db8:0:{number & 65535:x}::/64", f"2001:db8:ffff::{number & 65535:x}/128"
        found.append(Entry(number + 1, f"r{number}", (line,), (server,), (51820,) if number % 2 else ()))
    return found


def lines(draw: np.random.Generator, count: int, people: int, vpn_share: float) -> Lines:
    """IPv4 flows as at a border: web and DNS, and a share to VPN ports, of which half are registered."""
    number = draw.integers(0, people * 2, count)
    which = number % people
    is_vpn = draw.random(count) < vpn_share
    ports = np.where(is_vpn, 51820, draw.choice(np.array([443, 443, 443, 80, 53, 8080, 25, 3478]), count))
    return Lines(
        4,
        (0x0A000000 + which).astype(np.uint32),
        (0xC6000000 + which + (number >= people) * (1 << 23)).astype(np.uint32),
        np.where(is_vpn | (ports == 53), 17, 6).astype(np.uint8),
        draw.integers(1024, 65536, count).astype(np.uint16),
        ports.astype(np.uint16),
        _START_NS + np.sort(draw.integers(0, 3600 * 10**9, count)),
        draw.integers(1, 500, count),
        draw.integers(60, 500_000, count),
    )


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


def write_logs(folder: Path, flows: int, people: int, vpn_share: float) -> dict[str, Path]:
    """The same flows as Parquet with addresses as text and as numbers, and as CSV."""
    paths = {name: folder / name for name in ("text.parquet", "numbers.parquet", "flows.csv")}
    draw = np.random.default_rng(2)
    names = pa.array(["TCP", "UDP"])
    writers: list = []
    for begin in range(0, flows, 1 << 20):
        batch = lines(draw, min(1 << 20, flows - begin), people, vpn_share)
        columns = {
            "start": pa.array(batch.start_ns // 10**6, pa.timestamp("ms")),
            "src": pa.array(batch.src),
            "dst": pa.array(batch.dst),
            "proto": pa.DictionaryArray.from_arrays(pa.array((batch.protocol == 17).astype(np.int8)), names),
            "src_port": pa.array(batch.src_port),
            "dst_port": pa.array(batch.dst_port),
            "packets": pa.array(batch.packets),
            "bytes": pa.array(batch.bytes),
        }
        numbers = pa.table(columns)
        text = pa.table(columns | {name: _dotted(getattr(batch, name)) for name in ("src", "dst")})
        if not writers:
            writers = [
                parquet.ParquetWriter(paths["text.parquet"], text.schema),
                parquet.ParquetWriter(paths["numbers.parquet"], numbers.schema),
                csv.CSVWriter(
                    paths["flows.csv"],
                    _plain(text).schema,
                    write_options=csv.WriteOptions(quoting_style="none"),
                ),
            ]
        writers[0].write_table(text)
        writers[1].write_table(numbers)
        writers[2].write_table(_plain(text))
    for writer in writers:
        writer.close()
    return paths


def _plain(table: pa.Table) -> pa.Table:
    return table.set_column(3, "proto", table.column("proto").cast(pa.string()))


def _dotted(numbers: np.ndarray) -> pa.Array:
    distinct, place = np.unique(numbers, return_inverse=True)
    texts = pa.array(
        [f"{each >> 24}.{each >> 16 & 255}.{each >> 8 & 255}.{each & 255}" for each in distinct.tolist()]
    )
    return texts.take(pa.array(place))


def write_capture(path: Path, packets: int) -> None:
    """Ethernet, IPv4; 30 packets a flow, of which 1 in 20 is WireGuard's; 200 to 1,400 bytes."""
    draw = np.random.default_rng(3)
    flows = max(1, packets // 30)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        made = []
        for number in range(min(flows, 50_000)):
            is_vpn = number % 20 == 0
            payload = b"\1\0\0\0" + b"\xa5" * 144 if is_vpn else b"\xc0" * int(draw.integers(160, 1360))
            udp = (
                struct.pack("!HHHH", 1024 + number % 60_000, 51820 if is_vpn else 443, 8 + len(payload), 0)
                + payload
            )
            src = struct.pack("!I", 0x0A000000 + number)
            head = (
                struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + src + b"\xc6\x33\x64\x09"
            )
            made.append(b"\2" * 12 + b"\x08\0" + head + udp)
        order = draw.integers(0, len(made), packets)
        for place, number in enumerate(order.tolist()):
            frame = made[number]
            file.write(
                struct.pack(
                    "<IIII", 1_731_229_200 + place // 200_000, place % 200_000 * 5, len(frame), len(frame)
                )
            )
            file.write(frame)


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
    """Processor seconds of Arrow's own reader for the file, nothing done with what it reads: what no replay can be faster than."""
    begun = time.process_time()
    if path.suffix == ".parquet":
        texts = [field.name for field in parquet.read_schema(path) if pa.types.is_string(field.type)]
        for _ in parquet.ParquetFile(path, read_dictionary=texts).iter_batches(_BATCH):
            pass
    else:
        types = {name: pa.string() for name in ("src", "dst")} | {"start": pa.timestamp("ns")}
        types["proto"] = pa.dictionary(pa.int32(), pa.string())
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
    parser.add_argument("--flows", type=int, default=20_000_000)
    parser.add_argument("--packets", type=int, default=3_000_000)
    parser.add_argument("--registrations", type=int, default=10_000)
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
        paths = write_logs(folder, options.flows, options.registrations, options.vpn_share)
        paths["capture.pcap"] = folder / "capture.pcap"
        write_capture(paths["capture.pcap"], options.packets)
        print(
            f"\nwhole runs, one core; {options.flows:,} flows ({options.vpn_share:.0%} VPN), {options.packets:,} packets"
        )
        print(
            f"{'file':<16} {'size':>9} {'per second of processor':>24} {'processor':>10} {'clock':>8} {'peak memory':>12}"
        )
        core = max(os.sched_getaffinity(0))
        for what, path in paths.items():
            runs = [whole_run(path, allowlist, core) for _ in range(options.repeats)]
            count = options.packets if what == "capture.pcap" else options.flows
            cpu_s = statistics.median(run.cpu_s for run in runs)
            wall_s = statistics.median(run.wall_s for run in runs)
            peak = max(run.peak_bytes for run in runs)
            print(
                f"{what:<16} {path.stat().st_size / 1e6:>6,.0f} MB {count / cpu_s:>24,.0f} {cpu_s:>8.1f} s {wall_s:>6.1f} s {peak / 1e6:>9,.0f} MB",
                flush=True,
            )
        print(
            "\nArrow's reader alone, flows by second of processor"
        )  # last: its memory would be a child's at the fork
        for what, path in paths.items():
            if what != "capture.pcap":
                print(f"{what:<16} {options.flows / reading_alone(path):>14,.0f}", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
