"""What a run found, in a few sentences. One that failed begins with what failed, one that broke with why."""

from __future__ import annotations

from collections import Counter
from typing import Any

from testbed.report.tables import expected
from testbed.report.words import cause_words, from_ns, number, percent, plural

# Which failed claims the harm to people in the first sentence explains; (figure, comparator).
_OF_BLOCKS = {
    ("false_block_ratio", "at_most"),
    ("outcome_count:false_block", "at_most"),
    ("outcome_count:false_block", "equals"),
    ("person_minutes_lost", "at_most"),
    ("sessions_cut", "at_most"),
    ("time_to_restore_s", "at_most"),
    ("delivered_ratio", "at_least"),
    ("approval_to_first_byte_s", "at_most"),
}
_OF_PASSES = {
    ("false_pass_ratio", "at_most"),
    ("outcome_count:false_pass", "at_most"),
    ("outcome_count:false_pass", "equals"),
    ("revocation_to_last_byte_s", "at_most"),
}
_MOST_CLAIMS = 2
_KEPT = "; what was measured until then is kept"


def finding(summary: dict[str, Any]) -> str:
    """What the run found, in a few sentences; the first is for somebody who reads nothing else."""
    return " ".join(part for part in finding_parts(summary) if part)


def finding_parts(summary: dict[str, Any]) -> tuple[str, str]:
    """The finding in a sentence, and what must be added to it."""
    if summary["outcome"] in ("broken", "interrupted"):
        return _broken(summary)
    blocks, passes, losses = (
        _blocks(summary),
        _passes(summary),
        _joined(_not_back(summary), _losses(summary)),
    )
    if summary["outcome"] != "failed":
        return blocks[0], _joined(blocks[1], passes, losses)
    failed = {(each["figure"], each["comparator"]) for each in summary["expectations"] if _is_failed(each)}
    table = summary["all"]
    block_ratio = table["false_block"]["ratio"] or 0 if failed & _OF_BLOCKS and summary["has_enforcer"] else 0
    pass_ratio = table["false_pass"]["ratio"] or 0 if failed & _OF_PASSES else 0
    if pass_ratio > block_ratio:
        return passes, _joined(*blocks, losses)
    if block_ratio:
        return blocks[0], _joined(blocks[1], passes, losses)
    return _failed_claims(summary), _joined(*blocks, passes, losses)


def claims(summary: dict[str, Any]) -> str:
    """How many expectations held."""
    words = Counter(each["verdict"] for each in summary["expectations"])
    total = len(summary["expectations"])
    if not total:
        return "Nothing was expected of this run."
    if words["passed"] == total:
        return f"All {number(total)} expectations held." if total > 1 else "The expectation held."
    if summary["outcome"] in ("broken", "interrupted"):
        return (
            f"None of its {number(total)} expectations could be decided."
            if total > 1
            else "Its expectation could not be decided."
        )
    told = {"failed": "failed", "inconclusive": "could not be decided"}
    parts = [f"{number(words[each])} {verb}" for each, verb in told.items() if words[each]]
    return f"Of {plural(total, 'expectation')} {' and '.join(parts)}."


def broken_details(summary: dict[str, Any]) -> list[str]:
    """What was written down about a run that broke, beyond its reason."""
    return [str(each) for each in (summary["broken"] or {}).get("details") or []]


def noise_notes(summary: dict[str, Any]) -> list[str]:
    """What a noisy machine means for the claims of this run, and what to do; [] when it was not noisy or proves nothing."""
    if not summary["noise"] or summary["outcome"] in ("broken", "interrupted"):
        return []
    return [
        f"Noisy: the machine was busy: {'; '.join(summary['noise'])}. Round trips and goodput of this run are not claimed; "
        "waits stand where they are far from their bound, and so does what passed or was blocked. "
        "To have the rest, close other programs and run again."
    ]


def noise_line(summary: dict[str, Any]) -> str:
    """The same in two lines of a terminal; "" when there is nothing to say."""
    if not noise_notes(summary):
        return ""
    return (
        f"Noisy: {summary['noise'][0]}. Round trips and goodput of this run are not claimed, waits only far from their "
        "bound; close other programs and run again."
    )


def main_cause(causes: dict[str, int]) -> str | None:
    """The commonest cause; None without any."""
    return max(sorted(causes), key=lambda cause: causes[cause]) if causes else None


def _broken(summary: dict[str, Any]) -> tuple[str, str]:
    outcome, attempts = summary["outcome"], summary["records"]["attempts"]
    reason = str((summary["broken"] or {}).get("reason") or "no reason was written down")
    reason = reason.replace(_KEPT, "").partition("\n")[0].strip().rstrip(".")
    if reason.startswith(outcome):
        rest = reason.removeprefix(outcome)
        headline = f"The run was {outcome}{rest if rest[:1] in (':', ' ') else f': {reason}'}."
    else:
        headline = f"The run was {outcome}: {reason}."
    if not attempts:
        return headline, "Nothing had been measured."
    return (
        headline,
        f"What was measured until then ({plural(attempts, 'attempt')}) is kept, and proves nothing.",
    )


