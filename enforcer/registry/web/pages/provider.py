"""A provider's queue: applications that name it and wait for its answer."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from enforcer.registry.states import REFUSALS
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.office import Office
from enforcer.registry.web.paging import Pages
from enforcer.registry.web.view import view_of

ROLES = ("provider",)


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/provider", _queue, roles=ROLES),
        page(office, "/provider/{number:int}", _one, "GET POST", ROLES),
    ]


async def _queue(here: Page) -> Response:
    found = here.desk.to_verify(here.desk.of_account(here.account))
    pages = Pages.of(here.query, len(found))
    return here.html(
        "provider.html", views=[view_of(here.desk, each) for each in pages.slice(found)], pages=pages
    )


async def _one(here: Page) -> Response:
    by = here.desk.of_account(here.account)
    registration = here.desk.of_provider(here.number, by)
    t = here.texts.t
    if here.request.method == "POST":
        if here.form.version() not in (None, registration.version):
            here.form.fail("verified", "changed")
        answer = here.form.choice("verified", ("yes", "no"))
        why = here.form.choice("why", REFUSALS) if answer == "no" else ""
        reason = here.form.text("reason", least=0)
        if not here.form.errors:
            here.desk.verify(registration.number, answer == "yes", reason, by, why, here.form.version())
            return here.go("/provider", "verify")
    return here.html(
        "provider_registration.html",
        view=view_of(here.desk, registration),
        is_waiting=registration.waits_for_provider,
        refusals=[(each, t(f"refusal.{each}")) for each in REFUSALS],
    )
