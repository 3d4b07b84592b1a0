"""Ledgers and applications as text: events and registrations as JSON Lines, applications as CSV. Reading tells every problem at once."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from enforcer.registry.form import Application
from enforcer.registry.states import LedgerEvent, Registration

COLUMNS = (
    "registrant", "category", "subscriber_prefixes", "endpoint_prefixes", "endpoint_ports", "protocols", "purpose",
    "provider", "subscriber_id", "contact", "documents",
)  # fmt: skip
_LISTS = ("subscriber_prefixes", "endpoint_prefixes", "endpoint_ports", "protocols")
_SEPARATORS = (
    ",;\t"  # RFC 4180's, what spreadsheets write where the comma is in numbers, and what is pasted from one
)
_HEAD = re.compile(r"(\w+)(?: of \w+)?: ")


@dataclass(frozen=True, slots=True)
class FormRow:
    """One application of a file: the line it starts in, what its cells say, and where each cell starts ("": the whole row)."""

    line: int
    form: dict[str, Any]
    columns: dict[str, int]
    problems: tuple[str, ...] = ()

    def told(self, file: str, problem: str) -> str:
        """file:line:column: where: what. A problem of a form starts with the field it is about."""
        found = _HEAD.match(problem)
        column = self.columns.get(found[1] if found else "", 1)
        return f"{file}:{self.line}:{column}: {problem}"


class BadFile(ValueError):
    """A file that cannot be taken in; `problems` has one line each, with file, line, column and what to write."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def event_line(event: LedgerEvent) -> str:
    """An event as a line of JSON, with its hash."""
    keys = ("sequence", "at_ns", "registration", "action", "actor", "reason", "data", "hash")
    return json.dumps({key: getattr(event, key) for key in keys}, separators=(",", ":"))


def read_events(file: str, lines: Iterable[str]) -> Iterator[LedgerEvent]:
    """What `event_line` wrote. Raises BadFile."""
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line.rstrip())
            words = [data[key] for key in ("action", "actor", "reason", "hash")]
            if not all(isinstance(each, str) for each in words) or not isinstance(data["data"], dict):
                raise ValueError("action, actor, reason and hash are texts, data an object")
            sequence, at_ns, number_of = (int(data[key]) for key in ("sequence", "at_ns", "registration"))
            yield LedgerEvent(sequence, at_ns, number_of, *words[:3], data=data["data"], hash=words[3])
        except KeyError as error:
            raise BadFile(
                [
                    f"{file}:{number}:1: {error} is missing; write events that 'enforcer-registry export --as events' printed"
                ]
            ) from None
        except (ValueError, TypeError) as error:
            told = f"not an event: {getattr(error, 'msg', error)}; write what 'enforcer-registry export --as events' printed"
            raise BadFile([f"{file}:{number}:{getattr(error, 'colno', 1)}: {told}"]) from None


def registration_json(registration: Registration, has_owner: bool = True) -> dict[str, Any]:
    """A registration as it stands; a list of these is a seed as well (docs/registry.md)."""
    data = {"number": registration.number, "state": registration.state, **registration.application.to_json()}
    times = ("is_verified", "valid_from_ns", "valid_until_ns")
    data |= {key: value for key in times if (value := getattr(registration, key)) is not None}
    data |= {"new_prefixes": list(registration.new_prefixes)} if registration.new_prefixes else {}
    return data | (
        {"token_sha256": registration.token_sha256} if has_owner and registration.token_sha256 else {}
    )


def forms_csv(forms: Iterable[Application]) -> Iterator[str]:
    """A CSV file of applications, line by line, its head first: lists are separated by spaces, documents by semicolons."""
    yield _csv_line(COLUMNS)
    for form in forms:
        data = form.to_json()
        documents = [
            f"{each.kind}={each.reference}" if each.reference else each.kind for each in form.documents
        ]
        cells = {
            key: " ".join(map(str, data[key])) if key in _LISTS else data.get(key, "") for key in COLUMNS
        }
        yield _csv_line([(cells | {"documents": "; ".join(documents)})[key] for key in COLUMNS])


