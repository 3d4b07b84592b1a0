"""The portal in a real browser, JavaScript off: a registration's whole life, a path by keyboard alone, and every page that is met on the
way looked at for what screen readers and keyboards need. In a private world: nothing but its loopback can be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from enforcer.registry.web.accounts import Accounts
from enforcer.registry.web.passwords import hashed
from tests.browser import Browser, complaints, open_browser
from tests.portal_site import CHEAP, PASSWORD, PEOPLE
from tests.test_registry_portal import FORM, ISP, Registry

pytestmark = pytest.mark.world


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    accounts = Accounts(str(folder / "accounts.sqlite"))
    for name, role, provider in PEOPLE:
        accounts.add(name, hashed(PASSWORD, CHEAP), role, provider)  # type: ignore[arg-type]
    accounts.close()
    running = Registry(folder, portal={"accounts": "accounts.sqlite"}, rules={"validity": "365d"})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser(registry, tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser"), f"http://127.0.0.1:{registry.port}") as opened:
        yield opened


def test_scripts_do_not_run_here(browser) -> None:
    browser.driver.get("data:text/html,<h1>off</h1><script>document.querySelector('h1').textContent='on'</script>")  # fmt: skip
    assert browser.heading == "off"


def test_a_registrations_whole_life(browser, registry) -> None:
    browser.go("/")
    browser.follow("Create an account and apply")
    browser.fill(account="freya", new_password="short", repeat_password="short")
    browser.press("Create account")
    assert "Too short" in browser.text  # and once more, rightly
    browser.fill(new_password=PASSWORD, repeat_password=PASSWORD)
    browser.press("Create account")
    assert "Your account is ready" in browser.text

    # An application with mistakes: each is told, and its link leads to its field.
    browser.follow("Apply for a registration")
    browser.fill(category=["freelancer"])
    browser.press("Go on")
    browser.fill(
        registrant="Freya Khan", provider="Northern Fibre", subscriber_id="NF-7", purpose="client work"
    )
    browser.fill(subscriber_prefixes="203.0.113.77/24", endpoint_prefixes="198.51.100.4", endpoint_ports="x")
    browser.press("Send the application")
    assert "There is a problem" in browser.text and "Error:" in browser.driver.title
    browser.driver.find_element(By.CSS_SELECTOR, ".errors a[href='#subscriber_prefixes']").click()
    assert browser.focused.get_attribute("id") == "subscriber_prefixes"
    assert browser.driver.find_element(By.ID, "purpose").get_attribute("value") == "client work"
    browser.fill(subscriber_prefixes="203.0.113.77", endpoint_ports="51820", protocols=["wireguard"])
    browser.press("Send the application")
    assert "Your application is received" in browser.text and "waiting" in browser.text
    number = re.findall(r"/my/(\d+)", browser.path)[0]

    # A mistake that the form could not see is corrected while the application waits.
    browser.follow("Correct the application")
    assert browser.driver.find_element(By.ID, "registrant").get_attribute("value") == "Freya Khan"
    browser.fill(subscriber_id="")
    browser.press("Send the correction")
    assert browser.focused.get_attribute("class") == "card errors"  # what is wrong is read first
    browser.fill(subscriber_id="NF-4711")
    browser.press("Send the correction")
    assert "Your correction is received" in browser.text and "NF-4711" in browser.text

    # The provider confirms; only then can an officer approve.
    browser.sign_in("northern", PASSWORD)
    browser.open_row(number)
    browser.fill(verified=["yes"])
    browser.press("Send the answer")
    assert "Nothing waits for your answer" in browser.text
    browser.sign_in("officer.khan", PASSWORD)
    browser.open_row(number)
    browser.press("Record the decision")
    assert "Choose what you decide" in browser.text and "Write the reason" in browser.text
    browser.fill(action=["approve"], reason="papers are in order")
    browser.press("Record the decision")
    assert "It is on the allowlist now" in browser.text
    assert list(registry.snapshot().entries) == [int(number)]

    # Status, and a block that the list does not cover: the wrong server.
    browser.sign_in("freya", PASSWORD)
    browser.follow(f"Registration {number}")
    assert "active" in browser.text and "papers are in order" in browser.text
    browser.follow("I am registered and blocked")
    assert browser.driver.find_element(By.ID, "line").get_attribute("value") == "203.0.113.77"
    browser.fill(destination="198.51.100.5", text="nothing since noon")
    browser.press("Report")
    assert browser.heading == "What the allowlist says" and "did not cover" in browser.text
    assert [each.text for each in browser.driver.find_elements(By.CSS_SELECTOR, ".badge.bad")] == ["no"]

    # An officer answers, with the same finding before him.
    browser.sign_in("officer.khan", PASSWORD)
    browser.follow("Appeals")
    browser.open_row(number)
    assert "nothing since noon" in browser.text and "198.51.100.5" in browser.text
    browser.fill(accepted=["no"], answer="The server is another one. Apply for it.")
    browser.press("Send the answer")
    assert "dismissed" in browser.text

    # A change of address takes the old one off at once, and needs both offices again.
    browser.sign_in("freya", PASSWORD)
    browser.go(f"/my/{number}")
    assert "The server is another one. Apply for it." in browser.text
    browser.follow("My address has changed")
    browser.fill(subscriber_prefixes="203.0.113.78")
    browser.press("Change the address")
    assert "The change of address is received" in browser.text and "waiting" in browser.text
    assert registry.snapshot().entries == {}
    browser.follow("Withdraw the registration")
    browser.press("Withdraw")
    assert "Tick the box" in browser.text
    browser.fill(confirm=["yes"])
    browser.press("Withdraw")
    assert "withdrawn" in browser.text

    # All of it is in the audit, by name.
    browser.sign_in("auditor.rao", PASSWORD)
    assert "The ledger is whole" in browser.text
    for word in ("freya", "northern", "officer.khan", "appeal dismissed", "changed the address"):
        assert word in browser.text
    assert sum(browser.seen.values()) > 30


def test_by_keyboard_alone_from_signing_in_to_a_report(browser, registry) -> None:
    number = _approved(registry)
    browser.driver.delete_all_cookies()
    browser.go("/sign-in")
    browser.keys(Keys.TAB)
    assert browser.focused.text == "Skip to the content"
    browser.tab_to("account")
    browser.keys("ada", Keys.TAB)
    browser.keys(PASSWORD, Keys.ENTER)
    browser.arrives("/my", "My registrations")
    browser.tab_to(f"Registration {number}")
    browser.keys(Keys.ENTER)
    browser.arrives(f"/my/{number}", f"Registration {number}")
    browser.tab_to("I am registered and blocked")
    browser.keys(Keys.ENTER)
    browser.arrives(f"/my/{number}/blocked", "I am registered and blocked")
    browser.tab_to("destination")
    browser.keys(Keys.CONTROL + "a")
    browser.keys("198.51.100.4")
    browser.tab_to("Report")
    browser.keys(Keys.ENTER)
    browser.arrives(f"/my/{number}/blocked", "What the allowlist says")
    assert "it should have passed" in browser.text


def test_what_is_wrong_with_a_page_would_be_found() -> None:
    page = '<html lang="en"><title>t</title><a class="skip" href="#main">s</a><main id="main"><h1>a</h1>{}</main></html>'
    assert complaints(page.format("<h2>b</h2><label for=x>l</label><input id=x>")) == []  # control
    wrong = {"<input name=x>": "no label", "<h3>x</h3>": "h3 after h1", "<h2></h2>": "without words", "<p id=a><p id=a>": "2 times", "<a href='#x'>x</a>": "nowhere", "<table></table>": "caption", "<h1>b</h1>": "2 <h1>", "<p aria-describedby=q>": "not there", "<nav></nav>": "a nav without a name", "<label for=w>l</label><input id=w aria-invalid=true>": "w is wrong"}  # fmt: skip
    for html, told in wrong.items():
        assert any(told in each for each in complaints(page.format(html))), html
    assert complaints(page.format("").replace(' class="skip"', "")) == [
        "no link to the content before all others"
    ]


def test_every_page_fits_a_phone(browser, registry) -> None:
    number = _approved(registry)
    waiting, _ = registry.apply(
        registrant="A long name of a company with many branches in the valley", purpose="x" * 120
    )
    pages = {
        "": ["/", "/help", "/api", "/sign-in", "/sign-up", "/status", "/nowhere"],
        "ada": ["/my", f"/my/{number}", *(f"/my/{number}/{act}" for act in ("blocked", "change-address", "ask-renewal", "withdraw", "correct")), "/my/apply", "/my/apply?category=call-centre", "/bulk", "/account"],
        "officer.khan": ["/officer?state=", f"/officer/{number}", f"/officer/{waiting}", "/officer/appeals", "/audit", "/my"],
        "northern": ["/provider"],
    }  # fmt: skip
    try:
        for name, paths in pages.items():
            if name:
                browser.sign_in(name, PASSWORD)
            browser.be_a_phone()
            for path in paths:
                browser.go(path)
                assert browser.does_not_fit == [], (name, path)
        browser.driver.execute_script("document.querySelector('h1').style.width = '900px'")
        assert browser.does_not_fit != []  # control: it would be found
    finally:
        browser.be_a_phone(0)


def _approved(registry: Registry) -> int:
    """One of ada's, over the HTTP API as her account; the offices by their tokens."""
    accounts = Accounts(str(registry.folder / "accounts.sqlite"))
    ada = {"Authorization": f"Bearer {accounts.new_token('ada')}"}
    accounts.close()
    number = registry.http.post("/applications", json=FORM, headers=ada).json()["registration"]
    assert registry.act(number, "verify", ISP, verified=True).status_code == 200
    assert registry.act(number, "approve").json()["state"] == "active"
    return number
