"""The portal's pages for people: apply, my status, the officer's queue. Plain HTML that works without scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.ledger import UnknownRegistration
from enforcer.registry.states import BadApplication, IllegalTransition

if TYPE_CHECKING:
    from enforcer.registry.portal import Desk

COOKIE = "registry_token"


def page_routes(desk: Desk) -> list[Route]:
    """GET / and POST /apply; GET, POST /status; GET /officer, POST /officer/login and /officer/NUMBER/ACTION."""
    return [
        Route("/", _page(desk, _home), methods=["GET"]),
        Route("/apply", _page(desk, _apply), methods=["POST"]),
        Route("/status", _page(desk, _status), methods=["GET", "POST"]),
        Route("/officer", _page(desk, _officer), methods=["GET"]),
        Route("/officer/login", _page(desk, _login), methods=["POST"]),
        Route("/officer/{number:int}/{action}", _page(desk, _act), methods=["POST"]),
    ]


Fields = dict[str, str]
PageHandler = Callable[["Desk", Request, Fields], Awaitable[Response]]


def _page(desk: Desk, handler: PageHandler) -> Callable[[Request], Awaitable[Response]]:
    from enforcer.registry.portal import Refused, read_body

    async def page(request: Request) -> Response:
        try:
            fields: Fields = {}
            if request.method == "POST":
                text = (await read_body(request)).decode("utf-8", "replace")
                fields = {name: values[0] for name, values in parse_qs(text, max_num_fields=100).items()}
            return await handler(desk, request, fields)
        except BadApplication as error:
            return _html("problem", 422, title="The form is wrong", problems=error.problems)
        except (Refused, IllegalTransition, UnknownRegistration, ValueError) as error:
            return _html(
                "problem", getattr(error, "status", 409), title="Not possible", problems=[str(error)]
            )

    return page


async def _home(_desk: Desk, _request: Request, _fields: Fields) -> Response:
    return _html("apply", title="Register VPN use", protocols=VPN_PROTOCOLS)


async def _apply(desk: Desk, _request: Request, fields: Fields) -> Response:
    ports = fields.get("endpoint_ports", "").replace(",", " ").split()
    form: dict[str, Any] = {
        "registrant": fields.get("registrant", ""),
        "category": fields.get("category", "company"),
        "purpose": fields.get("purpose", ""),
        "subscriber_prefixes": fields.get("subscriber_prefixes", "").replace(",", " ").split(),
        "endpoint_prefixes": fields.get("endpoint_prefixes", "").replace(",", " ").split(),
        "endpoint_ports": [int(port) if port.isdecimal() else port for port in ports],
        "protocols": fields.get("protocols", "").replace(",", " ").split(),
    }
    registration, token = desk.apply(form)
    return _html("applied", 201, title="Application received", registration=registration, token=token)


async def _status(desk: Desk, request: Request, fields: Fields) -> Response:
    if request.method == "GET":
        return _html("ask", title="My registration")
    number = fields.get("number", "")
    if not number.isdecimal():
        raise ValueError("number: write your registration's number")
    registration = desk.look(int(number), fields.get("token", ""))
    history = list(desk.ledger.events(registration.number))
    return _html("status", title=f"Registration {number}", registration=registration, history=history)


async def _officer(desk: Desk, request: Request, _fields: Fields) -> Response:
    role = desk.role(request.cookies.get(COOKIE, ""))
    if role is None:
        return _html("login", title="Officers and ISPs")
    return _html(
        "queue",
        title="Queue",
        role=role,
        pending=desk.ledger.registrations("pending"),
        running=desk.ledger.registrations("active") + desk.ledger.registrations("suspended"),
        serial=desk.ledger.serial,
        requires_verification=desk.ledger.rules.requires_verification,
    )


async def _login(desk: Desk, _request: Request, fields: Fields) -> Response:
    desk.require(fields.get("token", ""), "isp", "officer")
    answer = RedirectResponse("/officer", 303)
    # Strict: another site's form cannot act with an officer's cookie.
    answer.set_cookie(COOKIE, fields["token"], httponly=True, samesite="strict")
    return answer


async def _act(desk: Desk, request: Request, fields: Fields) -> Response:
    token, number = request.cookies.get(COOKIE, ""), request.path_params["number"]
    action, reason = request.path_params["action"], fields.get("reason", "")
    if action in ("verify", "refuse-verify"):
        desk.verify(number, token, action == "verify", reason)
    elif action in ("approve", "reject", "revoke", "suspend", "renew"):
        desk.decide(number, token, action, reason)
    else:
        raise ValueError(f"unknown action {action!r}")
    return RedirectResponse("/officer", 303)


def _html(name: str, code: int = 200, **values: Any) -> Response:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"}
    return HTMLResponse(
        _templates().get_template(name).render(**values), code, {**headers, "Cache-Control": "no-store"}
    )


@cache
def _templates() -> Any:
    import jinja2  # only when somebody opens a page: the registry starts faster without

    environment = jinja2.Environment(
        loader=jinja2.DictLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["when"] = lambda ns: datetime.fromtimestamp(ns / 1e9, UTC).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )
    return environment


_TEMPLATES = {
    "base": """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}
