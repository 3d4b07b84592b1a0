"""Registrations as JSON Lines, what `export --as registrations` prints: read with the place of every mistake, and put into a ledger."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace

from pydantic import ValidationError

from enforcer.filemodel import note_errors
from enforcer.registry.exchange import BadFile
from enforcer.registry.form import BadApplication, application
from enforcer.registry.ledger import Ledger
from enforcer.registry.seed import FORM_FIELDS, BadSeed, SeedRegistration, plant
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
    """All of them into the ledger, or none; returns how many. Raises BadFile, also for what a registration there asks for already."""
    if ledger.head().events:
        twice = [each for line in lines for each in _there_already(ledger, file, line)]
        if twice:
            raise BadFile(twice)
    try:
        return plant(ledger, [each.seed for each in lines])
    except BadSeed as error:
        documents: dict[int, Document] = {}
        for position, told in error.problems:
            at = lines[position]
            document = documents.setdefault(position, parse(at.text, file))
            _add(document, told)
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
    told = {each.where.partition("[")[0] for each in document.problems}
    with contextlib.suppress(TypeError):  # a form that is none at all has been told
        try:
            application({name: value for name, value in data.items() if name in FORM_FIELDS})
        except BadApplication as form:
            for each in form.problems:
                if each.partition(": ")[0] not in told and each.partition(": ")[0] in data:
                    _add(document, each)
    return _told(document, line)


def _there_already(ledger: Ledger, file: str, line: SeedLine) -> list[str]:
    try:
        form = application(line.seed.model_dump(include=FORM_FIELDS))
    except BadApplication:
        return []  # told when it is planted
    return [
        f"{file}:{line.line}:1: registration {number} asks for this already; remove the line"
        for number in ledger.similar(form)
    ]


def _add(document: Document, problem: str) -> None:
    """A problem of a form, which begins with its field and ends with what to write."""
    name, _, rest = problem.partition(": ")
    what, _, fix = rest.rpartition("; ")
    document.add((name,), what or fix, fix if what else "write another")


def _told(document: Document, line: int) -> list[str]:
    return [str(replace(each, line=line)) for each in document.problems]
