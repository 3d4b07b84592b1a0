"""What a replay has found so far: filled by captures and flow logs alike, read by the report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from enforcer.policy import Policy
from enforcer.replay.source import Damages
from enforcer.replay.tally import Pairs, Totals


@dataclass(slots=True)
class Side:
    """One policy and what it did to the traffic."""

    policy: Policy
    file: str
    totals: Totals = field(default_factory=Totals)


@dataclass(slots=True)
class FlowLogFacts:
    """What a flow log cannot show (judge.Unseen, summed), how its lines were taken, and what was checked against decide."""

    direction: str
    turned: int = 0
    first_packets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    gre: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    gre_unregistered: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    checked: int = 0


@dataclass(slots=True)
class CaptureFacts:
    """not_ip: frames without IP. forgotten: flows let go while they lived, for memory. decided: packets that needed `decide`."""

    not_ip: int = 0
    forgotten: int = 0
    decided: int = 0
    unmatched_fragments: int = 0


@dataclass(slots=True)
class Result:
    """sides: the policy, and the one it is compared with if there is one. seen: flows, packets, bytes in all."""

    source: str
    format: str
    sides: list[Side]
    pairs: Pairs = field(default_factory=Pairs)
    seen: list[int] = field(default_factory=lambda: [0, 0, 0])
    first_ns: int | None = None
    last_ns: int | None = None
    at_ns: int | None = None
    log: FlowLogFacts | None = None
    capture: CaptureFacts | None = None
    damages: Damages = field(default_factory=Damages)
    notes: list[str] = field(default_factory=list)
    is_interrupted: bool = False
    read_ratio: float = 1.0
    took_s: float = 0.0

    def saw(self, first_ns: int, last_ns: int) -> None:
        """Widen the time the traffic spans."""
        self.first_ns = first_ns if self.first_ns is None else min(self.first_ns, first_ns)
        self.last_ns = last_ns if self.last_ns is None else max(self.last_ns, last_ns)
