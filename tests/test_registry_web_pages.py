"""The portal's pages over HTTP: who sees and may do what, form tokens, sessions, limits, headers, languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from enforcer.registry.web.accounts import IDLE_NS
from enforcer.registry.web.limits import Limit
from enforcer.registry.web.texts import FOLDER
from tests.portal_site import ADDRESS, FIELDS, PASSWORD, PEOPLE, Reading, Site

MINE = ("", "/change-address", "/ask-renewal", "/withdraw", "/appeal", "/blocked")


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_registrant_signs_up_applies_and_sees_the_application(site) -> None:
    person = site.person()
    answer = person.send("/sign-up", {"account": "Bob@example.org", "new_password": PASSWORD, "repeat_password": PASSWORD})  # fmt: skip
    assert (answer.status_code, answer.headers["location"]) == (303, "/my?done=signed-up")
    answer = person.send("/my/apply", FIELDS)
    assert answer.headers["location"] == "/my/1?done=applied"
    page = person.see(answer.headers["location"]).text
    assert "Your application is received." in page and "The Internet provider confirms the line" in page
    assert site.ledger.registration(1).application.subscriber_prefixes == ("203.0.113.7/32",)


def test_every_mistake_of_an_application_is_told_at_its_field_and_what_was_typed_stays(site) -> None:
    wrong = {**FIELDS, "registrant": "", "documents": [], "subscriber_prefixes": "203.0.113.7/24", "endpoint_ports": "70000", "purpose": "<b>x"}  # fmt: skip
    answer = site.person("ada").send("/my/apply", wrong)
    assert answer.status_code == 422 and site.ledger.registrations() == []
    page = Reading(answer.text)
    fields = {each["href"] for each in page.all("a") if each.get("href", "").startswith("#")} - {"#main"}
    assert fields == {"#registrant", "#documents", "#subscriber_prefixes", "#endpoint_ports"}
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {each[1:] for each in fields} <= ids
    assert "203.0.113.0/24 for the whole block" in answer.text and "&lt;b&gt;x" in answer.text
    assert answer.text.count('aria-invalid="true"') == 3  # the group of boxes says so in its legend's text


def test_another_registrants_registration_is_not_there(site) -> None:
    mine, other = site.approved("ada"), site.approved("eve")
    ada = site.person("ada")
    for number in (other, 99, 2**40):
        for path in MINE:
            assert ada.see(f"/my/{number}{path}").status_code == 404, (number, path)
            if path:
                answer = ada.send(f"/my/{number}{path}", {**FIELDS, "confirm": "yes", "text": "x"})
                assert answer.status_code == 404
    assert ada.see(f"/my/{mine}").status_code == 200  # control
    assert "Registration 2" not in ada.see("/my").text
    events = [event.action for event in site.ledger.events(other)]
    assert events == ["apply", "verify", "approve"]


ROLES = {
    "/my": "registrant", "/my/apply": "registrant", "/officer": "officer auditor", "/officer/1": "officer auditor", "/officer/appeals": "officer auditor",
    "/provider": "provider", "/provider/1": "provider", "/audit": "officer auditor", "/bulk": "officer registrant", "/account": "registrant officer provider auditor",
}  # fmt: skip


@pytest.mark.parametrize("path", ROLES)
def test_each_page_is_for_its_roles_and_a_stranger_is_asked_to_sign_in(site, path) -> None:
    site.applied()
    stranger = site.person().see(path)
    assert (stranger.status_code, stranger.headers["location"]) == (303, f"/sign-in?next={path}")
    for name, role, provider in PEOPLE:
        allowed = 404 if path == "/provider/1" and provider == "Southern Mobile" else 200
        assert site.person(name).see(path).status_code == (allowed if role in ROLES[path].split() else 403), (path, name)  # fmt: skip


POSTS = ["/sign-in", "/sign-up", "/sign-out", "/status", "/my/apply", "/my/claim", "/my/1/change-address", "/my/1/withdraw", "/my/1/blocked", "/account", "/account/token", "/account/sign-out-everywhere"]  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
def test_a_form_from_elsewhere_does_nothing(site, path) -> None:
    site.applied()
    ada, other = site.person("ada"), site.person("eve")
    before = len(list(site.ledger.events()))
    fields = {**FIELDS, "confirm": "yes", "account": "x", "password": PASSWORD}
    for token in ({}, {"form_token": ""}, {"form_token": other.form_token()}):
        answer = ada.call("POST", path, data={**fields, **token})
        assert answer.status_code == 403 and "too old" in answer.text, path
    assert len(list(site.ledger.events())) == before and ada.see("/my").status_code == 200


def test_the_cookie_is_signed_not_for_scripts_not_for_other_sites_and_secure_over_tls(site) -> None:
    answer = site.person().sign_in("ada")
    assert re.search(r"portal=[^;]+; HttpOnly; Max-Age=43200; Path=/; SameSite=strict$", answer.headers["set-cookie"])  # fmt: skip
    answer = site.person(scheme="https").sign_in("ada")
    assert answer.headers["set-cookie"].startswith("__Host-portal=") and answer.headers["set-cookie"].endswith("; Secure")  # fmt: skip
    assert "strict-transport-security" in answer.headers
    ada = site.person("ada")
    cookie = ada.cookies["portal"]
    for forged in (cookie[:-1] + ("A" if cookie[-1] != "A" else "B"), cookie.split(".")[0], "x"):
        ada.cookies.clear()
        ada.cookies.set("portal", forged)
        assert ada.see("/my").status_code == 303
    ada.cookies.clear()
    ada.cookies.set("portal", cookie)
    assert ada.see("/my").status_code == 200  # control


def test_sign_in_gives_a_new_session_and_sign_out_ends_it_for_good(site) -> None:
    person = site.person()
    before = person.form_token()
    visit = person.cookies["portal"]
    person.sign_in("ada")
    session = person.cookies["portal"]
    assert session != visit and person.form_token() != before
    person.send("/sign-out", {})
    person.cookies.clear()
    person.cookies.set("portal", session)
    assert person.see("/my").status_code == 303


def test_an_idle_session_ends(site) -> None:
    ada = site.person("ada")
    site.now_ns += IDLE_NS - 1
    assert ada.see("/my").status_code == 200
    site.now_ns += IDLE_NS + 1
    assert ada.see("/my").status_code == 303


def test_what_was_typed_is_not_lost_with_the_session(site) -> None:
    ada = site.person("ada")
    token = ada.form_token("/my/apply?category=freelancer")
    site.now_ns += IDLE_NS + 1
    late = ada.call("POST", "/my/apply", data={**FIELDS, "form_token": token})
    assert late.status_code == 403 and 'href="/sign-in?next=/my/apply"' in late.text
    for typed in (
        "Ada Lovelace",
        "NF-1001",
        "203.0.113.7",
        "Identity card, both sides, Letter of",
        "WireGuard",
    ):
        assert typed in late.text
    assert token not in Reading(late.text).texts and site.ledger.registrations() == []
    password = ada.call("POST", "/account", data={"form_token": token, "password": "secret word"})
    assert password.status_code == 403 and "secret word" not in password.text
    other = ada.call("POST", "/my/apply", data={**FIELDS, "form_token": "x"})
    assert other.status_code == 303 and other.text == ""  # control: another site's words are not shown


def test_guessing_passwords_is_slowed_by_account_and_by_address_and_time_forgives(site) -> None:
    site = Site(limits={"sign-in-account": Limit(3, 1), "sign-in-address": Limit(5, 60)})
    person = site.person()
    assert [person.sign_in("ada", "wrong").status_code for _ in range(4)] == [422, 422, 422, 429]
    answer = person.sign_in("ada")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) == 60
    assert person.sign_in("officer.khan").status_code == 303  # control: another's account is another's
    assert [site.person().sign_in(f"x{n}", "wrong").status_code for n in range(3)] == [422, 422, 429]
    site.now_ns += 61 * 10**9
    assert person.sign_in("ada").status_code == 303


def test_a_wrong_name_and_a_wrong_password_look_alike(site) -> None:
    def page(name: str) -> str:
        return re.sub(r'value="[^"]*"', "", site.person().sign_in(name, "wrong").text)

    assert page("ada") == page("nobody-at-all")


def test_after_signing_in_one_goes_where_one_wanted_but_never_to_another_host(site) -> None:
    for wanted, reached in (("/my/apply", "/my/apply"), ("//evil.example", "/my"), ("https://evil.example", "/my"), ("/\\evil.example", "/my")):  # fmt: skip
        answer = site.person().send("/sign-in", {"account": "ada", "password": PASSWORD, "next": wanted})
        assert answer.headers["location"] == reached
    assert site.person().see("/language?to=en&back=//evil.example").headers["location"] == "/"


def test_every_answer_carries_the_security_headers(site) -> None:
    number = site.applied()
    ada = site.person("ada")
    for path in ("/", "/my", f"/my/{number}", "/nowhere", "/openapi.json", "/static/portal.css", "/applications", "/feed/key"):  # fmt: skip
        headers = ada.see(path).headers
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff", path
        shared = path in ("/openapi.json", "/static/portal.css")
        assert ("no-store" in headers["cache-control"]) is not shared, path


@pytest.mark.parametrize("path", ["/", "/help", "/api", "/sign-in", "/sign-up", "/status"])
def test_pages_hold_neither_scripts_nor_inline_styles_nor_anything_from_elsewhere(site, path) -> None:
    page = Reading(site.person().see(path).text)
    assert page.all("script") == [] and page.all("style") == []
    for _, attributes in page.tags:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
        assert not re.match(r"(https?:)?//", attributes.get("href", "") or attributes.get("src", ""))


def test_a_long_body_is_refused_before_it_is_read(site) -> None:
    ada = site.person("ada")
    assert ada.send("/my/apply", {**FIELDS, "purpose": "x" * 300_000}).status_code == 413

    async def endless():
        while True:
            yield b"x" * 65536

    form = {"content-type": "application/x-www-form-urlencoded"}
    assert ada.call("POST", "/my/apply", content=endless(), headers=form).status_code == 413
    answer = ada.send("/my/apply", {**FIELDS, "purpose": "x" * 2001})
    assert answer.status_code == 422 and "2001 characters long; 2000 are the most" in answer.text


def test_what_no_route_answers_is_a_page_for_people_and_json_for_programs(site) -> None:
    person = site.person()
    assert "Not found" in person.see("/nowhere").text
    assert person.see("/applications/x/y").json() == {"error": "there is no such call"}
    assert person.call("DELETE", "/my").status_code == 405
    assert person.call("DELETE", "/applications").headers["allow"]


def test_a_fault_of_ours_is_told_without_its_insides(site, monkeypatch) -> None:
    ada = site.person("ada")
    monkeypatch.setattr(type(site.desk), "mine", lambda *_: 1 / 0)
    answer = ada.see("/my")
    assert answer.status_code == 500 and "Something went wrong here" in answer.text
    assert "ZeroDivision" not in answer.text and "content-security-policy" in answer.headers


def _pseudo(folder: Path) -> Path:
    """A made-up second language: every text in ⟦brackets⟧."""

    def changed(data):
        return {
            key: changed(value) if isinstance(value, dict) else f"⟦{value}⟧" for key, value in data.items()
        }

    yaml = YAML(typ="safe")
    words = changed(yaml.load(FOLDER / "en.yaml"))
    words["language"] = {"name": "⟦Pseudo⟧", "direction": "rtl"}
    with (folder / "qps.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(words, file)
    return folder


def test_a_second_language_is_a_file_and_no_page_says_a_word_that_is_not_in_it(tmp_path) -> None:
    site = Site(texts=_pseudo(tmp_path))
    site.approved("ada")
    site.applied("ada")
    data = {*PEOPLE[0], ADDRESS, "Ada Lovelace", "Northern Fibre", "Southern Mobile", "NF-1001", "northern", "officer.khan", "papers are in order", "access to a client's servers"}  # fmt: skip
    paths = {
        "": ["/", "/help", "/sign-in", "/sign-up", "/status", "/nowhere"],
        "ada": ["/my", "/my/apply", "/my/apply?category=freelancer", "/account", *(f"/my/1{path}" for path in MINE)],
        "officer.khan": ["/officer", "/officer?state=", "/officer/1", "/officer/2", "/officer/appeals", "/audit", "/bulk"],
        "northern": ["/provider", "/provider/2"],
    }  # fmt: skip
    seen = 0
    for name, where in paths.items():
        person = site.person(name)
        for path in where:
            person.cookies.set("language", "qps")
            answer = person.see(path)
            assert answer.status_code in (200, 404), path
            assert '<html lang="qps" dir="rtl">' in answer.text
            loose = [text for text in Reading(answer.text).texts if not _is_said(text, data | {name})]
            assert loose == [], path
            seen += 1
    assert seen > 20
    english = site.person().see("/").text  # control: without the cookie, English, and the check would see it
    assert not all(_is_said(text, data) for text in Reading(english).texts)


def _is_said(text: str, data: set[str]) -> bool:
    """Whether it is in the language's brackets once what people wrote, numbers, addresses and times are taken out."""
    while (shorter := re.sub(r"⟦[^⟦⟧]*⟧", "", text)) != text:
        text = shorter
    for each in sorted(data, key=len, reverse=True):
        text = text.replace(each, "") if each else text
    text = re.sub(r"\b(UTC|UDP|TCP|English)\b|[0-9a-f:.]*[0-9][0-9a-f:./]*", "", text)
    return not re.search(r"[^\W\d_]", text)
