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
        for line in (part.strip() for each in expected.splitlines() for part in each.split("…")):
            found = told.find(line, position)
            assert found >= 0, (
                f"after\n{text}\nthis was to come: {line!r}; there was\n{told}{done.stderr[-2000:]}"
            )
            position = found + len(line)
        if expected and "…" not in expected:  # what is shortened says so
            assert told.splitlines() == expected.splitlines(), text
    assert not list(Path("/run/netns").iterdir())


def test_the_page_waits_for_nothing_without_an_end(tmp_path):
    """`wait_for`, when nothing ever comes: the logs are shown. Its 30 s are 1 s here."""
    (tmp_path / "registry.log").write_text("the registry is here\n")
    (tmp_path / "enforcer.log").write_text("waiting for it\n")
    [block] = [text for text, _ in _BLOCK.findall(PAGE) if text.startswith("wait_for()")]
    assert "until " not in PAGE.replace(block, "").replace("waits until", "")
    function = block.replace("SECONDS + 30", "SECONDS + 1")
    assert function != block
    for status, code in (("false", 1), ("echo serial 1,", 0)):
        script = f"enforcer() {{ {status}; }}\n{function}\nwait_for '^serial'"
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == code
        assert ("waiting for it" in done.stdout and "the registry is here" in done.stdout) == (code == 1)


def test_the_unit_starts_what_the_page_installs():
    """The environment that is made is the one pip fills, and its commands are linked to where the unit looks."""
    lines = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)[0]
    [venv] = re.findall(r"^python3 -m venv (\S+)$", lines, re.MULTILINE)
    assert f"\n{venv}/bin/pip install ./enforcer" in lines
    [linked] = re.findall(r"^ln -sf (.*)/$", lines, re.MULTILINE)
    *commands_linked, folder = linked.split()
    assert commands_linked == [f"{venv}/bin/enforcer", f"{venv}/bin/enforcer-registry"]
    assert f"ExecStart={folder}/enforcer run " in UNIT.read_text()
    assert {"gcc", "python3-dev", "python3-venv", "libnftables1"} <= set(lines.split())
    enforcer = (ROOT / "docs/enforcer.md").read_text()
    assert f"python3 -m venv {venv}" in enforcer and f"{venv}/bin/pip install ./enforcer" in enforcer


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
