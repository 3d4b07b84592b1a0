"""A disk that fills up in the middle of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A small disk of its own for the run folder; filled one second after the play began.
_SCRIPT = """
mount -t tmpfs -o size=70m tmpfs "$1"
"$2" -m testbed.cli run scenarios/minimal-smoke.scenario.yaml --results "$1" > "$3" 2>&1 &
run=$!
for i in $(seq 600); do grep -q playing "$3" && break; sleep 0.1; done
sleep 1
dd if=/dev/zero of="$1/fill" bs=64k 2>/dev/null
wait $run
echo "exit $?"
rm "$1/fill"
"$2" -m testbed.cli report "$1/minimal-smoke/latest"
echo "report $?"
"""


@pytest.mark.world(inside=False)
def test_a_full_disk_is_a_sentence_and_what_was_measured_is_kept(tmp_path):
    disk, said = tmp_path / "disk", tmp_path / "said"
    disk.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *user, "--mount", "sh", "-c", _SCRIPT, "sh", str(disk), sys.executable, str(said)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)

    assert "exit 3" in done.stdout, said.read_text() + done.stderr
    text = " ".join(said.read_text().split())
    assert "the disk is full: remove old runs, or name another disk with --results" in text
    assert "report 0" in done.stdout, done.stdout + done.stderr
    assert "attempts) is kept" in " ".join(done.stdout.split())
