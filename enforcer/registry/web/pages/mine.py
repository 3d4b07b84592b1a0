"""A registrant's own pages: list, one registration, what can be done with it. Another's is not there: 404."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from enforcer.registry.states import Registration
from enforcer.registry.web.frame import Page, page, too_many
from enforcer.registry.web.limits import address_key
from enforcer.registry.web.office import Office
from enforcer.registry.web.paging import Pages
from enforcer.registry.web.view import View, view_of

ROLES = ("registrant",)


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/my", _list, roles=ROLES),
        page(office, "/my/claim", _claim, "POST", ROLES),
        page(office, "/my/{number:int}", _one, roles=ROLES),
        page(office, "/my/{number:int}/change-address", _change_address, "GET POST", ROLES),
        page(office, "/my/{number:int}/ask-renewal", _ask_renewal, "GET POST", ROLES),
        page(office, "/my/{number:int}/withdraw", _withdraw, "GET POST", ROLES),
        page(office, "/status", _status, "GET POST"),
    ]


def own(here: Page) -> Registration:
    """The registration of the path, if it is the visitor's. Raises UnknownRegistration."""
    return here.desk.own(here.number, here.desk.of_account(here.account))


def own_view(here: Page) -> View:
    return view_of(here.desk, own(here))


async def _list(here: Page) -> Response:
    """Newest first: what was just sent is what people look for."""
    found = here.desk.mine(here.desk.of_account(here.account))[::-1]
    pages = Pages.of(here.query, len(found))
    return here.html("my.html", views=[view_of(here.desk, each) for each in pages.slice(found)], pages=pages)


async def _claim(here: Page) -> Response:
    registration = await _looked_up(here)
    if isinstance(registration, Response):
        return registration
    if registration is None:
        return await _list(here)
    here.office.accounts.claim(here.account.name, registration.number)
    return here.go(f"/my/{registration.number}", "claimed")


async def _status(here: Page) -> Response:
    if here.request.method == "GET":
        return here.html("status.html")
    registration = await _looked_up(here)
    if isinstance(registration, Response):
        return registration
    if registration is None:
        return here.html("status.html")
    return here.html("registration.html", view=view_of(here.desk, registration), token=None)


async def _looked_up(here: Page) -> Registration | Response | None:
    """By number and token; None with an error in the form, or an answer when somebody tries too often."""
    form, key = here.form, address_key(here.address)
    number, token = form.get("number"), form.get("token")
    wait_s = here.office.limiter.wait_s("lookup-address", key)
    if wait_s:
        return too_many(here, wait_s)
    if not (number.isascii() and number.isdigit()) or len(number) > 10:
        form.fail("number", "number")
    if not token:
        form.fail("token", "token.missing")
    found = None if form.errors else here.desk.with_token(int(number), token)
    if found is None and not form.errors:
        here.office.limiter.take("lookup-address", key)
        form.fail("number", "lookup")
    return found


async def _one(here: Page) -> Response:
    return here.html("my_registration.html", view=own_view(here), token=None)


async def _change_address(here: Page) -> Response:
    view = own_view(here)
    if here.request.method == "POST":
        prefixes = here.form.prefixes("subscriber_prefixes")
        if not here.form.errors and prefixes == list(view.form.subscriber_prefixes):
            here.form.fail("subscriber_prefixes", "same-address")
        if not here.form.errors:
            here.desk.change_address(view.number, prefixes, here.desk.of_account(here.account))
            return here.go(f"/my/{view.number}", "change-address")
    rule = here.desk.ledger.rules.on_address_change
    return here.html("my_act.html", view=view, act="change-address", variant=f"change-address-{rule}")


async def _ask_renewal(here: Page) -> Response:
    view = own_view(here)
    if _is_confirmed(here):
        here.desk.ask_renewal(view.number, here.desk.of_account(here.account))
        return here.go(f"/my/{view.number}", "ask-renewal")
    return here.html("my_act.html", view=view, act="ask-renewal", variant="")


async def _withdraw(here: Page) -> Response:
    view = own_view(here)
    if _is_confirmed(here):
        here.desk.withdraw(view.number, "", here.desk.of_account(here.account))
        return here.go(f"/my/{view.number}", "withdraw")
    return here.html("my_act.html", view=view, act="withdraw", variant="")


def _is_confirmed(here: Page) -> bool:
    if here.request.method != "POST":
        return False
    if here.form.get("confirm") != "yes":
        here.form.fail("confirm", "confirm")
    return not here.form.errors
