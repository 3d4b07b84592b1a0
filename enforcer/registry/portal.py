"""The portal: one Starlette application over one ledger. The HTTP calls of docs/architecture.md and the plain pages."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enforcer.registry.feed import Signer
from enforcer.registry.feed_calls import FeedCalls
from enforcer.registry.ledger import Ledger, UnknownRegistration
from enforcer.registry.states import BadApplication, IllegalTransition, Registration, application

MAX_BODY_BYTES = 256 * 1024  # a form with 1,024 prefixes of each kind is about 100 kB
OFFICER_ACTIONS = ("approve", "reject", "revoke", "suspend", "renew")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Bearer tokens of the two offices. Applicants get their own when they apply."""

    isp: str
    officer: str


class Refused(Exception):
    """An answer other than 2xx: status and what to say."""

    def __init__(self, status: int, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message)
        self.status, self.problems = status, problems


class Desk:
    """What the calls and the pages do, over one ledger: who may, then the act, then waking whoever waits for a delta."""

    def __init__(
        self, ledger: Ledger, key: Signer, tokens: Tokens, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.ledger, self.key = ledger, key
        self._tokens = tokens
        self.feed = FeedCalls(ledger, key, clock)

    def role(self, token: str) -> str | None:
        """ "isp" or "officer"; None for any other token."""
        for role, known in (("isp", self._tokens.isp), ("officer", self._tokens.officer)):
            if hmac.compare_digest(token.encode(), known.encode()):
                return role
        return None

    def require(self, token: str, *roles: str) -> str:
        """The token's role. Raises Refused (401 without a token, 403 with the wrong one)."""
        role = self.role(token)
        if role not in roles:
            raise Refused(403 if token else 401, f"this needs the token of: {', '.join(roles)}")
        return str(role)

    def apply(self, form: dict[str, Any]) -> tuple[Registration, str]:
        """The new registration, and the token its applicant must keep."""
        token = secrets.token_urlsafe(24)
        return self._done(self.ledger.apply(application(form), token_sha256=token_sha256(token))), token

    def look(self, number: int, token: str) -> Registration:
        """The registration, for its applicant or an office."""
        if self.role(token):
            return self.ledger.registration(number)
        return self._own(number, token)

    def verify(self, number: int, token: str, is_verified: bool, reason: str) -> Registration:
        self.require(token, "isp")
        return self._done(self.ledger.verify(number, is_verified, "isp", reason))

    def decide(self, number: int, token: str, action: str, reason: str) -> Registration:
        self.require(token, "officer")
        return self._done(self.ledger.decide(number, action, "officer", reason))

    def change_address(self, number: int, token: str, prefixes: Any) -> Registration:
        self._own(number, token)
        return self._done(self.ledger.change_address(number, prefixes))

    async def expire_as_time_passes(self, period_s: float = 1.0) -> None:
        """Expires what runs out, for ever. Nothing to do when approvals have no end."""
        while self.ledger.rules.validity_ns is not None:
            if self.ledger.expire_due():
                self.feed.wake()
            await asyncio.sleep(period_s)

    def close(self) -> None:
        """Lets everybody go who waits for a delta."""
        self.feed.close()

    def _own(self, number: int, token: str) -> Registration:
        # A wrong token and a wrong number look the same from outside, so numbers cannot be counted by strangers.
        try:
            registration = self.ledger.registration(number)
        except UnknownRegistration:
            registration = None
        if not token:
            raise Refused(401, "this needs the token given when you applied")
        if registration is None or not hmac.compare_digest(registration.token_sha256, token_sha256(token)):
            raise Refused(403, "this is not your registration, or not its token")
        return registration

    def _done(self, registration: Registration) -> Registration:
        self.feed.wake()
        return registration


def portal(desk: Desk) -> Starlette:
    """The application. It closes the desk, not the ledger, when it shuts down."""
    from enforcer.registry.pages import page_routes

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        expiry = asyncio.create_task(desk.expire_as_time_passes())
        yield
        desk.close()
        expiry.cancel()

    routes = [
        Route("/applications", _call(desk, _apply), methods=["POST"]),
        Route("/applications/{number:int}", _call(desk, _status), methods=["GET"]),
        Route("/applications/{number:int}/verify", _call(desk, _verify), methods=["POST"]),
        Route("/applications/{number:int}/change-address", _call(desk, _change_address), methods=["POST"]),
        *(
            Route(f"/applications/{{number:int}}/{action}", _call(desk, _decide(action)), methods=["POST"])
            for action in OFFICER_ACTIONS
        ),
        Route("/queue", _call(desk, _queue), methods=["GET"]),
        *desk.feed.routes(),
        *page_routes(desk),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def status(desk: Desk, registration: Registration) -> dict[str, Any]:
    """What a call answers about a registration: its state, what is on the form, and all that was done, oldest first."""
    form = registration.application
    return {
        "registration": registration.number,
        "state": registration.state,
        "serial": desk.ledger.serial,
        "is_verified": registration.is_verified,
        "registrant": form.registrant,
        "subscriber_prefixes": list(form.subscriber_prefixes),
        "new_prefixes": list(registration.new_prefixes),
        "endpoint_prefixes": list(form.endpoint_prefixes),
        "endpoint_ports": list(form.endpoint_ports),
        "protocols": list(form.protocols),
        "valid_from_ns": registration.valid_from_ns,
        "valid_until_ns": registration.valid_until_ns,
        "history": [
            {"at_ns": event.at_ns, "action": event.action, "actor": event.actor, "reason": event.reason}
            | ({"verified": event.data["verified"]} if event.action == "verify" else {})
            for event in desk.ledger.events(registration.number)
        ],
    }


Handler = Callable[[Desk, Request], Awaitable[Response]]


def _call(desk: Desk, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def call(request: Request) -> Response:
        try:
            return await handler(desk, request)
        except Refused as refusal:
            return _error(refusal.status, str(refusal), refusal.problems)
        except BadApplication as error:
            return _error(422, "the form is wrong", error.problems)
        except IllegalTransition as error:
            return _error(409, str(error))
        except UnknownRegistration as error:
            return _error(404, str(error))

    return call


def _error(code: int, message: str, problems: list[str] | None = None) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if code == 401 else None
    return JSONResponse({"error": message, **({"problems": problems} if problems else {})}, code, headers)


async def _apply(desk: Desk, request: Request) -> Response:
    registration, token = desk.apply(await _json(request))
    answer = {"registration": registration.number, "token": token, "state": registration.state}
    return JSONResponse({**answer, "serial": desk.ledger.serial}, 201)


async def _status(desk: Desk, request: Request) -> Response:
    return JSONResponse(status(desk, desk.look(request.path_params["number"], _token(request))))


async def _verify(desk: Desk, request: Request) -> Response:
    desk.require(_token(request), "isp")
    answer = await _json(request)
    is_verified = answer.get("verified")
    if not isinstance(is_verified, bool):
        raise Refused(422, 'write {"verified": true} or {"verified": false}')
    registration = desk.verify(request.path_params["number"], _token(request), is_verified, _reason(answer))
    return JSONResponse(status(desk, registration))


def _decide(action: str) -> Handler:
    async def decide(desk: Desk, request: Request) -> Response:
        desk.require(_token(request), "officer")
        reason = _reason(await _json(request))
        registration = desk.decide(request.path_params["number"], _token(request), action, reason)
        return JSONResponse(status(desk, registration))

    return decide


async def _change_address(desk: Desk, request: Request) -> Response:
    prefixes = (await _json(request)).get("subscriber_prefixes")
    return JSONResponse(
        status(desk, desk.change_address(request.path_params["number"], _token(request), prefixes))
    )


async def _queue(desk: Desk, request: Request) -> Response:
    desk.require(_token(request), "officer", "isp")
    pending = [status(desk, registration) for registration in desk.ledger.registrations("pending")]
    return JSONResponse({"pending": pending, "serial": desk.ledger.serial})


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _json(request: Request) -> dict[str, Any]:
    raw = await read_body(request)
    try:
        data = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Refused(400, "the request must be a JSON object")
    return data


async def read_body(request: Request) -> bytes:
    """The request's body, read no further than MAX_BODY_BYTES. Raises Refused (413)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
    return body


def _reason(answer: dict[str, Any]) -> str:
    reason = answer.get("reason", "")
    if not isinstance(reason, str) or len(reason) > 2000:
        raise Refused(422, "reason: write text of at most 2000 characters")
    return reason


def token_sha256(token: str) -> str:
    """What the ledger keeps of an applicant's token."""
    return hashlib.sha256(token.encode()).hexdigest()
