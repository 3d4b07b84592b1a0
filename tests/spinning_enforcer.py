"""The enforcer, with a thread that spins without a system call from a given second after boot on: `python -m tests.spinning_enforcer SECOND run …`.

In virtual time nothing but a program that waits lets the clock go on, so this one stops it for all.
"""

from __future__ import annotations

import sys
import threading
import time


def spin(from_s: float) -> None:
    time.sleep(max(0.0, from_s - time.monotonic()))
    while True:
        pass


if __name__ == "__main__":
    from enforcer.cli import main

    threading.Thread(target=spin, args=(float(sys.argv.pop(1)),), daemon=True).start()
    main()
