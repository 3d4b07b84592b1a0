"""The report of a run: plots/*.svg, one self-contained report.html, summary.md and junit.xml; twice gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from testbed.report import accounts, clock, facts, tables
from testbed.report.finding import claims, finding_parts
from testbed.report.hurt import ended, hurt
from testbed.report.junit import junit
from testbed.report.markdown import markdown
from testbed.report.plot_figures import plot_goodput, plot_groups, plot_people, plot_round_trips
from testbed.report.plot_timeline import plot_timeline
from testbed.report.story import Story, read_story
from testbed.report.tunnels import audit_words, tunnels_down
from testbed.report.words import OUTCOME_HEADS, OUTCOME_WORDS

PLOTS: dict[str, Callable[[Story], str | None]] = {
    "timeline": plot_timeline,
    "people": plot_people,
    "groups": plot_groups,
    "round_trips": plot_round_trips,
    "goodput": plot_goodput,
}


def write_report(run_dir: Path) -> Path:
    """Scores and draws a run folder; returns the path of report.html.

    Raises FileNotFoundError without plan.json, ValueError when the records do not belong to the plan, OSError.
    """
    story = read_story(run_dir)
    plots = {name: plot(story) for name, plot in PLOTS.items()}
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    for name, svg in plots.items():
        path = folder / f"{name}.svg"
        if svg is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg, encoding="utf-8")
    page = run_dir / "report.html"
    page.write_text(render(story, plots), encoding="utf-8")
    (run_dir / "summary.md").write_text(markdown(story.summary), encoding="utf-8")
    (run_dir / "junit.xml").write_text(junit(story.summary), encoding="utf-8")
    return page


def render(story: Story, plots: dict[str, str | None]) -> str:
    """The page as HTML with everything inside; needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("testbed.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    rows, more = hurt(story.summary)
    calibration = facts.calibration(story)
    values: dict[str, Any] = {
        "plan": story.plan,
        "summary": story.summary,
        "headline": finding_parts(story.summary)[0],
        "more": finding_parts(story.summary)[1],
        "claims": claims(story.summary),
        "told": accounts.told(story.summary),
        "told_note": accounts.NOTE,
        "clock": clock.clock_words(story.summary),
        "missing": clock.missing(story.summary),
        "tiles": tables.tiles(story.summary),
        "caveats": facts.caveats(story),
        "expected": tables.expected(story.summary),
        "marks": tables.VERDICT_MARKS,
        "words": OUTCOME_WORDS,
        "heads": [(OUTCOME_HEADS[outcome], word) for outcome, word in OUTCOME_WORDS.items()],
        "hurt": rows,
        "hurt_more": more,
        "ended": ended(story.summary),
        "tunnels": tunnels_down(story.summary),
        "audit": audit_words(story.summary),
        "groups": tables.groups(story.summary),
        "round_trips": tables.round_trips(story.summary),
        "waits": tables.waits(story.summary),
        "machine": facts.machine(story),
        "calibration": calibration,
        "misses": sum(1 for row in calibration if not row.is_within),
        "plots": {name: svg or "" for name, svg in plots.items()},
        # Not the whole path: it would differ on another machine, and say more than the reader needs.
        "run_dir": f"results/{story.plan.scenario}/{story.run_id}",
    }
    return environment.get_template("report.html.j2").render(values)
