"""`enforcer portal` and `registry account`: one command shows the whole portal, and offices' accounts are made on the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from click.testing import CliRunner, Result

from enforcer.registry.__main__ import main
from enforcer.registry.web.portal_command import DEMO_PASSWORD
from tests.browser import complaints

PORTAL = [sys.executable, "-m", "enforcer", "portal", "--port", "0"]
PAGES = {
    "sana": ["/my", "/my/6", "/my/12", "/my/apply", "/my/6/blocked", "/account"],
    "indus.software": ["/my", "/my/2", "/my/8", "/my/11", "/bulk"],
    "officer.khan": ["/officer", "/officer?state=", "/officer/appeals", "/audit", "/officer/3", "/officer/4", "/officer/8"],
    "northern.fibre": ["/provider", "/provider/9"],
    "auditor.rao": ["/audit", "/officer/4"],
}  # fmt: skip


@contextmanager
def portal(*arguments: str) -> Iterator[tuple[list[str], httpx.Client]]:
    """Its words, and a client of it. Ended by its process."""
    with subprocess.Popen([*PORTAL, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not (lines and lines[-1].startswith("portal: ")):
                line = process.stdout.readline()
                assert line, f"it ended: {lines}"
                lines.append(line.strip())
            with httpx.Client(base_url=lines[-1].removeprefix("portal: "), timeout=60) as http:
                yield lines, http
        finally:
            process.terminate()
            process.wait(20)


def sign_in(http: httpx.Client, name: str) -> httpx.Response:
    http.cookies.clear()
    token = re.search(r'name="form_token" value="(\w+)"', http.get("/sign-in").text)
    assert token
    return http.post("/sign-in", data={"form_token": token[1], "account": name, "password": DEMO_PASSWORD})


def test_the_demo_has_people_of_every_role_and_every_page_of_theirs_can_be_used_by_everybody() -> None:
    with portal() as (lines, http):
        assert re.fullmatch(r"portal: http://127\.0\.0\.1:\d+/", lines[-1])
        names = [line.split()[0] for line in lines[1:-1]]
        assert names == list(PAGES)
        for name, paths in PAGES.items():
            assert sign_in(http, name).status_code == 303
            for path in paths:
                answer = http.get(path)
                assert answer.status_code == 200, (name, path)
                assert complaints(answer.text) == [], (name, path)
                assert "nothing on these pages is real" in answer.text
        states = set(re.findall(r"/officer\?state=(\w+)", http.get("/officer").text))
        assert states == {"pending", "active", "suspended", "expired", "revoked", "rejected", "withdrawn"}


def test_a_demo_that_is_kept_goes_on_where_it_was(tmp_path) -> None:
    file = str(tmp_path / "demo.sqlite")
    with portal("--database", file) as (lines, http):
        assert len(lines) > 1
        form = {"registrant": "Late Comer", "category": "other", "documents": ["identity", "organisation"], "subscriber_prefixes": ["192.0.2.200/32"], "endpoint_prefixes": ["198.51.100.9/32"]}  # fmt: skip
        assert http.post("/applications", json=form).json()["registration"] == 13
    with portal("--database", file) as (lines, http):
        assert len(lines) == 1
        assert sign_in(http, "officer.khan").status_code == 303
        assert "Late Comer" in http.get("/officer/13").text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--bind", "192.0.2.1"], "cannot listen on 192.0.2.1")],
)  # fmt: skip
def test_a_mistake_is_told_without_a_traceback(arguments, told) -> None:
    run = subprocess.run([*PORTAL, *arguments], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and told in run.stderr and "Traceback" not in run.stderr


def test_a_wrong_language_file_stops_the_start(tmp_path) -> None:
    (tmp_path / "ur.yaml").write_text("nav: {hepl: x}\n")
    run = subprocess.run([*PORTAL, "--texts", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "ur.yaml: nav.hepl" in run.stderr and "Traceback" not in run.stderr


def test_accounts_are_made_listed_and_disabled_on_the_command_line(tmp_path) -> None:
    file = str(tmp_path / "accounts.sqlite")

    def account(*arguments: str, typed: str = "three good words\n") -> Result:
        return CliRunner().invoke(main, ["account", *arguments], input=typed)

    made = account("add", file, "northern", "--role", "provider", "--provider", "Northern Fibre")
    assert (made.exit_code, made.output) == (0, "account northern: provider of Northern Fibre\n")
    for arguments, typed, told in (
        (("add", file, "northern", "--role", "officer"), "three good words\n", "already"),
        (("add", file, "khan", "--role", "officer"), "short\n", "will not do"),
        (("add", file, "khan", "--role", "provider"), "three good words\n", "names its provider"),
        (("disable", file, "nobody"), "", "there is no account nobody"),
    ):
        failed = account(*arguments, typed=typed)
        assert failed.exit_code == 2 and told in failed.output, failed.output
    assert account("disable", file, "northern").exit_code == 0
    assert account("list", file).output.split() == ["northern", "provider", "Northern", "Fibre", "disabled"]
