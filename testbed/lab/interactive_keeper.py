"""`python -m testbed.lab.interactive_keeper FOLDER`: holds a lab's world open in the background until asked to end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from testbed.lab.interactive import mark_keeper
from testbed.world import WorldError, open_world

_STOP_DEADLINE_S = 4.0


def main() -> int:
    folder = Path(sys.argv[1])
    lab = mark_keeper(folder, None)
    argv = [sys.executable, "-m", "testbed.timeline.hold", str(folder)]
    with (folder / "progress.jsonl").open("ab") as progress:
        try:
            with open_world(argv, stdout=progress, keep=[folder], hostname=lab.name[:63]) as world:
                signal.signal(signal.SIGTERM, lambda *_: world.stop())
                mark_keeper(folder, _first_process(world.process.pid))
                return world.wait()
        except WorldError as error:
            print(error, file=sys.stderr)
            return 3


def _first_process(keeper: int) -> int:
    """The world's PID 1 as the host numbers it: the only child of the process that opened the world."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    if children.exists():
        return int(children.read_text().split()[0])
    for status in Path("/proc").glob("[0-9]*/stat"):
        # proc(5): the parent's id is the second field after the name.
        if status.read_text().rpartition(")")[2].split()[1] == str(keeper):
            return int(status.parent.name)
    raise RuntimeError("the world's first process is not to be found in /proc")


if __name__ == "__main__":
    sys.exit(main())
