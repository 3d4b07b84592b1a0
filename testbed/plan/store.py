"""The plan as plan.json and back. The same plan gives the same bytes; reading what was written gives the same plan."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from testbed.plan.plan import SCHEMA, Plan


def write_plan(plan: Plan, path: str | Path) -> None:
    """Writes plan.json: UTF-8, one key a line, in the order of the fields."""
    Path(path).write_text(render_plan(plan), encoding="utf-8")


def read_plan(path: str | Path) -> Plan:
    """The plan in a file. Raises ValueError when it is not one, or of another schema."""
    return parse_plan(Path(path).read_text(encoding="utf-8"))


def render_plan(plan: Plan) -> str:
    return json.dumps(_plain(plan), ensure_ascii=False, indent=1) + "\n"


def parse_plan(text: str) -> Plan:
    """Raises ValueError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a plan: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise ValueError(f"not a plan of schema {SCHEMA}: {found!r}; make it again with this version")
    try:
        return _typed(Plan, data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a whole plan: {error}; make it again with this version") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


_HINTS: dict[type, dict[str, Any]] = {}


def _typed(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _HINTS.setdefault(kind, get_type_hints(kind))
        return kind(**{key: _typed(hints[key], item) for key, item in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and value is not None:
        return tuple(_typed(arguments[0], item) for item in value)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _typed(next(argument for argument in arguments if argument is not type(None)), value)
    if origin is Literal:
        if value not in arguments:
            raise TypeError(f"{value!r} is none of {arguments}")
        return value
    return value
