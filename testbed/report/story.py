"""Everything a report is made from, read once from a run folder, and the finding in a sentence."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.plan.plan import Plan
from testbed.plan.store import read_plan
from testbed.report.words import CAUSE_WORDS, from_ns, percent, plural
from testbed.score import score_run
from testbed.score.outcomes import Judged
from testbed.score.reading import Records, read_records
from testbed.score.summary import judged_attempts
from testbed.score.truth import Truth, truth_of


@dataclass(frozen=True, slots=True)
class Story:
    """A scored run. run: run.json as it is there ({} without); calibration: its rows."""

    run_dir: Path
    plan: Plan
    records: Records
    truth: Truth
    judged: list[Judged]
    summary: dict[str, Any]
    run: dict[str, Any]
    calibration: list[dict[str, Any]]

    @property
    def run_id(self) -> str:
        return str(self.run.get("id") or self.run_dir.resolve().name)

    @property
    def commit(self) -> str:
        versions = self.run.get("versions")
        return str(
            (versions.get("commit") if isinstance(versions, dict) else None) or self.run.get("commit") or ""
        )

    @property
    def caption(self) -> str:
        """What every plot says about where it comes from."""
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        return f"{self.plan.scenario}, run {self.run_id}, seed {self.plan.seed}{commit}"


def read_story(run_dir: Path) -> Story:
    """Scores the run again, which is quick and always gives the same. Raises FileNotFoundError, ValueError."""
    summary = score_run(run_dir)
    plan, records = read_plan(run_dir / "plan.json"), read_records(run_dir)
    truth = truth_of(plan, records.events)
    run = _json(run_dir / "run.json", {})
    calibration = _json(run_dir / "calibration.json", run.get("calibration", []))
    rows = calibration if isinstance(calibration, list) else []
    return Story(run_dir, plan, records, truth, judged_attempts(plan, records, truth), summary, run, rows)


def finding(summary: dict[str, Any]) -> str:
    """What the run found, in a few sentences; the first is for somebody who reads nothing else."""
    return " ".join(part for part in finding_parts(summary) if part)


def finding_parts(summary: dict[str, Any]) -> tuple[str, str]:
    """The finding in a sentence, and what must be added to it."""
    if summary["outcome"] in ("broken", "interrupted"):
        reason = (summary["broken"] or {}).get("reason", "no reason was written down")
        return (
            f"The run was {summary['outcome']}: {reason}.",
            "What was measured until then is below; it proves nothing.",
        )
    headline, more = _blocks(summary)
    return headline, " ".join(part for part in (more, _passes(summary), _losses(summary)) if part)


def claims(summary: dict[str, Any]) -> str:
    """How many expectations held."""
    words = Counter(each["verdict"] for each in summary["expectations"])
    total = len(summary["expectations"])
    if not total:
        return "Nothing was expected of this run."
    if words["passed"] == total:
        return f"All {total} expectations held." if total > 1 else "The expectation held."
    told = {"failed": "failed", "inconclusive": "could not be decided"}
    parts = [f"{words[each]} {verb}" for each, verb in told.items() if words[each]]
    return f"Of {plural(total, 'expectation')} {' and '.join(parts)}."


def main_cause(causes: dict[str, int]) -> str | None:
    """The commonest cause; None without any."""
    return max(sorted(causes), key=lambda cause: causes[cause]) if causes else None


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
        f"{harm['people_falsely_blocked']} of {plural(harm['people'], 'subscriber')} lost service they were entitled to: "
        f"{table['k']} of {plural(table['n'], 'attempt')} ({percent(table['ratio'])}) were blocked by mistake."
    )
    causes = summary["all"]["causes"]["false_block"]
    reasons = [
        f"{causes[cause]} because {CAUSE_WORDS[cause]}"
        for cause in sorted(causes, key=lambda each: -causes[each])
    ]
    told = f"Of these {table['k']}: {'; '.join(reasons)}"
    if len(causes) == 1:
        told = f"{'All' if table['k'] > 1 else 'It was'} because {CAUSE_WORDS[main_cause(causes) or '']}"
    return headline, f"{told} ({interval}).{_duration(harm)}"


def _duration(harm: dict[str, Any]) -> str:
    if harm["not_restored"]:
        lines = {each.partition(":")[0] for each in harm["not_restored"]}
        return f" {plural(len(lines), 'subscriber')} did not get it back before the end."
    if harm["longest_restore_ns"]:
        return f" The longest wait until it came back was {from_ns(harm['longest_restore_ns'])}."
    return ""


def _passes(summary: dict[str, Any]) -> str:
    table = summary["all"]["false_pass"]
    if not table["k"] or not summary["has_enforcer"]:
        return ""
    cause = main_cause(summary["all"]["causes"]["false_pass"])
    reason = f", mostly because {CAUSE_WORDS[cause]}" if cause and table["k"] > 1 else ""
    if cause and table["k"] == 1:
        reason = f", because {CAUSE_WORDS[cause]}"
    return f"{table['k']} of {plural(table['n'], 'attempt')} by people who were not entitled got through{reason}."


def _losses(summary: dict[str, Any]) -> str:
    lost = summary["all"]["outcomes"]["infra_down"]
    if not lost:
        return ""
    return f"{plural(lost, 'attempt')} failed elsewhere in the network, which is nobody's blocking."


def _json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
