"""`python -m testbed.timeline.hold FOLDER`, inside a world: brings the stage of FOLDER/plan.json up and holds it until SIGINT.

Says its progress on standard output, at last "ready" or "failed" (with details). While it holds, health.json lists what
has ended by itself; calibration-misses.json lists the links that were measured out of tolerance: a lab to look around in comes up all
the same. Inside, each node's name means its address (/etc/hosts of the world).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from testbed.lab.capture import address_names, capturing
from testbed.lab.interactive import MISSES_FILE, KeptLab, read_lab
from testbed.lab.namespaces import cover_file
from testbed.plan.plan import Plan
from testbed.plan.store import read_plan
from testbed.timeline.progress import Progress, counted
from testbed.timeline.stage import Broken, Stage, StageOptions

_HEALTH_INTERVAL_S = 1.0
_HOSTS = Path("/etc/hosts")


def main() -> int:
    folder = Path(sys.argv[1])
    return asyncio.run(_hold(folder, read_lab(folder), read_plan(folder / "plan.json")))


async def _hold(folder: Path, lab: KeptLab, plan: Plan) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    progress = Progress()
    stopped = asyncio.create_task(stop.wait())
    try:
        cover_file(_HOSTS, _HOSTS.read_text(encoding="utf-8") + _hosts(plan))
        # No figures are taken from a kept lab: a busy machine must not keep it from coming up.
        options = StageOptions(links=lab.links, calibration_must_hold=False)
        with Stage(plan, folder, options, progress) as stage:
            preparing = asyncio.create_task(stage.prepare())
            await asyncio.wait({preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                preparing.cancel()
                return 130
            await preparing
            if stage.calibration_misses:
                misses = json.dumps(stage.calibration_misses, indent=1)
                (folder / MISSES_FILE).write_text(misses + "\n", encoding="utf-8")
            with capturing(stage.lab, lab.captures, lab.capture_dir):
                progress.say(
                    "ready", f"{counted(len(plan.nodes), 'node')}, {counted(len(plan.links), 'link')}"
                )
                await _watch(stage, folder / "health.json", stopped)
    except (Broken, RuntimeError, OSError, ValueError) as error:
        details = error.details if isinstance(error, Broken) else []
        print(json.dumps({"phase": "failed", "text": str(error), "details": details}), flush=True)
        return 3
    return 0


async def _watch(stage: Stage, health: Path, stopped: asyncio.Task[bool]) -> None:
    written: list[str] = []
    while not stopped.done():
        died = stage.died()
        if died != written:
            health.write_text(json.dumps(died), encoding="utf-8")
            written = died
        await asyncio.wait({stopped}, timeout=_HEALTH_INTERVAL_S)


def _hosts(plan: Plan) -> str:
    """hosts(5) lines: a router's loopback or a host's addresses under its name, each interface of a router as NODE.INTERFACE."""
    forwards = {node.name for node in plan.nodes if node.forwards}
    loopbacks = {
        each.split("/")[0] for node in plan.nodes for each in (node.loopback4, node.loopback6) if each
    }
    lines = [
        f"{address} {name}"
        for address, name in address_names(plan).items()
        if name not in forwards or address in loopbacks
    ]
    return "\n".join(["", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
