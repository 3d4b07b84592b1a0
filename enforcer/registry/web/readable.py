"""The API for reading: what the page /api shows of the OpenAPI document."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from enforcer.registry.web.openapi import document
from enforcer.registry.web.operations import ERRORS

_NESTED = (
    "Status",
    "HistoryLine",
    "AppealStatus",
    "NamedDocument",
    "BulkLine",
)  # parts of answers that have a table of their own


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str
    required: bool
    about: str


@dataclass(frozen=True, slots=True)
class ReadableCall:
    name: str
    method: str
    path: str
    summary: str
    about: str
    roles: tuple[str, ...]
    body: tuple[Field, ...]
    query: tuple[Field, ...]
    status: str
    answer: str
    errors: tuple[str, ...]


@cache
def calls() -> tuple[ReadableCall, ...]:
    """All of them, in the document's order."""
    found = []
    for path, methods in document()["paths"].items():
        for method, about in methods.items():
            good, answer = next(each for each in about["responses"].items() if each[0].startswith("2"))
            found.append(
                ReadableCall(
                    about["operationId"],
                    method.upper(),
                    path,
                    about["summary"],
                    about.get("description", ""),
                    tuple(about.get("x-roles", ())),
                    _fields(about.get("requestBody", {})),
                    tuple(_field(each["name"], each["schema"] | {"description": each["description"]}, each["required"]) for each in about.get("parameters", ()) if each["in"] == "query"),
                    good,
                    _answer(answer),
                    tuple(code for code in about["responses"] if not code.startswith("2")),
                )
            )  # fmt: skip
    return tuple(found)


def answers() -> dict[str, tuple[Field, ...]]:
    """What is answered, by its name: the fields of each."""
    schemas = document()["components"]["schemas"]
    names = dict.fromkeys([*(each.answer for each in calls()), *_NESTED, "Problem"])
    return {name: _properties(schemas[name]) for name in names}


def errors() -> dict[int, str]:
    """Why each status other than 2xx is answered. Without marks of code, which a page has its own for."""
    return {code: why.replace("`", "") for code, why in ERRORS.items()}


def example(base: str) -> str:
    """A first application, for a shell."""
    form = {
        "registrant": "Ada Lovelace",
        "category": "freelancer",
        "subscriber_prefixes": ["203.0.113.7/32"],
        "endpoint_prefixes": ["198.51.100.4/32"],
        "endpoint_ports": [51820],
        "protocols": ["wireguard"],
    }
    return f"curl {base}/applications --json '{json.dumps(form)}'\ncurl {base}/applications/1 --header 'Authorization: Bearer TOKEN'"


def _fields(body: dict[str, Any]) -> tuple[Field, ...]:
    if "content" not in body:
        return ()
    return _properties(_resolved(next(iter(body["content"].values()))["schema"]))


def _answer(about: dict[str, Any]) -> str:
    return re.sub(".*/", "", about["content"]["application/json"]["schema"]["$ref"])


def _properties(schema: dict[str, Any]) -> tuple[Field, ...]:
    required = schema.get("required", ())
    return tuple(
        _field(name, about, name in required) for name, about in schema.get("properties", {}).items()
    )


def _field(name: str, schema: dict[str, Any], required: bool) -> Field:
    return Field(name, _kind(schema), required, schema.get("description", "").replace("`", ""))


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = re.sub(".*/", "", schema["$ref"])
        return name if name in _NESTED else _kind(_resolved(schema))
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return schema.get("format") or schema.get("type", "any")


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = re.sub(".*/", "", schema["$ref"])
    return document()["components"]["schemas"][name]
