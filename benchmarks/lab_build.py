"""How long a flat lab of N hosts with shaped links takes to build and to end, beside Mininet's own way.

    python benchmarks/lab_build.py [--sizes 20,100,300,1000] [--mininet-sizes 20,100] [--repeats 5]

The lab: one router, N hosts, one link each, IPv4 and IPv6 addresses, sysctls, default routes, and HTB at both ends.
Mininet: the same router and hosts with TCLink(bw=…), IPv4, built by Mininet 2.3's own classes. Each build runs in a
private world and a process of its own; the two alternate, and medians are compared. Mininet needs `mnexec`, which its
package on PyPI lacks: Debian's is used where installed, else a small replacement for this benchmark (without closing
descriptors one by one, which favours Mininet). "build" is from the call to everything up and one packet answered by
the last host; "end" is from the wish to end to the world gone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RATE_BPS = 100_000_000
# exec'd as "mnexec [-c] [-d] [-n] [-p] [-a PID] COMMAND…": detach, own network namespace, print the pid, attach.
MNEXEC = """#!/bin/sh
attach= new= session= show=
while getopts cdnpa: option; do case $option in
  a) attach=$OPTARG;; n) new=1;; d) session=1;; p) show=1;; c) ;; esac; done
shift $((OPTIND - 1))
[ -n "$show" ] && printf '\\001%d\\n' $$
[ -n "$attach" ] && exec nsenter --net --target "$attach" "$@"
[ -n "$new" ] && exec ${session:+setsid} unshare --net "$@"
exec ${session:+setsid} "$@"
"""
INSIDE = (
    'mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; mkdir -p /run/netns; ip link set lo up; exec "$@"'
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="20,100,300,1000")
    parser.add_argument(
        "--mininet-sizes", default="20,100", help="sizes to build with Mininet too; '' for none"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--inside", nargs=2, metavar=("KIND", "HOSTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        kind, hosts = arguments.inside
        {"allowlab": inside_allowlab, "mininet": inside_mininet}[kind](int(hosts))
        return
    beside = {int(size) for size in arguments.mininet_sizes.split(",") if size}
    print(f"mnexec: {shutil.which('mnexec') or 'not installed; a replacement of this benchmark'}")
    print(
        f"{'hosts':>6} {'allowlab build s':>22} {'end s':>8} {'mininet build s':>22} {'end s':>8} {'ratio':>7}"
    )
    for size in (int(size) for size in arguments.sizes.split(",")):
        rows: dict[str, list[dict[str, float]]] = {"allowlab": [], "mininet": []}
        for _ in range(arguments.repeats):
            rows["allowlab"].append(measure("allowlab", size))
            if size in beside:
                rows["mininet"].append(measure("mininet", size))
        print(line(size, rows), flush=True)


def line(size: int, rows: dict[str, list[dict[str, float]]]) -> str:
    ours, theirs = rows["allowlab"], rows["mininet"]
    text = f"{size:>6} {spread(ours, 'build_s'):>22} {spread(ours, 'end_s').split()[0]:>8}"
    if not theirs:
        return f"{text} {'not run':>22}"
    ratio = statistics.median(row["build_s"] for row in theirs) / statistics.median(
        row["build_s"] for row in ours
    )
    return f"{text} {spread(theirs, 'build_s'):>22} {spread(theirs, 'end_s').split()[0]:>8} {ratio:>6.0f}x"


def spread(rows: list[dict[str, float]], key: str) -> str:
    values = sorted(row[key] for row in rows)
    return f"{statistics.median(values):.3f} ({values[0]:.3f}-{values[-1]:.3f})"


def measure(kind: str, hosts: int) -> dict[str, float]:
    """One build in a world of its own."""
    argv = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    argv += [
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        INSIDE,
        "sh",
    ]
    argv += [sys.executable, __file__, "--inside", kind, str(hosts)]
    with tempfile.TemporaryDirectory() as folder:
        mnexec = Path(folder) / "mnexec"
        mnexec.write_text(MNEXEC)
        mnexec.chmod(0o755)
        # A replacement comes last: an installed one wins.
        env = {**os.environ, "PATH": f"{os.environ['PATH']}:{folder}"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        gone_ns = time.monotonic_ns()
    if done.returncode != 0:
        raise SystemExit(f"{kind} with {hosts} hosts failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    return {"build_s": row["build_s"], "end_s": (gone_ns - row["ending_ns"]) / 1e9}


def inside_allowlab(hosts: int) -> None:
    started = time.perf_counter()
    from testbed.lab.build import build
    from testbed.lab.netlink_qdisc import qdisc_htb

    plan = flat_plan(hosts)
    with tempfile.TemporaryDirectory() as logs, build(plan, Path(logs)) as lab:
        for node in plan.nodes:
            with lab.netlink(node.name) as connection:
                connection.batch(
                    request
                    for port in lab.ports(node.name)
                    for request in qdisc_htb(port.index, RATE_BPS, f"{node.name}/{port.interface.name}: rate")
                )
        ping = lab.cmd(f"h{hosts}", ["ping", "-c1", "-W1", "10.0.0.2"])
        built = time.perf_counter()
        if ping.returncode != 0:
            raise SystemExit(f"h{hosts} does not reach h1: {ping.stdout}")
        ending_ns = time.monotonic_ns()
    print(json.dumps({"build_s": built - started, "ending_ns": ending_ns}))


def inside_mininet(hosts: int) -> None:
    started = time.perf_counter()
    from testbed.lab.mininet_net import mininet  # the one module that imports Mininet, on any Python

    topo = mininet.topo.Topo()
    topo.addHost("r", ip="10.0.0.1/30")
    for number in range(hosts):
        topo.addHost(
            f"h{number + 1}", ip=f"{address(number, 2)}/30", defaultRoute=f"via {address(number, 1)}"
        )
        parameters = {"params1": {"ip": f"{address(number, 1)}/30"}}
        topo.addLink("r", f"h{number + 1}", bw=RATE_BPS / 1e6, **parameters)
    net = mininet.net.Mininet(topo, link=mininet.link.TCLink, controller=None)
    net.start()
    net["r"].cmd("sysctl -w net.ipv4.ip_forward=1")
    out = net[f"h{hosts}"].cmd("ping -c1 -W1 10.0.0.2")
    built = time.perf_counter()
    if " 0% packet loss" not in out:
        raise SystemExit(f"h{hosts} does not reach h1: {out}")
    ending_ns = time.monotonic_ns()
    net.stop()
    print(json.dumps({"build_s": built - started, "ending_ns": ending_ns}))


def flat_plan(hosts: int):
    """One router r, hosts h1…hN, each on a /30 and a /64 of its own."""
    from testbed.plan.plan import Interface, Link, Node, StaticRoute
    from tests.small_plan import small_plan

    nodes = [Node("r", "isp", 65001, forwards=True)]
    links = []
    for number in range(hosts):
        name = f"h{number + 1}"
        four, six = address(number, 1), f"fd00:0:0:{number:x}::1"
        routes = (StaticRoute("0.0.0.0/0", four), StaticRoute("::/0", six))
        nodes.append(Node(name, "subscriber", 65001, forwards=False, routes=routes))
        host = Interface(name, "eth0", (f"{address(number, 2)}/30",), (f"fd00:0:0:{number:x}::2/64",))
        router = Interface("r", name, (f"{four}/30",), (f"{six}/64",))
        links.append(Link(f"acc-{name}", "access", host, router, RATE_BPS))
    empty = dict.fromkeys(
        ("bridges", "systems", "sessions", "nats", "subscribers", "services", "servers", "enforcers"), ()
    )
    return small_plan(nodes=tuple(nodes), links=tuple(links), authority=None, **empty)


def address(number: int, last: int) -> str:
    return f"10.0.{number * 4 // 256}.{number * 4 % 256 + last}"


if __name__ == "__main__":
    main()
