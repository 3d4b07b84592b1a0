"""Labs that stay: up, exec, shell, ps, down. The outside of it; testbed/timeline/hold.py is the inside.

A *keeper* process in the background holds the lab's world open; the world ends with it. What is known of a lab is in its
folder below `state_root()`: lab.json (who keeps it, how far it is), plan.json, progress.jsonl, logs/, captures/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from testbed import command
from testbed.lab.enter import run_in_world

MISSES_FILE = "calibration-misses.json"

_PROJECT = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DOWN_DEADLINE_S = 5.0
_POLL_S = 0.02


class InteractiveError(Exception):
    """A lab could not be started, found or ended; the text says why and what to do."""

    def __init__(self, text: str, details: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.details = list(details)


@dataclass(frozen=True, slots=True)
class KeptLab:
    """What lab.json says. init_pid is the world's first process, None until the world is open."""

    name: str
    topology: str
    policy: str | None
    since: str
    links: Literal["auto", "netem", "nfqueue"] = "auto"
    captures: tuple[str, ...] = ()
    keeper_pid: int = 0
    keeper_started: int = 0
    init_pid: int | None = None

    @property
    def folder(self) -> Path:
        return state_root() / self.name

    @property
    def capture_dir(self) -> Path:
        """One folder for each start: captures stay, and a later lab of the same name must not write over them."""
        return self.folder / "captures" / self.since.replace("-", "").replace(":", "")

    @property
    def is_running(self) -> bool:
        return self.keeper_pid > 0 and started_ticks(self.keeper_pid) == self.keeper_started


