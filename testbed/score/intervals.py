"""How sure a figure is: score intervals for proportions, and percentiles that say when there are too few samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of an estimate, in its unit; None where there is none."""

    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Percentile:
    """value is None when there are too few samples, or when so many were lost that it is not finite: reason says which."""

    value: float | None
    interval: Interval
    n: int
    reason: str = ""


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval for a proportion (Wilson 1927).

    Returns bounds in 0..1; (0, 1) when trials is 0. Raises ValueError if successes > trials or either is negative.
    """
    if successes < 0 or trials < 0 or successes > trials:
        raise ValueError(f"{successes} of {trials} is not a proportion")
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-18.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return Interval(low, high)


def percentile(
    samples: Sequence[float | None], quantile: float, confidence: float = CONFIDENCE
) -> Percentile:
    """A percentile of all samples, lost ones (None) counted as later than any other, with its order-statistics interval.

    Needs one sample beyond the quantile on average, n >= 1/(1-quantile): p50 2, p95 20, p99 100 (as testbed/plan/figures.py
    asks). A bound of the interval is None where no sample can give it: p99 has an upper one from 368 samples on.
    Nearest-rank, so the value is one that was measured. Interval after David and Nagaraja, Order Statistics, 7.1.
    """
    n, needed = len(samples), samples_needed(quantile)
    if n < needed:
        return Percentile(None, Interval(None, None), n, f"{n} samples; p{quantile * 100:g} needs {needed}")
    ordered = sorted(math.inf if sample is None else sample for sample in samples)
    low, high = _ranks(n, quantile, confidence)
    value = ordered[min(n, max(1, math.ceil(quantile * n))) - 1]
    interval = Interval(
        _finite(ordered[low - 1]) if low else None, _finite(ordered[high - 1]) if high else None
    )
    lost = sum(1 for sample in samples if sample is None)
    if math.isinf(value):
        return Percentile(
            None, interval, n, f"{lost} of {n} had no answer, so p{quantile * 100:g} is not finite"
        )
    return Percentile(value, interval, n)


def samples_needed(quantile: float) -> int:
    """The least n of which one sample lies beyond the quantile on average."""
    return math.ceil(round(1 / (1 - quantile), 9))


def _ranks(n: int, quantile: float, confidence: float) -> tuple[int | None, int | None]:
    """Ranks (from 1) between which the quantile lies; None where even the outermost sample is no bound.

    The binomial distribution by its normal approximation, and exactly at the ends, where that is poor.
    """
    tail = (1 - confidence) / 2
    half = NormalDist().inv_cdf(1 - tail) * math.sqrt(n * quantile * (1 - quantile))
    low = max(1, math.floor(n * quantile - half)) if (1 - quantile) ** n <= tail else None
    high = min(n, math.ceil(n * quantile + half) + 1) if quantile**n <= tail else None
    return low, high


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
