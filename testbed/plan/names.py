"""A key of a scenario file that holds one name or several."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from enforcer.filemodel import refuse

_A_NAME_OR_SOME = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    "description": "one name, or a list of names",
}


def _names(value: object) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise refuse(f"{value!r} is neither a name nor a list of names", "write a name, or [one, another]")
    return names


Names = Annotated[list[str], PlainValidator(_names), WithJsonSchema(_A_NAME_OR_SOME)]
