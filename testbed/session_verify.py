"""Plays a run in virtual time again and compares: the same plan must give the same bytes."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from testbed.plan.store import read_plan
from testbed.records import FILES
from testbed.session_folder import read_state
from testbed.session_place import InKernel
from testbed.session_progress import Show

# Everything that measurement and score leave; reports also say when and where a run was made.
_COMPARED = ("plan.json", "calibration.json", "phases.json", *FILES.values(), "summary.json")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first one. line counts from 1; field is the path of a JSON value, "" for a whole line; first and second are the values."""

    file: str
    line: int
    field: str
    first: str
    second: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" + (f": {self.field}" if self.field else "")
        return f"{where}: was {self.first}, is now {self.second}"


def verify(run_dir: Path, watcher: Show) -> Difference | None:
    """Plays the run again in the lab's kernel; the first difference, None when every file is the same byte for byte.

    Raises ValueError for a run that cannot be repeated, WorldError when the kernel does not start.
    """
    from testbed.score.summary import score_run

    state = read_state(run_dir)
    if state is None or not (run_dir / "plan.json").is_file():
        raise ValueError(f"{run_dir}: is not a run folder; name one like results/glitch-10-nov/latest")
    options = state.get("options", {})
    if options.get("clock") != "virtual":
        raise ValueError(
            f"{run_dir}: was played in real time, which never gives the same bytes twice; run it with --clock virtual"
        )
    if state["outcome"] not in ("passed", "failed", "inconclusive"):
        raise ValueError(
            f"{run_dir}: the run is {state['outcome']}; only one that was played to its end can be compared"
        )
    if other := other_kernel(run_dir):
        watcher.note(other)
    arguments = ["--links", options["links"]]
    arguments += ["--enforcer", options["enforcer"]] if options.get("enforcer") else []
    arguments += [word for wish in options.get("captures", ()) for word in ("--capture", wish)]
    with tempfile.TemporaryDirectory(prefix="allowlab-again-") as name:
        again = Path(name)
        (again / "logs").mkdir()
        (again / "plan.json").write_bytes((run_dir / "plan.json").read_bytes())
        InKernel("virtual").play(read_plan(again / "plan.json"), again, arguments, watcher)
        if (again / "events.jsonl").exists():
            score_run(again)
        return first_difference(run_dir, again)


def other_kernel(run_dir: Path) -> str:
    """In words, when the kernel a run is played in again is not that it was made with, or nobody knows; "" when it is.

    Raises WorldError when there is none to play it in.
    """
    made, now = (read_state(run_dir) or {}).get("kernel"), InKernel("virtual").kernel()
    if not made:
        return f"run.json does not say which kernel the run was made with; this is {_kernel_words(now)}"
    if made["key"] == now["key"] and made["compiler"] == now["compiler"]:
        return ""
    return (
        f"the kernel is another one: the run was made with {_kernel_words(made)}, this is {_kernel_words(now)}; "
        "two kernels need not give the same bytes"
    )


def first_difference(first: Path, second: Path) -> Difference | None:
    """Between two run folders' records and summaries, file by file."""
    for name in _COMPARED:
        one, other = _lines(first / name), _lines(second / name)
        for number, (before, after) in enumerate(zip_longest(one, other), 1):
            if before != after:
                return _difference(name, number, before, after)
    return None


def _kernel_words(kernel: dict[str, str]) -> str:
    return f"{kernel['key']} (Linux {kernel['release']} of {kernel['source']}, {kernel['compiler']})"


def _lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def _difference(name: str, number: int, before: bytes | None, after: bytes | None) -> Difference:
    if before is None or after is None:
        return Difference(name, number, "", _shown(before), _shown(after))
    try:
        field, one, other = _unequal(json.loads(before), json.loads(after))
    except ValueError:  # a file of one value over many lines
        return Difference(name, number, "", _shown(before), _shown(after))
    return Difference(name, number, field, json.dumps(one), json.dumps(other))


def _unequal(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any]:
    """The first place where two values differ, and what stands there."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if one.get(key) != other.get(key) or (key in one) != (key in other):
                return _unequal(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return _unequal(left, right, f"{path}[{place}]")
    return path, one, other


def _shown(line: bytes | None) -> str:
    return "nothing (the file ends here)" if line is None else line.decode(errors="replace").strip()[:200]
