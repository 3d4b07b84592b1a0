"""Sees from outside that a lab kernel's time stands still: inside, every watchdog runs on the stopped clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

STALLED_AFTER_S = 30.0
# A lab that is being built spends 60 % in its kernel, a program that spins (tests/spinning_enforcer.py) below 1 %.
_WORKING_RATIO = 0.05
_IDLE_RATIO = 0.01
_TICKS_S = os.sysconf("SC_CLK_TCK")


class Stalled(Exception):
    """No progress for waited_s: at_s of the scenario (negative before its start; at least this far), in which program."""

    def __init__(self, at_s: float, program: str, waited_s: float) -> None:
        super().__init__(at_s, program, waited_s)
        self.at_s, self.program, self.waited_s = at_s, program, waited_s

    def __str__(self) -> str:
        at = f"at {self.at_s:.0f} s of virtual time" if self.at_s >= 0 else "before the scenario's start"
        return f"stalled {at} in {self.program}: no progress for {self.waited_s:.0f} s"


class Watch:
    """look() again and again; saw_progress() when anything came out of the machine.

    Without its clock going on or a word from its program, a machine is stalled that has used `limit_s` of CPU time in programs alone
    (they spin: whoever works calls the kernel), ten times as much in whatever way, or has done nothing for four times as long.
    """

    def __init__(
        self, pid: int, heartbeat: Path, limit_s: float = STALLED_AFTER_S, start_s: float = 0.0
    ) -> None:
        """start_s: when time 0 is, in the machine's seconds since boot; the text counts from there."""
        self._pid, self._heartbeat, self._limit_s, self._start_s = pid, heartbeat, limit_s, start_s
        self._last = ""
        self.saw_progress()

    def saw_progress(self) -> None:
        self._since_s = time.monotonic()
        self._cpu_s, self._kernel_s = self._used_s()

    def look(self) -> None:
        """Raises Stalled."""
        if time.monotonic() - self._since_s < self._limit_s:
            return
        try:
            text = self._heartbeat.read_text(encoding="ascii").strip()
        except OSError:
            text = ""
        if text != self._last:
            self._last = text
            self.saw_progress()
            return
        now_s, kernel_s = self._used_s()
        used_s, waited_s = now_s - self._cpu_s, time.monotonic() - self._since_s
        spins = used_s >= self._limit_s and kernel_s - self._kernel_s < _WORKING_RATIO * used_s
        sleeps = waited_s >= 4 * self._limit_s and used_s < _IDLE_RATIO * waited_s
        if not (spins or sleeps or used_s >= 10 * self._limit_s):
            return
        raise Stalled(float(text or 0) - self._start_s, _busiest(self._pid), waited_s)

    def _used_s(self) -> tuple[float, float]:
        """CPU time of the kernel with the programs in it, and its own part."""
        kernel_s = _cpu_s(self._pid)
        return kernel_s + sum(_cpu_s(pid) for pid in _family(self._pid)[1:]), kernel_s


def _family(pid: int) -> list[int]:
    """The kernel's process and those it runs programs in."""
    found = [pid]
    for each in found:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _busiest(kernel: int) -> str:
    """The command line of the program that used most CPU time in half a second, read from its stack (its first page holds it)."""
    before = {pid: _cpu_s(pid) for pid in _family(kernel)[1:]}
    time.sleep(0.5)
    used = {pid: _cpu_s(pid) - since_s for pid, since_s in before.items()}
    if not used or max(used.values()) == 0:
        return "the lab's own kernel (nothing inside is running)"
    return _command(max(used, key=lambda pid: used[pid]), kernel) or "an unknown program"


def _command(pid: int, kernel: int) -> str:
    """The words at the top of a traced process's stack: arguments, then environment, then the program's name (execve(2))."""
    try:
        # A process that runs a program of the lab kernel has kept that kernel's own stack too.
        own = Path(f"/proc/{kernel}/exe").readlink().as_posix().encode() if pid != kernel else b""
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        regions = sorted(
            (int(line.split("-")[0], 16), int(line.split()[0].split("-")[1], 16)) for line in maps
        )
        with Path(f"/proc/{pid}/mem").open("rb") as memory:
            for start, end in reversed([region for region in regions if region[1] < 1 << 63]):
                memory.seek(max(start, end - 8192))
                try:
                    data = memory.read(min(8192, end - start))
                except OSError:
                    continue
                words = [word for word in data.rstrip(b"\0").split(b"\0") if word]
                if len(words) > 2 and words[-1].startswith(b"/") and words[-1] != own:
                    return words[-1].decode(errors="replace")
    except (OSError, ValueError):
        return ""
    return ""
