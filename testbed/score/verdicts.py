"""Whether an expectation held: passed, failed, or inconclusive with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.plan.figures import FIGURES
from testbed.plan.plan import Expectation
from testbed.score.clock import NEEDS
from testbed.score.figures import Measured, Run, measure

Word = Literal["passed", "failed", "inconclusive"]

# More attempts than this lost to the test-bed itself, and what is left may be a selection of the lucky ones.
HARNESS_ERROR_LIMIT_RATIO = 0.1
# What an event loop may add on its own to a wait of seconds, beside the send lag it measured.
_LOOP_SLACK_S = 0.05


@dataclass(frozen=True, slots=True)
class Noise:
    """The run's own health: reasons why its timing claims do not hold, and the worst lateness of a probe in seconds."""

    reasons: tuple[str, ...] = ()
    lag_max_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """An expectation, what was seen of it, and the verdict with its reason."""

    expectation: Expectation
    seen: Measured
    verdict: Word
    reason: str


def judge_expectation(expectation: Expectation, run: Run, noise: Noise, is_broken: bool = False) -> Verdict:
    """The claim is about this run, so the figure itself is compared; its interval says how far it can be generalised.

    is_broken: the run ended before its end, and proves nothing either way.
    """
    seen = measure(expectation, run)
    if run.plan.clock == "virtual" and FIGURES[expectation.figure.partition(":")[0]].needs_real_time:
        seen = Measured(None, seen.n, reason=NEEDS)
    if is_broken:
        return Verdict(expectation, seen, "inconclusive", "the run did not get to its end")
    verdict, reason = _verdict(expectation, run, seen, noise)
    return Verdict(expectation, seen, verdict, reason)


def outcome_of(verdicts: Sequence[Verdict]) -> Word:
    """failed if any expectation failed, else inconclusive if any is, else passed."""
    words = {each.verdict for each in verdicts}
    return "failed" if "failed" in words else "inconclusive" if "inconclusive" in words else "passed"


def _verdict(expectation: Expectation, run: Run, seen: Measured, noise: Noise) -> tuple[Word, str]:
    name = expectation.figure.partition(":")[0]
    figure = FIGURES[name]
    if seen.value is None:
        if seen.is_never:
            return ("passed" if expectation.comparator == "at_least" else "failed"), seen.reason
        return "inconclusive", seen.reason
    if figure.of == "attempts" and name != "main_cause":
        if seen.n < figure.least:
            return "inconclusive", f"{seen.n} of the {figure.least} attempts it needs"
        if reason := _too_many_errors(expectation, run):
            return "inconclusive", reason
    if noise.reasons and (name.startswith("rtt_") or name == "goodput_bps"):
        return "inconclusive", f"the machine was too noisy for it: {noise.reasons[0]}"
    # A wait of seconds is spoilt by late probes only where they could have moved it over the bound.
    if noise.reasons and figure.unit == "s" and _is_near(seen.value, expectation.bound, noise.lag_max_s):
        return "inconclusive", f"too near the bound for a noisy machine: {noise.reasons[0]}"
    reason = seen.reason
    if noise.reasons and figure.unit == "s" and not isinstance(expectation.bound, str):
        away_s = abs(float(seen.value) - expectation.bound)
        reason = (
            f"stands although the machine was busy: {away_s:.2g} s from the bound, and no probe left more than "
            f"{max(noise.lag_max_s, 0.001):.2g} s late"
        )
    return ("passed" if _holds(seen.value, expectation) else "failed"), reason


def _holds(value: float | str, expectation: Expectation) -> bool:
    bound = expectation.bound
    if isinstance(value, str) or isinstance(bound, str):
        return value == bound
    match expectation.comparator:
        case "at_most":
            return value <= bound
        case "at_least":
            return value >= bound
        case "equals":
            return math.isclose(value, bound, rel_tol=1e-9, abs_tol=1e-12)


def _is_near(value: float | str, bound: float | str, lag_max_s: float) -> bool:
    if isinstance(value, str) or isinstance(bound, str):
        return False
    return abs(value - bound) <= lag_max_s + _LOOP_SLACK_S


def _too_many_errors(expectation: Expectation, run: Run) -> str:
    selection = expectation.where, expectation.from_ns, expectation.until_ns
    chosen, planned = run.selected(*selection), run.planned(*selection)
    errors = sum(1 for each in chosen if each.outcome == "harness_error")
    never_made = max(0, planned - len(chosen))
    if planned and (errors + never_made) / planned > HARNESS_ERROR_LIMIT_RATIO:
        return f"of {planned} planned attempts {never_made} were not made and {errors} failed by the test-bed's own fault"
    return ""
