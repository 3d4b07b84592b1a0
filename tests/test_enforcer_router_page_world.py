"""docs/router.md can be followed: its commands are typed into one shell, block by block, and print what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/router.md").read_text()
UNIT = ROOT / "enforcer/systemd/allowlist-enforcer.service"
_BLOCK = re.compile(r"```sh\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)


def commands(folder):
    """What `pip install` would put on the path."""
    for name, module in (
        ("enforcer", "enforcer"),
        ("enforcer-registry", "enforcer.registry"),
        ("python3", ""),
    ):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {f"-m {module}" if module else ""} "$@"\n')
        path.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.world
def test_a_new_user_can_follow_the_page(tmp_path):
    (tmp_path / "bin").mkdir()
    work = tempfile.mkdtemp(dir="/run")  # a socket's path may have 107 bytes
    environment = commands(tmp_path / "bin")
    blocks = _BLOCK.findall(PAGE)
    assert len(blocks) >= 8
    script = "\n".join(f"echo BLOCK {number}\n{text}" for number, (text, _) in enumerate(blocks))
    done = subprocess.run(
        ["bash", "-c", script + "\necho BLOCK end"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    printed = dict(re.findall(r"^BLOCK (\d+)\n(.*?)(?=^BLOCK )", done.stdout, re.DOTALL | re.MULTILINE))
    for number, (text, expected) in enumerate(blocks):
        told, position = printed[str(number)], 0
        for line in expected.splitlines():
            found = told.find(line, position)
            assert found >= 0, (
                f"after\n{text}\nthis was to come: {line!r}; there was\n{told}{done.stderr[-2000:]}"
            )
            position = found + len(line)
    assert not list(Path("/run/netns").iterdir())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_the_unit_is_hardened(tmp_path):
    """systemd's own judgement, 0 (safe) to 10; sshd's unit has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    weak = tmp_path / UNIT.name  # control: the judgement can fail
    weak.write_text("[Service]\nExecStart=/bin/true\n")
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(weak)]
    assert subprocess.run(argv, capture_output=True).returncode != 0
