"""What the command line tells programs: the JSON object of `run --json`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.session import RunResult

_OF_AN_EXPECTATION = ("name", "where", "comparator", "bound", "seen", "unit", "n", "verdict", "reason")


def result(run: RunResult) -> dict[str, Any]:
    """outcome, exit_code, reason (None when it passed or failed), run and report folders, headline, each expectation's verdict.

    report is None when none was drawn; headline is None and expectations are [] when nothing could be scored.
    """
    report = run.run_dir / "report.html"
    told = {
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "reason": run.reason or None,
        "run": str(run.run_dir),
        "report": str(report) if report.exists() else None,
    }
    return told | _scored(run.run_dir)


def mistake(text: str, error: BaseException | None) -> dict[str, Any]:
    """The same keys for a run that never began, with each problem of the files apart (file, line, column, where, what, fix)."""
    from enforcer.yamlfile import FileError

    problems = [asdict(problem) for problem in error.problems] if isinstance(error, FileError) else []
    return {
        "outcome": "mistake",
        "exit_code": 2,
        "reason": text,
        "run": None,
        "report": None,
        "headline": None,
        "expectations": [],
        "problems": problems,
    }


def _scored(run_dir: Path) -> dict[str, Any]:
    from testbed.report.finding import finding

    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"headline": None, "expectations": []}
    expectations = [{key: each[key] for key in _OF_AN_EXPECTATION} for each in summary["expectations"]]
    return {"headline": finding(summary), "expectations": expectations}
