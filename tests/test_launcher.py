"""The launcher, on a copy of it with programs of a made-up system: what it installs, says and leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "check out"
    folder.mkdir()
    for name in ("allowlab", "packages.debian.txt", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A PATH folder: the real shell's tools, no apt-get, no dpkg-query."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "sed", "readlink", "dirname", "id", "flock", "sort", "env", "cat", "touch"):
        if path := shutil.which(name):
            (folder / name).symlink_to(path)
    (folder / "python3").symlink_to(sys.executable)
    return folder


def fake(system: Path, name: str, body: str) -> None:
    (system / name).write_text(f"#!/bin/sh\n{body}\n")
    (system / name).chmod(0o755)


def installed(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    (checkout / ".venv" / ".allowlab-installed").touch()
    (checkout / ".venv" / ".allowlab-installed-test").touch()


def call(
    launcher: Path, system: Path, *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(system), "HOME": os.environ.get("HOME", "/"), **env}
    return subprocess.run(
        [str(launcher), *arguments], env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip


def test_when_installed_it_runs_the_command_line_and_says_nothing(
    checkout: Path, system: Path, tmp_path: Path
) -> None:
    installed(checkout)
    link = tmp_path / "al"
    link.symlink_to(checkout / "allowlab")

    done = call(link, system, "run", "a file.yaml", cwd=tmp_path)

    assert done.stdout == f"{tmp_path}|{checkout}|-m|testbed.cli|run|a file.yaml|"
    assert done.stderr == ""


def test_test_runs_pytest_from_the_projects_folder(checkout: Path, system: Path, tmp_path: Path) -> None:
    installed(checkout)

    assert (
        call(checkout / "allowlab", system, "test", "-k", "x", cwd=tmp_path).stdout
        == f"{checkout}|{checkout}|-m|pytest|-k|x|"
    )
    helps = {"--help": "testbed.cli|test|--help", "--pytest-help": "pytest|--help"}
    for typed, called in helps.items():
        assert call(checkout / "allowlab", system, "test", typed).stdout.endswith(f"|-m|{called}|")


def test_an_unknown_system_gets_the_list_and_exit_code_3(checkout: Path, system: Path) -> None:
    done = call(checkout / "allowlab", system, "--help")

    assert done.returncode == 3
    assert "has no apt-get" in done.stderr and "bird2" in done.stderr
    assert not (checkout / ".venv").exists()


def test_missing_packages_are_named_before_apt_is_called_and_a_failure_says_what_to_do(
    checkout: Path, system: Path
) -> None:
    fake(
        system,
        "dpkg-query",
        'case $4 in bird2) printf "deinstall ok config-files";; *) printf "install ok installed";; esac',
    )
    fake(system, "apt-get", 'echo "APT $*" >&2; exit 100')
    fake(system, "sudo", 'exec "$@"')

    done = call(checkout / "allowlab", system, "--help")

    assert done.returncode == 3
    assert done.stderr.index("  bird2\n") < done.stderr.index("APT -q -y")
    assert "unbound" not in done.stderr  # control: dpkg has it
    assert "APT -q update" in done.stderr and "apt-get could not install the packages" in done.stderr


def test_the_browser_is_installed_by_the_test_command_only_and_what_is_there_is_not_installed_again(
    checkout: Path, system: Path
) -> None:
    installed(checkout)
    (checkout / ".venv" / ".allowlab-installed-test").unlink()
    fake(
        system,
        "dpkg-query",
        'case $4 in chromium*) exit 1;; *) printf "install ok installed";; esac',
    )
    fake(system, "apt-get", 'echo "APT $*" >&2; exit 100')
    fake(system, "sudo", 'exec "$@"')

    other = call(checkout / "allowlab", system, "check")
    first = call(checkout / "allowlab", system, "test")
    second = call(checkout / "allowlab", system, "test")

    assert other.returncode == 0 and other.stderr == ""
    assert first.returncode == 0 and "  chromium\n  chromium-driver\n" in first.stderr
    assert "optional package chromium could not be installed: what needs it will say so" in first.stderr
    assert "installing the Python packages" not in first.stderr
    assert second.returncode == 0 and second.stderr == ""


def test_a_failed_installation_of_python_packages_is_tried_again_next_time(
    checkout: Path, system: Path
) -> None:
    installed(checkout)
    (checkout / ".venv" / ".allowlab-installed").unlink()
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\n[ "$2" != pip ] || { echo no network >&2; exit 1; }\n')

    first = call(checkout / "allowlab", system, "--help", ALLOWLAB_PACKAGES="have")
    python.write_text("#!/bin/sh\nexit 0\n")
    second = call(checkout / "allowlab", system, "--help", ALLOWLAB_PACKAGES="have")

    assert (
        first.returncode == 3
        and "no network" in first.stderr
        and "with a network, call again" in first.stderr
    )
    assert second.returncode == 0 and "allowlab: installed" in second.stderr


def test_a_newer_lock_file_installs_again(checkout: Path, system: Path) -> None:
    installed(checkout)
    stamp = checkout / ".venv" / ".allowlab-installed"
    os.utime(stamp, (1, 1))

    done = call(checkout / "allowlab", system, "--help", ALLOWLAB_PACKAGES="have")

    assert "installing the Python packages" in done.stderr and stamp.stat().st_mtime > 1


def test_while_pip_installs_it_says_now_and_then_that_it_goes_on(checkout: Path, system: Path) -> None:
    """`sleep` takes no time here, three times; the words end with pip."""
    installed(checkout)
    (checkout / ".venv" / ".allowlab-installed").unlink()
    fake(
        system,
        "sleep",
        f"printf x >> '{system}/slept'; read -r all < '{system}/slept' || :; [ ${{#all}} -le 3 ]",
    )
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(
        f"""#!/bin/sh
[ "$2" = pip ] || exit 0
tries=0  # until the fourth sleep has begun, or for a bounded while
until [ "$(cat '{system}/slept' 2>/dev/null)" = xxxx ] || [ $tries -ge 20000 ]; do tries=$((tries + 1)); done
"""
    )

    done = call(checkout / "allowlab", system, "--help", ALLOWLAB_PACKAGES="have")

    said = [line for line in done.stderr.splitlines() if "still" in line]
    assert done.returncode == 0
    assert said == [f"allowlab: still installing Python packages ({s} s)" for s in (10, 20, 30)]
    assert "one to three minutes" in done.stderr and done.stderr.endswith("; the next call installs nothing\n")
