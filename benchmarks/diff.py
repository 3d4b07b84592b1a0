"""How long `enforcer diff` takes on long allowlists, and what memory it needs.

    python benchmarks/diff.py [--entries 100000] [--repeats 3] [--only NAME …]

Entries: one line (IPv4 /32, one in eight a /29 to /24; one in five IPv6) and one endpoint, with one port and protocol for most;
one in ten any port, one in ten any protocol. Each case is the command itself with --json in a process of its own, start and
files' reading included; peak memory is that process's. "1 %" changes, ends or adds so many entries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "enforcer/difference/examples"
POLICIES = ROOT / "enforcer/policies"
KINDS = (("wireguard", 51820), ("openvpn-udp", 1194), ("openvpn-tcp", 1194), ("ikev2", 500), ("l2tp", 1701))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lists = write_lists(folder, arguments.entries)
        border, following = EXAMPLES / "border.policy.yaml", EXAMPLES / "border-next.policy.yaml"
        by_line, by_endpoint = (
            POLICIES / f"registered-{each}.policy.yaml" for each in ("subscribers", "endpoints")
        )
        cases = {
            "unchanged": ("--policy", border, lists["old"], lists["same"]),
            "1 % changed": ("--policy", border, lists["old"], lists["some"]),
            "all changed": ("--policy", border, lists["old"], lists["all"]),
            "drop to reject, exemption": ("--allowlist", lists["old"], border, following),
            "pairs to lines": ("--allowlist", lists["old"], border, by_line),
            "lines to endpoints": ("--allowlist", lists["old"], by_line, by_endpoint),
            "lines, 1 % changed": ("--policy", by_line, lists["old"], lists["some"]),
        }
        print(
            f"{arguments.entries:,} entries on each side; load {os.getloadavg()[0]:.1f}; median of {arguments.repeats}"
        )
        print(f"{'case':<28} {'seconds':>8} {'CPU s':>7} {'MB':>6} {'changes':>9}")
        for case, words in cases.items():
            if arguments.only and case not in arguments.only:
                continue
            runs = [run(words, folder) for _ in range(arguments.repeats)]
            seconds, cpu, megabytes = (statistics.median(each[index] for each in runs) for index in range(3))
            print(f"{case:<28} {seconds:>8.1f} {cpu:>7.1f} {megabytes:>6.0f} {runs[0][3]:>9,}", flush=True)


def run(words: tuple[Any, ...], folder: Path) -> tuple[float, float, float, int]:
    """Seconds, CPU seconds, peak MB and the number of changes."""
    output = folder / "out.json"
    command = [
        sys.executable,
        "-m",
        "enforcer",
        "diff",
        "--at",
        "2024-11-24T00:00:00Z",
        "--json",
        *map(str, words),
    ]
    with output.open("wb") as file:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=file, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    changes = sum(line.startswith(b'  {"family"') for line in output.open("rb"))
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, changes


def write_lists(folder: Path, count: int) -> dict[str, Path]:
    """old; same; some: one in a hundred ended, moved or new; all: every line moved."""
    draw = random.Random(4)
    old = [entry(draw, number) for number in range(1, count + 1)]
    some = []
    for each in old:
        chance = draw.random()
        if chance < 0.004:
            continue
        some.append(moved(draw, each) if chance < 0.008 else each)
    some += [entry(draw, count + number) for number in range(1, count // 500 + 1)]
    lists = {"old": old, "same": old, "some": some, "all": [moved(draw, each) for each in old]}
    paths = {}
    for name, entries in lists.items():
        paths[name] = folder / f"{name}.json"
        body = {"schema": "allowlab.feed/1", "kind": "snapshot", "serial": len(paths), "issued_ns": 0}
        paths[name].write_text(json.dumps(body | {"entries": entries}, separators=(",", ":")))
    return paths


def entry(draw: random.Random, number: int) -> dict[str, Any]:
    is_six = draw.random() < 0.2
    kind, port = draw.choice(KINDS)
    chance = draw.random()
    return {
        "registration": number,
        "registrant": f"registrant-{number}",
        "category": draw.choice(("company", "freelancer", "call-centre", "bank")),
        "subscriber_prefixes": [line(draw, is_six)],
        "endpoint_prefixes": [
            f"2001:db8:ffff::{draw.getrandbits(14):x}/128" if is_six else address(draw, "198.18.0.0", 17, 32)
        ],
        "endpoint_ports": [] if chance < 0.1 else [port],
        "protocols": [] if 0.1 <= chance < 0.2 else [kind],
        "valid_from_ns": 0,
        "valid_until_ns": None,
    }


def moved(draw: random.Random, before: dict[str, Any]) -> dict[str, Any]:
    return before | {"subscriber_prefixes": [line(draw, ":" in before["subscriber_prefixes"][0])]}


def line(draw: random.Random, is_six: bool) -> str:
    if is_six:
        return f"2001:db8:{draw.getrandbits(16):x}:{draw.getrandbits(16):x}::/64"
    return address(draw, "10.0.0.0", 24, draw.randint(24, 29) if draw.random() < 0.125 else 32)


def address(draw: random.Random, network: str, bits: int, length: int) -> str:
    """A prefix of the length within so many low bits of the network."""
    number = int.from_bytes(bytes(map(int, network.split("."))), "big") | draw.getrandbits(bits)
    number = number >> (32 - length) << (32 - length)
    return ".".join(map(str, number.to_bytes(4, "big"))) + f"/{length}"


if __name__ == "__main__":
    main()
