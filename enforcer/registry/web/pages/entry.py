"""Signing up, in and out; one's own account."""

from __future__ import annotations

import asyncio
from functools import cache

from starlette.responses import Response
from starlette.routing import Route

from enforcer.registry.web import passwords
from enforcer.registry.web import visit as visits
from enforcer.registry.web.accounts import NAME, ROLES, AccountExists
from enforcer.registry.web.frame import Page, page, too_many
from enforcer.registry.web.limits import address_key
from enforcer.registry.web.office import Office

START = {"registrant": "/my", "officer": "/officer", "provider": "/provider", "auditor": "/audit"}
_HASHING = asyncio.Semaphore(
    2
)  # 16 MiB and a core's tenth of a second each: a flood of sign-ins waits in line


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/sign-up", _sign_up, "GET POST"),
        page(office, "/sign-in", _sign_in, "GET POST"),
        page(office, "/sign-out", _sign_out, "POST"),
        page(office, "/account", _account, "GET POST", ROLES),
        page(office, "/account/token", _token, "POST", ROLES),
        page(office, "/account/sign-out-everywhere", _everywhere, "POST", ROLES),
    ]


async def _sign_up(here: Page) -> Response:
    if here.request.method == "GET":
        return here.html("sign_up.html")
    form = here.form
    name, password = form.get("account").lower(), form.fields.get("new_password", "")
    if not NAME.fullmatch(name):
        form.fail("account", "account-name")
    _check_new(here, password, name)
    if form.errors:
        return here.html("sign_up.html")
    # Counted when the form is good: a mistake must not lock anybody out.
    wait_s = here.office.limiter.take("sign-up-address", address_key(here.address))
    if wait_s:
        return too_many(here, wait_s)
    kept = await _hashed(here, password)
    try:
        here.office.accounts.add(name, kept, "registrant")
    except AccountExists:
        form.fail("account", "account-taken")
        return here.html("sign_up.html")
    return _enter(here, name, "/my?done=signed-up")


async def _sign_in(here: Page) -> Response:
    if here.request.method == "GET":
        return here.html("sign_in.html", after=here.query.get("next", ""))
    form, limiter = here.form, here.office.limiter
    name, password, after = form.get("account").lower(), form.fields.get("password", ""), form.get("next")
    who = (("sign-in-account", name[:64]), ("sign-in-address", address_key(here.address)))
    wait_s = max(limiter.wait_s(kind, key) for kind, key in who)
    if wait_s:
        return too_many(here, wait_s)
    found = here.office.accounts.find(name)
    # Without such an account the work is the same, so that the time tells nobody which names there are.
    kept = found[1] if found else _nobodys_hash(here.office.settings.password_cost)
    async with _HASHING:
        is_right = await asyncio.to_thread(passwords.matches, password[: passwords.MAX_LENGTH + 1], kept)
    if found is None or not is_right or found[0].is_disabled:
        for kind, key in who:
            limiter.take(kind, key)
        form.fail("account", "sign-in")
        return here.html("sign_in.html", after=after)
    start = START[found[0].role]
    return _enter(
        here, name, after if after.startswith("/") and not after.startswith(("//", "/\\")) else start
    )


async def _sign_out(here: Page) -> Response:
    here.office.accounts.close_session(here.visit.id)
    response = here.go("/", "signed-out")
    visits.drop(response, here.request)
    return response


async def _account(here: Page) -> Response:
    if here.request.method == "GET":
        return here.html("account.html", token=None)
    form, account = here.form, here.account
    found = here.office.accounts.find(account.name)
    wait_s = here.office.limiter.wait_s("sign-in-account", account.name)
    if wait_s:
        return too_many(here, wait_s)
    async with _HASHING:
        is_right = found and await asyncio.to_thread(
            passwords.matches, form.fields.get("password", "")[: passwords.MAX_LENGTH + 1], found[1]
        )
    if not is_right:
        here.office.limiter.take("sign-in-account", account.name)
        form.fail("password", "password-wrong")
    new = form.fields.get("new_password", "")
    _check_new(here, new, account.name)
    if form.errors:
        return here.html("account.html", token=None)
    here.office.accounts.set_password(account.name, await _hashed(here, new))
    return _enter(here, account.name, "/account?done=password-changed")


async def _token(here: Page) -> Response:
    return here.html("account.html", token=here.office.accounts.new_token(here.account.name))


async def _everywhere(here: Page) -> Response:
    here.office.accounts.forget(here.account.name)
    return here.go("/", "signed-out")


def _enter(here: Page, name: str, path: str) -> Response:
    # A new id at each sign-in: nobody can plant a session beforehand.
    here.office.accounts.close_session(here.visit.id)
    response = here.go(path)
    visits.keep(response, here.request, here.office.accounts, here.office.accounts.open_session(name))
    return response


def _check_new(here: Page, password: str, name: str) -> None:
    wrong = passwords.weakness(password, name)
    if wrong:
        here.form.fail(
            "new_password", f"password-{wrong}", least=passwords.MIN_LENGTH, most=passwords.MAX_LENGTH
        )
    elif password != here.form.fields.get("repeat_password", ""):
        here.form.fail("repeat_password", "password-repeat")


async def _hashed(here: Page, password: str) -> str:
    async with _HASHING:
        return await asyncio.to_thread(passwords.hashed, password, here.office.settings.password_cost)


@cache
def _nobodys_hash(cost: passwords.Cost) -> str:
    return passwords.hashed("nobody", cost)
