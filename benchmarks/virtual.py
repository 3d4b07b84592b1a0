"""How fast virtual time runs: the four figures of docs/virtual-clock.md, each as wall and processor seconds of the lab's kernel.

Run: python benchmarks/virtual.py [--json FILE] [CASE …]; without a case all four. Needs the kernel (`./allowlab kernel build`).
On a busy machine the processor seconds are what counts: the kernel's processes are pinned to one processor, and on an idle machine
its wall time is hardly more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for a checkout that is not installed

import yaml  # noqa: E402

from testbed.session import Options, run  # noqa: E402
from testbed.session_progress import Quiet  # noqa: E402
from testbed.world.uml.store import current  # noqa: E402

_TICKS_S = os.sysconf("SC_CLK_TCK")
_LOOK_S = 0.1
_EVENTS = "*/*/events.jsonl"
# Which line the added subscribers have; the topology's own are kept, the first ones first.
_LINES = ("business", "fixed-a", "fixed-b", "mobile-a", "mobile-b")
_ADDRESS = {"mobile-a": "nat", "mobile-b": "nat", "business": "static"}


@dataclass(frozen=True, slots=True)
class Case:
    """So many subscribers, one attempt of each every so often; target_s: the wall time wanted on an idle machine."""

    name: str
    title: str
    subscribers: int
    duration: str
    every: str
    target_s: float


CASES = (
    Case("short", "five minutes, 30 subscribers, a probe per 10 s each (to look at)", 30, "5m", "10s", 3),
    Case("boot", "build and boot to the first probe, 30 subscribers", 30, "60s", "10s", 5),
    Case("day", "six hours, 30 subscribers, a probe per 10 s each", 30, "6h", "10s", 60),
    Case("many", "one hour, 100 subscribers, a probe per 10 s each", 100, "1h", "10s", 30),
    Case("week", "a week, 30 subscribers, an attempt per 5 minutes each", 30, "168h", "5m", 180),
)


@dataclass(slots=True)
class Figure:
    """wall_s and cpu_s: of the kernel from its start to its end (case "boot": to the scenario's start). ready_*: to the first probe."""

    case: str
    target_s: float
    wall_s: float
    cpu_s: float
    ready_wall_s: float
    ready_cpu_s: float
    attempts: int
    delivered: int
    outcome: str
    load: float


def main() -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--keep", type=Path, help="keep the run folders in this folder")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.cases) - set(names)):
        parser.error(f"no such case: {', '.join(unknown)}; known are {', '.join(names)}")
    figures = []
    print(
        f"{'case':56} {'target':>7} {'wall s':>7} {'CPU s':>7} {'ready':>6} {'(CPU)':>6} {'attempts':>9}  outcome"
    )
    for case in CASES:
        if case.name in arguments.cases or (not arguments.cases and case.name != "short"):
            figure = measure(case, arguments.keep)
            figures.append(figure)
            print(
                f"{case.title:56} {case.target_s:7.0f} {figure.wall_s:7.1f} {figure.cpu_s:7.1f} {figure.ready_wall_s:6.1f} "
                f"{figure.ready_cpu_s:6.1f} {figure.attempts:9}  {figure.outcome}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    return 0 if all(figure.outcome == "passed" for figure in figures) else 1


def measure(case: Case, keep: Path | None = None) -> Figure:
    """Plays the case once."""
    with tempfile.TemporaryDirectory(prefix="virtual-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        scenario = write_case(case, folder)
        with Meter(current().path, folder / "results") as meter:
            result = run(
                scenario,
                Options(results=folder / "results", clock="virtual", report=False),
                Quiet(sys.stderr),
            )
        if result.reason:
            print(result.reason, file=sys.stderr)
        summary = json.loads((result.run_dir / "summary.json").read_text())
        everybody = summary["all"]
    is_boot = case.name == "boot"
    return Figure(
        case.name,
        case.target_s,
        round(meter.ready_wall_s if is_boot else meter.wall_s, 2),
        round(meter.ready_cpu_s if is_boot else meter.cpu_s, 2),
        round(meter.ready_wall_s, 2),
        round(meter.ready_cpu_s, 2),
        everybody["attempts"],
        everybody["delivered"]["k"],
        result.outcome,
        round(os.getloadavg()[0], 1),
    )


def write_case(case: Case, folder: Path) -> Path:
    """The scenario file, and the topology beside it: national-small with as many subscribers as the case has."""
    topology = yaml.safe_load((ROOT / "topologies/national-small.topology.yaml").read_text(encoding="utf-8"))
    people = dict(list(topology["subscribers"].items())[: case.subscribers])
    for number in range(case.subscribers - len(people)):
        isp = _LINES[number % len(_LINES)]
        address = _ADDRESS.get(isp, "dynamic")
        people[f"line-{number}"] = {"kind": "company", "isp": isp, "address": address}
    topology["subscribers"] = people
    (folder / "bench.topology.yaml").write_text(yaml.safe_dump(topology, sort_keys=False), encoding="utf-8")
    path = folder / f"bench-{case.name}.scenario.yaml"
    path.write_text(yaml.safe_dump(_scenario(case, topology), sort_keys=False), encoding="utf-8")
    return path


def _scenario(case: Case, topology: dict[str, Any]) -> dict[str, Any]:
    """A third of them has a WireGuard tunnel, half ask for OpenVPN or IKEv2, registered; the rest ask without being registered."""
    people = list(topology["subscribers"])
    third, sixth = len(people) // 3, len(people) // 6
    # Nobody whose public address is a registered neighbour's too: those pass, as the policy is written.
    refused = [name for name in people if topology["subscribers"][name]["address"] != "nat"][-sixth:]
    tunnels, asking = people[:third], [name for name in people[third:] if name not in refused]
    openvpn, ikev2 = asking[: len(asking) * 3 // 4], asking[len(asking) * 3 // 4 :]
    every = {"every": case.every, "from": "5s"}

    def handshakes(group: str, who: list[str], to: str) -> dict[str, Any]:
        return {"group": group, "probe": "handshake", "who": who, "to": to, **every}

    return {
        "title": case.title,
        "description": "A figure of docs/virtual-clock.md.",
        "topology": "bench.topology.yaml",
        "policy": str(ROOT / "enforcer/policies/registered-pairs.policy.yaml"),
        "starts-at": "2024-11-10T16:00:00+05:00",
        "duration": case.duration,
        "registrations": [
            {"who": tunnels, "server": "fra-wireguard", "state": "active"},
            {"who": openvpn, "server": "fra-handshake-openvpn-udp", "state": "active"},
            {"who": ikev2, "server": "fra-handshake-ikev2", "state": "active"},
        ],
        "tunnels": [{"who": tunnels, "server": "fra-wireguard"}],
        "traffic": [
            {"group": "tunnel", "probe": "tunnel-echo", "who": tunnels, **every},
            handshakes("registered", openvpn, "fra-handshake-openvpn-udp"),
            handshakes("registered", ikev2, "fra-handshake-ikev2"),
            handshakes("unregistered", refused, "fra-handshake-openvpn-udp"),
        ],
        "expect": [
            {"figure": "delivered_ratio", "where": {"group": ["tunnel", "registered"]}, "at-least": "99%"},
            {"figure": "false_pass_ratio", "where": {"group": "unregistered"}, "at-most": "0%"},
        ],
    }


class Meter:
    """Wall and processor seconds of the kernel's processes, from outside; ready_*: until the scenario's clock was set."""

    def __init__(self, kernel: Path, results: Path) -> None:
        self.wall_s = self.cpu_s = self.ready_wall_s = self.ready_cpu_s = 0.0
        self._kernel, self._results = kernel.resolve(), results
        self._earlier = set(results.glob(_EVENTS))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_for_ever, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _look_for_ever(self) -> None:
        pid, began_s = 0, 0.0
        while not self._stopping.wait(_LOOK_S if self.ready_wall_s else 0.02):
            pid = pid or self._find()
            if not pid:
                continue
            began_s = began_s or time.monotonic()
            cpu_s = _cpu_s(pid)
            if not cpu_s:
                continue
            self.cpu_s, self.wall_s = max(cpu_s, self.cpu_s), time.monotonic() - began_s
            if not self.ready_wall_s and self._is_ready():
                self.ready_wall_s, self.ready_cpu_s = self.wall_s, self.cpu_s

    def _find(self) -> int:
        for child in _children(os.getpid()):
            try:
                if Path(f"/proc/{child}/exe").resolve() == self._kernel:
                    return child
            except OSError:
                continue
        return 0

    def _is_ready(self) -> bool:
        return any(path.stat().st_size for path in set(self._results.glob(_EVENTS)) - self._earlier)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:
        return found
    return found


def _cpu_s(kernel: int) -> float:
    """Of the kernel, of the programs inside that have ended (it waits for them), and of those that run."""
    ticks = _ticks(kernel, slice(11, 15))
    family = [kernel]
    for each in family:
        family += _children(each)
    return (ticks + sum(_ticks(pid, slice(11, 13)) for pid in family[1:])) / _TICKS_S if ticks else 0.0


def _ticks(pid: int, fields: slice) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return sum(int(word) for word in text.rpartition(")")[2].split()[fields])


if __name__ == "__main__":
    sys.exit(main())
