"""Whether the machine was good enough for the timing claims of a run: CPU steal, idle time, driver lag, queue drops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# A run whose probes leave later than this at the 99th percentile cannot claim millisecond round-trip times (DESIGN §6).
LAG_LIMIT_NS = 5_000_000
STEAL_LIMIT_RATIO = 0.05
IDLE_FLOOR_RATIO = 0.02


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Ticks since boot from /proc/stat's first line (proc(5)), all cores together."""

    total: int
    idle: int
    steal: int

    @classmethod
    def now(cls) -> CpuTimes:
        fields = [
            int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ]
        return cls(total=sum(fields[:8]), idle=fields[3] + fields[4], steal=fields[7])

    def shares_since(self, earlier: CpuTimes) -> tuple[float, float]:
        """(idle_ratio, steal_ratio) since an earlier reading."""
        total = max(self.total - earlier.total, 1)
        return (self.idle - earlier.idle) / total, (self.steal - earlier.steal) / total


def noise_reasons(*, lag_p99_ns: int, idle_ratio: float, steal_ratio: float) -> list[str]:
    """Why the run's timing claims do not hold; empty when they do."""
    reasons = []
    if lag_p99_ns > LAG_LIMIT_NS:
        reasons.append(
            f"probes left {lag_p99_ns / 1e6:.1f} ms late at the 99th percentile (limit {LAG_LIMIT_NS / 1e6:.0f} ms)"
        )
    if steal_ratio > STEAL_LIMIT_RATIO:
        reasons.append(f"the hypervisor took {steal_ratio:.1%} of the CPU (limit {STEAL_LIMIT_RATIO:.0%})")
    if idle_ratio < IDLE_FLOOR_RATIO:
        reasons.append(
            f"the CPU was idle only {idle_ratio:.1%} of the time (at least {IDLE_FLOOR_RATIO:.0%} wanted)"
        )
    return reasons
