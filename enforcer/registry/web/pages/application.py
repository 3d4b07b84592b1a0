"""The form of an application: applying, and correcting what is not decided yet."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.form import (
    CATEGORIES,
    DOCUMENTS,
    REQUIRED_DOCUMENTS,
    Application,
    application,
    missing_documents,
)
from enforcer.registry.standing import provider_key
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.office import Office
from enforcer.registry.web.pages.mine import own_view
from enforcer.registry.web.words import Words

ANOTHER = "-"  # the choice of a provider that is not in the list; no name is spelled so


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/my/apply", _apply, "GET POST", ("registrant",)),
        page(office, "/my/{number:int}/correct", _correct, "GET POST", ("registrant",)),
    ]


async def _apply(here: Page) -> Response:
    category = here.form.get("category") or here.query.get("category", "")
    if category not in CATEGORIES:
        return _which(here)
    if here.request.method == "POST":
        form = _application(here, category)
        same = [] if here.form.errors else here.desk.similar(form)
        if same:
            here.form.fail("registrant", "duplicate", number=same[0])
        if not here.form.errors:
            registration, _ = here.desk.apply(form, here.desk.of_account(here.account))
            return here.go(f"/my/{registration.number}", "applied")
    return _filled(here, category)


async def _correct(here: Page) -> Response:
    view = own_view(here)
    if "correct" not in view.acts:
        reason = here.texts.t("my.not-now.correct", state=here.texts.t(f"state.{view.state}"))
        return here.problem(409, "refused", back=f"/my/{view.number}", reason=reason)
    before = view.form
    category = here.form.get("category") or here.query.get("category", before.category)
    if category not in CATEGORIES:
        return _which(here, view.number, before.category)
    if here.request.method == "POST":
        form = _like(_application(here, category), before)
        if not here.form.errors:
            if application(form) == before:
                return here.go(f"/my/{view.number}", "unchanged")
            same = [each for each in here.desk.similar(form) if each != view.number]
            if same:
                here.form.fail("registrant", "duplicate", number=same[0])
        if not here.form.errors:
            here.desk.correct(view.number, form, here.desk.of_account(here.account))
            return here.go(f"/my/{view.number}", "correct")
    else:
        _fill_in(here, before)
    return _filled(here, category, view.number)


def _which(here: Page, number: int | None = None, chosen: str = "") -> Response:
    """The question before the form: what kind of registrant."""
    t = here.texts.t
    if "asked" in here.query:
        here.form.fail("category", "category.choose")
    categories = [(each, t(f"category.{each}"), t(f"category-about.{each}")) for each in CATEGORIES]
    return here.html("apply.html", category=None, categories=categories, chosen=chosen, number=number)


def _filled(here: Page, category: str, number: int | None = None) -> Response:
    """The form as it was filled in so far, with what is wrong. number: of the application that is corrected."""
    t = here.texts.t
    kinds = [kind for alternatives in REQUIRED_DOCUMENTS[category] for kind in alternatives]  # type: ignore[index]
    return here.html(
        "apply.html",
        category=category,
        number=number,
        needed=t("apply.hint.documents", documents=_needed(here, category)),
        documents=[(each, t(f"document.{each}"), "") for each in kinds],
        providers=_providers(here),
        protocols=[(each, t(f"protocol.{each}"), t(f"protocol-about.{each}")) for each in VPN_PROTOCOLS],
    )


def _fill_in(here: Page, form: Application) -> None:
    """The fields as the application says."""
    words, names = Words(here.texts, here.office.zone), {provider_key(each): each for each in here.desk.providers()}  # fmt: skip
    known = names.get(provider_key(form.provider), ANOTHER) if names else form.provider
    here.form.fields = {
        "registrant": form.registrant,
        "contact": form.contact,
        "purpose": form.purpose,
        "provider": known,
        "provider_other": form.provider if known == ANOTHER else "",
        "subscriber_id": form.subscriber_id,
        "subscriber_prefixes": words.prefixes(form.subscriber_prefixes, "\n"),
        "endpoint_prefixes": words.prefixes(form.endpoint_prefixes, "\n"),
        "endpoint_ports": ", ".join(map(str, form.endpoint_ports)),
    }
    here.form.many = {
        "documents": [each.kind for each in form.documents],
        "protocols": list(form.protocols),
    }


def _like(form: dict[str, Any], before: Application) -> dict[str, Any]:
    """A paper keeps its reference, which the page does not show; another order of the same things is no correction."""
    references = {each.kind: each.reference for each in before.documents}
    documents = [{"kind": kind, "reference": references.get(kind, "")} for kind in form["documents"]]
    old = before.to_json() | {"documents": [{"kind": each.kind, "reference": each.reference} for each in before.documents]}  # fmt: skip
    return {
        name: old[name]
        if isinstance(value, list) and sorted(map(repr, value)) == sorted(map(repr, old[name]))
        else value
        for name, value in (form | {"documents": documents}).items()
    }


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
