"""From samples to rows: what was measured against what was asked, and whether the plan's tolerances allow the difference. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, quantiles
from typing import Any, Literal

from testbed.plan.plan import Tolerances

Figure = Literal["delay", "jitter", "loss", "rate"]

# Jitter's tolerance has no entry in the plan: a tenth, and what the sample's size leaves open.
_JITTER_RATIO = 0.10
_SIGMAS = 3.0
# Standard errors for a uniform ±j and n samples: of the middle mean below 0.8 j / √n (the mean's is 0.58, the
# median's 1); of the decile range
# 0.5 / √n of itself (order statistics: √(2pq - 2p²) with p = 0.1, over 0.8).
_MIDDLE_MEAN_ERROR, _HALF_WIDTH_ERROR = 0.8, 0.5


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One figure of one direction of a link: asked and measured in the figure's unit (ns, ratio 0..1, bit/s).

    Within when asked lies between low and high for loss (the binomial interval of what was seen), and when measured lies
    between low and high (asked with the tolerance) for the others. measured is None when nothing arrived. family 0: both.
    """

    link: str
    direction: str
    kind: str
    figure: Figure
    asked: float
    measured: float | None
    low: float
    high: float
    samples: int
    is_within: bool
    family: int = 0
    tries: int = 1

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Verdict:
    measured: float | None
    low: float
    high: float
    samples: int
    is_within: bool


def judge_delay(asked_ns: int, jitter_ns: int, delays_ns: Sequence[int], tolerances: Tolerances) -> Verdict:
    """The median without jitter, the mean of the middle four fifths with it: late readings of the clock move both least."""
    expected = _middle_mean(_spread(asked_ns, jitter_ns)) if jitter_ns else float(asked_ns)
    allowed = max(tolerances.delay_floor_ns, tolerances.delay_ratio * asked_ns)
    if delays_ns and jitter_ns:
        allowed += _SIGMAS * jitter_ns * _MIDDLE_MEAN_ERROR / math.sqrt(len(delays_ns))
    low, high = max(0.0, expected - allowed), expected + allowed
    if not delays_ns:
        return Verdict(None, low, high, 0, False)
    measured = _middle_mean(delays_ns) if jitter_ns else median(delays_ns)
    return Verdict(measured, low, high, len(delays_ns), low <= measured <= high)


def judge_jitter(delay_ns: int, asked_ns: int, delays_ns: Sequence[int], tolerances: Tolerances) -> Verdict:
    """The width of the middle four fifths as that of a uniform ±j, which is 1.6 j: a few late readings do not count."""
    expected = _half_width(_spread(delay_ns, asked_ns))
    relative = _JITTER_RATIO + _SIGMAS * _HALF_WIDTH_ERROR / math.sqrt(max(1, len(delays_ns)))
    allowed = max(tolerances.delay_floor_ns, relative * expected)
    low, high = max(0.0, expected - allowed), expected + allowed
    if len(delays_ns) < 10:
        return Verdict(None, low, high, len(delays_ns), False)
    measured = _half_width(delays_ns)
    return Verdict(measured, low, high, len(delays_ns), low <= measured <= high)


def judge_loss(asked_ratio: float, lost: int, sent: int, tolerances: Tolerances) -> Verdict:
    """The loss asked must lie in the binomial interval (Wilson 1927) of the loss seen; none asked means none seen."""
    low, high = _wilson(lost, sent, tolerances.loss_confidence)
    is_within = lost == 0 if asked_ratio == 0 else low <= asked_ratio <= high
    return Verdict(lost / sent if sent else None, low, high, sent, bool(sent) and is_within)


def judge_rate(asked_bps: int, measured_bps: int | None, frames: int, tolerances: Tolerances) -> Verdict:
    low, high = asked_bps * (1 - tolerances.rate_ratio), asked_bps * (1 + tolerances.rate_ratio)
    if measured_bps is None:
        return Verdict(None, low, high, frames, False)
    return Verdict(measured_bps, low, high, frames, low <= measured_bps <= high)


def loss_probes(loss_ratio: float) -> int:
    """How many probes a loss needs: 20 expected losses, at least 300, at most 4,000 (the interval then says how little it proves)."""
    return min(4_000, max(300, math.ceil(20 / loss_ratio)))


def _spread(delay_ns: int, jitter_ns: int) -> list[float]:
    """What max(0, delay ± jitter), uniform, gives: evenly spaced values of it."""
    steps = 1_000
    return [max(0.0, delay_ns + jitter_ns * ((2 * step + 1) / steps - 1)) for step in range(steps)]


def _middle_mean(values: Sequence[float]) -> float:
    ordered, cut = sorted(values), len(values) // 10
    return fmean(ordered[cut : len(ordered) - cut])


def _half_width(values: Sequence[float]) -> float:
    """Of a uniform spread: from its first decile to its ninth is 1.6 times the half-width."""
    deciles = quantiles(values, n=10, method="inclusive")
    return (deciles[8] - deciles[0]) / 1.6


def _wilson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
