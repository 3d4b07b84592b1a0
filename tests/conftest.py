"""Tests marked `world` run inside a private world, as root over its network and over nothing of the host's.

    @pytest.mark.world
    def test_a_packet_crosses(tmp_path):
        with build(small_plan(), tmp_path) as lab: ...          # just do it: this body runs inside

All `world` tests of one module share one fresh world (so a module-scoped fixture may hold a lab); two modules never share one.
Outside, pytest collects as always; when the first such test of a module is due, all selected ones of that module are run by
`python -m pytest --in-world REPORTS NODEIDS…` inside `testbed.world.run_inside`, and their reports are shown here as if they had
run here: -k, -x, --lf, --junitxml, captured output and tracebacks work. tmp_path stays readable afterwards. Where the
kernel forbids a world, the tests are skipped with the reason.

A test that opens worlds itself and looks at the host is marked `@pytest.mark.world(inside=False)`: its body runs out here.

Fixture `world_python`: for fast tests that want to run a snippet in a world of its own: `world_python("print(1)")` gives a CompletedProcess.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.world import IN_WORLD, WorldError, open_world, run_inside

_MODULE_TIMEOUT_S = 1200.0
_TEST_TIMEOUT_S = 60.0  # the mean; a module may have more tests than the above allows for


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--in-world", metavar="REPORTS", help="(internal) this pytest runs inside a world")


@pytest.fixture
def world_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python source (and arguments) in a fresh world; stdout and stderr are captured."""

    def run(source: str, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", source, *arguments]
        with open_world(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, keep=[tmp_path]) as world:
            out, err = world.process.communicate(timeout=timeout_s)
            return subprocess.CompletedProcess(argv, world.wait(), out.decode(), err.decode())

    return run


def pytest_configure(config: pytest.Config) -> None:
    reports = config.getoption("--in-world")
    if reports:
        config.pluginmanager.register(_Inside(config, Path(reports)))
    elif not os.environ.get(IN_WORLD):
        config.pluginmanager.register(_Outside(config))


class _Inside:
    """Writes every report as one JSON line for the pytest outside."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file = path.open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data, default=str) + "\n")
        self._file.flush()


class _Outside:
    """Runs the world tests of a module together inside one world and replays their reports one by one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._log = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not _is_inside(item) or item.config.option.setuponly:
            return None
        if item.nodeid not in self._reports:
            self._run_module(item)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._take(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # Fixtures of an ordinary test before this one, which pytest would tear down had this one run here.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def _run_module(self, item: pytest.Item) -> None:
        together = [
            other.nodeid
            for other in item.session.items
            if other.path == item.path
            and other.get_closest_marker("world")
            and other.nodeid not in self._reports
        ]
        base = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        name = f"{item.path.stem}-{len(self._reports)}"
        reports, log = base / f"{name}.reports", base / f"{name}.log"
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "--in-world",
            str(reports),
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-m",
            "",  # what is run was chosen out here
        ]
        argv += [
            "--rootdir",
            str(self._config.rootpath),
            "--basetemp",
            str(base / name),
            *_passed_on(self._config),
            *together,
        ]
        self._reports |= {nodeid: [] for nodeid in together}
        cwd = self._config.invocation_params.dir
        try:
            run_inside(
                argv,
                log=log,
                cwd=self._config.rootpath,
                keep=[base, cwd],
                timeout_s=max(_MODULE_TIMEOUT_S, len(together) * _TEST_TIMEOUT_S),
            )
        except WorldError as error:
            self._reports |= {nodeid: [_skipped(nodeid, str(error))] for nodeid in together}
            return
        except subprocess.TimeoutExpired:
            pass  # what has no report is shown as failed, with the log
        self._log = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if reports.exists():
            for line in reports.read_text(encoding="utf-8").splitlines():
                data = json.loads(line)
                self._reports.setdefault(data["nodeid"], []).append(data)

    def _take(self, item: pytest.Item) -> list[pytest.TestReport]:
        found = self._reports[item.nodeid]
        if not found or (
            found[-1]["when"] != "teardown" and not any(data["outcome"] == "skipped" for data in found)
        ):
            found = [
                *found,
                _failed(
                    item.nodeid, f"the world ended before this test did; output of the inside:\n{self._log}"
                ),
            ]
        hook = self._config.hook.pytest_report_from_serializable
        reports = [hook(config=self._config, data={**data, "location": item.location}) for data in found]
        for report in reports:
            if isinstance(report.longrepr, list):  # a skip's (path, line, reason): JSON has no tuples
                report.longrepr = tuple(report.longrepr)
        return reports


def _is_inside(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("world")
    return marker is not None and marker.kwargs.get("inside", True)


def _passed_on(config: pytest.Config) -> list[str]:
    """The options that change how a test runs or reads."""
    option = config.option
    given = [f"--tb={option.tbstyle}"]
    given += [f"--maxfail={option.maxfail}"] if option.maxfail else []
    given += [f"-{'v' * option.verbose}"] if option.verbose > 0 else []
    given += [f"--timeout={option.timeout}"] if getattr(option, "timeout", None) else []
    return given


def _skipped(nodeid: str, reason: str) -> dict[str, Any]:
    return _report(nodeid, "setup", "skipped", [nodeid.partition("::")[0], 0, f"Skipped: {reason}"])


def _failed(nodeid: str, text: str) -> dict[str, Any]:
    return _report(nodeid, "call", "failed", text)


def _report(nodeid: str, when: str, outcome: str, longrepr: Any) -> dict[str, Any]:
    return {
        "$report_type": "TestReport",
        "nodeid": nodeid,
        "location": [nodeid, 0, nodeid],
        "keywords": {},
        "outcome": outcome,
        "longrepr": longrepr,
        "when": when,
        "sections": [],
        "duration": 0.0,
        "start": 0.0,
        "stop": 0.0,
        "user_properties": [],
    }
