"""`enforcer check`: policies and configurations of the enforcer, found and read; every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from enforcer.config import load_config
from enforcer.policy import load_policy
from enforcer.yamlfile import FileError, Problem


def check_files(paths: Iterable[Path]) -> tuple[list[Problem], int]:
    """Every problem, and how many files were read. *.policy.yaml are policies, other *.yaml and *.json configurations."""
    problems: list[Problem] = []
    count = 0
    for path in _files(paths):
        count += 1
        try:
            if path.name.endswith(".policy.yaml"):
                load_policy(path)
            else:
                load_policy(load_config(path).policy)
        except FileError as error:
            problems += error.problems
    return problems, count


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.policy.yaml"))
        else:
            yield path
