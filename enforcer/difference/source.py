"""Files to compare: policies, and allowlists as a snapshot (signed or not) or as JSON lines of entries. Every problem with its place."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer.allowlist import Entry
from enforcer.cells import check_prefixes
from enforcer.policy import Policy, load_policy
from enforcer.yamlfile import FileError, Problem

_MOST_PROBLEMS = 100
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u....|\\u....|\\.")  # a surrogate pair is one character


@dataclass(frozen=True, slots=True)
class Listed:
    """An allowlist from a file. serial: None when the file does not say (JSON lines)."""

    file: str
    serial: int | None
    entries: dict[int, Entry]


def read_either(path: Path) -> Policy | Listed:
    """A policy or an allowlist, whichever the file is. Raises FileError."""
    return load_policy(path) if _looks_like_policy(path) else read_allowlist(path)


def read_policy(path: Path) -> Policy:
    """Raises FileError, also when the file seems to be something else."""
    if not _looks_like_policy(path) and path.is_file():
        text = _text(path)
        if text.lstrip()[:1] in ("{", "["):
            raise _wrong(
                path, "an allowlist" if '"entries"' in text or '"body"' in text else "JSON", "a policy"
            )
    return load_policy(path)


def read_allowlist(path: Path) -> Listed:
    """Raises FileError with every problem, each with its line and column; says what a file of another kind seems to be."""
    text = _text(path)
    if _looks_like_policy(path):
        raise _wrong(path, "a policy", "an allowlist")
    stripped = text.lstrip()
    if not stripped:
        raise FileError([Problem(str(path), 1, 1, "", "the file is empty", _REMEDY)])
    if stripped[0] != "{":
        raise _wrong(path, _seems(text), "an allowlist")
    with without_collecting():
        first = _first_line(stripped)
        if isinstance(first, dict) and "registration" in first and "entries" not in first:
            return _lines(path, text)
        return _snapshot(path, text)


@contextmanager
def without_collecting() -> Iterator[None]:
    """For work on long lists that makes nothing that is garbage: looking for it again and again takes half the time."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


_REMEDY = "give a snapshot (GET /feed/snapshot, `enforcer-registry export`) or JSON lines of entries"


def _text(path: Path) -> str:
    if path.is_dir():
        what, fix = "is a folder", f"give {path / 'snapshot.json'} if this is an enforcer's state"
        raise FileError([Problem(str(path), 1, 1, "", what, fix)])
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise FileError([Problem(str(path), 1, 1, "", what, "give the path of a readable file")]) from error
    if data.startswith(b"SQLite format 3\0"):
        fix = f"write `enforcer-registry export {path} > list.json` and give that"
        raise FileError([Problem(str(path), 1, 1, "", "this seems to be a registry's ledger", fix)])
    if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a"):
        raise FileError([Problem(str(path), 1, 1, "", "this seems to be a capture of packets", _REMEDY)])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        problem = Problem(str(path), line, column, "", f"byte {error.start} is not UTF-8", _REMEDY)
        raise FileError([problem]) from error


def _looks_like_policy(path: Path) -> bool:
    if path.name.endswith((".policy.yaml", ".policy.yml")):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8", "replace")
    return bool(re.search(r'(?m)^\s*\{?\s*"?policy"?\s*:', head)) and '"entries"' not in head


def _seems(text: str) -> str:
    if re.search(r"(?m)^(feed|dataplane)\s*:", text):
        return "an enforcer's configuration"
    if re.search(r"(?m)^(timeline|topology)\s*:", text):
        return "a scenario"
    if re.fullmatch(r"\s*[0-9a-fA-F]{64}\s*", text):
        return "a key"
    if text.lstrip()[:1] == "[":
        return "a JSON list"
    return "CSV" if re.match(r"\s*[\w ]+(,[\w ]*)+\s*\n", text) else "neither JSON nor a policy"


def _wrong(path: Path, seems: str, wanted: str) -> FileError:
    fix = _REMEDY if wanted == "an allowlist" else "give a *.policy.yaml file"
    return FileError(
        [Problem(str(path), 1, 1, "", f"{wanted} is needed here, and this seems to be {seems}", fix)]
    )


