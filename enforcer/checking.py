"""`enforcer check`: policies and configurations of the enforcer, found and read; every problem at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from enforcer.config import config_doubts, load_config, named_policy
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
    for path in paths:
        files = sorted(path.rglob("*.policy.yaml")) if path.is_dir() else [path]
        if not files:
            fix = "name a policy, a configuration, or a folder that holds policies"
            checked.problems.append(Problem(str(path), 1, 1, "", "no *.policy.yaml is in this folder", fix))
        for file in files:
            _check(file, today, checked)
    return checked


def _check(path: Path, today: str, checked: Checked) -> None:
    checked.count += 1
    policy: Path | None = path
    if not path.name.endswith(".policy.yaml"):
        checked.doubts += config_doubts(path)
        try:
            policy = load_config(path).policy
        except FileError as error:
            checked.problems += error.problems
            policy = named_policy(path)
    if policy is None:
        return
    try:
        load_policy(policy)
        checked.doubts += doubts(policy, today)
    except FileError as error:
        checked.problems += error.problems
