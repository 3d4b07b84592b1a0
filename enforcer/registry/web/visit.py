"""One browser's visit: the signed cookie, who is signed in, and the token that every form carries (CSRF)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from itsdangerous import BadSignature, Signer
from starlette.requests import Request
from starlette.responses import Response

from enforcer.registry.web.accounts import ABSOLUTE_NS, Account, Accounts

LANGUAGE_COOKIE = "language"


@dataclass(frozen=True, slots=True)
class Visit:
    """id: random; a session's when account is set, else the browser's own until it signs in. It changes at sign-in."""

    id: str
    account: Account | None
    is_new: bool
    secret: bytes

    @property
    def form_token(self) -> str:
        """What this visit's forms carry. Another site can neither read the page nor compute it."""
        return hmac.new(self.secret, b"form:" + self.id.encode(), hashlib.sha256).hexdigest()

    def is_own_form(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.form_token.encode())


def visit_of(request: Request, accounts: Accounts) -> Visit:
    """The request's visit; a new one when its cookie is missing, forged or of a session that ended."""
    try:
        name = request.cookies.get(_cookie_name(request), "")
        visit = _signer(accounts).unsign(name).decode()
    except (BadSignature, UnicodeDecodeError):
        return Visit(secrets.token_urlsafe(32), None, True, accounts.secret)
    return Visit(visit, accounts.session(visit), False, accounts.secret)


def keep(response: Response, request: Request, accounts: Accounts, visit: str) -> None:
    """Sets the cookie: not for scripts, not for other sites' forms, only over TLS when there is TLS."""
    response.set_cookie(
        _cookie_name(request),
        _signer(accounts).sign(visit).decode(),
        max_age=ABSOLUTE_NS // 10**9,
        secure=_is_tls(request),
        httponly=True,
        samesite="strict",
    )


def drop(response: Response, request: Request) -> None:
    response.delete_cookie(_cookie_name(request), secure=_is_tls(request), httponly=True, samesite="strict")


def _is_tls(request: Request) -> bool:
    return request.url.scheme == "https"


def _cookie_name(request: Request) -> str:
    # A browser takes a cookie of the __Host- kind from this very host over TLS only (RFC 6265bis section 4.1.3.2).
    return "__Host-portal" if _is_tls(request) else "portal"


def _signer(accounts: Accounts) -> Signer:
    return Signer(accounts.secret, salt="portal-visit", digest_method=hashlib.sha256)
