"""The run folder: where it is made, what run.json says, and that a reader always finds one of its two whole states."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testbed import VERSION
from testbed.plan.plan import Plan
from testbed.world.capabilities import Capabilities

SCHEMA = "allowlab.run/1"
PROJECT = Path(__file__).resolve().parents[1]
_MIN_FREE_BYTES = 64 * 2**20  # a run of `registration` with its captures is below 20 MiB
_PACKAGES = (
    "mininet",
    "pydantic",
    "ruamel.yaml",
    "numpy",
    "matplotlib",
    "starlette",
    "uvicorn",
    "cryptography",
)


class FolderError(Exception):
    """No run folder can be made; the text says where, why and what to write instead."""


def results_folder(wanted: Path | None) -> tuple[Path, str]:
    """The folder runs go to, and a sentence when it is not the usual one ("" otherwise).

    Without `wanted`: the project's results/, or the user's state folder when that cannot be written. Raises FolderError.
    """
    usual = wanted or PROJECT / "results"
    problem = _try(usual)
    if not problem:
        return usual, ""
    if wanted is not None:
        raise FolderError(f"--results {wanted}: {problem}; name a folder you may write to")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    other = state / "allowlab" / "results"
    if also := _try(other):
        raise FolderError(
            f"{usual}: {problem}; {other}: {also}; name a folder you may write to with --results"
        )
    return other, f"{usual} cannot be written ({problem}); the run goes to {other}"


def make_run_folder(results: Path, scenario: str, now: datetime | None = None) -> Path:
    """A new folder results/<scenario>/<UTC start>-<short id>, and `latest` beside it pointing there. Raises FolderError."""
    started = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    above = results / scenario
    try:
        free = shutil.disk_usage(results).free
        if free < _MIN_FREE_BYTES:
            raise FolderError(
                f"{results}: {free // 2**20} MiB are free and a run needs {_MIN_FREE_BYTES // 2**20}; "
                "remove old runs, or name another disk with --results"
            )
        above.mkdir(parents=True, exist_ok=True)
        folder = above / f"{started}-{secrets.token_hex(2)}"
        folder.mkdir()
        (folder / "logs").mkdir()
        part = above / f".latest-{folder.name}"
        part.symlink_to(folder.name)
        part.replace(above / "latest")
    except OSError as error:
        raise FolderError(
            f"{above}: {error.strerror}; name a folder you may write to with --results"
        ) from error
    return folder.absolute()


def copy_config(plan: Plan, files: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Copies the files as supplied to config/; says where each came from and its hash (as run they are plan.json)."""
    config = folder / "config"
    config.mkdir()
    result = {}
    for kind, path in files.items():
        data = path.read_bytes()
        (config / path.name).write_bytes(data)
        result[kind] = {
            "path": _shown(path),
            "copy": f"config/{path.name}",
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    result["plan"] = {
        "copy": "plan.json",
        "sha256": hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest(),
    }
    return result


def first_state(plan: Plan, folder: Path, config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """run.json as it stands while the run goes on: outcome "running"."""
    git = git_state()
    return {
        "schema": SCHEMA,
        "id": folder.name,
        "scenario": plan.scenario,
        "title": plan.title,
        "outcome": "running",
        "reason": "",
        "seed": plan.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "ended": None,
        "process": {"pid": os.getpid(), "start_ticks": _start_ticks(os.getpid())},
        "options": options,
        "config": config,
        "git": git,
        "versions": {
            "allowlab": VERSION,
            "commit": git["commit"] if git else None,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
        "host": {"kernel": platform.release(), "load_before": list(os.getloadavg())},
    }


def with_capabilities(
    state: dict[str, Any], capabilities: Capabilities, kernel: dict[str, str] | None
) -> dict[str, Any]:
    """run.json with what the kernel can do that the lab is played in; kernel: which one it is, if it is the lab's own."""
    programs = {name: version for name, version in capabilities.programs.items() if version is not None}
    host = state["host"] | {"cpus": capabilities.cpus, "memory_bytes": capabilities.memory_bytes}
    return state | {
        "kernel": kernel,
        "capabilities": asdict(capabilities),
        "host": host,
        "versions": state["versions"] | {"programs": programs},
    }


def last_state(
    state: dict[str, Any], folder: Path, outcome: str, reason: str, took_s: dict[str, float]
) -> dict[str, Any]:
    """run.json as it stays: with the outcome, and with what the inside wrote about its links, phases and health."""
    return state | {
        "outcome": outcome,
        "reason": reason,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": {name: round(seconds, 3) for name, seconds in took_s.items()},
        "phases_s": _read_json(folder / "phases.json"),
        "calibration": _read_json(folder / "calibration.json"),
        "health": _health(folder / "events.jsonl"),
        "host": state["host"] | {"load_after": list(os.getloadavg())},
    }


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replaces run.json whole: a reader, or a crash, never meets half of it."""
    part = folder / ".run.json.part"
    part.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / "run.json")


def read_state(folder: Path) -> dict[str, Any] | None:
    state = _read_json(folder / "run.json")
    return state if isinstance(state, dict) else None


def is_running(state: Mapping[str, Any]) -> bool:
    """Whether the process that writes this run is still there (the same one: process ids are used again)."""
    process = state.get("process") or {}
    ticks = _start_ticks(int(process.get("pid", 0)))
    return state.get("outcome") == "running" and ticks is not None and ticks == process.get("start_ticks")


def git_state(project: Path = PROJECT) -> dict[str, Any] | None:
    """The commit of the checkout and whether files differ from it; None outside a checkout."""
    # The checkout may be root's and the run an ordinary user's: git(1) then asks for safe.directory.
    git = ["git", "-c", f"safe.directory={project}", "-C", str(project)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "is_dirty": bool(status.stdout.strip())}


def _try(folder: Path) -> str:
    """ "" when files can be made in the folder, else why not."""
    probe = folder / f".probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _shown(path: Path) -> str:
    whole = path.resolve()
    return whole.relative_to(PROJECT).as_posix() if whole.is_relative_to(PROJECT) else str(path)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), /proc/PID/stat field 22); None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _health(path: Path) -> Any:
    """The data of the last "health" event; None when the run did not get that far."""
    found = None
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if '"health"' in line and (record := json.loads(line)).get("kind") == "health":
                    found = record["data"]
    except (OSError, ValueError):
        return found
    return found