def state_root() -> Path:
    """$XDG_STATE_HOME/allowlab or ~/.local/state/allowlab: a lab outlives a login, the run-time folder of a user does not."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "allowlab" / "labs"


def up(
    topology: Path,
    policy: Path | None = None,
    *,
    name: str | None = None,
    links: Literal["auto", "netem", "nfqueue"] = "auto",
    captures: Sequence[str] = (),
    on_progress: Callable[[str, str], None] | None = None,
    deadline_s: float = 180.0,
) -> KeptLab:
    """Start a lab and wait until it is measured ready; on_progress gets (phase, text) as it comes up.

    Raises plan.load.PlanError for wrong files, InteractiveError for the rest; then, and on Ctrl-C, nothing keeps running.
    """
    # Here, not above: `exec` and `down` answer at once because they do without the file models.
    from testbed.lab.capture import parse_wish
    from testbed.plan.load import load_topology_plan
    from testbed.plan.store import write_plan

    plan = load_topology_plan(topology, policy)
    name = name or plan.scenario
    if not _NAME.fullmatch(name):
        raise InteractiveError(f"'{name}' cannot be a lab's name; use letters, digits, '.', '_' and '-'")
    for wish in captures:
        try:
            parse_wish(wish, plan)
        except ValueError as error:
            raise InteractiveError(str(error)) from None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lab = KeptLab(name, str(topology), str(policy) if policy else None, since, links, tuple(captures))
    _claim(lab)
    try:
        write_plan(plan, lab.folder / "plan.json")
        write_lab(lab)
        _start_keeper(lab)
        return _wait_ready(lab, on_progress or (lambda _phase, _text: None), time.monotonic() + deadline_s)
    except InteractiveError as error:
        _end(_read(lab.folder) or lab, forget=False)
        error.details.append(f"its logs are in {lab.folder}; '{command()} down --name {name}' clears them")
        raise
    except BaseException:
        _end(_read(lab.folder) or lab)
        raise


def warning(folder: Path) -> str:
    """What to know of a lab's links, a line each: those measured out of tolerance; "" when there are none."""
    try:
        misses: list[str] = json.loads((folder / MISSES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    first = (
        "warning: these links are out of tolerance (the machine was probably busy while they were measured):"
    )
    return "\n  ".join([first, *misses])


def down(name: str | None = None) -> list[Path]:
    """End a lab (None: the only one) and forget it; the capture files it (not an earlier one) leaves. Raises InteractiveError."""
    lab = find(name, must_run=False)
    _end(lab)
    return sorted(lab.capture_dir.glob("*.pcapng"))


def execute(node: str, argv: Sequence[str], name: str | None = None) -> int:
    """Run a program on a node of a lab, on this terminal; its exit code. A "--" before the program is left out.

    Raises InteractiveError when no such lab runs.
    """
    argv = argv[1:] if argv[:1] in (["--"], ("--",)) else argv
    if not argv:
        raise InteractiveError(f"what shall run on {node}? Write '{command()} exec {node} -- COMMAND'")
    lab = find(name)
    env = {
        **os.environ,
        "ALLOWLAB_WORLD": "1",
        "ALLOWLAB_LAB": lab.name,
        "ALLOWLAB_NODE": node,
        "TMPDIR": "/tmp",
    }
    return run_in_world(_init_of(lab), node, argv, env)


def shell(name: str | None = None) -> int:
    """Mininet's command line on a lab; its exit code."""
    return _inside(find(name), "testbed.lab.interactive_shell")


def show(name: str | None = None, *, as_json: bool = False) -> int:
    """Print a lab's nodes, addresses, programs and links as they are now; the exit code."""
    return _inside(find(name), "testbed.lab.inspection", *(["--json"] if as_json else []))


def find(name: str | None, *, must_run: bool = True) -> KeptLab:
    """The lab of that name, or (None) the only one. Raises InteractiveError."""
    known = labs()
    running = [lab for lab in known if lab.is_running]
    if name is None:
        candidates = running if running or must_run else known
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            ended = ", ".join(f"'{lab.name}' (logs in {lab.folder})" for lab in known)
            more = f"; ended by itself: {ended}" if ended else ""
            raise InteractiveError(f"no lab is running; start one with '{command()} up TOPOLOGY'{more}")
        names = ", ".join(lab.name for lab in candidates)
        raise InteractiveError(f"there are several labs: {names}; say which with --name")
    lab = next((lab for lab in known if lab.name == name), None)
    if lab is None:
        names = ", ".join(each.name for each in known) or "none"
        raise InteractiveError(f"there is no lab '{name}'; known: {names}")
    if must_run and not lab.is_running:
        raise InteractiveError(
            f"the lab '{name}' has ended by itself; its logs are in {lab.folder}, '{command()} down --name {name}' clears them"
        )
    return lab


def labs() -> list[KeptLab]:
    """Every lab known here, running or not, by name."""
    root = state_root()
    found = [_read(folder) for folder in sorted(root.iterdir())] if root.is_dir() else []
    return [lab for lab in found if lab is not None]


def write_lab(lab: KeptLab) -> None:
    """Write lab.json in one step."""
    path = lab.folder / "lab.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(lab), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def read_lab(folder: Path) -> KeptLab:
    """Raises OSError or ValueError when the folder holds no lab."""
    values: dict[str, Any] = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
    return KeptLab(**{**values, "captures": tuple(values["captures"])})


def started_ticks(pid: int) -> int | None:
    """When a process started (proc(5), stat field 22): with its id it names a process for good. None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _claim(lab: KeptLab) -> None:
    try:
        lab.folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InteractiveError(
            f"cannot keep a lab's state in {lab.folder.parent}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
        ) from None
    known = _read(lab.folder)
    if known is not None and known.is_running:
        raise InteractiveError(
            f"a lab '{lab.name}' is running; end it with '{command()} down --name {lab.name}', or start this one with --name"
        )
    if lab.folder.exists():
        _forget(lab.folder)
    try:
        lab.folder.mkdir(exist_ok=(lab.folder / "captures").is_dir())
    except FileExistsError:
        raise InteractiveError(
            f"another '{command()} up' is starting '{lab.name}' just now; give one a --name"
        ) from None


def _start_keeper(lab: KeptLab) -> None:
    with (lab.folder / "keeper.log").open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "testbed.lab.interactive_keeper", str(lab.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=_PROJECT,
            start_new_session=True,
        )


def _wait_ready(lab: KeptLab, say: Callable[[str, str], None], deadline: float) -> KeptLab:
    progress = _Tail(lab.folder / "progress.jsonl")
    while True:
        now = _read(lab.folder) or lab
        # The state first, then the lines: the last words of a keeper that has ended are in the file.
        has_ended = now.keeper_pid > 0 and not now.is_running
        for line in progress.lines():
            if line["phase"] == "ready":
                return now
            if line["phase"] == "failed":
                raise InteractiveError(line["text"], line.get("details", ()))
            say(line["phase"], line["text"])
        if has_ended:
            raise InteractiveError("the lab did not come up", _log_end(lab.folder))
        if time.monotonic() > deadline:
            raise InteractiveError("the lab did not come up in time", _log_end(lab.folder))
        time.sleep(_POLL_S)


def _log_end(folder: Path) -> list[str]:
    try:
        return (
            (folder / "keeper.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
        )
    except FileNotFoundError:
        return []


class _Tail:
    """Lines appended to a file of JSON lines since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def lines(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _inside(lab: KeptLab, module: str, *arguments: str) -> int:
    python_path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "ALLOWLAB_WORLD": "1", "TMPDIR": "/tmp", "PYTHONPATH": python_path}
    return run_in_world(_init_of(lab), None, [sys.executable, "-m", module, str(lab.folder), *arguments], env)


def _init_of(lab: KeptLab) -> int:
    if lab.init_pid is None:
        raise InteractiveError(f"the lab '{lab.name}' is still starting")
    return lab.init_pid


def _end(lab: KeptLab, *, forget: bool = True) -> None:
    """Ask the keeper to end, then kill it (its world dies with it); then forget the lab."""
    if lab.is_running:
        for number, deadline_s in ((signal.SIGTERM, _DOWN_DEADLINE_S), (signal.SIGKILL, 2.0)):
            with suppress(ProcessLookupError):
                os.kill(lab.keeper_pid, number)
            if _is_gone(lab, time.monotonic() + deadline_s):
                break
        else:
            raise InteractiveError(f"the lab '{lab.name}' does not end; process {lab.keeper_pid} keeps it")
    if forget:
        _forget(lab.folder)


def _is_gone(lab: KeptLab, deadline: float) -> bool:
    while lab.is_running:
        if time.monotonic() > deadline:
            return False
        with suppress(ChildProcessError):
            os.waitpid(lab.keeper_pid, os.WNOHANG)  # it is a child of this process right after `up`
        time.sleep(_POLL_S)
    return True


def _forget(folder: Path) -> None:
    """Remove what is known of a lab, except the captures somebody asked for."""
    captures = folder / "captures"
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry == captures and any(captures.iterdir()):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with suppress(OSError):
        folder.rmdir()


def _read(folder: Path) -> KeptLab | None:
    try:
        return read_lab(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_keeper(folder: Path, init_pid: int | None) -> KeptLab:
    """Note in lab.json that this process keeps the lab."""
    ticks = started_ticks(os.getpid())
    assert ticks is not None
    lab = replace(read_lab(folder), keeper_pid=os.getpid(), keeper_started=ticks, init_pid=init_pid)
    write_lab(lab)
    return lab
