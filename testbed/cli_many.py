"""`run` with several scenarios or seeds: which runs are meant, the table at the end, the JSON object of all."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from testbed.cli_errors import Mistake
from testbed.report.words import number, percent, seconds
from testbed.session_many import Played, Wanted, play_all, worst


def check_seeds(seeds: Sequence[int] | None, seed: int | None) -> None:
    """Raises Mistake where --seed and --seeds are both given."""
    if seed is not None and seeds is not None:
        raise Mistake("--seed and --seeds are both there: keep one of them")


def arguments(captures: Sequence[str], no_report: bool, given: Mapping[str, Any]) -> list[str]:
    """The options of the command line again, as each of the runs gets them; given: those with one value, None where left out."""
    found = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    found += [word for wish in captures for word in ("--capture", wish)]
    return found + (["--no-report"] if no_report else [])


def wanted_runs(
    scenarios: Sequence[Path], seeds: Sequence[int] | None, clock: str | None, world: str | None
) -> list[Wanted]:
    """Every scenario with every seed. Reads each scenario: raises PlanError, ValueError (a clock and a world that exclude each other)."""
    from testbed.plan.load import load_plan
    from testbed.session_place import choose

    found = []
    names = Counter(_stem(path) for path in scenarios)
    for path in dict.fromkeys(scenarios):
        place = choose(clock or load_plan(path).clock, world)
        name = _stem(path) if names[_stem(path)] == 1 else str(path)
        for seed in seeds or (None,):
            found.append(Wanted(name if seed is None else f"{name} seed {seed}", path, seed, place.clock))
    return found


def play_many(
    wanted: list[Wanted], arguments: Sequence[str], jobs: int, is_quiet: bool, as_json: bool
) -> int:
    """Plays them, prints the table (or the object) and returns the exit code: the highest of the runs'."""
    played = play_all(wanted, arguments, jobs, _say(is_quiet or as_json))
    if as_json:
        click.echo(json.dumps(told(played), indent=1))
    else:
        click.echo("\n".join(table(played)))
    return worst(played).exit_code


def told(played: Sequence[Played]) -> dict[str, Any]:
    """{"outcome", "exit_code", "runs": [the object of each run, with scenario, seed, clock and took_s]}."""
    last = worst(played)
    runs = [
        {
            "scenario": str(each.wanted.scenario),
            "seed": each.wanted.seed,
            "clock": each.wanted.clock,
            "took_s": round(each.took_s, 3),
            **each.told,
        }
        for each in played
    ]
    return {"outcome": last.told["outcome"], "exit_code": last.exit_code, "runs": runs}


def table(played: Sequence[Played]) -> list[str]:
    """A line a run: outcome, expectations held, attempts blocked by mistake, how long it took, where it is; then why others failed."""
    rows = [("run", "outcome", "held", "blocked by mistake", "took", "report or records")]
    for each in played:
        expectations = each.told["expectations"]
        held = sum(1 for one in expectations if one["verdict"] == "passed")
        rows.append(
            (
                each.wanted.name,
                each.told["outcome"],
                f"{held} of {len(expectations)}" if expectations else "–",
                _blocked(each.told["run"]),
                seconds(each.took_s) if each.took_s else "–",
                str(each.told["report"] or each.told["run"] or "–"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for each in played:
        lines += [f"{each.wanted.name}: {line}" for line in _why(each)]
    counts = Counter(each.told["outcome"] for each in played)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return [*lines, f"{len(played)} runs: {outcomes}"]


def _why(each: Played) -> list[str]:
    if each.told["reason"]:
        return [str(each.told["reason"]).partition("\n")[0]]
    bad = [one for one in each.told["expectations"] if one["verdict"] != "passed"]
    return [
        f"{one['verdict']}: {one['name']}" + (f" ({one['reason']})" if one["reason"] else "") for one in bad
    ]


def _blocked(run: str | None) -> str:
    """Of the run's summary; a run that was never scored has none."""
    try:
        summary = json.loads((Path(run or "-") / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "–"
    blocks = summary["all"]["false_block"]
    return (
        f"{number(blocks['k'])} of {number(blocks['n'])} ({percent(blocks['ratio'])})" if blocks["n"] else "–"
    )


def _say(is_quiet: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not is_quiet:
            print(line, file=sys.stderr, flush=True)

    return say


def _stem(path: Path) -> str:
    return path.name.partition(".scenario.")[0]
