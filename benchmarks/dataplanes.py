"""The enforcer's dataplanes against plain forwarding and against what others would write: one command, one table.

    python benchmarks/dataplanes.py                          # 100,000 entries, a few minutes
    python benchmarks/dataplanes.py --quick                  # 10,000 entries, about a minute
    python benchmarks/dataplanes.py --entries 1000000        # the full size

Needs root or user namespaces; everything happens in network namespaces of its own. What is compared is measured in A/B pairs,
one right after the other; figures are medians with an interval of at least 93 %. docs/benchmarks.md says how each is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # for a checkout that is not installed

from dataplanes_figures import Settings, measure  # noqa: E402


def main() -> None:
    options = _options()
    if os.environ.get("ALLOWLAB_BENCH_WORLD") != "1":
        user = [] if os.geteuid() == 0 else ["-U", "-r"]
        unshare = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environment = {**os.environ, "ALLOWLAB_BENCH_WORLD": "1"}
        sys.exit(subprocess.call([*unshare, sys.executable, *sys.argv], env=environment))
    # Here, so that the candidates' processes do not hold matplotlib: their memory is a figure.
    from dataplanes_picture import picture
    from dataplanes_report import missed, table

    entries = options.entries or (10_000 if options.quick else 100_000)
    settings = Settings(
        entries=entries,
        flows=min(options.flows or min(entries, 100_000), entries * 3 // 4),
        repeats=max(5, options.repeats),
        added=200 if options.quick else 500,
        revoked=40 if options.quick else 100,
        updates=1000 if options.quick else 10_000,
        only=tuple(options.only),
    )
    machine = _machine()
    print(_heading(machine, settings), flush=True)
    start = time.monotonic()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"dataplanes-{entries}"
    run: dict[str, Any] = {"machine": machine, "settings": asdict(settings), "candidates": {}}

    def note(text: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {text}", file=sys.stderr, flush=True)
        stem.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")

    measure(settings, note, run["candidates"])
    note("done")
    picture(run, stem.with_suffix(".svg"))
    print(table(run))
    lines = list(missed(run))
    print("\nNot reached or not there:" if lines else "\nEverything is reached.")
    for line in lines:
        print(f"- {line}")
    print(f"\nwritten: {stem}.json, {stem}.svg")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, help="the longest list (default 100,000)")
    parser.add_argument(
        "--flows", type=int, help="tracked flows while revoking (default: entries, at most 100,000)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="A/B pairs of TCP; of packets, twice as many (at least 5)",
    )
    parser.add_argument("--only", nargs="*", default=[], help="candidates, by name")
    parser.add_argument("--quick", action="store_true", help="10,000 entries, fewer samples")
    parser.add_argument("--out", default="results/benchmarks", help="folder for the JSON and the picture")
    options = parser.parse_args()
    if options.entries is not None and options.entries < 1000:
        parser.error("--entries: at least 1000 (costs are compared with 1,000 entries)")
    return options


def _machine() -> dict[str, Any]:
    processors = Path("/proc/cpuinfo").read_text()
    names = [
        line.split(":", 1)[1].strip() for line in processors.splitlines() if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nft": _version("nft", "--version"),
        "iptables": _version("iptables", "--version"),
        "ipset": _version("ipset", "--version"),
        "iperf3": _version("iperf3", "--version"),
        "clang": _version("clang", "--version"),
        "commit": _version("git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"),
        "load_at_start": os.getloadavg()[0],
    }  # fmt: skip


def _version(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return "none"
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or ["unknown"])[0].removeprefix(f"{program} ")


def _heading(machine: dict[str, Any], settings: Settings) -> str:
    programs = ", ".join(
        f"{name} {machine[name]}" for name in ("nft", "iptables", "ipset", "iperf3", "clang")
    )
    return (
        f"{machine['processor']}, {machine['processors']} processors, {machine['memory_gb']} GB; Linux {machine['kernel']}, "
        f"Python {machine['python']}\n{programs}; commit {machine['commit']}; load {machine['load_at_start']:.1f}\n"
        f"{settings.entries:,} entries, {settings.flows:,} tracked flows, {settings.updates:,} updates; "
        f"{settings.repeats} pairs of TCP, {2 * settings.repeats} of packets\n"
    )


if __name__ == "__main__":
    main()
