"""A registrant's own pages: list, application, one registration, what can be done with it. Another's is not there: 404."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.form import CATEGORIES, DOCUMENTS, REQUIRED_DOCUMENTS, missing_documents
from enforcer.registry.standing import provider_key
from enforcer.registry.states import Registration
from enforcer.registry.web.frame import Page, page, too_many
from enforcer.registry.web.limits import address_key
from enforcer.registry.web.office import Office
from enforcer.registry.web.view import View, view_of
from enforcer.registry.web.words import Words

ROLES = ("registrant",)
ANOTHER = "-"  # the choice of a provider that is not in the list; no name is spelled so


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/my", _list, roles=ROLES),
        page(office, "/my/claim", _claim, "POST", ROLES),
        page(office, "/my/apply", _apply, "GET POST", ROLES),
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
    return here.html("my.html", views=_views(here))


def _views(here: Page) -> list[View]:
    return [view_of(here.desk, each) for each in here.desk.mine(here.desk.of_account(here.account))]


async def _claim(here: Page) -> Response:
    registration = await _looked_up(here)
    if isinstance(registration, Response):
        return registration
    if registration is None:
        return here.html("my.html", views=_views(here))
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


async def _apply(here: Page) -> Response:
    t, category = here.texts.t, here.form.get("category") or here.query.get("category", "")
    if category not in CATEGORIES:
        categories = [(each, t(f"category.{each}"), t(f"category-about.{each}")) for each in CATEGORIES]
        return here.html("apply.html", category=None, categories=categories)
    if here.request.method == "POST":
        form = _application(here, category)
        same = [] if here.form.errors else here.desk.similar(form)
        if same:
            here.form.fail("registrant", "duplicate", number=same[0])
        if not here.form.errors:
            registration, _ = here.desk.apply(form, here.desk.of_account(here.account))
            return here.go(f"/my/{registration.number}", "applied")
    kinds = [kind for alternatives in REQUIRED_DOCUMENTS[category] for kind in alternatives]
    return here.html(
        "apply.html",
        category=category,
        needed=t("apply.hint.documents", documents=_needed(here, category)),
        documents=[(each, t(f"document.{each}"), "") for each in kinds],
        providers=_providers(here),
        protocols=[(each, t(f"protocol.{each}"), t(f"protocol-about.{each}")) for each in VPN_PROTOCOLS],
    )


def _providers(here: Page) -> list[tuple[str, str]]:
    names = here.desk.providers()
    return (
        [*((each, each) for each in names), (ANOTHER, here.texts.t("apply.provider-other"))] if names else []
    )


def _provider(here: Page) -> str:
    """One of those that can answer, by its own name, or another in the applicant's words."""
    form, names = here.form, {provider_key(each): each for each in here.desk.providers()}
    if not names:
        return form.text("provider", 200)
    chosen = form.get("provider")
    if chosen == ANOTHER:
        written = form.text("provider_other", 200)
        return names.get(provider_key(written), written)
    if not chosen:
        form.fail("provider", "provider.choose")
    elif provider_key(chosen) not in names:
        form.fail("provider", "choose")
    return names.get(provider_key(chosen), "")


def _needed(here: Page, category: str) -> str:
    words = Words(here.texts, here.office.zone)
    return "; ".join(words.documents(each) for each in REQUIRED_DOCUMENTS[category])  # type: ignore[index]


def _application(here: Page, category: str) -> dict[str, Any]:
    form = here.form
    registrant = form.text("registrant", 200)
    documents = [each for each in form.all("documents") if each in DOCUMENTS]
    if here.desk.ledger.rules.requires_documents and missing_documents(category, documents):
        form.fail("documents", "documents", documents=_needed(here, category))
    return {
        "registrant": registrant,
        "category": category,
        "documents": documents,
        "contact": form.text("contact", 200, least=0),
        "purpose": form.text("purpose"),
        "provider": _provider(here),
        "subscriber_id": form.text("subscriber_id", 200),
        "subscriber_prefixes": form.prefixes("subscriber_prefixes"),
        "endpoint_prefixes": form.prefixes("endpoint_prefixes"),
        "protocols": form.protocols("protocols"),
        "endpoint_ports": form.ports("endpoint_ports"),
    }


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
