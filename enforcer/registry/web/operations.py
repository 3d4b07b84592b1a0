"""What a call of the HTTP API is: one description that the routes, the checks and the OpenAPI document are all made from."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enforcer.registry.desk import NOBODY, Principal, Refused
from enforcer.registry.ledger import UnknownRegistration
from enforcer.registry.states import BadApplication, IllegalTransition
from enforcer.registry.web.limits import address_key

if TYPE_CHECKING:
    from enforcer.registry.web.office import Office

LARGEST_NUMBER = 2**31 - 1  # a registration's number is a conntrack mark (enforcer/allowlist.py)

# Why each error is answered; one sentence for the document and its page.
ERRORS = {
    400: "the body is not JSON, or not an object",
    401: "no token, or one that is not known",
    403: "the token is of somebody who may not do this",
    404: "there is no such registration, or it is not the token's to see",
    409: "the registration's state does not allow it, or it was changed since it was looked at; the sentence says which",
    413: "the body is too long",
    422: "a field is wrong; `problems` names each and says what to write",
    429: "too many calls from this address; `Retry-After` says when to come again",
}


class Model(BaseModel):
    """Strict, so that the number 1 is not the word "1"; what is not a field is refused, so that a misspelling is seen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Nothing(Model):
    """An empty object, or no body at all."""


class Problem(BaseModel):
    """Every answer that is not 2xx."""

    error: str
    problems: list[str] = Field(
        default=[], description="each wrong field: `name: what is wrong; what to write`"
    )


_In = TypeVar("_In", bound=BaseModel)
_Query = TypeVar("_Query", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[_In, _Query]):
    """One request, checked."""

    office: Office
    request: Request
    by: Principal
    body: _In
    query: _Query

    @property
    def number(self) -> int:
        return self.request.path_params["number"]


@dataclass(frozen=True, slots=True)
class Operation:
    """roles: who may; empty is everybody. errors: those beyond the ones every call of its kind can meet."""

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[Call[Any, Any]], Awaitable[BaseModel | Response]]
    answer: type[BaseModel]
    body: type[BaseModel] = Nothing
    query: type[BaseModel] = Nothing
    roles: tuple[str, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    about: str = ""

    @property
    def all_errors(self) -> tuple[int, ...]:
        codes = {429, *self.errors}
        if self.roles:
            codes |= {401, 403}
        if "{number" in self.path:
            codes |= {404}
        if self.method == "POST":
            codes |= {400, 413, 422}
        if self.query is not Nothing:
            codes |= {422}
        return tuple(sorted(codes))


def route(office: Office, operation: Operation) -> Route:
    async def answer(request: Request) -> Response:
        try:
            wait_s = 0.0
            by = office.desk.principal(_token(request))
            if by.role not in ("isp", "officer"):
                who = address_key(request.client.host if request.client else "")
                wait_s = office.limiter.take("call-address", who)
            if wait_s:
                return _problem(429, "too many calls", headers={"Retry-After": str(int(wait_s) + 1)})
            _authorise(by, operation, request)
            if not 1 <= request.path_params.get("number", 1) <= LARGEST_NUMBER:
                raise UnknownRegistration(f"there is no registration {request.path_params['number']}")
            body = operation.body.model_validate(await _json(request) if operation.method == "POST" else {})
            query = operation.query.model_validate(dict(request.query_params), strict=False)
            found = await operation.handler(Call(office, request, by, body, query))
        except ValidationError as error:
            return _problem(422, "a field is wrong", [_field(each) for each in error.errors()])
        except BadApplication as error:
            return _problem(422, "the form is wrong", error.problems)
        except Refused as refusal:
            return _problem(refusal.status, str(refusal), refusal.problems)
        except IllegalTransition as error:
            return _problem(409, str(error))
        except UnknownRegistration as error:
            return _problem(404, str(error))
        if isinstance(found, Response):
            return found
        return Response(found.model_dump_json(), operation.status, media_type="application/json")

    return Route(operation.path, answer, methods=[operation.method])


def _authorise(by: Principal, operation: Operation, request: Request) -> None:
    if not operation.roles or by.role in operation.roles:
        return
    if by is NOBODY:
        told = "no token was sent" if not _token(request) else "this token is not known"
        raise Refused(401, f"{told}; this needs the token of: {', '.join(operation.roles)}")
    raise Refused(403, f"this needs the token of: {', '.join(operation.roles)}")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _json(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        data = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Refused(400, "the request must be a JSON object")
    return data


def _field(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "body"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}"


def _problem(
    status: int, error: str, problems: list[str] | None = None, headers: dict[str, str] | None = None
) -> Response:
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse({"error": error, **({"problems": problems} if problems else {})}, status, headers)
