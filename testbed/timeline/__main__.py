"""`python -m testbed.timeline RUN_DIR`: the program that runs inside the world. Its exit code is Played.exit_code."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path


def main() -> int:
    # From the first moment: a request to stop that comes while the modules below are loaded must not be lost.
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.append(number))
    from testbed.timeline.play import play
    from testbed.timeline.stage import StageOptions

    parser = argparse.ArgumentParser(prog="testbed.timeline", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--links", choices=("auto", "netem", "nfqueue"), default="auto")
    parser.add_argument(
        "--enforcer", default=None, help="command line of the enforcer under test, instead of this project's"
    )
    parser.add_argument("--capture", action="append", default=[], metavar="NODE[:PORT]")
    arguments = parser.parse_args()
    options = StageOptions(
        links=arguments.links,
        enforcer_command=tuple(shlex.split(arguments.enforcer)) if arguments.enforcer else None,
        captures=tuple(arguments.capture),
    )
    return play(arguments.run_dir, options, lambda: bool(asked)).exit_code


if __name__ == "__main__":
    sys.exit(main())