def _first_line(text: str) -> Any:
    try:
        return json.loads(text[: text.find("\n")] if "\n" in text else text)
    except (ValueError, RecursionError):
        return None


def _snapshot(path: Path, text: str) -> Listed:
    data = _json(path, text)
    body, start = text, None
    if isinstance(data.get("body"), str):
        body, start = data["body"], text.find('"', text.index(":", text.index('"body"'))) + 1
        data = _json(path, body, "body: ")
    if data.get("kind") == "delta":
        raise _wrong(path, "a delta (what changed between two serials)", "an allowlist")
    if "kind" in data and "realtime_ns" in data:
        raise _wrong(path, "an audit", "an allowlist")
    if not isinstance(data.get("entries"), list):
        raise _wrong(path, f"JSON with the keys {', '.join(list(data)[:5]) or '(none)'}", "an allowlist")
    serial = data.get("serial")
    wrong: dict[int, tuple[str, str, str]] = {}
    entries: dict[int, Entry] = {}
    seen = _Seen()
    for index, value in enumerate(data["entries"]):
        found = _entry(value, entries, seen)
        if isinstance(found, Entry):
            entries[found.registration] = found
        elif len(wrong) < _MOST_PROBLEMS:
            wrong[index] = found
    if wrong:
        raise FileError(_placed(path, text, body, start, wrong))
    return Listed(str(path), serial if isinstance(serial, int) else None, entries)


def _placed(
    path: Path, text: str, body: str, start: int | None, wrong: dict[int, tuple[str, str, str]]
) -> list[Problem]:
    """The problems with the places of their keys. start: where the body's JSON string begins in the file, if it is one."""
    offsets = _entry_offsets(body, max(wrong) + 1)
    places = {index: _key_offset(body, offsets[index], key) for index, (key, _, _) in wrong.items()}
    if start is not None:
        places = dict(zip(places, _raw_offsets(text, start, list(places.values())), strict=True))
    problems = []
    for index, (key, what, fix) in wrong.items():
        where = f"entries[{index}]" + (f".{key}" if key else "")
        problems.append(Problem(str(path), *_place(text, places[index]), where, what, fix))
    return problems


def _lines(path: Path, text: str) -> Listed:
    problems: list[Problem] = []
    entries: dict[int, Entry] = {}
    seen = _Seen()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = error.colno if isinstance(error, json.JSONDecodeError) else 1
            what = (
                f"not JSON: {error.msg if isinstance(error, json.JSONDecodeError) else 'nested too deeply'}"
            )
            problems.append(Problem(str(path), number, column, "", what, "write one entry a line"))
            continue
        found = _entry(value, entries, seen)
        if isinstance(found, Entry):
            entries[found.registration] = found
            continue
        key, what, fix = found
        problems.append(Problem(str(path), number, _key_offset(line, 0, key) + 1, key, what, fix))
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        raise FileError(problems)
    return Listed(str(path), None, entries)


def _json(path: Path, text: str, where: str = "") -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"{where}not JSON: {error.msg}"
        if error.pos >= len(text.rstrip()):
            what += " (the file ends in the middle)"
        raise FileError(
            [Problem(str(path), error.lineno, error.colno, "", what, "write or fetch the file again")]
        ) from error
    except RecursionError as error:
        raise FileError([Problem(str(path), 1, 1, "", "nested too deeply", _REMEDY)]) from error
    if not isinstance(data, dict):
        raise _wrong(path, "a JSON value that is no object", "an allowlist")
    return data


def _entry(value: Any, others: dict[int, Entry], seen: _Seen) -> Entry | tuple[str, str, str]:
    """The entry, or which key is wrong, how, and what to write."""
    entry = seen.entry(value)
    if entry is not None and entry.registration not in others:
        return entry
    if not isinstance(value, dict):
        return "", f"{str(value)[:40]!r} is not an entry", "write an object with registration, registrant, …"
    try:
        entry = Entry.from_json(value, seen.shared)
        check_prefixes(entry)
    except (ValueError, TypeError, AttributeError) as error:
        for key in _KEYS:
            if key not in value:
                return "", f"{key!r} is missing", f'add "{key}": …'
        key, what = _culprit(value), str(error)
        if key and what.startswith("invalid literal for int()"):
            return (
                key,
                f"{str(value[key])[:40]}: a whole number is needed here",
                "write digits, without quotes",
            )
        return key, what.split(": ", 1)[-1] if what.startswith("registration ") else what, "correct it"
    if entry.registration in others:
        return "registration", f"{entry.registration} is there twice", "keep one of them"
    seen.add(entry)
    return entry


