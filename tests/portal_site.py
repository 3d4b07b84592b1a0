"""The portal in this process, for tests of its pages: a person with a browser's manners and none of its weight."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.registry.desk import Desk, Tokens
from enforcer.registry.ledger import Ledger
from enforcer.registry.portal import portal
from enforcer.registry.states import Rules
from enforcer.registry.web.accounts import Accounts
from enforcer.registry.web.limits import LIMITS, Limit, Limiter
from enforcer.registry.web.office import Office, Settings
from enforcer.registry.web.passwords import Cost, hashed
from enforcer.registry.worktime import PAKISTAN

ADDRESS = "203.0.113.7"  # where everybody comes from
_LOOP = asyncio.new_event_loop()
CHEAP = Cost(2**4, 8, 1)
PASSWORD = "three good words"
FIELDS = {
    "category": "freelancer",
    "registrant": "Ada Lovelace",
    "documents": ["identity", "employment"],
    "purpose": "access to a client's servers",
    "provider": "Northern Fibre",
    "subscriber_id": "NF-1001",
    "subscriber_prefixes": "203.0.113.7",
    "endpoint_prefixes": "198.51.100.4",
    "protocols": ["wireguard"],
    "endpoint_ports": "51820",
}
HOUR_NS = 3600 * 10**9
RULES = Rules(
    validity_ns=365 * 24 * HOUR_NS,
    requires_documents=True,
    calendar=PAKISTAN,
    verification_ns=8 * HOUR_NS,
    decision_ns=10 * HOUR_NS,
    appeal_ns=16 * HOUR_NS,
)
NO_LIMITS = dict.fromkeys(LIMITS, Limit(10**9, 10**9))
PEOPLE = (("ada", "registrant", ""), ("eve", "registrant", ""), ("officer.khan", "officer", ""), ("auditor.rao", "auditor", ""), ("northern", "provider", "Northern Fibre"), ("southern", "provider", "Southern Mobile"))  # fmt: skip


class Site:
    """One portal over an empty ledger, with PEOPLE. `clock` may be moved."""

    def __init__(self, rules: Rules = RULES, limits: dict[str, Limit] | None = None, texts: Path | None = None) -> None:  # fmt: skip
        self.now_ns = 1_770_000_000_000_000_000  # Monday, 2026-02-02 02:40 UTC
        self.accounts = Accounts(":memory:", self.clock)
        for name, role, provider in PEOPLE:
            self.accounts.add(name, hashed(PASSWORD, CHEAP), role, provider)  # type: ignore[arg-type]
        self.ledger = Ledger(":memory:", rules, self.clock)
        self.desk = Desk(self.ledger, Ed25519PrivateKey.generate(), Tokens("isp-token", "officer-token"), self.accounts, self.clock)  # fmt: skip
        limiter = Limiter(
            {**NO_LIMITS, **(limits or {})}, clock=lambda: (self.now_ns - 1_770_000_000_000_000_000) / 1e9
        )
        self.office = Office(self.desk, limiter, Settings(password_cost=CHEAP), self.clock, texts=texts)
        self.app = portal(self.desk, self.office)

    def clock(self) -> int:
        return self.now_ns

    def person(self, name: str = "", scheme: str = "http") -> Person:
        found = Person(self, scheme)
        if name:
            found.sign_in(name)
        return found

    def applied(self, name: str = "ada", **changes: Any) -> int:
        """The number of a registration that was applied for on the page."""
        # The same thing twice would be refused: each but the first has a second server of its own.
        count = len(self.ledger.registrations())
        servers = {"endpoint_prefixes": f"198.51.100.4 192.0.2.{count}"} if count else {}
        answer = self.person(name).send("/my/apply", {**FIELDS, **servers, **changes})
        assert answer.status_code == 303, answer.text
        return int(re.findall(r"/my/(\d+)", answer.headers["location"])[0])

    def approved(self, name: str = "ada", **changes: Any) -> int:
        number = self.applied(name, **changes)
        assert self.person("northern").send(f"/provider/{number}", {"verified": "yes"}).status_code == 303
        answer = self.person("officer.khan").send(
            f"/officer/{number}", {"action": "approve", "reason": "papers are in order"}
        )
        assert answer.status_code == 303
        return number


class Person:
    """A browser: cookies, and the form token of the last page. `cookies` and `headers` may be changed."""

    def __init__(self, site: Site, scheme: str = "http") -> None:
        transport = httpx.ASGITransport(site.app, raise_app_exceptions=False, client=(ADDRESS, 50000))
        self._http = httpx.AsyncClient(transport=transport, base_url=f"{scheme}://portal.example")
        self.cookies = self._http.cookies

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return _LOOP.run_until_complete(self._http.request(method, path, **more))

    def see(self, path: str) -> httpx.Response:
        return self.call("GET", path)

    def form_token(self, path: str = "/sign-in") -> str:
        found = re.search(r'name="form_token" value="(\w+)"', self.see(path).text)
        assert found, path
        return found[1]

    def send(self, path: str, fields: dict[str, Any], **more: Any) -> httpx.Response:
        return self.call("POST", path, data={"form_token": self.form_token(), **fields}, **more)

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        return self.send("/sign-in", {"account": name, "password": password})


_VOID = {"meta", "link", "input", "br", "img", "hr"}


class Reading(HTMLParser):
    """What a page consists of, for checks: tags with attributes, and the text that is seen or spoken (not code, which is data)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self._said: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._said.setdefault(tag, []).append(attributes.get("aria-label", ""))
        if tag not in _VOID:
            self._open.append(tag)
        self.texts += [attributes[name] for name in ("aria-label", "title", "alt", "placeholder", "data-label") if name in attributes]  # fmt: skip

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open) if data.strip() else ():
            self._said[tag][-1] += data.strip()
        if data.strip() and not {"style", "code", "pre"} & set(self._open):
            self.texts.append(data.strip())

    def words_of(self, tag: str) -> list[str]:
        """What each element of a kind says: its label for the ear if it has one, else the text inside."""
        return self._said.get(tag, [])

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]
