"""The run.json of the made-up run."""

from __future__ import annotations

from typing import Any

from testbed.plan.plan import Plan


def run_json(plan: Plan) -> dict[str, Any]:
    rows = [
        {
            "link": "cable",
            "direction": direction,
            "what": "delay",
            "asked": 20_000_000,
            "measured": 20_041_000,
            "tolerance": 600_000,
            "is_within": True,
        }
        for direction in ("ab", "ba")
    ]
    return {
        "schema": "allowlab.run/1",
        "id": "20241112T050000Z-3fa9c1",
        "scenario": plan.scenario,
        "started_at": "2024-11-12T05:00:00Z",
        "seed": plan.seed,
        "versions": {"allowlab": "0.1.0", "commit": "0123abc", "python": "3.11.2"},
        "kernel": "6.1.0-21-amd64",
        "calibration": rows,
    }