def _failed_claims(summary: dict[str, Any]) -> str:
    rows = [row for row in expected(summary) if row.verdict == "failed"]
    told = [f"{row.asked} ({row.where}), seen {row.seen}" for row in rows[:_MOST_CLAIMS]]
    more = f"; and {number(len(rows) - _MOST_CLAIMS)} more" if len(rows) > _MOST_CLAIMS else ""
    return f"{'This' if len(rows) == 1 else 'These'} did not hold: {'; '.join(told)}{more}."


def _is_failed(each: dict[str, Any]) -> bool:
    return each["verdict"] == "failed"


def _blocks(summary: dict[str, Any]) -> tuple[str, str]:
    table, harm = summary["all"]["false_block"], summary["harm"]
    if not summary["has_enforcer"]:
        return "No enforcer stood in the way of anybody.", ""
    if not table["n"]:
        return "No attempt of anybody entitled could be judged.", ""
    interval = f"95 % interval {percent(table['low_ratio'])} to {percent(table['high_ratio'])}"
    if not table["k"]:
        return f"Nobody who was entitled was blocked: 0 of {plural(table['n'], 'attempt')} ({interval}).", ""
    headline = (
        f"{number(harm['people_falsely_blocked'])} of {plural(harm['people'], 'subscriber')} lost service they were "
        f"entitled to: {number(table['k'])} of {plural(table['n'], 'attempt')} ({percent(table['ratio'])}, {interval}) were "
        "blocked by mistake."
    )
    causes = summary["all"]["causes"]["false_block"]
    reasons = [
        f"{number(causes[cause])} because {cause_words(cause, 'false_block')}"
        for cause in sorted(causes, key=lambda each: -causes[each])
    ]
    told = f"Of these {number(table['k'])}: {'; '.join(reasons)}"
    if len(causes) == 1:
        told = f"{'All' if table['k'] > 1 else 'It was'} because {cause_words(main_cause(causes) or '', 'false_block')}"
    return headline, f"{told}.{_through(summary)}{_duration(summary)}"


def _duration(summary: dict[str, Any]) -> str:
    """How long the false blocks lasted; what was lost elsewhere is no matter here."""
    blocked = [row for row in summary["hurt"] if row["outcome"] == "false_block"]
    lines = {row["subscriber"] for row in blocked if row["back_ns"] is None}
    if lines:
        return f" {plural(len(lines), 'subscriber')} did not get it back before the end."
    if blocked:
        longest_ns = max(row["back_ns"] - row["from_ns"] for row in blocked)
        return f" The longest wait until it came back was {from_ns(longest_ns)}."
    return ""


def _passes(summary: dict[str, Any]) -> str:
    table = summary["all"]["false_pass"]
    if not table["k"]:
        return ""
    told = (
        f"{number(table['k'])} of {plural(table['n'], 'attempt')} by people who were not entitled got through"
    )
    if not summary["has_enforcer"]:
        return f"{told}: no enforcer stood in the way."
    causes = summary["all"]["causes"]["false_pass"]
    cause = main_cause(causes)
    if cause is None:
        return f"{told}."
    words = cause_words(cause, "false_pass", bool(summary.get("is_observing")))
    return f"{told}, {'mostly ' if len(causes) > 1 else ''}because {words}."


def _losses(summary: dict[str, Any]) -> str:
    lost = summary["all"]["outcomes"]["infra_down"]
    if not lost:
        return ""
    return f"{plural(lost, 'attempt')} failed elsewhere in the network, which is nobody's blocking."


def _through(summary: dict[str, Any]) -> str:
    """How many of the false blocks are of tunnels that a block had brought down before."""
    through = summary["all"]["through_tunnel"]["false_block"]
    if not through:
        return ""
    are = "is an attempt" if through == 1 else "are attempts"
    return f" {number(through)} of them {are} through a tunnel that the block had brought down before."


def _not_back(summary: dict[str, Any]) -> str:
    """What a block cost after it was over."""
    late = summary["all"]["outcomes"]["not_back"]
    if not late:
        return ""
    failed = f"After the block was over {plural(late, 'more attempt')} failed"
    rows = [
        row
        for row in summary["tunnels_down"]
        if row["attempts"]["not_back"] and row["back_ns"] is not None and row["lifted_ns"] is not None
    ]
    if not rows:
        return f"{failed}."
    back = {row["tunnel"] for row in rows}
    longest = max(row["back_ns"] - row["lifted_ns"] for row in rows)
    whose = "its" if len(back) == 1 else "their"
    return f"{failed}; {plural(len(back), 'tunnel')} came back by {whose} client's own timers, the last {from_ns(longest)} after it."


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
