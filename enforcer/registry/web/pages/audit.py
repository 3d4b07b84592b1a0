"""Who did what when, newest first, and whether the chain of events is whole. For auditors and officers."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from enforcer.registry.states import TRANSITIONS
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.office import Office
from enforcer.registry.web.paging import PER_PAGE
from enforcer.registry.web.view import line_of


def routes(office: Office) -> list[Route]:
    return [page(office, "/audit", _audit, roles=("auditor", "officer"))]


async def _audit(here: Page) -> Response:
    chosen = {name: here.query.get(name, "").strip()[:200] for name in ("number", "what", "who")}
    before = here.query.get("before", "")
    events = here.desk.audit(
        before=_number(before), number=_number(chosen["number"]), action=chosen["what"], by=chosen["who"]
    )
    lines = [line_of(event) for event, _ in zip(events, range(PER_PAGE + 1), strict=False)]
    older = lines[PER_PAGE - 1].sequence if len(lines) > PER_PAGE else None
    actions = [(each, here.texts.t(f"action.{each}")) for each in TRANSITIONS]
    return here.html(
        "audit.html",
        lines=lines[:PER_PAGE],
        older=older,
        chosen=chosen,
        actions=actions,
        link=f"/audit?{urlencode(chosen)}&",
        chain=here.desk.chain(),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
