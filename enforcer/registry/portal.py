"""The portal: one application over one desk. What programs call, what enforcers follow, what people see."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from enforcer.registry.desk import Desk, Principal, Refused, Tokens, token_sha256
from enforcer.registry.web.calls import OPERATIONS, status
from enforcer.registry.web.frame import failure
from enforcer.registry.web.guard import Guard
from enforcer.registry.web.office import Office
from enforcer.registry.web.openapi import openapi_route
from enforcer.registry.web.operations import route
from enforcer.registry.web.pages import page_routes

__all__ = ["Desk", "Principal", "Refused", "Tokens", "portal", "status", "token_sha256"]

_CALLS = ("/applications", "/queue", "/feed", "/openapi.json")


def portal(desk: Desk, office: Office | None = None) -> Guard:
    """The application (ASGI). It closes the desk, not the ledger, when it shuts down."""
    office = office or Office(desk)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    async def failed(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if request.url.path.startswith(_CALLS):
            told = {
                404: "there is no such call",
                405: "this call has another method; see Allow",
                413: "the body is too long",
            }
            return JSONResponse({"error": told.get(code, "something went wrong here")}, code, headers)
        return failure(office, request, code, headers)

    # The guard is outermost, so that the answer to a fault of ours carries its headers too.
    application = Starlette(
        routes=[
            *(route(office, operation) for operation in OPERATIONS),
            *desk.feed.routes(),
            openapi_route(),
            *page_routes(office),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: failed, Exception: failed},
    )
    return Guard(application)
