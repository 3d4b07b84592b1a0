"""Models of files: pydantic types with units, and the translation of its errors into Problems with a place and a remedy."""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from enforcer import units
from enforcer.yamlfile import Document, Placed, Where


class FileModel(BaseModel):
    """A part of a file: keys are the field names with '-' for '_'; unknown keys are refused; nothing is converted silently."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=lambda name: name.strip("_").replace("_", "-"),
        use_attribute_docstrings=True,
    )

    _where: Where = PrivateAttr(default=())
    _is_whole: bool = PrivateAttr(default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_place(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        model = handler(data)
        if isinstance(data, Placed):
            model._where = data.where
            model._is_whole = data.is_whole
        return model

    @property
    def place(self) -> Where:
        """Where it stands in its file."""
        return self._where

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out because it was wrong; if not, that something is absent may be no mistake."""
        return self._is_whole


def refuse(what: str, fix: str) -> PydanticCustomError:
    """The error a validator raises: what is wrong, and what to write."""
    return PydanticCustomError("refused", "{what}; {fix}", {"what": what, "fix": fix})


def _quantity(
    parse: Callable[[object], Any], pattern: str, description: str
) -> tuple[PlainValidator, WithJsonSchema]:
    def check(value: object) -> Any:
        try:
            return parse(value)
        except units.UnitError as error:
            raise refuse(error.what, error.fix) from error

    return PlainValidator(check), WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": description}
    )


def shaped(pattern: str, fix: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Text in which the pattern is found; `fix` says what to write where it is not."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not re.search(pattern, value):
            raise refuse(f"{_shown(value)} is not possible here", fix)
        return value

    return PlainValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})


def _prefix(value: object) -> str:
    if not isinstance(value, str):
        raise refuse("an address or prefix is needed here", "write '203.0.113.0/24' or '2001:db8::/48'")
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        try:
            whole = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise refuse(
                f"{value!r} is not an address or prefix", "write '203.0.113.0/24' or '2001:db8::/48'"
            ) from error
        raise refuse(f"{value!r} has bits set after its prefix length", f"write '{whole}'") from error


def _date(value: object) -> str:
    text = value if isinstance(value, str) else ""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise refuse(f"{str(value)!r} is not a day", "write year, month and day: 2027-06-30")
    return text


Duration = Annotated[
    int,
    *_quantity(
        units.parse_duration, units.DURATION_PATTERN, "a duration with its unit: 20ms, 90s, 1m30s, 2h"
    ),
]
Rate = Annotated[
    int, *_quantity(units.parse_rate, units.RATE_PATTERN, "a rate in bits per second: 64kbit, 10Mbit, 1Gbit")
]
Ratio = Annotated[float, *_quantity(units.parse_ratio, units.RATIO_PATTERN, "a share of the whole: 1%, 0.5%")]
Prefix = Annotated[
    str,
    PlainValidator(_prefix),
    WithJsonSchema({"type": "string", "description": "an address or prefix of either family"}),
]

Date = Annotated[
    str,
    PlainValidator(_date),
    WithJsonSchema({"type": "string", "format": "date", "description": "a day: 2027-06-30"}),
]

# Each attempt may find that what is left lacks a required key, one level further out.
_ATTEMPTS = 8

M = TypeVar("M", bound=FileModel)


def validate(document: Document, model: type[M]) -> M | None:
    """The document as a model. Notes every problem in the document.

    When something is wrong, what can be kept is kept (unknown keys and broken list items left out), so that later checks
    still find their own problems in the rest: a required key that is missing at the top is then None, whatever its type says.
    """
    data = document.data
    if not isinstance(data, dict):
        return None
    for attempt in range(_ATTEMPTS):
        try:
            return model.model_validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if attempt == 0:
            for item in errors:
                _note(document, model, item)
        places = [_place(item) for item in errors]
        below = [place for place in places if place]
        if not below:
            return _partial(model, data)
        data = _without(data, below)
    return None


def note_errors(document: Document, model: type[BaseModel], error: ValidationError) -> None:
    """Notes every error of a model that need not be a FileModel, at the part of the document that it is about."""
    for item in error.errors(include_url=False):
        where = tuple(part for part in item["loc"] if part != "[key]")
        # A union's error names its member after the place.
        while item["type"] not in ("missing", "extra_forbidden") and where and where not in document.values:
            where = where[:-1]
        _note(document, model, {**item, "loc": where})


