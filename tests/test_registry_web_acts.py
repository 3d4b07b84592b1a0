"""What people do on the portal's pages, and what becomes of it in the ledger: reports against the list, appeals, bulk uploads, claims, tokens."""

from __future__ import annotations

import pytest

from enforcer.registry.web import reports
from enforcer.registry.web.listcheck import Report, check
from tests.portal_site import FIELDS, HOUR_NS, PASSWORD, Site

BLOCKED = {"at": "2026-02-02T02:30", "line": "203.0.113.7", "destination": "198.51.100.4", "protocol": "wireguard", "port": "51820", "text": "since noon"}  # fmt: skip
API = {"registrant": "Ada", "category": "other", "documents": ["identity", "organisation"], "subscriber_prefixes": ["203.0.113.9/32"], "endpoint_prefixes": ["198.51.100.9/32"]}  # fmt: skip


@pytest.fixture
def site() -> Site:
    return Site()


def at(site: Site, hours: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp((site.now_ns + hours * HOUR_NS) // 10**9, UTC):%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [({}, []), ({"line": "203.0.113.8"}, ["line"]), ({"destination": "198.51.100.5"}, ["destination"]), ({"protocol": "pptp"}, ["protocol"]), ({"port": 51821}, ["port"]), ({"port": None}, []), ({"hours": -2}, ["state"])],
)  # fmt: skip
def test_a_report_is_held_against_the_list_of_its_moment(site, changes, wrong) -> None:
    number = site.approved()
    site.now_ns += HOUR_NS
    hours = changes.pop("hours", 0)
    report = Report(site.now_ns + hours * HOUR_NS, **({"line": "203.0.113.7", "destination": "198.51.100.4", "protocol": "wireguard", "port": 51820} | changes))  # fmt: skip
    finding = check(site.ledger.events(number), report)
    assert [row.what for row in finding.rows if not row.fits] == wrong
    assert finding.is_covered is (wrong == [])


def test_a_report_stays_true_when_the_registration_ends_later(site) -> None:
    number = site.approved()
    site.now_ns += HOUR_NS
    report = Report(site.now_ns, "203.0.113.7", "198.51.100.4", "wireguard")
    site.now_ns += HOUR_NS
    site.ledger.decide(number, "revoke")
    assert check(site.ledger.events(number), report).is_covered
    assert not check(
        site.ledger.events(number), Report(site.now_ns, "203.0.113.7", "198.51.100.4", "wireguard")
    ).is_covered


def test_a_written_report_is_read_back_and_free_text_is_none() -> None:
    report = Report(1_770_000_000_000_000_000, "2001:db8::7", "198.51.100.4", "openvpn-udp", 1194)
    assert reports.read(reports.written(report, "two\nlines")) == report
    assert reports.read("I am blocked") is None


def test_registered_and_blocked_is_answered_at_once_and_then_by_an_officer(site) -> None:
    number = site.approved()
    site.now_ns += 2 * HOUR_NS
    ada, khan = site.person("ada"), site.person("officer.khan")
    answer = ada.send(f"/my/{number}/blocked", BLOCKED | {"at": at(site, 0)})
    assert (
        "it should have passed" in answer.text and "2026-02-04 04:40 UTC" in answer.text
    )  # the promise, in working time
    assert (
        ada.send(f"/my/{number}/blocked", BLOCKED | {"at": at(site, 0)}).status_code == 409
    )  # one at a time
    assert f"/officer/{number}" in khan.see("/officer/appeals").text
    assert "it should have passed" in khan.see(f"/officer/{number}").text
    assert khan.send(f"/officer/{number}/answer", {"accepted": "yes", "answer": ""}).status_code == 422
    khan.send(f"/officer/{number}/answer", {"accepted": "yes", "answer": "The enforcer at isp2 was stale."})
    assert "The enforcer at isp2 was stale." in ada.see(f"/my/{number}").text
    assert "All appeals are answered" in khan.see("/officer/appeals").text


def test_a_rejection_can_be_appealed_once_and_a_granted_appeal_is_back_in_the_queue(site) -> None:
    number = site.applied()
    ada, khan = site.person("ada"), site.person("officer.khan")
    khan.send(f"/officer/{number}", {"action": "reject", "reason": "unknown server"})
    assert "unknown server" in ada.see(f"/my/{number}").text
    assert ada.send(f"/my/{number}/appeal", {"text": "it is ours"}).status_code == 303
    khan.send(f"/officer/{number}/answer", {"accepted": "yes", "answer": "so it is"})
    assert site.ledger.registration(number).state == "pending"


def test_officers_and_providers_acts_are_in_the_ledger_by_name(site) -> None:
    number = site.approved()
    events = list(site.ledger.events(number))
    assert [(event.actor, event.by) for event in events] == [("applicant", "ada"), ("isp", "northern"), ("officer", "officer.khan")]  # fmt: skip
    page = site.person("auditor.rao").see("/audit").text
    assert "officer.khan" in page and "The ledger is whole" in page
    assert "officer.khan" not in site.person("ada").see(f"/my/{number}").text  # an office answers, not a name
    filtered = site.person("auditor.rao").see("/audit?who=northern&what=verify").text
    assert "provider confirmed" in filtered and "papers are in order" not in filtered


def test_an_auditor_looks_and_does_nothing(site) -> None:
    number = site.applied()
    rao = site.person("auditor.rao")
    assert "Record the decision" not in rao.see(f"/officer/{number}").text
    assert rao.send(f"/officer/{number}", {"action": "reject", "reason": "x"}).status_code == 403
    assert rao.send(f"/officer/{number}/answer", {"accepted": "yes", "answer": "x"}).status_code == 403
    assert site.ledger.registration(number).state == "pending"


def test_a_provider_sees_and_answers_only_what_names_it(site) -> None:
    number = site.applied()
    assert site.person("southern").send(f"/provider/{number}", {"verified": "yes"}).status_code == 404
    assert "Nothing waits" in site.person("southern").see("/provider").text
    northern = site.person("northern")
    assert northern.send(f"/provider/{number}", {"verified": "no", "why": ""}).status_code == 422
    northern.send(f"/provider/{number}", {"verified": "no", "why": "wrong-address"})
    assert site.ledger.registration(number).refusal == "wrong-address"
    assert "the address is not this line" in site.person("ada").see(f"/my/{number}").text.replace(
        "&#39;", "'"
    )


def test_an_application_cannot_be_approved_before_the_provider_confirms(site) -> None:
    number = site.applied()
    khan = site.person("officer.khan")
    assert 'value="approve"' not in khan.see(f"/officer/{number}").text
    assert khan.send(f"/officer/{number}", {"action": "approve", "reason": "x"}).status_code == 422
    assert site.ledger.registration(number).state == "pending"


CSV = "registrant,category,subscriber_prefixes,endpoint_prefixes,documents,provider\n"
ROW = "{},other,203.0.113.{}/32,198.51.100.4/32,identity; organisation,Northern Fibre\n"


def test_a_bulk_upload_is_all_or_nothing_with_a_line_for_each_row(site) -> None:
    ada = site.person("ada")
    good = CSV + "".join(ROW.format(f"Branch {n}", n) for n in range(1, 31))
    wrong = ada.send("/bulk", {"rows": good + ROW.format("Branch 31", 999)})
    assert wrong.status_code == 422 and "1 row is wrong" in wrong.text and "Line 32, column" in wrong.text
    trial = ada.send("/bulk", {"rows": good, "trial": "1"})
    assert "30 rows are in order" in trial.text and site.ledger.registrations() == []
    answer = ada.send("/bulk", {}, files={"file": ("members.csv", good.encode(), "text/csv")})
    assert answer.status_code == 200 and "30 applications received" in answer.text
    assert len(site.ledger.registrations()) == 30
    newest, oldest = ada.see("/my").text, ada.see("/my?page=2").text
    assert "Branch 30" in newest and "Branch 1<" not in newest and "Branch 1<" in oldest
    again = ada.send("/bulk", {"rows": good})
    assert "30 rows are wrong" in again.text and "asks for this already" in again.text
    for fields, told in (({}, "Choose a file, or paste"), ({"rows": "x"}, "is no column")):
        assert told in ada.send("/bulk", fields).text.replace("&#39;", "'")
    binary = ada.send("/bulk", {}, files={"file": ("x.csv", b"\xff\xfe", "text/csv")})
    assert binary.status_code == 422 and "not UTF-8" in binary.text


def test_the_queue_has_pages_and_filters(site) -> None:
    site.person("ada").send(
        "/bulk", {"rows": CSV + "".join(ROW.format(f"Branch {n}", n) for n in range(1, 61))}
    )
    khan = site.person("officer.khan")
    first, last = khan.see("/officer").text, khan.see("/officer?page=3").text
    assert "60 registrations" in first and "Page 1 of 3" in first and "Branch 25" in first
    assert "Branch 26" not in first and "Branch 60" in last
    assert (
        "Page 3 of 3" in khan.see("/officer?page=99").text
        and "Page 1 of 3" in khan.see("/officer?page=x").text
    )
    assert "1 registration<" in khan.see("/officer?q=branch+44").text
    assert "nothing that fits" in khan.see("/officer?category=bank").text
    assert "60 registrations" in khan.see("/officer?verified=waiting&category=other").text


def test_what_was_applied_for_without_an_account_is_looked_up_and_claimed_with_its_token(site) -> None:
    eve, ada = site.person("eve"), site.person("ada")
    made = eve.call("POST", "/applications", json=API).json()
    number, token = str(made["registration"]), made["token"]
    assert "Registration 1" in site.person().send("/status", {"number": number, "token": token}).text
    for wrong in (
        {"number": number, "token": "x"},
        {"number": "99", "token": token},
        {"number": "x", "token": ""},
    ):
        assert site.person().send("/status", wrong).status_code == 422
        assert ada.send("/my/claim", wrong).status_code == 422
    assert ada.see("/my/1").status_code == 404
    assert ada.send("/my/claim", {"number": number, "token": token}).status_code == 303
    assert ada.see("/my/1").status_code == 200 and eve.see("/my/1").status_code == 404


def test_an_accounts_token_acts_as_the_account(site) -> None:
    ada = site.person("ada")
    page = ada.send("/account/token", {}).text
    token = page.split("<code>")[1].split("</code>")[0]
    mine = {"Authorization": f"Bearer {token}"}
    program = site.person()
    assert program.call("POST", "/applications", json=API, headers=mine).json()["token"] == ""
    assert "Registration 1" in ada.see("/my").text
    site.approved("eve")
    assert [each["registration"] for each in program.call("GET", "/applications", headers=mine).json()["registrations"]] == [1]  # fmt: skip
    assert program.call("GET", "/applications/2", headers=mine).status_code == 404
    assert program.call("POST", "/applications/1/approve", json={}, headers=mine).status_code == 403
    changed = {
        "password": PASSWORD,
        "new_password": "three other words",
        "repeat_password": "three other words",
    }
    assert ada.send("/account", changed).status_code == 303
    assert program.call("GET", "/applications", headers=mine).status_code == 401


def test_a_token_that_spells_an_accounts_name_is_nobodys(site) -> None:
    site.applied("ada")
    forged = {"Authorization": "Bearer account:ada"}
    assert site.person().call("GET", "/applications/1", headers=forged).status_code == 401
    assert site.person("eve").send("/my/claim", {"number": "1", "token": "account:ada"}).status_code == 422


def test_a_change_of_address_and_a_renewal(site) -> None:
    number = site.approved()
    ada = site.person("ada")
    same = ada.send(f"/my/{number}/change-address", {"subscriber_prefixes": "203.0.113.7"})
    assert same.status_code == 422 and "registered already" in same.text
    assert ada.send(f"/my/{number}/ask-renewal", {}).status_code == 422
    assert ada.send(f"/my/{number}/ask-renewal", {"confirm": "yes"}).status_code == 303
    assert "Renewal was asked for" in ada.see(f"/my/{number}").text
    site.person("officer.khan").send(f"/officer/{number}", {"action": "renew", "reason": "still true"})
    assert "Renewal was asked for" not in ada.see(f"/my/{number}").text
    assert ada.send(f"/my/{number}/change-address", {"subscriber_prefixes": "203.0.113.8"}).status_code == 303
    assert site.ledger.registration(number).state == "pending" and site.ledger.allowlist().entries == {}
    assert "203.0.113.8" in site.person("northern").see("/provider").text


def test_what_the_ledger_refuses_is_a_page_not_a_fault(site) -> None:
    number = site.applied()
    khan, ada = site.person("officer.khan"), site.person("ada")
    for answer in (
        khan.send(f"/officer/{number}/answer", {"accepted": "yes", "answer": "x"}),
        ada.send(f"/my/{number}/blocked", BLOCKED),
        ada.send(f"/my/{number}/appeal", {"text": "x"}),
        ada.send(f"/my/{number}/ask-renewal", {"confirm": "yes"}),
    ):
        assert answer.status_code == 409 and "Not possible" in answer.text


@pytest.mark.parametrize("text", ["\x00", "\ud7ff𐍈" * 50, "' OR 1=1 --", "{{ 7*7 }}", "<script>alert(1)</script>", "\u202e"])  # fmt: skip
def test_odd_text_is_kept_and_shown_as_text(site, text) -> None:
    answer = site.person("ada").send("/my/apply", {**FIELDS, "purpose": f"work {text}"})
    assert answer.status_code == 303
    page = site.person("officer.khan").see("/officer/1").text
    assert "<script>" not in page and "49" not in page.split("What was applied for")[1].split("</dl>")[0]


def test_a_waiting_application_says_whom_it_waits_for(site) -> None:
    number = site.applied()
    ada, told = site.person("ada"), "waits for the Internet provider or for an officer"
    page = ada.see(f"/my/{number}").text
    assert "The application waits for the Internet provider." in page and told not in page
    site.person("northern").send(f"/provider/{number}", {"verified": "yes"})
    page = ada.see(f"/my/{number}").text
    assert "The application waits for an officer." in page and told not in page
    misspelled = site.applied(provider="-", provider_other="Nothern Fibre")
    assert "waits for an Internet provider that is not known here" in ada.see(f"/my/{misspelled}").text
    site.applied()
    refused = site.applied()
    site.person("northern").send(f"/provider/{refused}", {"verified": "no", "why": "unknown", "reason": "x"})
    assert "which has not confirmed the line" in ada.see(f"/my/{refused}").text
