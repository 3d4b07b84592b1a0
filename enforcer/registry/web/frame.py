"""What every page goes through: visit, language, role, form token, rate limit; then a template or a redirect."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from enforcer.registry.ledger import UnknownRegistration
from enforcer.registry.states import BadApplication, IllegalTransition
from enforcer.registry.web import visit as visits
from enforcer.registry.web.accounts import Account, Role
from enforcer.registry.web.forms import Form
from enforcer.registry.web.limits import address_key
from enforcer.registry.web.texts import Texts
from enforcer.registry.web.words import Words

if TYPE_CHECKING:
    from enforcer.registry.desk import Desk
    from enforcer.registry.web.office import Office

MOST_FIELDS = 2000
_UNTOLD = (
    "form_token",
    "token",
    "version",
)  # fields that nobody typed, or nobody should read over a shoulder


class NotHere(Exception):
    """There is no such page for this visitor: answered alike whether it is another's or nobody's."""


@dataclass
class Page:
    """One request for a page, and what it needs to answer."""

    office: Office
    request: Request
    visit: visits.Visit
    texts: Texts
    form: Form
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def desk(self) -> Desk:
        return self.office.desk

    @property
    def account(self) -> Account:
        """Of a page with roles: there is one."""
        assert self.visit.account is not None
        return self.visit.account

    @property
    def address(self) -> str:
        """Where the request came from, as the proxies that are trusted say."""
        return self.request.client.host if self.request.client else ""

    @property
    def number(self) -> int:
        return self.request.path_params["number"]

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def html(self, template: str, status: int = 200, **values: Any) -> Response:
        """The template, with `t`, the visit and the errors of the form (422 when there are some)."""
        status = 422 if self.form.errors and status == 200 else status
        words = Words(self.texts, self.office.zone, self.desk.ledger.rules.calendar.day_ns)
        done = self.query.get("done", "")
        body = (
            _templates()
            .get_template(template)
            .render(
                t=self.texts.t,
                count=self.texts.count,
                words=words,
                texts=self.texts,
                languages=self.office.languages.all.values(),
                account=self.visit.account,
                form=self.form,
                form_token=self.visit.form_token,
                address=self.address,
                path=self.request.url.path,
                done=f"done.{done}" if self.texts.has(f"done.{done}") else None,
                now_ns=self.office.clock(),
                is_demo=self.office.settings.is_demo,
                **values,
            )
        )
        return HTMLResponse(body, status)

    def go(self, path: str, done: str = "") -> Response:
        """To another page with GET; `done` names the sentence it greets with (texts: done.*)."""
        return RedirectResponse(path + (f"?{urlencode({'done': done})}" if done else ""), 303)

    def problem(self, status: int, key: str, back: str = "", **values: Any) -> Response:
        """A page that says what is wrong and where to go on (texts: problem.KEY.title, .text). back: the path of the visitor's registration."""
        title = self.texts.t(f"problem.{key}.title")
        text = self.texts.t(f"problem.{key}.text", **values)
        return self.html("problem.html", status, title=title, text=text, back=back)


Handler = Callable[[Page], Awaitable[Response]]


def page(
    office: Office, path: str, handler: Handler, methods: str = "GET", roles: tuple[Role, ...] = ()
) -> Route:
    """A route. methods: "GET", "POST" or "GET POST". Without roles it is everybody's."""

    async def answer(request: Request) -> Response:
        visit = visits.visit_of(request, office.accounts)
        texts = office.languages.choose(
            request.cookies.get(visits.LANGUAGE_COOKIE), request.headers.get("accept-language", "")
        )
        form = Form(texts, accepts_private=office.desk.ledger.rules.accepts_private_addresses)
        here = Page(office, request, visit, texts, form)
        response = await _answer(here, handler, roles)
        if visit.is_new and "set-cookie" not in response.headers:
            visits.keep(response, request, office.accounts, visit.id)
        response.headers["Vary"] = "Cookie, Accept-Language"
        return response

    return Route(path, answer, methods=methods.split())


async def _answer(here: Page, handler: Handler, roles: tuple[Role, ...]) -> Response:
    try:
        wait_s = _wait_s(here)
        if wait_s:
            return too_many(here, wait_s)
        if roles and here.visit.account is None:
            return await _signed_out(here)
        if roles and here.account.role not in roles:
            return here.problem(403, "role", role=here.texts.t(f"role.{here.account.role}"))
        if here.request.method == "POST":
            await _read_form(here)
            if not here.visit.is_own_form(here.form.get("form_token")):
                return here.problem(403, "form-token")
        return await handler(here)
    except (NotHere, UnknownRegistration):
        return here.problem(404, "not-here")
    except BadApplication as error:
        # Only what the form's own check does not know comes here; the words are the ledger's.
        return here.problem(422, "refused", reason="; ".join(error.problems))
    except IllegalTransition as error:
        return here.problem(409, "refused", reason=str(error))


async def _signed_out(here: Page) -> Response:
    """To the sign-in. Of a form that was sent too late, shows what was typed: it took somebody half an hour."""
    if here.request.method == "POST":
        await _read_form(here)
        if here.visit.is_own_form(here.form.get("form_token")):
            typed = [
                (name, values)
                for name, values in here.form.many.items()
                if any(values) and name not in _UNTOLD and "password" not in name
            ]
            return here.html("session_ended.html", 403, typed=typed)
    return here.go(f"/sign-in?next={quote(here.request.url.path)}")


def too_many(here: Page, wait_s: float) -> Response:
    """429, with when to come again."""
    response = here.problem(429, "too-many", wait=here.texts.count("unit.seconds", math.ceil(wait_s)))
    response.headers["Retry-After"] = str(math.ceil(wait_s))
    return response


def _wait_s(here: Page) -> float:
    limiter, address = here.office.limiter, address_key(here.address)
    if here.request.method != "POST":
        return limiter.take("get-address", address)
    if here.visit.account is not None:
        return limiter.take("post-account", here.visit.account.name)
    return limiter.take("post-address", address)


async def _read_form(here: Page) -> None:
    try:
        data = await here.request.form(max_files=1, max_fields=MOST_FIELDS)
    except (MultiPartException, ValueError):
        return  # without a form token it is refused anyway
    fields: dict[str, str] = {}
    many: dict[str, list[str]] = {}
    files: dict[str, bytes] = {}
    for name, value in data.multi_items():
        if isinstance(value, str):
            # A NUL is nothing a person types, and SQLite's text ends at it.
            clean = value.replace("\x00", "").replace("\r\n", "\n")
            fields.setdefault(name, clean)
            many.setdefault(name, []).append(clean)
        elif value.filename:
            files[name] = await value.read()
    await data.close()
    here.form.fields, here.form.many, here.files = fields, many, files


@cache
def _templates() -> Any:
    import jinja2  # only when somebody opens a page: the registry starts faster without

    return jinja2.Environment(
        loader=jinja2.PackageLoader("enforcer.registry.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def failure(office: Office, request: Request, status: int, headers: Mapping[str, str]) -> Response:
    """A page for what no route answers: no such page (404), no such method (405), a fault of ours (500)."""
    visit = visits.visit_of(request, office.accounts)
    texts = office.languages.choose(
        request.cookies.get(visits.LANGUAGE_COOKIE), request.headers.get("accept-language", "")
    )
    here = Page(office, request, visit, texts, Form(texts))
    response = here.problem(status, {404: "not-here", 405: "method", 413: "too-long"}.get(status, "broken"))
    response.headers.update(headers)
    return response
