"""A systemd of a test's own, in namespaces of its own below a world: for what only systemd itself can show of a unit.

It has an empty /etc/systemd/system, the few targets that units name, no journal, no udev: nothing of it reaches the machine, whose
devices and settings it cannot change (a /dev of its own, /proc/sys read-only). The one thing outside is a cgroup, while it runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.dataplane_lab import Router, wait_until

SYSTEMD = Path("/lib/systemd/systemd")
# Targets do nothing by themselves. What they would pull in (udev, sysctl, tmpfiles) is not there.
_TARGETS = (
    "basic", "local-fs", "multi-user", "network", "network-online", "network-pre", "paths", "shutdown", "slices", "sockets", "swap",
    "sysinit", "timers", "umount",
)  # fmt: skip
_INSIDE = r"""
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mkdir /run/dev /run/dev/pts /run/dev/shm /run/dev/mqueue /run/dev/hugepages
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read name major minor <<< "$node"
    mknod -m 666 /run/dev/$name c $major $minor
done
ln -s /proc/self/fd /run/dev/fd
ln -s pts/ptmx /run/dev/ptmx
: > /run/dev/kmsg
mount --bind /run/dev /dev
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
for folder in etc var usr/local opt; do
    mkdir -p /run/upper/$folder /run/scratch/$folder
    mount -t overlay -o lowerdir=/$folder,upperdir=/run/upper/$folder,workdir=/run/scratch/$folder overlay /$folder
done
mount -t tmpfs tmpfs /etc/systemd/system
mkdir -p /run/units /opt/python /opt/source
for target in $TARGETS; do cp -L /lib/systemd/system/$target.target /run/units/; done
mount --bind "$PYTHON" /opt/python
mount --bind "$SOURCE" /opt/source
export container=allowlab SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units
exec /lib/systemd/systemd --system --unit=basic.target --log-target=kmsg --log-level=info
"""


@dataclass(frozen=True, slots=True)
class Systemd:
    """pid: its own, as this world sees it. What it says is in its /dev/kmsg, a file."""

    pid: int

    def run(self, *argv: str, check: bool = True) -> str:
        """A command among its services, as root; what it prints."""
        return self._enter([*argv], check)

    def shell(self, script: str) -> str:
        return self._enter(["sh", "-ec", script], True)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self._enter(["sh", "-ec", f"cat > {path} && chmod {mode} {path}"], True, text)

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def _enter(self, argv: list[str], check: bool, given: str | None = None) -> str:
        where = f"--target={self.pid}"
        done = subprocess.run(
            ["nsenter", where, "--mount", "--pid", "--cgroup", "--net", "--wd=/", *argv],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            told = self._enter(["sh", "-c", "tail -n 30 /dev/kmsg /run/service.log"], False)
            raise AssertionError(f"{argv}: {done.stdout}{done.stderr}{told}")
        return done.stdout


@contextlib.contextmanager
def private_systemd(lab: Router, source: Path, folder: Path) -> Iterator[Systemd]:
    """systemd in the router's network; /opt/python and /opt/source hold this Python and the project."""
    group_root = Path("/run/cgroup2")
    group_root.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(group_root)], check=True)
    group = group_root / f"allowlab-test-{os.getpid()}"
    group.mkdir()
    log = folder / "systemd.log"
    unshare = "exec unshare --mount --pid --cgroup --ipc --fork --kill-child --mount-proc bash -c"
    environment = os.environ | {
        "PYTHON": str(Path(sys.base_prefix).resolve()),
        "SOURCE": str(source),
        "TARGETS": " ".join(_TARGETS),
        "INSIDE": _INSIDE,
    }
    script = f'echo $$ > {group}/cgroup.procs; {unshare} "$INSIDE"'
    try:
        with lab.inside(), log.open("wb") as output:
            outer = subprocess.Popen(
                ["bash", "-c", script],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            pid = int(wait_until(lambda: outer.poll() is None and children.read_text().split(), 10)[0])
            made = Systemd(pid)
            wait_until(
                lambda: made.run("systemctl", "is-system-running", check=False).strip() == "running", 20
            )
            yield made
        finally:
            outer.kill()  # and with it, at once, what it started
            outer.wait()
    finally:
        _remove(group)
        subprocess.run(["umount", "--lazy", str(group_root)], check=False)


def _remove(group: Path) -> None:
    """Its processes are ending; a group can go when they are gone."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for each in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.02)
    assert not group.exists(), f"{group} is left"


def why_not() -> str:
    """What is missing for it; "" when nothing is."""
    if os.geteuid() != 0:
        return "needs root"
    if not SYSTEMD.exists() or shutil.which("systemctl") is None:
        return "systemd is not here"
    return "" if "cgroup2" in Path("/proc/filesystems").read_text() else "the kernel has no cgroup2"
