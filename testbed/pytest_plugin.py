"""pytest collects *.scenario.yaml under the paths it is given: each is a test that plays the scenario and reports what broke.

    pytest scenarios/ --junitxml=results.xml        pytest scenarios -m smoke --allowlab-enforcer "python -m enforcer"

A scenario's tags are its markers; a failure stands at the YAML line of the broken expectation; the figures are JUnit
properties. A run that is broken or inconclusive fails too, by that name: not knowing is not passing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SUFFIXES = (".scenario.yaml", ".scenario.yml")
# Beyond the scenario's own duration: building, measuring and taking down the lab (testbed/session.py bounds it by itself).
_TIMEOUT_SLACK_S = 600


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("allowlab", "allowlab scenarios")
    group.addoption(
        "--allowlab-enforcer", metavar="COMMAND", help="the enforcer under test; 'run --config FILE' is added"
    )
    group.addoption("--allowlab-results", metavar="DIR", help="where run folders go (default: results/)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario: plays a *.scenario.yaml file in a lab")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name.endswith(_SUFFIXES) and _is_asked_for(file_path, parent.config):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


class BrokenExpectation(Exception):
    """What the test says when it fails: lines for people, the first one with file:line:column."""


class ScenarioFile(pytest.File):
    """One scenario file: one test."""

    def collect(self) -> Iterator[pytest.Item]:
        from testbed.plan.load import PlanError, load_plan

        try:
            plan = load_plan(self.path)
        except PlanError as error:
            raise self.CollectError(str(error)) from error
        item = ScenarioItem.from_parent(self, name=plan.scenario)
        item.clock = plan.clock
        item.add_marker("scenario")
        for tag in plan.tags:
            # Registered as it is met, for --strict-markers is about slips in Python files.
            self.config.addinivalue_line("markers", f"{tag}: scenarios with this tag")
            item.add_marker(tag)
        if self.config.pluginmanager.hasplugin("timeout"):
            item.add_marker(pytest.mark.timeout(plan.duration_ns // 10**9 + _TIMEOUT_SLACK_S))
        yield item


class ScenarioItem(pytest.Item):
    """Plays the scenario; see the module."""

    clock: str = "real"

    def runtest(self) -> None:
        from testbed import session
        from testbed.report.junit import properties_of

        if self.clock == "virtual":
            from testbed.world.uml.store import NoKernel, current

            try:
                current()
            except NoKernel as error:
                pytest.skip(str(error))
        results = self.config.getoption("--allowlab-results")
        options = session.Options(
            results=Path(results) if results else None, enforcer=self.config.getoption("--allowlab-enforcer")
        )
        try:
            result = session.run(self.path, options)
        except (session.FolderError, ValueError) as error:
            raise BrokenExpectation(f"{self._shown()}: broken: {error}") from error
        if result.outcome == "interrupted" and result.exit_code == 130:
            raise KeyboardInterrupt
        self.user_properties.append(("run", str(result.run_dir)))
        self.add_report_section("call", "allowlab", "\n".join(result.lines))
        summary = _summary(result.run_dir)
        if summary is not None:
            self.user_properties += properties_of(summary)
        if result.outcome != "passed":
            raise BrokenExpectation(
                "\n".join(self._failure(result.outcome, result.reason, result.run_dir, summary))
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, BrokenExpectation):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"scenario {self.name}"

    def _failure(
        self, outcome: str, reason: str, run_dir: Path, summary: dict[str, Any] | None
    ) -> Iterator[str]:
        from testbed.report.story import finding
        from testbed.report.tables import expected

        rows = [row for row in expected(summary) if row.verdict == outcome] if summary else []
        if outcome not in ("failed", "inconclusive") or not rows:
            yield f"{self._shown()}:1: {outcome}: {reason or 'see the run folder'}"
        for row in rows:
            line = row.place.rpartition(":")[2]
            text = f"asked: {row.asked} [{row.where}]; seen: {row.seen} (95 % interval {row.interval}, n {row.n})"
            yield f"{self._shown()}:{line}: {outcome}: {text}" + (f"; {row.reason}" if row.reason else "")
        if summary and outcome == "failed":
            yield finding(summary)
        yield f"Report: {run_dir / 'report.html'}"

    def _shown(self) -> str:
        root = self.config.invocation_params.dir
        return str(self.path.relative_to(root) if self.path.is_relative_to(root) else self.path)


def _is_asked_for(path: Path, config: pytest.Config) -> bool:
    """Named on the command line, or below a folder named there, unless that way leads through a folder of tests.

    A plain `pytest` (whose paths come from the configuration) and `pytest tests` play no scenario: the tests' own examples lie there.
    """
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return False
    for argument in config.args:
        given = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if path.resolve() == given:
            return True
        if path.resolve().is_relative_to(given):
            between = path.resolve().parent.relative_to(given).parts
            if "tests" not in (given.name, *between):
                return True
    return False


def _summary(run_dir: Path) -> dict[str, Any] | None:
    try:
        return json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
