"""The outside of labs that stay: names, states, mistakes. No world needed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli import main
from testbed.lab import interactive
from testbed.lab.interactive import (
    InteractiveError,
    KeptLab,
    down,
    execute,
    labs,
    started_ticks,
    up,
    write_lab,
)

ROOT = Path(__file__).resolve().parents[1]
MINIMAL = ROOT / "topologies" / "minimal.topology.yaml"


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def keep(name: str, *, is_running: bool) -> KeptLab:
    """A lab whose keeper is this test, or nobody any more."""
    ticks = started_ticks(os.getpid())
    assert ticks is not None
    lab = KeptLab(
        name,
        "t",
        None,
        "2024-11-12T10:00:00Z",
        keeper_pid=os.getpid(),
        keeper_started=ticks - (not is_running),
    )
    lab.folder.mkdir(parents=True)
    write_lab(lab)
    return lab


def test_a_process_id_used_again_is_not_the_keeper():
    assert keep("a", is_running=True).is_running and not keep("b", is_running=False).is_running


def test_without_a_lab_it_says_how_to_start_one():
    with pytest.raises(InteractiveError, match="no lab is running; start one with './allowlab up TOPOLOGY'"):
        execute("alice", ["true"])


def test_nothing_to_run_says_what_to_write():
    keep("a", is_running=True)
    with pytest.raises(InteractiveError, match="Write './allowlab exec alice -- COMMAND'"):
        execute("alice", ["--"])


def test_with_several_labs_it_asks_which():
    keep("a", is_running=True), keep("b", is_running=True)
    with pytest.raises(InteractiveError, match="several labs: a, b; say which with --name"):
        execute("alice", ["true"])


def test_an_unknown_lab_is_named_with_those_there_are():
    keep("a", is_running=True)
    with pytest.raises(InteractiveError, match="there is no lab 'nope'; known: a"):
        execute("alice", ["true"], "nope")


def test_a_lab_that_ended_by_itself_says_where_its_logs_are_and_down_clears_it():
    lab = keep("a", is_running=False)
    with pytest.raises(
        InteractiveError, match=f"the lab 'a' has ended by itself; its logs are in {lab.folder}"
    ):
        execute("alice", ["true"], "a")

    assert down("a") == [] and labs() == [] and not lab.folder.exists()


def test_captures_outlive_the_lab_they_were_asked_of():
    lab = keep("a", is_running=False)
    wanted = lab.capture_dir / "alice.pcapng"
    wanted.parent.mkdir(parents=True)
    wanted.write_bytes(b"x")

    assert down("a") == [wanted] and wanted.exists() and labs() == []


def test_a_later_lab_of_the_same_name_neither_names_nor_overwrites_what_an_earlier_one_captured():
    earlier = keep("a", is_running=False)
    old = earlier.capture_dir / "alice.pcapng"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    down("a")

    later = replace(earlier, since="2024-11-12T10:00:01Z")
    later.folder.mkdir(exist_ok=True)
    write_lab(later)

    assert later.capture_dir != earlier.capture_dir and later.folder == earlier.folder
    assert down("a") == [] and old.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("is_running", "says"), [(True, "is down"), (False, "had ended by itself; it is cleared away")]
)
def test_down_says_in_one_line_that_it_worked_and_what_was_captured(is_running, says, monkeypatch):
    lab = keep("a", is_running=is_running)
    wanted = lab.capture_dir / "alice.pcapng"
    wanted.parent.mkdir(parents=True)
    wanted.write_bytes(b"x")
    monkeypatch.setattr(interactive, "_end", lambda lab: None)  # its keeper is this test

    result = CliRunner().invoke(main, ["down"])

    assert result.output == f"lab 'a' {says}\ncapture: {wanted}\n" and result.exit_code == 0


def test_hints_name_the_command_as_it_was_typed(monkeypatch):
    monkeypatch.setenv("ALLOWLAB_COMMAND", "allowlab")
    with pytest.raises(InteractiveError, match="start one with 'allowlab up TOPOLOGY'"):
        execute("alice", ["true"])


def test_a_name_in_use_is_refused():
    keep("minimal", is_running=True)
    with pytest.raises(
        InteractiveError, match="a lab 'minimal' is running; end it with './allowlab down --name minimal'"
    ):
        up(MINIMAL)


@pytest.mark.parametrize("name", ["../up", "a/b", "", " ", "-x"])
def test_a_name_that_is_no_file_name_is_refused(name):
    if name:
        with pytest.raises(InteractiveError, match="cannot be a lab's name"):
            up(MINIMAL, name=name)


def test_a_wrong_capture_is_refused_before_anything_starts():
    with pytest.raises(InteractiveError, match="there is no node 'nope'"):
        up(MINIMAL, captures=["nope"])
    assert labs() == []


def test_a_keeper_that_cannot_start_is_reported_with_its_last_words(monkeypatch):
    monkeypatch.setattr(interactive.sys, "executable", "/bin/false")
    monkeypatch.setattr(interactive, "_POLL_S", 0.001)
    with pytest.raises(InteractiveError) as caught:
        up(MINIMAL, deadline_s=0.5)
    assert "did not come up" in str(caught.value) and "its logs are in" in caught.value.details[-1]


@pytest.mark.parametrize("name", ["on-path", "relative"])
def test_the_launcher_hands_on_what_was_typed(name, tmp_path):
    (tmp_path / "allowlab").symlink_to(ROOT / "allowlab")
    typed = "allowlab" if name == "on-path" else "./allowlab"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ALLOWLAB_PACKAGES": "have"}

    done = subprocess.run([typed, "ps"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    assert (
        done.stderr == f"no lab is running; start one with '{typed} up TOPOLOGY'\n" and done.returncode == 3
    )
