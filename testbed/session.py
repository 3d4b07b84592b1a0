"""Outside: plan → world → score → report. One call is one run and leaves one run folder, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from testbed import session_folder as folder_of
from testbed.plan.load import load_plan
from testbed.plan.plan import Plan
from testbed.plan.store import write_plan
from testbed.session_folder import PROJECT, FolderError
from testbed.session_needs import missing
from testbed.session_place import OTHER_KERNEL, Place, choose
from testbed.session_progress import Quiet, Show
from testbed.session_speed import faster
from testbed.world import WorldError

EXIT_CODES = {"passed": 0, "failed": 1, "broken": 3, "inconclusive": 3, "interrupted": 130}
_FULL_BYTES = 64 * 1024
_DISK_FULL = (
    "the disk is full: remove old runs, or name another disk with --results; what was measured is kept"
)
_PLAYED, _BROKEN, _INTERRUPTED = 0, 3, 130  # exit codes of testbed.timeline


@dataclass(frozen=True, slots=True)
class Options:
    """How to run; None is the default of each. captures: NODE[:PORT]; enforcer: the command line of the program under test.

    clock: "real" or "virtual" instead of the scenario's own; world: "namespaces" or "uml" (the lab's own kernel).
    """

    seed: int | None = None
    policy: Path | None = None
    topology: Path | None = None
    links: str = "auto"
    results: Path | None = None
    speed: float = 1.0
    captures: tuple[str, ...] = ()
    enforcer: str | None = None
    report: bool = True
    clock: str | None = None
    world: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """outcome: passed, failed, broken, inconclusive, interrupted; lines: what to print; reason: why, unless passed or failed."""

    outcome: str
    run_dir: Path
    exit_code: int
    reason: str = ""
    lines: tuple[str, ...] = ()


def run(scenario: Path, options: Options | None = None, watcher: Show | None = None) -> RunResult:
    """Plan, play, score and report one scenario.

    Raises PlanError (the files), FolderError (no run folder), ValueError (an option); nothing else for what a user can cause.
    """
    options = options or Options()
    watcher = watcher or Quiet(sys.stderr)
    started_s = time.monotonic()
    watcher.phase("plan", str(scenario))
    plan = faster(load_plan(scenario, options.seed, options.policy, options.topology), options.speed)
    if options.captures:
        from testbed.lab.capture import parse_wish

        for wish in options.captures:
            parse_wish(wish, plan)
    place = choose(options.clock or plan.clock, options.world)
    plan = replace(plan, clock=place.clock)
    results, elsewhere = folder_of.results_folder(options.results)
    if elsewhere:
        watcher.note(elsewhere)
    run_dir = folder_of.make_run_folder(results, plan.scenario)
    session = _Session(plan, run_dir, options, watcher, place)
    try:
        session.begin(scenario)
        session.took_s["plan"] = time.monotonic() - started_s
        return session.play_and_score()
    except OSError as error:
        return session.end("broken", _os_error(error))


def finish_killed(run_dir: Path) -> bool:
    """Gives a run that was killed from outside its outcome (interrupted); False when it had ended, or still goes on."""
    state = folder_of.read_state(run_dir)
    if state is None or state.get("outcome") != "running" or folder_of.is_running(state):
        return False
    reason = "interrupted: the run was killed from outside; what was measured until then is kept"
    _write_broken(run_dir, reason)
    folder_of.write_state(run_dir, folder_of.last_state(state, run_dir, "interrupted", reason, {}))
    return True


def score_and_report(run_dir: Path, watcher: Show | None = None) -> tuple[str, ...]:
    """Scores a run folder again and draws its report; the same records give the same bytes. Returns the terminal summary.

    Raises FileNotFoundError or ValueError when the folder is not a run.
    """
    from testbed.report import terminal_summary, write_report
    from testbed.score.summary import score_run

    if watcher:
        watcher.phase("score", run_dir.name)
    score_run(run_dir)
    if watcher:
        watcher.phase("report", run_dir.name)
    write_report(run_dir)
    return tuple(terminal_summary(run_dir))


@dataclass(slots=True)
class _Session:
    plan: Plan
    run_dir: Path
    options: Options
    watcher: Show
    place: Place
    state: dict[str, Any] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def begin(self, scenario: Path) -> None:
        write_plan(self.plan, self.run_dir / "plan.json")
        files = {"scenario": scenario} | {
            kind: path
            for kind, path in (
                ("topology", self.options.topology or _find(self.plan.topology_file, scenario)),
                ("policy", self.options.policy or _find(self.plan.policy_file, scenario)),
            )
            if path is not None
        }
        config = folder_of.copy_config(self.plan, files, self.run_dir)
        given = {
            "links": self.options.links,
            "speed": self.options.speed,
            "captures": list(self.options.captures),
            "clock": self.place.clock,
            "world": self.place.world,
        }
        given["enforcer"] = self.options.enforcer
        self.state = folder_of.first_state(self.plan, self.run_dir, config, given)
        folder_of.write_state(self.run_dir, self.state)

    def play_and_score(self) -> RunResult:
        started_s = time.monotonic()
        try:
            capabilities = self.place.capabilities()
            self.state = folder_of.with_capabilities(self.state, capabilities, self.place.kernel())
            folder_of.write_state(self.run_dir, self.state)
            if lacking := missing(self.plan, capabilities):
                other = f"\n  {OTHER_KERNEL}" if self.place.world == "namespaces" else ""
                return self.end("broken", lacking + other)
            code = self._play()
        except WorldError as error:
            return self.end("broken", str(error))
        self.took_s["world"] = time.monotonic() - started_s
        outcome, reason = _outcome(self.run_dir, code)
        return self.end(outcome, reason)

    def _play(self) -> int:
        options = self.options
        arguments = ["--links", options.links]
        arguments += ["--enforcer", options.enforcer] if options.enforcer else []
        arguments += [word for capture in options.captures for word in ("--capture", capture)]
        return self.place.play(self.plan, self.run_dir, arguments, self.watcher)

    def end(self, outcome: str, reason: str) -> RunResult:
        """Writes down how the run ended, then scores and draws what there is; a failing score never hides the outcome.

        run.json is final before the report is drawn from it, so that drawing it again gives the same bytes.
        """
        started_s = time.monotonic()
        lines: tuple[str, ...] = ()
        self._write(outcome or "running", reason)
        try:
            if (self.run_dir / "events.jsonl").exists():
                summary = self._score()
                outcome = outcome or summary["outcome"]
                self.took_s["score"] = time.monotonic() - started_s
                self._write(outcome, reason)
                lines = self._report()
                return self._result(outcome, reason, lines)
        except OSError as error:
            outcome, reason = outcome or "broken", reason or _os_error(error)
        except ValueError as error:
            outcome, reason = outcome or "broken", reason or f"the records could not be scored: {error}"
        outcome, reason = outcome or "broken", reason or "the lab wrote no records; see logs/inside.log"
        self._write(outcome, reason)
        return self._result(outcome, reason, lines)

    def _result(self, outcome: str, reason: str, lines: tuple[str, ...]) -> RunResult:
        return RunResult(outcome, self.run_dir, EXIT_CODES[outcome], reason, lines)

    def _score(self) -> dict[str, Any]:
        from testbed.score.summary import score_run

        self.watcher.phase("score", self.run_dir.name)
        return score_run(self.run_dir)

    def _report(self) -> tuple[str, ...]:
        from testbed.report import terminal_summary, write_report

        if self.options.report:
            self.watcher.phase("report", self.run_dir.name)
            write_report(self.run_dir)
        return tuple(terminal_summary(self.run_dir))

    def _write(self, outcome: str, reason: str) -> None:
        if reason:
            _write_broken(self.run_dir, reason)
        if self.state:
            with suppress(OSError):  # a full disk: the first state stays, and the message tells
                state = folder_of.last_state(self.state, self.run_dir, outcome, reason, self.took_s)
                folder_of.write_state(self.run_dir, state)


def _outcome(run_dir: Path, code: int) -> tuple[str, str]:
    """The outcome and the reason; outcome "" means: played, the score decides."""
    if code == _PLAYED:
        return "", ""
    with suppress(OSError, ValueError):
        written = json.loads((run_dir / "broken.json").read_text(encoding="utf-8"))
        details = written.get("details") or []
        reason = "\n  ".join(
            [written["reason"], *details[:8], *([f"({len(details) - 8} more)"] if len(details) > 8 else [])]
        )
        return ("interrupted" if code == _INTERRUPTED else "broken"), reason
    if code == _INTERRUPTED:
        return "interrupted", "interrupted before anything was measured"
    if code == 137:
        return "interrupted", "interrupted: the world was killed; what was measured until then is kept"
    if shutil.disk_usage(run_dir).free < _FULL_BYTES:  # then neither broken.json nor the log could say so
        return "broken", _DISK_FULL
    log = run_dir / "logs" / "inside.log"
    last = (
        log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2] if log.exists() else ""
    )
    return (
        "broken",
        f"the lab's program ended by itself (exit code {code}): {last or 'no message'}; see {log}",
    )


def _write_broken(run_dir: Path, reason: str) -> None:
    """What the score reads; what the inside wrote stays."""
    path = run_dir / "broken.json"
    with suppress(OSError):
        if not path.exists() or path.stat().st_size == 0:  # empty: the disk was full when the inside wrote it
            path.write_text(json.dumps({"reason": reason, "details": []}, indent=1) + "\n", encoding="utf-8")


def _find(name: str | None, scenario: Path) -> Path | None:
    """A file as the plan names it: from the project's root, else from the scenario's folder."""
    places: Sequence[Path] = (PROJECT / name, scenario.parent / name) if name else ()
    return next((path for path in places if path.is_file()), None)


def _os_error(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _DISK_FULL
    return f"{error.filename or 'the run folder'}: {error.strerror or error}"


__all__ = ["EXIT_CODES", "FolderError", "Options", "RunResult", "finish_killed", "run", "score_and_report"]
