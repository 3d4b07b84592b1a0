"""What the kernel counts by itself in the agent's network namespace: packets that no rule and no agent ever saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_QUIET_LOOKS = 3  # looks, a second apart, without a new one: then it is over


def conntrack_drops(proc: Path = Path("/proc")) -> int:
    """Packets dropped because the table of connections was full (Documentation/networking/nf_conntrack-sysctl.rst); 0 without it."""
    try:
        names, *rows = (proc / "net/stat/nf_conntrack").read_text().splitlines()
        column = names.split().index("drop")
        return sum(int(row.split()[column], 16) for row in rows)
    except (OSError, ValueError, IndexError):
        return 0


def conntrack_room(proc: Path = Path("/proc")) -> tuple[int, int] | None:
    """Connections tracked, and how many there may be; None without connection tracking."""
    folder = proc / "sys/net/netfilter"
    try:
        return tuple(int((folder / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))  # type: ignore[return-value]
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Queue:
    """waiting: packets in the queue; dropped: those that found no room in it or on the way to its reader."""

    waiting: int
    dropped: int


def queue(number: int, proc: Path = Path("/proc")) -> Queue | None:
    """One NFQUEUE; None when nobody has bound it. Columns: net/netfilter/nfnetlink_queue.c, seq_show."""
    try:
        rows = (proc / "net/netfilter/nfnetlink_queue").read_text().splitlines()
    except OSError:
        return None
    for row in rows:
        words = row.split()
        if len(words) >= 7 and words[0] == str(number):
            return Queue(int(words[2]), int(words[5]) + int(words[6]))
    return None


@dataclass(slots=True)
class Rising:
    """Whether a count that only grows has grown of late."""

    last: int | None = None
    is_rising: bool = False
    _quiet: int = field(default=0)

    def look(self, count: int) -> bool:
        """Call it about once a second."""
        if self.last is not None and count > self.last:
            self.is_rising, self._quiet = True, 0
        else:
            self._quiet += 1
            self.is_rising = self.is_rising and self._quiet < _QUIET_LOOKS
        self.last = count
        return self.is_rising
