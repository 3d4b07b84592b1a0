"""`python -m testbed.lab.interactive_shell FOLDER`, inside the world of a running lab: Mininet's command line on it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from testbed.lab.build import attach
from testbed.plan.store import read_plan


def main() -> int:
    from testbed.lab.mininet_net import LabNet

    plan = read_plan(Path(sys.argv[1]) / "plan.json")
    with tempfile.TemporaryDirectory() as logs, attach(plan, Path(logs)) as lab:
        LabNet(lab).interact()
    return 0


if __name__ == "__main__":
    sys.exit(main())
