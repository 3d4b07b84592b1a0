"""One Ctrl-C in the middle of a run, while the script still has events to come."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.world(inside=False)
def test_an_interrupted_run_says_so_and_keeps_what_was_measured(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "testbed.cli",
        "run",
        "scenarios/minimal-revocation.scenario.yaml",
        "--results",
        str(tmp_path),
    ]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    said = ""
    for line in process.stdout:
        said += line
        assert time.monotonic() < deadline, said
        if "playing" in line:
            process.send_signal(signal.SIGINT)
            break
    said += process.stdout.read()

    assert process.wait(60) == 130, said
    run_dir = next(tmp_path.glob("minimal-revocation/2*"))
    assert json.loads((run_dir / "run.json").read_text())["outcome"] == "interrupted"
    assert "test-bed itself failed" not in said
    assert (run_dir / "flows.jsonl.gz").stat().st_size > 0
    assert (run_dir / "summary.json").exists()
