"""YAML files written by people, read with the position of every key and value, so that each problem can say where it is.

`read(path)` gives a Document of plain data; problems are collected, not raised one by one: syntax, duplicate keys, keys that
are not words, tags. What the data must look like is said by the models (enforcer/filemodel.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Where = tuple[str | int, ...]


class Yaml(YAML):
    """Without plug-ins: each YAML() looks for some in every folder beside ruamel.yaml's own modules, also where compiled code is kept."""

    def official_plug_ins(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file; line and column count from 1. where is a path such as timeline[2].at; fix: what to write."""

    file: str
    line: int
    column: int
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}:{self.column}", self.where, f"{self.what}; {self.fix}"]
        return ": ".join(part for part in parts if part)


class FileError(Exception):
    """A file has problems; all of them, in order of position."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Placed(dict):
    """A mapping of a file that remembers where it stands, and whether anything wrong has been left out of it."""

    where: Where = ()
    is_whole: bool = True


@dataclass(slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each part of it stands."""

    file: str
    data: Any = None
    keys: dict[Where, tuple[int, int]] = field(default_factory=dict)
    values: dict[Where, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    most_values: int = 250_000

    def add(self, where: Where, what: str, fix: str, at_key: bool = False) -> None:
        """Notes a problem at a value (or its key); at the nearest part that exists when where itself does not."""
        line, column = self.position(where, at_key)
        self.problems.append(Problem(self.file, line, column, path_text(where), what, fix))

    def position(self, where: Where, at_key: bool = False) -> tuple[int, int]:
        if at_key and where in self.keys:
            return self.keys[where]
        while where and where not in self.values:
            where = where[:-1]
        return self.values.get(where, (1, 1))


def read(path: Path, file: str | None = None) -> Document:
    """The document in a file; `file` is how problems name it. Never raises for what the file holds: see Document.problems."""
    document = Document(file or str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        document.add((), f"byte {error.start} is not UTF-8", "save the file as UTF-8 text")
        return document
    except OSError as error:
        document.add((), f"cannot be read ({error.strerror})", "give the path of a readable file")
        return document
    return parse(text, document.file)


def parse(text: str, file: str) -> Document:
    """Like read, from text."""
    document = Document(file)
    try:
        root = Yaml(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(str(error.problem or error.context or "not YAML").split())
        tab = _tab(text, line)
        if tab is not None:
            line, column = tab
            problem = Problem(
                file, line, column, "", "a tab is used to indent", "indent with spaces (YAML forbids tabs)"
            )
        else:
            problem = Problem(file, line, column, "", f"not YAML: {what}", _remedy(what))
        document.problems.append(problem)
        return document
    except YAMLError as error:
        what = " ".join(str(error).split())
        document.problems.append(Problem(file, 1, 1, "", f"not YAML: {what}", "save it as plain UTF-8 text"))
        return document
    except RecursionError:
        document.add((), "it is nested too deeply", "write fewer brackets or blocks inside one another")
        return document
    if root is None:
        document.add((), "the file is empty", "write 'key: value' lines; see docs/ for an example")
        return document
    try:
        # Ten lines of aliases of aliases can stand for more values than a machine holds; without any, each takes a character.
        document.most_values = max(document.most_values, len(text))
        document.data = _plain(root, (), document, ())
    except _TooLarge:
        document.data = None
        document.add(
            (), f"its aliases unfold to more than {document.most_values} values", "write less with aliases"
        )
        return document
    if not isinstance(document.data, dict):
        document.add((), f"the file is {_kind(document.data)}, not a mapping", "write 'key: value' lines")
    return document


def path_text(where: Where) -> str:
    """timeline[2].at for ("timeline", 2, "at")."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class _TooLarge(Exception):
    """The document has more values than Document.most_values."""


def _plain(node: Node, where: Where, document: Document, above: tuple[int, ...]) -> Any:
    if len(document.values) > document.most_values:
        raise _TooLarge
    document.values[where] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if id(node) in above:
        document.add(where, "this alias contains itself", "write the value out")
        return None
    above = (*above, id(node))
    if isinstance(node, MappingNode):
        return _mapping(node, where, document, above)
    if isinstance(node, SequenceNode):
        return [_plain(item, (*where, index), document, above) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    return _scalar(node, where, document)


def _mapping(node: MappingNode, where: Where, document: Document, above: tuple[int, ...]) -> Placed:
    data = Placed()
    data.where = where
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, ScalarNode) else None
        at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key, str):
            document.problems.append(
                Problem(document.file, *at, path_text(where), "a key is not a word", "write 'key: value'")
            )
            continue
        here = (*where, key)
        if key in data:
            first = document.keys[here][0]
            document.problems.append(
                Problem(
                    document.file,
                    *at,
                    path_text(here),
                    f"the key is there twice (first in line {first})",
                    "keep one of them",
                )
            )
            continue
        document.keys[here] = at
        data[key] = _plain(value_node, here, document, above)
    return data


def _scalar(node: ScalarNode, where: Where, document: Document) -> Any:
    tag, text = str(node.tag), node.value
    if not tag.startswith("tag:yaml.org,2002:"):
        document.add(where, f"the tag {tag} means nothing here", "write the value without it")
        return text
    kind = tag.removeprefix("tag:yaml.org,2002:")
    try:
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                digits = text.replace("_", "")
                has_base = digits.lstrip("+-").startswith(("0x", "0o", "0b"))
                return int(digits, 0 if has_base else 10)
            case "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
            case _:
                return text
    except ValueError:  # tagged so by hand, or longer than Python converts
        document.add(where, f"{text[:40]!r} is not a number that can be read", "write a plain number")
        return text


def _tab(text: str, last: int) -> tuple[int, int] | None:
    """The first tab in the indentation of a line up to the last one looked at, for that is then what YAML stumbled over."""
    for number, line in enumerate(text.splitlines()[:last], 1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent and line.strip():
            return number, indent.index("\t") + 1
    return None


def _remedy(what: str) -> str:
    if what.startswith("mapping values are not allowed"):
        return (
            "write 'key: value' (is there no ':' after the key before?), put text that holds ': ' in quotes, "
            "or indent the line like the others of its mapping"
        )
    if what.startswith("expected ',' or '}'"):
        return "write {key: value, key: value} (is there no ':' or ',' before?); check the quotes and brackets just before here"
    return "check the quotes, brackets and indentation just before here"


def _kind(data: Any) -> str:
    return "a list" if isinstance(data, list) else "a single value"