label{display:block;margin:.6rem 0}input,textarea,select{font:inherit;width:100%;box-sizing:border-box}
button{font:inherit;width:auto}td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
form.act{display:inline-block;margin-right:.3rem}form.act input{width:9rem}</style>
<nav><a href="/">Apply</a> · <a href="/status">My registration</a> · <a href="/officer">Officers and ISPs</a></nav>
<h1>{{ title }}</h1>{% block body %}{% endblock %}</html>""",
    "problem": """{% extends "base" %}{% block body %}<ul>{% for each in problems %}<li>{{ each }}</li>{% endfor %}</ul>{% endblock %}""",
    "apply": """{% extends "base" %}{% block body %}<form method="post" action="/apply">
<label>Name of the person or company <input name="registrant" required></label>
<label>Category <select name="category"><option>company<option>freelancer<option>call-centre<option>video-conference</select></label>
<label>Addresses of your line (prefixes) <input name="subscriber_prefixes" required placeholder="203.0.113.7/32 2001:db8:1::/48"></label>
<label>Addresses of the VPN server (prefixes) <input name="endpoint_prefixes" required placeholder="198.51.100.4/32"></label>
<label>Its ports (none: any) <input name="endpoint_ports" placeholder="51820"></label>
<label>Protocols (none: any) <input name="protocols" placeholder="{{ protocols | join(' ') }}"></label>
<label>Purpose <textarea name="purpose" rows="3"></textarea></label><button>Apply</button></form>{% endblock %}""",
    "applied": """{% extends "base" %}{% block body %}<p>Your registration has number <strong>{{ registration.number }}</strong> and is
<strong>{{ registration.state }}</strong>.</p><p>Keep this token; it is shown once: <code>{{ token }}</code></p>{% endblock %}""",
    "ask": """{% extends "base" %}{% block body %}<form method="post" action="/status"><label>Number <input name="number" required></label>
<label>Token <input name="token" type="password" required></label><button>Show</button></form>{% endblock %}""",
    "status": """{% extends "base" %}{% block body %}<p>{{ registration.application.registrant }}: <strong>{{ registration.state }}</strong></p>
<table><tr><th>When<th>What<th>By<th>Reason</tr>{% for event in history %}<tr><td>{{ event.at_ns | when }}<td>{{ event.action }}
{% if event.action == "verify" %}({{ "confirmed" if event.data.verified else "refused" }}){% endif %}<td>{{ event.actor }}<td>{{ event.reason }}</tr>
{% endfor %}</table>{% endblock %}""",
    "login": """{% extends "base" %}{% block body %}<form method="post" action="/officer/login">
<label>Token <input name="token" type="password" required></label><button>Enter</button></form>{% endblock %}""",
    "queue": """{% extends "base" %}{% macro act(number, action) %}<form class="act" method="post" action="/officer/{{ number }}/{{ action }}">
<button>{{ action }}</button></form>{% endmacro %}{% block body %}<p>You are: {{ role }}. Allowlist serial {{ serial }}.</p>
<table><tr><th>#<th>Registrant<th>State<th>Line<th>Server<th>ISP<th></tr>{% for each in pending + running %}<tr><td>{{ each.number }}
<td>{{ each.application.registrant }} ({{ each.application.category }})<td>{{ each.state }}<td>{{ each.application.subscriber_prefixes | join(" ") }}
<td>{{ each.application.endpoint_prefixes | join(" ") }}
<td>{{ {None: "not yet", true: "confirmed", false: "refused"}[each.is_verified] }}<td>
{% if role == "isp" %}{% if each.state == "pending" or each.new_prefixes %}{{ act(each.number, "verify") }}{{ act(each.number, "refuse-verify") }}{% endif %}
{% elif each.state == "pending" %}{% if each.is_verified or not requires_verification %}{{ act(each.number, "approve") }}{% endif %}{{ act(each.number, "reject") }}
{% elif each.state == "active" %}{{ act(each.number, "suspend") }}{{ act(each.number, "revoke") }}{{ act(each.number, "renew") }}
{% else %}{{ act(each.number, "renew") }}{{ act(each.number, "revoke") }}{% endif %}</tr>{% endfor %}</table>{% endblock %}""",
}
