"""Everything a report is made from, read once from a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.plan.plan import Plan
from testbed.plan.store import read_plan
from testbed.report.finding import finding
from testbed.score import score_run
from testbed.score.outcomes import Judged
from testbed.score.reading import Records, read_records
from testbed.score.summary import judged_attempts
from testbed.score.truth import Truth, truth_of

__all__ = ["Story", "finding", "read_story"]


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


def _json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
