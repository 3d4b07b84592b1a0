"""Runs in the lab's own kernel, whole: without namespaces, in virtual and in real time, again, and stalled.

They need `./allowlab kernel build` once and are skipped, with that reason, where it was not called.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import session
from testbed.score.reading import read_records
from testbed.session_folder import PROJECT, read_state
from testbed.session_place import InKernel
from testbed.session_progress import Quiet
from testbed.session_verify import first_difference, verify
from testbed.world.uml import store
from tests.no_namespaces import ordinary_user

_GLITCH = "technical-glitch"
_SMOKE = "minimal-smoke"


@pytest.fixture(scope="module")
def kernel() -> store.Kernel:
    try:
        return store.current()
    except store.NoKernel as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def home(kernel) -> Iterator[Path]:
    """A folder of the ordinary user's own, with the kernel in its cache."""
    with tempfile.TemporaryDirectory(prefix="allowlab-ordinary-", dir="/var/tmp") as name:
        folder = Path(name)
        shutil.copytree(kernel.path.parent, folder / ".cache" / "allowlab" / "kernel" / kernel.key)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, ordinary_user(), -1)
        yield folder


def as_ordinary_user(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`allowlab run …` by somebody to whom the kernel gives no namespaces."""
    argv = [
        sys.executable,
        "-B",
        "-m",
        "tests.no_namespaces",
        sys.executable,
        "-B",
        "-m",
        "testbed.cli",
        "run",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(PROJECT)}
    options = ["--results", str(home / "results"), "--quiet", "--no-report"]
    return subprocess.run(
        [*argv, *arguments, *options], cwd=PROJECT, env=env, capture_output=True, text=True, timeout=280
    )


def scenario(name: str) -> Path:
    return PROJECT / "scenarios" / f"{name}.scenario.yaml"


def test_without_namespaces_a_run_says_what_to_do(home):
    done = as_ordinary_user(home, str(scenario(_SMOKE)))
    assert done.returncode == 3
    assert "user.max_user_namespaces=0 forbids" in done.stdout and "--world uml" in done.stdout


def test_an_ordinary_user_without_namespaces_plays_in_virtual_time_and_root_gets_the_same_bytes(home):
    done = as_ordinary_user(home, str(scenario(_SMOKE)), "--clock", "virtual")
    assert done.returncode == 0, done.stdout + done.stderr
    run = home / "results" / _SMOKE / "latest"
    state = read_state(run)
    assert state is not None and state["outcome"] == "passed"
    assert read_records(run).audit, "an enforcer was there, and says so"
    assert verify(run.resolve(), Quiet(sys.stderr)) is None


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_where_the_project_lies_and_what_is_compiled_or_running_beside_it_does_not_reach_a_run(
    kernel, tmp_path
):
    """Another path with other files in it, packages without compiled code, another environment, a busy processor: the same bytes."""
    ours = session.run(scenario(_GLITCH), session.Options(clock="virtual", results=tmp_path, report=False))
    far = tmp_path / "a-folder-with-a-long-name" / "below" / "project"
    without = shutil.ignore_patterns("__pycache__", ".venv", ".git", "results")
    shutil.copytree(PROJECT, far, ignore=without)
    shutil.copytree(sys.prefix, far / ".venv", ignore=without, symlinks=True)
    for number in range(40):
        (far / f"notes-{number}").mkdir()
    python = far / ".venv" / Path(sys.executable).relative_to(sys.prefix)
    argv = [
        python,
        "-B",
        "-m",
        "testbed.cli",
        "run",
        far / "scenarios" / f"{_GLITCH}.scenario.yaml",
        "--clock",
        "virtual",
        "--quiet",
        "--no-report",
    ]
    env = os.environ | {"PYTHONPATH": str(far), "SOMETHING": "else" * 5000}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            done = subprocess.run(
                [*argv, "--results", tmp_path / "far"], cwd=far, env=env, capture_output=True, text=True
            )
        finally:
            busy.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert first_difference(ours.run_dir, (tmp_path / "far" / _GLITCH / "latest").resolve()) is None


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_an_ordinary_user_without_namespaces_plays_the_glitch(home):
    done = as_ordinary_user(home, str(scenario("technical-glitch")), "--clock", "virtual")
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_real_time_the_labs_own_kernel_serves_a_world_with_all_it_has(kernel, tmp_path):
    options = session.Options(world="uml", results=tmp_path, report=False)
    result = session.run(scenario(_SMOKE), options)
    if (
        "the machine was probably busy" in result.reason
    ):  # said when most links are right, not when all are wrong
        pytest.skip(f"the machine is too busy for real time: {result.reason.splitlines()[0]}")
    assert result.outcome in ("passed", "inconclusive"), result.reason
    state = read_state(result.run_dir)
    assert state is not None and state["options"]["clock"] == "real"
    assert all(
        state["capabilities"][name] for name in ("netem", "kernel_wireguard", "esp", "nft_queue", "ppp")
    )
    assert not list((result.run_dir / "logs").glob("*wireguard-go*"))
    assert state["health"]["links"]["backend"] == "netem"
    assert state["health"]["is_noisy"] == bool(state["health"]["noise"])


def test_a_program_that_stops_the_clock_ends_the_run_by_name_and_the_records_are_kept(
    kernel, tmp_path, monkeypatch
):
    spinning = f"{sys.executable} -m tests.spinning_enforcer 64"  # time 0 is 60 s after boot
    monkeypatch.setattr(session, "choose", lambda clock, world: InKernel("virtual", stalled_after_s=4.0))
    options = session.Options(clock="virtual", enforcer=spinning, results=tmp_path, report=False)
    result = session.run(scenario(_SMOKE), options)
    assert (result.outcome, result.exit_code) == ("broken", 3)
    assert re.search(r"stalled at [345] s of virtual time in \S+python\S*: .* is kept", result.reason)
    assert json.loads((result.run_dir / "broken.json").read_text())["reason"] == result.reason
    assert read_records(result.run_dir).flows, "what was measured before the stall"
