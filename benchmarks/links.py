"""How late and how fast the holder is: `python -m benchmarks.links [--seconds 2] [--json]`, in a world of its own.

Two hosts and a link with 20 ms each way, held by the holder. Lateness: single probes at 200, 1,000 and 5,000 a second, their
one-way time against what was asked, beside how late this machine wakes a process that only sleeps (`timer`). Capacity: small datagrams as fast as the machine sends them, and TCP, whose segments stay whole.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from testbed.lab.build import Lab, build
from testbed.lab.calibrate_ends import ends, measuring_sockets, run_probe
from testbed.lab.links import Links
from testbed.plan.plan import Plan
from testbed.world import IN_WORLD, run_inside
from tests.small_plan import small_plan

DELAY_NS = 20_000_000
_RATES = (200, 1_000, 5_000)
_PAYLOAD_BYTES = 64
_STREAMS = 8  # one TCP connection over 40 ms is bounded by its buffers (tcp_rmem), not by the link


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each figure is taken")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not os.environ.get(IN_WORLD):
        return run_inside([sys.executable, "-m", "benchmarks.links", *sys.argv[1:]])
    figures = measure(options.seconds)
    if options.json:
        print(json.dumps(figures, indent=1))
        return 0
    print(
        f"a link of {DELAY_NS / 1e6:.0f} ms each way, held by the holder ({figures['scheduling']} scheduling)"
    )
    print(
        f"{'probes/s':>10} {'n':>7} {'late p50':>10} {'p99':>10} {'max':>10}   (microseconds, receiver's wake-up included)"
    )
    for name in ("timer", "held"):
        for row in figures[f"lateness_{name}"]:
            late = f"{row['p50_us']:>10.0f} {row['p99_us']:>10.0f} {row['max_us']:>10.0f}"
            print(f"{row['probes_s']:>10} {row['n']:>7} {late}   {name}")
    for name in ("plain", "held"):
        row = figures[name]
        print(
            f"{name:>10}: {row['sent_kpps']:.1f} kpps sent, {row['received_kpps']:.1f} kpps received, "
            f"TCP {row['tcp_gbps']:.2f} Gbit/s"
        )
    held = figures["held"]
    print(
        f"{'':>10}  the holder used {held['holder_us_per_packet']:.1f} us of processor a packet, the sender "
        f"{held['sender_cpu_s'] / options.seconds * 100:.0f} % of one processor"
    )
    print(f"{'':>10}  of the held ones {figures['held']['queue_full']} were dropped because a queue was full")
    return 0


def measure(seconds: float) -> dict:
    figures: dict = {}
    for name, delay_ns in (("plain", 0), ("held", DELAY_NS)):
        with tempfile.TemporaryDirectory() as folder, build(_plan(delay_ns), Path(folder)) as lab:
            with closing(Links(lab, "nfqueue")) as links:
                links.start()
                if delay_ns:
                    # Beside it, at the same time of day: how late this machine wakes a process that only sleeps.
                    figures["lateness_timer"] = [_timer_lateness(rate, seconds) for rate in _RATES]
                    figures["lateness_held"] = [_lateness(lab, rate, seconds) for rate in _RATES]
                cpu_s, flooded = links.counters().get("cpu_s", 0.0), _capacity(lab, seconds)
                used_s = links.counters().get("cpu_s", 0.0) - cpu_s
                flooded["holder_us_per_packet"] = (
                    used_s * 1000 / seconds / max(1e-9, flooded["received_kpps"])
                )
                figures[name] = flooded | {"tcp_gbps": _tcp_gbps(lab, seconds)}
                if delay_ns:
                    counters = links.counters()
                    figures["scheduling"] = counters["scheduling"]
                    figures["held"]["queue_full"] = sum(
                        each["queue_full"] for each in counters["links"].values()
                    )
                    figures["held"]["holder_cpu_s"] = counters["cpu_s"]
    return figures


def _plan(delay_ns: int) -> Plan:
    plan = small_plan(enforcers=())
    plain = (
        replace(
            link, rate_bps=None, delay_ns=delay_ns if link.name == "cable" else 0, jitter_ns=0, loss_ratio=0.0
        )
        for link in plan.links
    )
    return replace(plan, links=tuple(plain))


def _lateness(lab: Lab, probes_s: int, seconds: float) -> dict:
    pair = ends(lab, lab.link("cable"), "ab", 4)
    assert pair is not None
    with measuring_sockets(lab, *pair) as (outgoing, incoming, to):
        train = {
            "send": outgoing[0].fileno(),
            "receive": incoming.fileno(),
            "to": to,
            "count": int(probes_s * seconds),
            "spacing_ns": 1_000_000_000 // probes_s,
            "offset_ns": 0,
            "wait_ns": DELAY_NS + 500_000_000,
        }
        delays = run_probe({"trains": [train]}, [*outgoing, incoming])["trains"][0]
    late_us = sorted((each - DELAY_NS) / 1000 for each in delays if each is not None)
    return _row(probes_s, late_us)


_TIMER = """
import contextlib, ctypes, os, select, sys, time
ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
spacing_ns, count = int(sys.argv[1]), int(sys.argv[2])
due_ns = time.monotonic_ns()
for _ in range(count):
    due_ns += spacing_ns
    select.select((), (), (), max(0, due_ns - time.monotonic_ns()) / 1e9)
    print((time.monotonic_ns() - due_ns) / 1000)
