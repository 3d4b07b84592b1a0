"""Pages for everybody: what this is, help in plain words, the API in words, languages, the style sheet."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from enforcer.protocols import TCP_PORTS, UDP_PORTS, VPN_PROTOCOLS
from enforcer.registry.form import REQUIRED_DOCUMENTS
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.office import Office
from enforcer.registry.web.visit import LANGUAGE_COOKIE

_STATIC = Path(__file__).parents[1] / "static"
_FILES = {"portal.css": "text/css", "icon.svg": "image/svg+xml"}


def routes(office: Office) -> list[Route]:
    return [
        page(office, "/", _home),
        page(office, "/help", _help),
        page(office, "/api", _api),
        page(office, "/language", _language),
        *(Route(f"/static/{name}", _static, methods=["GET"]) for name in _FILES),
    ]


async def _home(here: Page) -> Response:
    return here.html("home.html", rules=here.desk.ledger.rules)


async def _help(here: Page) -> Response:
    ports = {
        protocol: sorted(
            [
                *(f"UDP {port}" for port, each in UDP_PORTS.items() if each == protocol),
                *(f"TCP {port}" for port, each in TCP_PORTS.items() if each == protocol),
            ]
        )
        for protocol in VPN_PROTOCOLS
    }
    return here.html("help.html", ports=ports, documents=REQUIRED_DOCUMENTS)


async def _api(here: Page) -> Response:
    from enforcer.registry.web.readable import answers, calls, errors, example

    shown = example(str(here.request.base_url).rstrip("/"))
    return here.html("api.html", calls=calls(), answers=answers(), errors=errors(), example=shown)


async def _language(here: Page) -> Response:
    back = here.query.get("back", "/")
    # Only to a path of ours: "//elsewhere" is another host's.
    response = here.go(back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/")
    if here.query.get("to") in here.office.languages.all:
        response.set_cookie(
            LANGUAGE_COOKIE, here.query["to"], max_age=365 * 86400, httponly=True, samesite="lax"
        )
    return response


async def _static(request: Request) -> Response:
    name = request.url.path.rpartition("/")[2]
    return FileResponse(
        _STATIC / name, media_type=_FILES[name], headers={"Cache-Control": "public, max-age=3600"}
    )
