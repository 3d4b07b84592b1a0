"""`python -m testbed.lab.inspection FOLDER [--json]`, inside the world of a running lab: what is there at this moment.

Everything is asked from the kernel: addresses and link states by netlink, programs from /proc by the namespace they are in.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.lab import netlink_route
from testbed.lab.build import Lab, attach
from testbed.lab.interactive import warning
from testbed.plan.plan import Link
from testbed.plan.store import read_plan


def main() -> int:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `allowlab ps | head` is no error
    with tempfile.TemporaryDirectory() as logs, attach(read_plan(folder / "plan.json"), Path(logs)) as lab:
        found = inspect(lab)
    with suppress(FileNotFoundError):
        found["died"] = json.loads((folder / "health.json").read_text(encoding="utf-8"))
    found["warning"] = warning(folder)
    print(json.dumps(found, indent=1) if "--json" in sys.argv[2:] else render(found))
    return 0


def inspect(lab: Lab) -> dict[str, Any]:
    """Nodes with their addresses and programs, and links with their state."""
    programs = _programs(lab)
    nodes, is_up = [], {}
    for node in lab.plan.nodes:
        with lab.netlink(node.name) as connection:
            devices = {device.index: device for device in netlink_route.links(connection)}
            addresses = netlink_route.addresses(connection)
        for port in lab.ports(node.name):
            device = devices.get(port.index)
            is_up[node.name, port.interface.name] = bool(device and device.is_up and device.has_carrier)
        held = {
            devices[index].name: [each for each in found if not _is_own(each)]
            for index, found in sorted(addresses.items())
            if index in devices
        }
        nodes.append(
            {
                "name": node.name,
                "kind": node.kind,
                "asn": node.asn,
                "addresses": {name: found for name, found in held.items() if found},
                "programs": programs.get(node.name, []),
            }
        )
    links = [
        {
            "name": link.name,
            "kind": link.kind,
            "a": f"{link.a.node}/{link.a.name}",
            "b": f"{link.b.node}/{link.b.name}",
            "is_up": is_up[link.a.node, link.a.name] and is_up[link.b.node, link.b.name],
            "asked": describe(link),
        }
        for link in lab.plan.links
    ]
    return {"nodes": nodes, "links": links, "died": [], "warning": ""}


def describe(link: Link) -> str:
    """What the plan asks of a link, in words: "20 Mbit/s, 4 ms one way, loss 1 %"."""
    parts = [f"{link.rate_bps / 1e6:g} Mbit/s"] if link.rate_bps else []
    if link.delay_ns:
        jitter = f" ± {link.jitter_ns / 1e6:g}" if link.jitter_ns else ""
        parts.append(f"{link.delay_ns / 1e6:g}{jitter} ms one way")
    if link.loss_ratio:
        parts.append(f"loss {link.loss_ratio * 100:g} %")
    return ", ".join(parts) or "not shaped"


def render(found: dict[str, Any]) -> str:
    """The inspection as text."""
    rows = [("NODE", "KIND", "AS", "ADDRESSES", "PROGRAMS")]
    for node in found["nodes"]:
        addresses = [each for name, held in node["addresses"].items() for each in held if name != "lo"]
        loopback = node["addresses"].get("lo", [])
        shown = [each.split("/")[0] for each in (loopback or addresses)]
        more = f" +{len(addresses)}" if loopback and addresses else ""
        programs = " ".join(sorted({program["name"] for program in node["programs"]}))
        rows.append((node["name"], node["kind"], str(node["asn"]), " ".join(shown) + more, programs or "-"))
    text = _table(rows)
    rows = [("LINK", "KIND", "ENDS", "STATE", "ASKED")]
    for link in found["links"]:
        state = "up" if link["is_up"] else "DOWN"
        rows.append((link["name"], link["kind"], f"{link['a']} - {link['b']}", state, link["asked"]))
    text += "\n\n" + _table(rows)
    if found["died"]:
        text += "\n\nended by themselves:\n" + "\n".join(f"  {line}" for line in found["died"])
    if found["warning"]:
        text += "\n\n" + found["warning"]
    return text


def _programs(lab: Lab) -> dict[str, list[dict[str, Any]]]:
    by_namespace = {os.fstat(lab.netns_fd(node.name)).st_ino: node.name for node in lab.plan.nodes}
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            node = by_namespace.get((folder / "ns" / "net").stat().st_ino)
            command = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:  # it ended meanwhile
            continue
        if node is not None and command:
            argv = [word.decode(errors="replace") for word in command]
            found.setdefault(node, []).append({"pid": int(folder.name), "name": _name(argv), "argv": argv})
    return found


def _name(argv: list[str]) -> str:
    """A program's name; a Python program's module."""
    name = Path(argv[0]).name
    if name.startswith("python") and "-m" in argv[:-1]:
        return argv[argv.index("-m") + 1]
    return name.rstrip(":")


def _is_own(address: str) -> bool:
    """An address every node has."""
    return address.startswith(("127.", "::1/", "fe80:"))


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
