"""Correcting an application while it waits: the ledger's rule, the page, the call, and what officers and providers see of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enforcer.registry.changes import form_changes
from enforcer.registry.form import BadApplication
from enforcer.registry.ledger import Ledger
from enforcer.registry.states import Application, Document, IllegalTransition, Rules
from tests.portal_site import FIELDS, Reading, Site

FORM = Application("Ada", ("203.0.113.7/32",), ("198.51.100.4/32",), provider="Northern Fibre", subscriber_id="NF-7", documents=(Document("tax", "ATL 2026"),))  # fmt: skip
DAY = 86400 * 10**9


class At:
    def __init__(self, **rules: Any) -> None:
        self.now = 1_000 * DAY
        self.ledger = Ledger(
            ":memory:", Rules(verification_ns=3 * DAY, decision_ns=2 * DAY, **rules), clock=lambda: self.now
        )
        self.ledger.apply(FORM)
        self.now += DAY


@pytest.mark.parametrize(
    ("changes", "asks"),
    [({"registrant": "Ada L"}, True), ({"provider": "Southern"}, True), ({"subscriber_id": "NF-8"}, True), ({"subscriber_prefixes": ("203.0.113.8/32",)}, True),
     ({"endpoint_prefixes": ("198.51.100.5/32",)}, False), ({"purpose": "x"}, False), ({"category": "bank"}, False), ({"contact": "x"}, False), ({"endpoint_ports": (443,)}, False)],
)  # fmt: skip
def test_the_provider_is_asked_again_when_what_it_compares_is_corrected(changes, asks) -> None:
    at = At(on_silence="refuse")
    at.ledger.verify(1, True)
    before = at.ledger.registration(1)
    at.now += DAY
    now = at.ledger.correct(1, replace(FORM, **changes))
    assert now.application == replace(FORM, **changes) and now.state == "pending"
    assert now.is_verified is (None if asks else True) and now.version != before.version
    assert now.waits_for_provider is asks and now.asked_ns == (at.now if asks else before.asked_ns)
    assert now.verification_due_ns == (at.now + 3 * DAY if asks else None)
    assert now.decision_due_ns == (None if asks else at.now + 2 * DAY)
    assert [each.number for each in at.ledger.waiting_for_provider(now.application.provider)] == ([1] if asks else [])  # fmt: skip
    if not asks:
        assert at.ledger.decide(1, "approve").entry() is not None  # control: the answer stands
    else:
        with pytest.raises(IllegalTransition, match="has not answered yet"):
            at.ledger.decide(1, "approve")


def test_a_correction_for_the_officer_alone_leaves_the_providers_time_as_it_was() -> None:
    at = At()
    due_ns = at.ledger.registration(1).verification_due_ns
    now = at.ledger.correct(1, replace(FORM, purpose="another"))
    assert (now.verification_due_ns, now.decision_due_ns) == (due_ns, None)


def test_where_no_provider_is_asked_the_officers_time_begins_again() -> None:
    at = At(requires_verification=False)
    assert at.ledger.correct(1, replace(FORM, subscriber_id="x")).decision_due_ns == at.now + 2 * DAY


def test_what_is_decided_or_not_different_or_incomplete_is_not_corrected() -> None:
    at = At(requires_documents=False)
    with pytest.raises(BadApplication, match="nothing in it differs"):
        at.ledger.correct(1, FORM)
    at.ledger.rules = replace(at.ledger.rules, requires_documents=True)
    with pytest.raises(BadApplication, match="company needs identity"):
        at.ledger.correct(1, replace(FORM, purpose="x"))
    at.ledger.rules = replace(at.ledger.rules, requires_documents=False)
    at.ledger.verify(1, True)
    at.ledger.decide(1, "approve")
    for act in (lambda: None, lambda: at.ledger.decide(1, "suspend"), lambda: at.ledger.withdraw(1)):
        act()
        with pytest.raises(IllegalTransition, match="cannot correct it.*withdraw it and apply again"):
            at.ledger.correct(1, replace(FORM, purpose="x"))
    assert [event.action for event in at.ledger.events()] == [
        "apply",
        "verify",
        "approve",
        "suspend",
        "withdraw",
    ]


def test_what_was_changed_is_told_field_by_field() -> None:
    at = At()
    at.ledger.correct(1, replace(FORM, registrant="Ada L", endpoint_ports=(443,)))
    at.ledger.change_address(1, ["203.0.113.9/32"])
    told = [[(each.field, each.before, each.now) for each in change.fields] for change in form_changes(at.ledger.events(1))]  # fmt: skip
    assert told == [
        [("registrant", "Ada", "Ada L"), ("endpoint_ports", (), (443,))],
        [("subscriber_prefixes", ("203.0.113.7/32",), ("203.0.113.9/32",))],
    ]


# The page


@pytest.fixture
def site() -> Site:
    return Site()


def filled(html: str) -> dict[str, Any]:
    """The form of a page as a browser would send it."""
    import re
    from html import unescape

    page = Reading(html)
    found: dict[str, Any] = {}
    for each in page.all("input"):
        kind, name = each.get("type"), each.get("name", "")
        if kind in ("checkbox", "radio") and "checked" in each:
            found.setdefault(name, []).append(each["value"])
        elif kind not in ("checkbox", "radio"):
            found[name] = each.get("value", "")
    for name, text in re.findall(r'<textarea id="(\w+)".*?>(.*?)</textarea>', html, re.S):
        found[name] = unescape(text)
    for name, options in re.findall(r'<select id="(\w+)".*?>(.*?)</select>', html, re.S):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[name] = unescape(chosen[1]) if chosen else ""
    return found


def test_a_registrant_corrects_a_waiting_application_and_everybody_sees_what_changed(site: Site) -> None:
    number, ada, khan = site.applied(), site.person("ada"), site.person("officer.khan")
    site.person("northern").send(f"/provider/{number}", {"verified": "no", "why": "wrong-address"})
    told = ada.see(f"/my/{number}").text
    assert f'href="/my/{number}/correct"' in told and "the provider is asked again" in told
    page = ada.see(f"/my/{number}/correct")
    assert page.status_code == 200
    form = filled(page.text)
    assert {name: form[name] for name in FIELDS} == FIELDS  # what was applied for stands in the fields
    site.now_ns += 600 * 10**9
    answer = ada.send(f"/my/{number}/correct", {**form, "subscriber_prefixes": "203.0.113.8"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/my/{number}?done=correct")
    assert site.ledger.registration(number).is_verified is None
    event = list(site.ledger.events(number))[-1]
    assert (event.action, event.actor, event.by) == ("correct", "applicant", "ada")
    for person, path in ((ada, f"/my/{number}"), (khan, f"/officer/{number}"), (site.person("auditor.rao"), f"/officer/{number}")):  # fmt: skip
        seen = person.see(path).text
        row = seen[seen.index("What was changed") :].split("</table>")[0]
        assert "203.0.113.7<" in row and "203.0.113.8<" in row and "Addresses of the line" in row, path
    assert ">corrected<" in khan.see("/officer").text
    assert f"/provider/{number}" in site.person("northern").see("/provider").text
    assert "The registrant changed this on" in site.person("northern").see(f"/provider/{number}").text
    assert "corrected the application" in site.person("auditor.rao").see("/audit?what=correct").text


def test_a_correction_with_mistakes_is_told_like_an_application_and_changes_nothing(site: Site) -> None:
    number, ada = site.applied(), site.person("ada")
    form = filled(ada.see(f"/my/{number}/correct").text)
    answer = ada.send(f"/my/{number}/correct", {**form, "registrant": "", "endpoint_prefixes": "somewhere"})
    assert answer.status_code == 422 and 'href="#registrant"' in answer.text and 'href="#endpoint_prefixes"' in answer.text  # fmt: skip
    assert len(list(site.ledger.events(number))) == 1
    assert ada.send(f"/my/{number}/correct", form).headers["location"].endswith("?done=unchanged")
    assert len(list(site.ledger.events(number))) == 1  # control: the same thing is no event
    other = site.applied()
    same = ada.send(f"/my/{other}/correct", form)
    assert same.status_code == 422 and f"Registration {number} asks for this already" in same.text


def test_the_kind_of_registrant_can_be_corrected_and_papers_keep_their_numbers(site: Site) -> None:
    ada = site.person("ada")
    token = site.accounts.new_token("ada")
    form = {"registrant": "Ada", "category": "company", "purpose": "x", "provider": "Nothern", "subscriber_id": "7", "documents": ["identity", {"kind": "tax", "reference": "ATL 2026"}], "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"], "protocols": ["openvpn-udp", "wireguard"]}  # fmt: skip
    number = site.person().call("POST", "/applications", json=form, headers={"Authorization": f"Bearer {token}"}).json()["registration"]  # fmt: skip
    chooser = ada.see(f"/my/{number}/correct?category=").text
    assert 'id="category-company" name="category" value="company" checked' in chooser
    page = ada.see(f"/my/{number}/correct").text
    shown = filled(page)
    assert shown["provider"] == "-" and shown["provider_other"] == "Nothern"
    assert ada.send(f"/my/{number}/correct", shown).headers["location"].endswith("?done=unchanged")
    ada.send(f"/my/{number}/correct", {**shown, "provider": "Northern Fibre"})
    now = site.ledger.registration(number).application
    assert now.provider == "Northern Fibre" and Document("tax", "ATL 2026") in now.documents
    assert now.protocols == ("openvpn-udp", "wireguard")
    ada.send(f"/my/{number}/correct", {**shown, "provider": "Northern Fibre", "category": "freelancer", "documents": ["identity", "employment"]})  # fmt: skip
    assert site.ledger.registration(number).application.category == "freelancer"


def test_what_is_decided_cannot_be_corrected_and_the_page_says_what_helps(site: Site) -> None:
    number, ada = site.approved(), site.person("ada")
    assert "/correct" not in ada.see(f"/my/{number}").text
    for answer in (ada.see(f"/my/{number}/correct"), ada.send(f"/my/{number}/correct", FIELDS)):
        assert answer.status_code == 409 and "This one is decided: it is active" in answer.text
        assert f'href="/my/{number}"' in answer.text
    assert site.person("eve").see(f"/my/{number}/correct").status_code == 404
    other = site.applied()
    assert ada.see(f"/my/{other}/correct").status_code == 200  # control


def test_nobody_decides_or_confirms_what_was_changed_meanwhile(site: Site) -> None:
    number, ada = site.applied(), site.person("ada")
    northern, khan = site.person("northern"), site.person("officer.khan")

    def correct(**changes: str) -> None:
        form = filled(ada.see(f"/my/{number}/correct").text)
        assert ada.send(f"/my/{number}/correct", {**form, **changes}).status_code == 303

    stale = filled(northern.see(f"/provider/{number}").text)
    correct(subscriber_prefixes="203.0.113.99")
    answer = northern.send(f"/provider/{number}", {"version": stale["version"], "verified": "yes"})
    assert answer.status_code == 422 and "changed since you opened this page" in answer.text
    assert site.ledger.registration(number).is_verified is None
    fresh = filled(answer.text)["version"]
    assert northern.send(f"/provider/{number}", {"version": fresh, "verified": "yes"}).status_code == 303

    stale = filled(khan.see(f"/officer/{number}").text)
    correct(endpoint_prefixes="192.0.2.1")
    decision = {"action": "approve", "reason": "papers are in order"}
    answer = khan.send(f"/officer/{number}", {**decision, "version": stale["version"]})
    assert answer.status_code == 422 and "changed since you opened this page" in answer.text
    assert site.ledger.registration(number).state == "pending" and "192.0.2.1" in answer.text
    assert "papers are in order" in answer.text  # what was written stays
    version = filled(answer.text)["version"]
    assert khan.send(f"/officer/{number}", {**decision, "version": version}).status_code == 303


# The call

API = {"registrant": "Ada", "category": "other", "documents": ["identity", "organisation"], "provider": "Nothern", "subscriber_prefixes": ["203.0.113.9/32"], "endpoint_prefixes": ["198.51.100.9/32"]}  # fmt: skip


def test_a_program_corrects_some_fields_and_decisions_may_name_what_they_looked_at(site: Site) -> None:
    anybody = site.person()
    made = anybody.call("POST", "/applications", json=API).json()
    mine, officer, isp = ({"Authorization": f"Bearer {each}"} for each in (made["token"], "officer-token", "isp-token"))  # fmt: skip

    def call(action: str, headers: dict[str, str], **body: Any):
        return anybody.call("POST", f"/applications/1/{action}", json=body, headers=headers)

    looked_at = anybody.call("GET", "/applications/1", headers=officer).json()["version"]
    answer = call("correct", mine, provider="Northern Fibre", endpoint_ports=[443])
    assert answer.status_code == 200 and answer.json()["provider"] == "Northern Fibre"
    assert answer.json()["registrant"] == "Ada"  # control: what is not named stays
    assert answer.json()["history"][-1]["changed"] == ["endpoint_ports", "provider"]
    for action, headers, body in (("verify", isp, {"verified": True}), ("reject", officer, {})):
        refused = call(action, headers, **body, version=looked_at)
        assert refused.status_code == 409 and "look at it again" in refused.json()["error"], action
    assert call("verify", isp, verified=True, version=answer.json()["version"]).status_code == 200
    for body, status, told in (
        ({}, 422, "write at least one field"), ({"provider": None}, 422, "provider"), ({"provider": "Northern Fibre"}, 422, "nothing in it differs"),
        ({"documents": ["identity"]}, 422, "other needs one of"), ({"state": "active"}, 422, "state"),
    ):  # fmt: skip
        refused = call("correct", mine, **body)
        assert refused.status_code == status and told in refused.text, body
    assert call("correct", officer, purpose="x").status_code == 403
    assert call("approve", officer).status_code == 200
    refused = call("correct", mine, purpose="x")
    assert refused.status_code == 409 and "only what is not decided yet" in refused.json()["error"]
