"""`enforcer check`: policies and configurations of the enforcer, found and read; every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from enforcer.config import load_config
from enforcer.policy import doubts, load_policy
from enforcer.yamlfile import FileError, Problem


@dataclass(slots=True)
class Checked:
    """problems make a file unusable; doubts are allowed and probably not meant. count: how many files were read."""

    problems: list[Problem] = field(default_factory=list)
    doubts: list[Problem] = field(default_factory=list)
    count: int = 0


def check_files(paths: Iterable[Path], today: str | None = None) -> Checked:
    """*.policy.yaml are policies, other *.yaml and *.json configurations. today: ISO 8601; left out: the clock's, in UTC."""
    today = today or datetime.now(UTC).date().isoformat()
    checked = Checked()
    for path in _files(paths):
        checked.count += 1
        try:
            policy = path if path.name.endswith(".policy.yaml") else load_config(path).policy
            load_policy(policy)
            checked.doubts += doubts(policy, today)
        except FileError as error:
            checked.problems += error.problems
    return checked


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.policy.yaml"))
        else:
            yield path