"""


def _timer_lateness(wakes_s: int, seconds: float) -> dict:
    """Scheduled as the holder is, with nothing to do: what no program on this machine can be better than."""
    argv = [sys.executable, "-c", _TIMER, str(1_000_000_000 // wakes_s), str(int(wakes_s * seconds))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return _row(wakes_s, sorted(map(float, done.stdout.split())))


def _row(probes_s: int, late_us: list[float]) -> dict:
    return {
        "probes_s": probes_s,
        "n": len(late_us),
        "p50_us": late_us[len(late_us) // 2],
        "p99_us": late_us[len(late_us) * 99 // 100],
        "max_us": late_us[-1],
    }


_SENDER = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((sys.argv[1], 9000))
end, sent, data = time.monotonic() + float(sys.argv[2]), 0, bytes(int(sys.argv[3]))
while time.monotonic() < end:
    for _ in range(64):
        out.send(data)
    sent += 64
print(sent, time.process_time())
"""


def _capacity(lab: Lab, seconds: float) -> dict:
    with lab.inside("fra"):
        incoming = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with incoming:
        incoming.bind(("10.0.0.10", 9000))
        incoming.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # counted by the kernel, read by nobody
        before = _udp_arrived(lab)
        argv = [sys.executable, "-c", _SENDER, "10.0.0.10", str(seconds), str(_PAYLOAD_BYTES)]
        sent_text, used_s = lab.cmd("gw", argv, timeout_s=seconds + 10).stdout.split()
        sent = int(sent_text)
        time.sleep(0.2)
        received = _udp_arrived(lab) - before
    return {
        "sender_cpu_s": float(used_s),
        "sent_kpps": sent / seconds / 1000,
        "received_kpps": received / seconds / 1000,
    }


def _udp_arrived(lab: Lab) -> int:
    """Datagrams that reached a socket of fra, read or not (/proc/net/snmp: InDatagrams and RcvbufErrors)."""
    with lab.inside("fra"):
        lines = Path("/proc/thread-self/net/snmp").read_text("ascii").splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    counts = dict(zip(names, map(int, values), strict=True))
    return counts["InDatagrams"] + counts["RcvbufErrors"]


def _tcp_gbps(lab: Lab, seconds: float) -> float:
    server = lab.spawn("fra", ["iperf3", "-s", "-1", "-B", "10.0.0.10"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while "5201" not in lab.cmd("fra", ["ss", "-ltn"]).stdout and time.monotonic() < deadline:
        time.sleep(0.02)
    done = lab.cmd(
        "gw",
        ["iperf3", "-J", "-P", str(_STREAMS), "-c", "10.0.0.10", "-t", str(max(1, int(seconds)))],
        timeout_s=seconds + 20,
    )
    server.wait(10)
    return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9


if __name__ == "__main__":
    raise SystemExit(main())
