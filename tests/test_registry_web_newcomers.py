"""What newcomers stumble over on the portal's pages: each mistake is told where it is made, in words that say how to go on."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from tests.portal_site import FIELDS, Reading, Site

API = {
    "registrant": "Ada Lovelace", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"],
}  # fmt: skip


@pytest.fixture
def site() -> Site:
    return Site()


def test_the_form_offers_the_providers_that_can_answer(site: Site) -> None:
    ada = site.person("ada")
    offered = [each["value"] for each in Reading(ada.see("/my/apply?category=freelancer").text).all("option")]
    assert offered == ["", "Northern Fibre", "Southern Mobile", "-"]
    for wrong, told in (({"provider": ""}, "#provider"), ({"provider": "Nothern"}, "#provider"), ({"provider": "-"}, "#provider_other")):  # fmt: skip
        answer = ada.send("/my/apply", {**FIELDS, **wrong})
        assert answer.status_code == 422 and f'href="{told}"' in answer.text, wrong
    number = site.applied(provider="-", provider_other=" northern  FIBRE")
    assert site.ledger.registration(number).application.provider == "Northern Fibre"
    site.accounts.disable("southern")
    assert "Southern Mobile" not in ada.see("/my/apply?category=freelancer").text


def test_an_application_that_no_provider_answers_is_flagged(site: Site) -> None:
    known, unknown = site.applied(), site.applied(provider="-", provider_other="northern fiber")
    assert f"/provider/{unknown}" not in site.person("northern").see("/provider").text
    flag, officer, ada = "no such provider here", site.person("officer.khan"), site.person("ada")
    assert officer.see("/officer").text.count(flag) == 1
    for number, count in ((known, 0), (unknown, 1)):
        assert officer.see(f"/officer/{number}").text.count(flag) == count
        assert ada.see(f"/my/{number}").text.count("correct this application and choose") == count
    site.accounts.add("fiber", "x", "provider", "Northern Fiber")
    assert flag not in officer.see("/officer").text  # control: somebody can answer now


def test_where_only_the_offices_token_answers_no_provider_is_unknown(site: Site) -> None:
    for name in ("northern", "southern"):
        site.accounts.disable(name)
    number = site.applied(provider="Anybody")
    assert "no such provider" not in site.person("officer.khan").see(f"/officer/{number}").text


def test_the_kinds_promise_households_nothing_and_say_so(site: Site) -> None:
    page = site.person("ada").see("/my/apply").text
    about = Reading(page).texts
    assert not any("ouseholds" in text for text in about if text.startswith("Hospitals"))
    assert "the rules have no kind for households and ordinary subscribers" in page


def test_going_on_without_a_choice_is_told(site: Site) -> None:
    ada = site.person("ada")
    assert "There is a problem" not in ada.see("/my/apply").text  # control
    answer = ada.see("/my/apply?asked=1")
    assert (
        answer.status_code == 422 and 'href="#category"' in answer.text and "Choose what kind" in answer.text
    )
    assert ada.see("/my/apply?asked=1&category=bank").status_code == 200


@pytest.mark.parametrize("name", ["vpn.client.example", "https://vpn.client.example/login", "VPN.client.example:443"])  # fmt: skip
def test_a_server_given_by_name_is_told_how_to_find_its_address(site: Site, name: str) -> None:
    answer = site.person("ada").send("/my/apply", {**FIELDS, "endpoint_prefixes": name})
    assert answer.status_code == 422
    assert (
        "nslookup vpn.client.example”" in answer.text.replace("VPN", "vpn")
        and "when it changes" in answer.text
    )
    told = site.person().call("POST", "/applications", json={**API, "endpoint_prefixes": [name]})
    assert told.status_code == 422 and "is a name; write its address" in told.text
    for other in ("198.51.100.300", "somewhere", "198.51.100.4/33"):  # control: these are no names
        assert (
            "nslookup"
            not in site.person("ada").send("/my/apply", {**FIELDS, "endpoint_prefixes": other}).text
        )


def test_bulk_upload_lists_the_words_that_can_be_chosen(site: Site) -> None:
    page = site.person("ada").see("/bulk").text
    for word in ("call-centre", "wireguard", "openvpn-tcp", "incorporation"):
        assert f"<code>{word}</code>" in page


def test_the_same_application_twice_is_told_as_in_bulk(site: Site) -> None:
    ada = site.person("ada")
    assert ada.send("/my/apply", FIELDS).status_code == 303
    again = ada.send("/my/apply", {**FIELDS, "purpose": "another word"})
    assert again.status_code == 422 and "Registration 1 asks for this already" in again.text
    assert ada.send("/my/apply", {**FIELDS, "endpoint_ports": "51821"}).status_code == 303  # control
    ada.send("/my/1/withdraw", {"confirm": "yes"})
    assert ada.send("/my/apply", FIELDS).status_code == 303  # what is over may be asked for again


def test_a_block_is_reported_in_the_pages_time_zone_and_never_in_the_future(site: Site) -> None:
    site.office.zone = ZoneInfo("Asia/Karachi")
    number, ada = site.approved(), site.person("ada")
    page = Reading(ada.see(f"/my/{number}/blocked").text)
    assert next(each["value"] for each in page.all("input") if each.get("id") == "at") == "2026-02-02T07:40"
    report = {"line": "203.0.113.8", "destination": "198.51.100.4", "protocol": "wireguard"}
    answer = ada.send(f"/my/{number}/blocked", {**report, "at": "2026-02-02T07:41"})
    assert answer.status_code == 422 and "it is 2026-02-02 07:40 PKT now" in answer.text
    answer = ada.send(f"/my/{number}/blocked", {**report, "at": "2026-02-02T07:40"})
    assert answer.status_code == 200
    assert (
        f'href="/my/{number}/change-address"' in answer.text
    )  # the line does not fit: here is what to do about it


def test_a_block_of_what_was_never_active_is_refused_on_opening_with_a_way_back(site: Site) -> None:
    pending, active, ada = site.applied(), site.approved(), site.person("ada")
    answer = ada.see(f"/my/{pending}/blocked")
    assert answer.status_code == 409 and f'href="/my/{pending}"' in answer.text
    assert "has been on the allowlist" in answer.text
    assert ada.see(f"/my/{active}/blocked").status_code == 200  # control


def test_promises_and_names_are_told_as_people_count_them(site: Site) -> None:
    home = site.person().see("/").text
    assert "1 working day." in home  # eight hours of an office that is open for eight
    assert "10 hours of working time" in home
    assert "letters, digits or . _ @ + -" in site.person().see("/sign-up").text
