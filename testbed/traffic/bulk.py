"""Bulk load: one iperf3 client from a subscriber's namespace, its figures as plain numbers, its failure as one word."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Protocol

from testbed.plan.plan import Bulk, Plan, VpnServer

# iperf3's own connect time-out, and how long its closing exchange may take on a slow path before it is asked to end
# (SIGINT: it then prints what it measured) and before it is killed.
_CONNECT_TIMEOUT_MS = 5000
_CLOSE_S = 5.0
_KILL_S = 2.0
# What iperf3 says (iperf_error.c and strerror), in the words of testbed.records.FAILURES.
_WORDS = (
    ("connection refused", "connection_refused"),
    ("connection reset", "connection_reset"),
    ("no route to host", "host_unreachable"),
    ("host is unreachable", "host_unreachable"),
    ("network is unreachable", "network_unreachable"),
    ("invalid argument", "network_unreachable"),  # a blackhole route answers a connect so
    ("permission denied", "prohibited"),
    ("operation not permitted", "prohibited"),
    ("operation now in progress", "timeout"),
    ("timed out", "timeout"),
    ("control socket has closed", "connection_reset"),
)


class BulkLab(Protocol):
    """The part of a lab this module uses."""

    @property
    def plan(self) -> Plan: ...

    @property
    def log_dir(self) -> Path: ...

    def spawn(self, node: str, argv: list[str], log: str, **popen: Any) -> subprocess.Popen[Any]: ...


def run_bulk(lab: BulkLab, bulk: Bulk) -> dict[str, Any]:
    """Run one phase to its end and return its figures; blocks, at most the phase's duration and 12 s.

    {"bulk", "subscriber", "service", "via", "direction", "failure", "detail", "goodput_bps", "received_bytes",
    "retransmits", "duration_ns", "intervals": [{"start_ns", "duration_ns", "bytes", "goodput_bps", "retransmits"}]}.
    goodput is what the receiver got. failure: None or a word of testbed.records.FAILURES; figures measured before a failure
    are kept. The server takes one client at a time: a second one at the same port is a harness_error ("busy").
    """
    subscriber = next(s for s in lab.plan.subscribers if s.name == bulk.subscriber)
    duration_s = max(1, round(bulk.duration_ns / 1e9))
    name = f"bulk-{bulk.name}".replace("/", "-")
    output = lab.log_dir / f"{name}.json"
    with output.open("wb") as file:
        process = lab.spawn(subscriber.node, command(lab.plan, bulk, duration_s), log=name, stdout=file)
    is_late = not _ended(process, duration_s + _CONNECT_TIMEOUT_MS / 1e3 + _CLOSE_S)
    if is_late:
        process.send_signal(signal.SIGINT)
        if not _ended(process, _KILL_S):
            process.kill()
            process.wait()
    figures = parse(output.read_bytes(), bulk.direction)
    if is_late:
        figures |= {"failure": "timeout", "detail": "iperf3 did not end by itself"}
        if figures["goodput_bps"] is not None:  # over the phase, not over the time spent waiting for its end
            figures["duration_ns"] = min(figures["duration_ns"], duration_s * 1_000_000_000)
            figures["goodput_bps"] = round(8e9 * figures["received_bytes"] / max(figures["duration_ns"], 1))
    about = {key: getattr(bulk, key) for key in ("subscriber", "service", "via", "direction")}
    return {"bulk": bulk.name, **about, **figures}


def command(plan: Plan, bulk: Bulk, duration_s: int) -> list[str]:
    """The iperf3 command line. Through a tunnel it speaks to the server's inner address, bound to the client's own."""
    service = next(s for s in plan.services if s.name == bulk.service)
    address, bind = service.address4, None
    if bulk.via is not None:
        tunnel = next(t for t in plan.tunnels if t.name == bulk.via)
        server: VpnServer = next(s for s in plan.servers if s.name == tunnel.server)
        if server.node != service.node:
            raise ValueError(
                f"bulk {bulk.name}: {bulk.service} is on {service.node} and the tunnel ends on {server.node}; "
                f"name a bulk service on {server.node}"
            )
        address, bind = server.inner_server4, str(ipaddress.ip_interface(tunnel.inner4).ip)
    argv = ["iperf3", "-c", address, "-p", str(service.port), "-t", str(duration_s), "-i", "1", "-J"]
    argv += ["--connect-timeout", str(_CONNECT_TIMEOUT_MS)]
    if bulk.direction == "down":
        argv.append("-R")
    if bind is not None:
        argv += ["-B", bind]
    return argv


def parse(output: bytes, direction: str) -> dict[str, Any]:
    """iperf3's JSON as figures; what cannot be read is a harness_error that shows what was there."""
    figures: dict[str, Any] = {
        "failure": None,
        "detail": "",
        "goodput_bps": None,
        "received_bytes": 0,
        "retransmits": None,
        "duration_ns": 0,
        "intervals": [],
    }
    try:
        report = json.loads(output)
    except ValueError:
        text = output.decode("utf-8", "replace").strip()
        return figures | {
            "failure": "harness_error",
            "detail": f"not JSON: {text[-200:]}" if text else "no output",
        }
    if not isinstance(report, dict):
        return figures | {"failure": "harness_error", "detail": "not an iperf3 report"}
    figures["intervals"] = [
        _interval(entry["sum"]) for entry in report.get("intervals", []) if "sum" in entry
    ]
    received = report.get("end", {}).get("sum_received", {})
    sent = report.get("end", {}).get("sum_sent", {})
    if received.get("seconds"):
        figures["received_bytes"] = int(received["bytes"])
        figures["duration_ns"] = round(received["seconds"] * 1e9)
        figures["goodput_bps"] = round(received["bits_per_second"])
    elif (
        direction == "down" and figures["intervals"]
    ):  # broken off: the client is the receiver, so its intervals count
        figures["received_bytes"] = sum(entry["bytes"] for entry in figures["intervals"])
        figures["duration_ns"] = sum(entry["duration_ns"] for entry in figures["intervals"])
        figures["goodput_bps"] = round(8e9 * figures["received_bytes"] / max(figures["duration_ns"], 1))
    if "retransmits" in sent:
        figures["retransmits"] = int(sent["retransmits"])
    if "error" in report:
        figures |= {"failure": _word(report["error"]), "detail": report["error"]}
    elif figures["goodput_bps"] is None:
        figures |= {"failure": "harness_error", "detail": "iperf3 reported no figures"}
    return figures


def _interval(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "start_ns": round(entry["start"] * 1e9),
        "duration_ns": round(entry["seconds"] * 1e9),
        "bytes": int(entry["bytes"]),
        "goodput_bps": round(entry["bits_per_second"]),
        "retransmits": entry.get("retransmits"),
    }


def _word(error: str) -> str:
    lower = error.lower()
    return next((word for text, word in _WORDS if text in lower), "harness_error")


def _ended(process: subprocess.Popen[Any], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True
