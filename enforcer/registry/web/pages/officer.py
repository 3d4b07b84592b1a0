"""The officers' queue, with filters and pages, and one registration with its decision."""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from enforcer.registry.form import CATEGORIES
from enforcer.registry.states import TRANSITIONS, Registration, State
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.listcheck import check
from enforcer.registry.web.office import Office
from enforcer.registry.web.paging import Pages
from enforcer.registry.web.view import view_of

STATES: tuple[State, ...] = get_args(State)
ACTIONS = ("approve", "reject", "suspend", "revoke", "renew")
_VERIFIED = {"waiting": None, "yes": True, "no": False}


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/officer", _queue, roles=("officer", "auditor")),
        page(office, "/officer/{number:int}", _one, "GET POST", ("officer", "auditor")),
    ]


async def _queue(here: Page) -> Response:
    chosen = {name: here.query.get(name, "").strip()[:200] for name in ("state", "category", "verified", "q")}
    if "state" not in here.query:
        chosen["state"] = "pending"  # what waits for an officer comes first
    state: State | None = next((each for each in STATES if each == chosen["state"]), None)
    found = [each for each in here.desk.ledger.registrations(state) if _fits(each, chosen)]
    pages = Pages.of(here.query, len(found))
    counted = here.desk.ledger.counts()
    t = here.texts.t
    return here.html(
        "officer.html",
        views=[view_of(here.desk, each) for each in pages.slice(found)],
        pages=pages,
        chosen=chosen,
        link=f"/officer?{urlencode(chosen)}&",
        counts=[(each, counted[each]) for each in STATES if each in counted],
        states=[(each, t(f"state.{each}")) for each in STATES],
        categories=[(each, t(f"category.{each}")) for each in CATEGORIES],
        verified=[(each, t(f"verified.{each}")) for each in _VERIFIED],
    )


def _fits(registration: Registration, chosen: dict[str, str]) -> bool:
    form, asked = registration.application, chosen["q"].lower()
    return (
        (not chosen["state"] or registration.state == chosen["state"])
        and (not chosen["category"] or form.category == chosen["category"])
        and (
            not chosen["verified"] or registration.is_verified is _VERIFIED.get(chosen["verified"], "nothing")
        )
        and (not asked or asked == str(registration.number) or asked in form.registrant.lower())
    )


async def _one(here: Page) -> Response:
    registration = here.desk.ledger.registration(here.number)
    if here.request.method == "GET":
        return show(here, registration)
    if here.account.role != "officer":
        return here.problem(403, "role", role=here.texts.t(f"role.{here.account.role}"))
    if here.form.version() not in (None, registration.version):
        here.form.fail("action", "changed")  # what was looked at is not what would be decided
    action = here.form.choice("action", _possible(here, registration))
    reason = here.form.text("reason")
    if here.form.errors:
        return show(here, registration)
    by = here.desk.of_account(here.account)
    here.desk.decide(registration.number, action, reason, by, here.form.version())
    return here.go(f"/officer/{registration.number}", action)


def show(here: Page, registration: Registration) -> Response:
    """The registration as officers and auditors see it; auditors are offered nothing to do."""
    view, t = view_of(here.desk, registration), here.texts.t
    is_officer = here.account.role == "officer"
    possible = _possible(here, registration) if is_officer else []
    about = view.appeal.about if view.appeal else "rejection"
    return here.html(
        "officer_registration.html",
        view=view,
        token=None,
        actions=[(each, t(f"officer.act.{each}"), t(f"officer.act-about.{each}")) for each in possible],
        answers=[
            (each, t(f"officer.accepted.{each}"), t(f"officer.accepted-about.{about}-{each}"))
            for each in ("yes", "no")
        ],
        can_answer=is_officer,
        not_yet=registration.state == "pending" and "approve" not in possible,
        finding=check(here.desk.ledger.events(registration.number), view.report) if view.report else None,
    )


def _possible(here: Page, registration: Registration) -> list[str]:
    waits = here.desk.ledger.rules.requires_verification and registration.is_verified is not True
    return [
        action
        for action in ACTIONS
        if registration.state in TRANSITIONS[action] and not (waits and action in ("approve", "renew"))
    ]
