"""Registrations as JSON Lines, what `export --as registrations` prints: read with the place of every mistake, and put into a ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from pydantic import ValidationError

from enforcer.filemodel import note_errors
from enforcer.registry.exchange import BadFile
from enforcer.registry.ledger import Ledger
from enforcer.registry.seed import BadSeed, SeedRegistration, plant
from enforcer.yamlfile import Document, parse

_WRITE = "write one JSON object a line, as 'enforcer-registry export --as registrations' prints them"


@dataclass(frozen=True, slots=True)
class SeedLine:
    """line counts from 1; text is what stands there."""

    line: int
    text: str
    seed: SeedRegistration


def read_seed_lines(file: str, text: str) -> list[SeedLine]:
    """Raises BadFile with every problem, each as file:line:column: where: what; what to write."""
    found, problems = [], []
    for line, content in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not content.strip():
            continue
        try:
            found.append(SeedLine(line, content, SeedRegistration.model_validate_json(content)))
        except ValidationError as error:
            problems += _problems(file, line, content, error)
    if problems:
        raise BadFile(problems)
    return found


def plant_lines(ledger: Ledger, file: str, lines: list[SeedLine]) -> int:
    """All of them into the ledger, or none; returns how many. Raises BadFile."""
    try:
        return plant(ledger, [each.seed for each in lines])
    except BadSeed as error:
        documents: dict[int, Document] = {}
        for position, told in error.problems:
            at = lines[position]
            document = documents.setdefault(position, parse(at.text, file))
            name, _, rest = told.partition(": ")
            what, _, fix = rest.rpartition("; ")
            document.add((name,), what or fix, fix if what else "write another")
        raise BadFile(
            [
                each
                for position, document in documents.items()
                for each in _told(document, lines[position].line)
            ]
        ) from error


def _problems(file: str, line: int, content: str, error: ValidationError) -> list[str]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as wrong:
        column, what = getattr(wrong, "colno", 1), getattr(wrong, "msg", "nested too deeply")
        return [f"{file}:{line}:{column}: not JSON: {what}; {_WRITE}"]
    if not isinstance(data, dict):
        return [f"{file}:{line}:1: not a JSON object; {_WRITE}"]
    document = parse(content, file)  # JSON is YAML: the positions of keys and values
    note_errors(document, SeedRegistration, error)
    return _told(document, line)


def _told(document: Document, line: int) -> list[str]:
    return [str(replace(each, line=line)) for each in document.problems]
