"""Appeals: against a rejection, and "I am registered and blocked"; the officers' list of them and their answers."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response
from starlette.routing import Route

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.web import reports
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.listcheck import Report, check, covers
from enforcer.registry.web.office import Office
from enforcer.registry.web.pages.mine import own_view
from enforcer.registry.web.paging import Pages
from enforcer.registry.web.view import view_of


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/my/{number:int}/appeal", _appeal, "GET POST", ("registrant",)),
        page(office, "/my/{number:int}/blocked", _blocked, "GET POST", ("registrant",)),
        page(office, "/officer/appeals", _list, roles=("officer", "auditor")),
        page(office, "/officer/{number:int}/answer", _answer, "POST", ("officer",)),
    ]


async def _appeal(here: Page) -> Response:
    view = own_view(here)
    if here.request.method == "POST":
        text = here.form.text("text")
        if not here.form.errors:
            here.desk.appeal(view.number, "rejection", text, here.desk.of_account(here.account))
            return here.go(f"/my/{view.number}", "appeal")
    return here.html("my_act.html", view=view, act="appeal", variant="")


async def _blocked(here: Page) -> Response:
    view = own_view(here)
    if "blocked" not in view.acts:
        is_open = view.appeal is not None and view.appeal.is_open
        reason = here.texts.t(f"my.not-now.{'blocked-open' if is_open else 'blocked'}")
        return here.problem(409, "refused", back=f"/my/{view.number}", reason=reason)
    if here.request.method == "POST":
        report = _report(here)
        if not here.form.errors:
            assert report is not None
            text = reports.written(report, here.form.get("text"))
            here.desk.appeal(view.number, "false-block", text, here.desk.of_account(here.account))
            finding = check(here.desk.ledger.events(view.number), report)
            return here.html("blocked.html", view=own_view(here), finding=finding)
        at, line, destination = here.form.get("at"), here.form.get("line"), here.form.get("destination")
    else:
        now = datetime.fromtimestamp(here.office.clock() // 10**9, UTC).astimezone(here.office.zone)
        at = f"{now:%Y-%m-%dT%H:%M}"
        lines = view.form.subscriber_prefixes
        line = here.address if covers(lines, here.address) else _first(lines)
        destination = _first(view.form.endpoint_prefixes)
    protocols = [(each, here.texts.t(f"protocol.{each}")) for each in view.form.protocols or VPN_PROTOCOLS]
    protocols += [
        (each, here.texts.t(f"protocol.{each}"))
        for each in VPN_PROTOCOLS
        if (each, here.texts.t(f"protocol.{each}")) not in protocols
    ]
    return here.html(
        "my_act.html",
        view=view,
        act="blocked",
        variant="",
        at=at,
        line=line,
        destination=destination,
        protocols=protocols,
    )


def _report(here: Page) -> Report | None:
    form = here.form
    at_ns = form.moment_ns("at", here.office.zone, here.office.clock())
    line, destination = form.address("line"), form.address("destination")
    protocol = form.choice("protocol", VPN_PROTOCOLS)
    ports = form.ports("port")
    form.text("text", least=0, most=1500)
    if at_ns is None:
        return None
    # People give minutes: the end of theirs, lest an approval of the same minute be overlooked.
    at_ns = min(at_ns + 59 * 10**9, here.office.clock())
    return Report(at_ns, line, destination, protocol, ports[0] if ports else None)


def _first(prefixes: tuple[str, ...]) -> str:
    """The first that is a single address: mostly the one that is meant, and saves typing."""
    return next((each.split("/")[0] for each in prefixes if each.endswith(("/32", "/128"))), "")


async def _list(here: Page) -> Response:
    found = here.desk.open_appeals()
    pages = Pages.of(here.query, len(found))
    views = [view_of(here.desk, each) for each in pages.slice(found)]
    return here.html("appeals.html", views=views, pages=pages)


async def _answer(here: Page) -> Response:
    from enforcer.registry.web.pages.officer import show

    registration = here.desk.ledger.registration(here.number)
    accepted = here.form.choice("accepted", ("yes", "no"))
    answer = here.form.text("answer")
    if here.form.errors:
        return show(here, registration)
    by = here.desk.of_account(here.account)
    here.desk.answer_appeal(registration.number, accepted == "yes", answer, by)
    return here.go(f"/officer/{registration.number}", "answered")
