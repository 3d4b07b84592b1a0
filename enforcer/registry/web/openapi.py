"""The OpenAPI 3.1 document, made from the operations and the very models that check requests and write answers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enforcer.registry.web.operations import ERRORS, LARGEST_NUMBER, Nothing, Operation, Problem


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    from enforcer.registry.web.calls import OPERATIONS

    models: dict[type[BaseModel], JsonSchemaMode] = {Problem: "serialization"}
    for operation in OPERATIONS:
        models[operation.answer] = "serialization"
        if operation.body is not Nothing:
            models[operation.body] = "validation"
    _, schemas = models_json_schema(
        list(models.items()),
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = re.sub(r":\w+\}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "VPN registration",
            "version": "1",
            "description": "Apply to register VPN use, follow the application, decide it. Enforcers follow /feed, which has a format of its own.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token shown when you applied, or one made on your account's page, or an office's.",
                }
            },
        },
    }


def openapi_route() -> Route:
    async def answer(_: Request) -> Response:
        return JSONResponse(document(), headers={"Cache-Control": "public, max-age=300"})

    return Route("/openapi.json", answer, methods=["GET"])


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            str(operation.status): {
                "description": "done" if operation.method == "POST" else "found",
                "content": {"application/json": {"schema": _reference(operation.answer)}},
            },
            **{str(code): _error(code) for code in operation.all_errors},
        },
    }
    if operation.about:
        found["description"] = operation.about
    if operation.roles:
        found["security"] = [{"bearer": []}]
        found["x-roles"] = list(operation.roles)
    if operation.body is not Nothing:
        found["requestBody"] = {
            "required": _needs_something(operation.body),
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    parameters = [*_path_parameters(operation), *_query_parameters(operation)]
    if parameters:
        found["parameters"] = parameters
    return found


def _needs_something(body: type[BaseModel]) -> bool:
    extra = body.model_config.get("json_schema_extra")
    has_least = isinstance(extra, dict) and bool(extra.get("minProperties"))
    return has_least or any(field.is_required() for field in body.model_fields.values())


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    if "{number" not in operation.path:
        return []
    schema = {"type": "integer", "minimum": 1, "maximum": LARGEST_NUMBER}
    return [
        {
            "name": "number",
            "in": "path",
            "required": True,
            "schema": schema,
            "description": "the registration's number",
        }
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    schema = operation.query.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": _without_null(about),
            "description": about.get("description", ""),
        }
        for name, about in schema.get("properties", {}).items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    # A query parameter is left out, never null.
    schema = {key: value for key, value in schema.items() if key not in ("title", "description")}
    if schema.get("default", 0) is None:
        del schema["default"]
    choices = [each for each in schema.pop("anyOf", []) if each.get("type") != "null"]
    return schema | choices[0] if choices else schema


def _error(code: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "description": ERRORS[code],
        "content": {"application/json": {"schema": _reference(Problem)}},
    }
    if code == 401:
        about["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
    if code == 429:
        about["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "required": True}}
    return about


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
