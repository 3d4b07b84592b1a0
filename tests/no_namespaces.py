"""`python -m tests.no_namespaces COMMAND…`: runs it as an ordinary user for whom the kernel makes no namespaces.

The user (nobody, when root asks and nobody may read the checkout; else who asks) enters a user namespace in which he is 1000,
has no capability once the command has begun, and may make no further one: user.max_user_namespaces is 0 (namespaces(7)).
Where that is forbidden already, the command runs as it is.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
_INSIDE = 1000
_NEWUSER, _SET_DUMPABLE = 0x10000000, 4  # linux/sched.h, linux/prctl.h


def ordinary_user() -> int:
    """Who the command will be on the host."""
    if os.geteuid() != 0:
        return os.geteuid()
    try:
        tried = subprocess.run(
            [sys.executable, "-c", f"open({__file__!r})"],
            user=NOBODY,
            group=NOBODY,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return 0
    return NOBODY if tried.returncode == 0 else 0


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    user = ordinary_user()
    group = os.getegid()
    if user == NOBODY:
        group = NOBODY
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # or /proc/self stays root's
    if libc.unshare(_NEWUSER) == 0:
        proc = Path("/proc/self")
        (proc / "setgroups").write_text("deny", encoding="ascii")
        (proc / "uid_map").write_text(f"{_INSIDE} {user} 1", encoding="ascii")
        (proc / "gid_map").write_text(f"{_INSIDE} {group} 1", encoding="ascii")
        Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