class _Seen:
    """Which ports, protocols and prefixes entries had that were right: those that have them again need half the time."""

    def __init__(self) -> None:
        self.shared: dict[Any, Any] = {}  # Entry.from_json's
        self._ports: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._protocols: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._prefixes: set[str] = set()

    def add(self, entry: Entry) -> None:
        self._ports.setdefault(entry.endpoint_ports, entry.endpoint_ports)
        self._protocols.setdefault(entry.protocols, entry.protocols)
        self._prefixes.update(entry.subscriber_prefixes, entry.endpoint_prefixes)

    def entry(self, value: Any) -> Entry | None:
        """What _entry() says of one that is written as usual; None where that has to look at it."""
        try:
            ports = self._ports[tuple(value["endpoint_ports"])]
            protocols = self._protocols[tuple(value["protocols"])]
            lines, endpoints = value["subscriber_prefixes"], value["endpoint_prefixes"]
            number, registrant = value["registration"], value["registrant"]
            category = value.get("category", "")
            since, until = value["valid_from_ns"], value["valid_until_ns"]
            if (
                type(number) is not int
                or not 1 <= number < 2**31
                or type(registrant) is not str
                or type(category) is not str
                or type(since) is not int
                or (until is not None and type(until) is not int)
                or type(lines) is not list
                or type(endpoints) is not list
            ):
                return None
            share = self.shared.setdefault
            ends = share(tuple(endpoints), tuple(endpoints))
            entry = Entry(number, registrant, tuple(lines), ends, ports, protocols, since, until, category)
            known = self._prefixes
            if not (known.issuperset(lines) and known.issuperset(endpoints)):
                check_prefixes(entry)
                known.update(lines, endpoints)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return entry


_KEYS = (
    *("registration", "registrant", "subscriber_prefixes", "endpoint_prefixes", "endpoint_ports"),
    *("protocols", "valid_from_ns", "valid_until_ns"),
)
_RIGHT = {
    "registration": 1,
    "registrant": "",
    "subscriber_prefixes": [],
    "endpoint_prefixes": [],
    "endpoint_ports": [],
    "protocols": [],
    "valid_from_ns": 0,
    "valid_until_ns": None,
}


def _culprit(value: dict[str, Any]) -> str:
    """The key that is wrong by itself."""
    for key in _KEYS:
        try:
            check_prefixes(Entry.from_json(_RIGHT | {key: value[key]}))
        except (ValueError, TypeError, AttributeError):
            return key
    return ""


def _entry_offsets(text: str, count: int) -> list[int]:
    """Where the first entries begin in a text that is valid JSON."""
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("[", text.index('"entries"')) + 1)
    found = []
    for _ in range(count):
        found.append(at)
        at = _skip(text, decoder.raw_decode(text, at)[1])
    return found


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n,":
        at += 1
    return at


def _key_offset(text: str, start: int, key: str) -> int:
    found = text.find(f'"{key}"', start) if key else -1
    return found if found >= 0 else start


def _raw_offsets(text: str, start: int, offsets: list[int]) -> list[int]:
    """Where the body's characters (in rising order) stand in the file, whose JSON string begins at `start`."""
    found: list[int] = []
    at, surplus = start, 0  # surplus: how many characters escapes have taken more than they stand for
    escapes = _ESCAPE.finditer(text, start)
    escape = next(escapes, None)
    for offset in offsets:
        while escape is not None and escape.start() - start - surplus < offset:
            surplus += escape.end() - escape.start() - 1
            escape = next(escapes, None)
        at = start + offset + surplus
        found.append(at)
    return found


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1