def read_forms(file: str, text: str) -> list[FormRow]:
    """Applications of a file named *.csv or *.jsonl. Problems of a row are in it; BadFile: the file is no such thing at all."""
    return _read_csv(file, text) if file.lower().endswith(".csv") else _read_jsonl(text)


def _read_jsonl(text: str) -> list[FormRow]:
    rows = []
    # Not splitlines: U+2028 and its like may stand in a JSON string.
    for line, content in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not content.strip():
            continue
        try:
            form = json.loads(content)
            if not isinstance(form, dict):
                raise ValueError("write one JSON object a line")
        except (ValueError, RecursionError) as error:
            told = f"not JSON: {getattr(error, 'msg', error)}"
            rows.append(FormRow(line, {}, {"": getattr(error, "colno", 1)}, (told,)))
            continue
        columns = {key: content.find(f'"{key}"') + 1 for key in form}
        rows.append(FormRow(line, form, columns))
    return rows


def _read_csv(file: str, text: str) -> list[FormRow]:
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    lines = _cells(text, max(_SEPARATORS, key=first.count))
    _, head = next(lines, (1, []))
    names = [name.strip() for name, _ in head]
    problems = [
        f"{file}:1:{column}: {name.strip()!r} is no column; {_instead(name.strip())}"
        for name, column in head
        if name.strip() not in COLUMNS
    ]
    problems += [
        f"{file}:1:{column}: {name.strip()!r} is there twice; remove one"
        for place, (name, column) in enumerate(head)
        if name.strip() in names[:place]
    ]
    problems += [
        f"{file}:1:1: the column {name!r} is missing; add it to the first line"
        for name in ("registrant", "subscriber_prefixes", "endpoint_prefixes")
        if name not in names
    ]
    if problems:
        problems[-1] += f". Columns can be: {', '.join(COLUMNS)}"
        raise BadFile(problems)
    return [_row(line, names, cells) for line, cells in lines if any(cell.strip() for cell, _ in cells)]


def _instead(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "rename it or take it out"


def _row(line: int, names: list[str], cells: list[tuple[str, int]]) -> FormRow:
    if len(cells) != len(names):
        column = cells[min(len(cells), len(names)) - 1][1]
        told = f"{len(cells)} cells where the first line has {len(names)}; quote cells that contain a comma (or what separates cells here)"
        return FormRow(line, {}, {"": column}, (told,))
    columns = {name: column for name, (_, column) in zip(names, cells, strict=True)}
    form: dict[str, Any] = {}
    for name, (cell, _) in zip(names, cells, strict=True):
        cell = cell.strip()
        if name == "documents":
            parts = [part.strip().partition("=") for part in cell.split(";") if part.strip()]
            form[name] = [
                {"kind": kind.strip(), "reference": reference.strip()} for kind, _, reference in parts
            ]
        elif name in _LISTS:
            form[name] = [
                int(each) if name == "endpoint_ports" and each.isdecimal() else each for each in cell.split()
            ]
        elif cell:
            form[name] = cell
    return FormRow(line, form, columns)


def _cells(text: str, separator: str) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Each row's first line, and its cells with the columns they start in."""
    one_cell = re.compile(rf'"((?:[^"]|"")*)"|([^{separator}\r\n"]*)')  # RFC 4180
    its_end = re.compile(rf"[{separator}\r\n]|$")
    at, line, line_start = 0, 1, 0
    while at < len(text):
        first, cells = line, []
        while True:
            found = one_cell.match(text, at)
            assert found is not None  # the second alternative matches nothing, too
            column = at - line_start + 1
            quoted = found[1]
            cells.append((quoted.replace('""', '"') if quoted is not None else found[2], column))
            at = found.end()
            if quoted is not None and "\n" in quoted:
                line += quoted.count("\n")
                line_start = text.rindex("\n", 0, at) + 1
            if at < len(text) and text[at] not in f"{separator}\r\n":
                end = its_end.search(text, at)
                assert end is not None
                cells[-1] = (
                    cells[-1][0] + text[at : end.start()],
                    column,
                )  # text after a quote: kept, as spreadsheets do
                at = end.start()
            if at >= len(text) or text[at] != separator:
                break
            at += 1
        at += 2 if text[at : at + 2] == "\r\n" else 1
        line, line_start = line + 1, at
        yield first, cells


def _csv_line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