def suggest(word: str, known: Iterable[str], few: int = 12) -> str:
    """What to write instead of an unknown word: the nearest known one, else all when they are few."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if not words:
        return "there is none to name here"
    if len(words) <= few:
        return "write one of " + ", ".join(words)
    return "write one of " + ", ".join(words[:few]) + ", …"


def _note(document: Document, model: type[BaseModel], item: Any) -> None:
    where: Where = tuple(part for part in item["loc"] if part != "[key]")
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    name = where[-1] if where else ""
    match kind:
        case "refused":
            document.add(where, context["what"], context["fix"], at_key=context.get("at_key", False))
        case "extra_forbidden":
            known = [key for key in _keys(model, where[:-1]) if key not in _at(document.data, where[:-1])]
            document.add(where, f"{name!r} is not a key here", suggest(str(name), known), at_key=True)
        case "missing":
            document.add(where[:-1], f"{name!r} is missing", f"add '{name}: …'", at_key=True)
        case "literal_error":
            words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
            document.add(where, f"{_shown(value)} is not possible here", suggest(str(value), words, 20))
        case "string_pattern_mismatch":
            document.add(
                where,
                f"{_shown(value)} is not possible here",
                "write small letters, digits and '-', as in 'web-2'",
            )
        case "greater_than_equal" | "less_than_equal":
            least = context.get("ge", context.get("le"))
            what = "too small" if kind == "greater_than_equal" else "too large"
            document.add(
                where,
                f"{value} is {what}",
                f"write {'at least' if what == 'too small' else 'at most'} {least}",
            )
        case "too_short" | "string_too_short":
            fix = "write at least one" if kind == "too_short" else "write a word or a sentence"
            document.add(where, "it is empty", fix, at_key=True)
        case "too_long":
            document.add(where, "there are too many", f"write at most {context['max_length']}", at_key=True)
        case "model_type" | "dict_type":
            document.add(where, f"{_shown(value)} is not a mapping", "write 'key: value' lines below it")
        case "list_type":
            document.add(where, f"{_shown(value)} is not a list", "write [a, b] or '- ' lines below it")
        case "string_type":
            document.add(where, f"{_shown(value)} is not text", f"write it in quotes: '{value}'")
        case "int_type" | "int_from_float" | "int_parsing":
            document.add(where, f"{_shown(value)} is not a whole number", "write a number without a unit")
        case "float_type" | "float_parsing":
            document.add(where, f"{_shown(value)} is not a number", "write a number without a unit")
        case "value_error":
            what, _, fix = str(context["error"]).rpartition("; ")
            document.add(where, what or fix, fix if what else "write another")
        case "ip_any_address" | "ip_any_network":
            document.add(where, f"{_shown(value)} is not an address", "write one such as 127.0.0.1 or ::1")
        case "date_type" | "date_parsing" | "date_from_datetime_parsing":
            document.add(where, f"{_shown(value)} is not a day", "write year, month and day: 2027-06-30")
        case "bool_type" | "bool_parsing":
            document.add(where, f"{_shown(value)} is neither true nor false", "write true or false")
        case _:
            document.add(where, f"{_shown(value)} is not possible", str(item["msg"]).lower())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else repr(value) if isinstance(value, str) else repr(str(value))


def _keys(model: type[BaseModel], where: Where) -> list[str]:
    kind: Any = model
    for part in where:
        kind = _inside(kind, part)
    kind = _model_of(kind)
    return [info.alias or name for name, info in kind.model_fields.items()] if kind else []


def _inside(kind: Any, part: str | int) -> Any:
    model = _model_of(kind)
    if model is not None:
        return next(
            (info.annotation for name, info in model.model_fields.items() if (info.alias or name) == part),
            None,
        )
    return next((argument for argument in reversed(get_args(kind)) if argument is not type(None)), None)


def _model_of(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    arguments = [argument for argument in get_args(kind) if argument is not type(None)]
    if type(None) in get_args(kind) and len(arguments) == 1:
        return _model_of(arguments[0])
    return None


def _at(data: Any, where: Where) -> Any:
    for part in where:
        data = data[part]
    return data


def _partial(model: type[M], data: dict[str, Any]) -> M:
    """The model from what is there, for a document that lacks required keys at the top."""
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        values[name] = None if info.is_required() else info.get_default(call_default_factory=True)
        if info.alias in data:
            with suppress(ValidationError):
                values[name] = TypeAdapter(kind).validate_python(data[info.alias], strict=True)
    return model.model_construct(**values)


def _place(item: Any) -> Where:
    """What to leave out because of an error: the value, or for a missing key what lacks it."""
    where = tuple(part for part in item["loc"] if part != "[key]")
    return where[:-1] if item["type"] == "missing" else where


def _without(data: Any, places: list[Where]) -> Any:
    """A copy of the data without the keys and list items at the places (none of which is the whole)."""
    here = {place[0] for place in places if len(place) == 1}
    below: dict[str | int, list[Where]] = {}
    for place in places:
        if len(place) > 1 and place[0] not in here:
            below.setdefault(place[0], []).append(place[1:])
    if isinstance(data, dict):
        kept = Placed(data)
        kept.where = data.where if isinstance(data, Placed) else ()
        kept.is_whole = not here
        for key in here:
            kept.pop(key, None)
        for key, rest in below.items():
            if key in kept:
                kept[key] = _without(kept[key], rest)
        return kept
    if isinstance(data, list):
        items = [
            _without(value, below[index]) if index in below else value for index, value in enumerate(data)
        ]
        return [value for index, value in enumerate(items) if index not in here]
    return data
