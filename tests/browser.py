"""A real browser for tests of pages: Debian's chromium, headless, without JavaScript; and what a page must have for everybody."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.portal_site import Reading

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--window-size=1200,900",
    # Nothing but the portal can be reached, wherever this runs.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


_DOES_NOT_FIT = """
const width = document.documentElement.clientWidth, told = each => each.outerHTML.slice(0, 100);
const seen = [...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().width > 0);
return [
  ...(document.documentElement.scrollWidth > width ? ['the page'] : []),
  ...seen.filter(each => each.getBoundingClientRect().right > width + 1 && !each.closest('.scroll, pre, .skip')).map(told),
  ...seen.filter(each => each.matches('a, button, input, select, textarea, summary') && !each.closest('p, li:not(nav li), dd, td, .option, .skip')
    && each.getBoundingClientRect().height < 24).map(told),
]"""


@contextmanager
def open_browser(folder: Path, base: str) -> Iterator[Browser]:
    """Skips the test when there is no chromium. The browser ends with its driver, which is ended by its process."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("no chromium and chromedriver here (packages.debian.txt: ./allowlab test installs them)")
    options = Options()
    options.binary_location = str(programs[0])
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    service = Service(str(programs[1]))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    try:
        yield Browser(driver, base)
    finally:
        driver.quit()
        service.stop()


class Browser:
    """What a person does at a page; each page that is reached is looked at by `complaints`."""

    def __init__(self, driver: webdriver.Chrome, base: str) -> None:
        self.driver, self.base = driver, base
        self.seen: Counter[str] = Counter()

    def go(self, path: str) -> None:
        self.driver.get(self.base + path)
        self._look()

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.base)

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "main").text

    @property
    def heading(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "h1").text

    def fill(self, **fields: str | list[str]) -> None:
        """By the labels' own `for`: text is typed, a list is what to tick."""
        for name, value in fields.items():
            if isinstance(value, list):
                for each in value:
                    self.driver.find_element(By.CSS_SELECTOR, f"label[for='{name}-{each}']").click()
            else:
                field = self.driver.find_element(By.ID, name)
                if field.tag_name != "select":
                    field.clear()
                field.send_keys(value)

    def press(self, button: str) -> None:
        self._leave_by(
            next(each for each in self.driver.find_elements(By.TAG_NAME, "button") if each.text == button)
        )

    def follow(self, link: str) -> None:
        self._leave_by(self.driver.find_element(By.PARTIAL_LINK_TEXT, link))

    def open_row(self, number: str) -> None:
        """A registration of a table."""
        self._leave_by(self.driver.find_element(By.CSS_SELECTOR, f"tbody th a[href$='/{number}']"))

    def be_a_phone(self, width: int = 390) -> None:
        """From here on; 0: the window's own width again."""
        size = {"width": width, "height": 844 if width else 0, "deviceScaleFactor": 0, "mobile": bool(width)}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    @property
    def does_not_fit(self) -> list[str]:
        """What of the page is wider than the window (tables and code scroll by themselves), or too small to be touched (WCAG 2.2: 1.4.10, 2.5.8)."""
        return self.driver.execute_script(_DOES_NOT_FIT)

    def arrives(self, path: str, heading: str) -> None:
        """Waits until the page that a key asked for is there."""
        WebDriverWait(self.driver, 20, ignored_exceptions=[WebDriverException]).until(
            lambda _: self.path.split("?")[0] == path and self.heading == heading
        )
        self._look()

    def sign_in(self, name: str, password: str) -> None:
        self.driver.delete_all_cookies()
        self.go("/sign-in")
        self.fill(account=name, password=password)
        self.press("Sign in")

    # By keyboard alone

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def keys(self, *keys: str) -> None:
        self.focused.send_keys(*keys)

    def tab_to(self, words: str) -> None:
        """Tab until what has the focus is named so; the focus must be seen all the way."""
        for _ in range(60):
            self.keys(Keys.TAB)
            found = self.focused
            assert found.value_of_css_property("outline-style") == "solid", found.get_attribute("outerHTML")
            if words == found.get_attribute("id") or found.text.startswith(words):
                return
        raise AssertionError(f"Tab does not reach {words!r} on {self.path}")

    def _leave_by(self, element: WebElement) -> None:
        old = self.driver.find_element(By.TAG_NAME, "html")
        element.click()
        wait = WebDriverWait(self.driver, 30, ignored_exceptions=[WebDriverException])
        wait.until(staleness_of(old))
        wait.until(lambda driver: driver.execute_script("return document.readyState") == "complete")
        self._look()

    def _look(self) -> None:
        self.seen[self.path.split("?")[0]] += 1
        assert complaints(self.driver.page_source) == [], self.path


def complaints(html: str) -> list[str]:
    """What keeps people with a screen reader or a keyboard from a page (WCAG 2.2: 1.1.1, 1.3.1, 2.4.2, 2.4.4, 2.4.6, 3.1.1, 4.1.2)."""
    page = Reading(html)
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    labelled = {each.get("for") for each in page.all("label")}
    found = [f"id {name} is there {times} times" for name, times in ids.items() if times > 1]
    if not page.all("html")[0].get("lang"):
        found.append("no lang")
    found += [f"{len(page.all(tag))} <{tag}>" for tag in ("h1", "main", "title") if len(page.all(tag)) != 1]
    found += ["a nav without a name" for each in page.all("nav") if not each.get("aria-label")]
    first = next(
        (tag for tag in page.tags if tag[0] in ("a", "button", "input") and tag[1].get("type") != "hidden"),
        None,
    )
    if first is None or first[1].get("class") != "skip":
        found.append("no link to the content before all others")
    told = {each.get("href", "")[1:] for each in page.all("a")}
    wrong = {each["id"] for _, each in page.tags if each.get("aria-invalid") == "true" and "id" in each}
    found += [f"{name} is wrong, and no link of the summary leads there" for name in sorted(wrong - told)]
    for tag in ("input", "select", "textarea"):
        for each in page.all(tag):
            if each.get("type") != "hidden" and each.get("id") not in labelled:
                found.append(f"<{tag} name={each.get('name')}> has no label")
    for _, attributes in page.tags:
        for name in ("aria-describedby", "aria-labelledby", "for"):
            missing = [each for each in attributes.get(name, "").split() if each not in ids]
            found += [f"{name} names {each}, which is not there" for each in missing]
        if int(attributes.get("tabindex", "0")) > 0:
            found.append("a tabindex that jumps")
    for each in page.all("a"):
        if each.get("href", "").startswith("#") and each["href"][1:] not in ids:
            found.append(f"{each['href']} leads nowhere")
    found += [f"<{tag}> without words" for tag in ("a", "button", "h1", "h2", "h3", "label", "legend", "caption", "th") if "" in page.words_of(tag)]  # fmt: skip
    found += ["a <th> without scope" for each in page.all("th") if "scope" not in each]
    if len(page.all("caption")) != len(page.all("table")):
        found.append("a table without a caption")
    if len(page.all("legend")) != len(page.all("fieldset")):
        found.append("a fieldset without a legend")
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    found += [f"h{b} after h{a}" for a, b in zip(levels, levels[1:], strict=False) if b > a + 1]
    found += ["an image without words" for each in page.all("img") if "alt" not in each]
    return found
