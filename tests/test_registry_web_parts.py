"""The portal's parts by themselves: passwords, accounts and sessions, rate limits, texts, what a form says about mistakes."""

from __future__ import annotations

import re
from datetime import UTC
from pathlib import Path

import pytest

from enforcer.registry.web import passwords
from enforcer.registry.web.accounts import ABSOLUTE_NS, IDLE_NS, AccountExists, Accounts, BadAccount
from enforcer.registry.web.forms import Form
from enforcer.registry.web.limits import Limit, Limiter, address_key
from enforcer.registry.web.passwords import Cost
from enforcer.registry.web.texts import FOLDER, MissingText, load_languages

CHEAP = Cost(2**4, 8, 1)
ENGLISH = load_languages().all["en"]


def test_a_password_is_kept_as_a_hash_that_names_its_cost_and_two_of_one_password_differ() -> None:
    kept = passwords.hashed("correct horse", CHEAP)

    assert kept.startswith("scrypt$16$8$1$") and "horse" not in kept
    assert passwords.matches("correct horse", kept) and not passwords.matches("correct horsf", kept)
    assert kept != passwords.hashed("correct horse", CHEAP)
    assert passwords.hashed("correct horse").startswith("scrypt$16384$8$5$")  # what everybody gets


@pytest.mark.parametrize(
    ("password", "wrong"),
    [("short", "short"), ("x" * 201, "long"), ("aaaaaaaaaaaa", "common"), ("Password123", "common"), ("ada.lovelace", "is-name"), ("three good words", None)],
)  # fmt: skip
def test_weak_passwords_are_refused(password: str, wrong: str | None) -> None:
    assert passwords.weakness(password, "ada.lovelace") == wrong


@pytest.fixture
def clock() -> list[int]:
    return [10**18]


@pytest.fixture
def accounts(clock) -> Accounts:
    accounts = Accounts(":memory:", clock=lambda: clock[0])
    accounts.add("ada", "h", "registrant")
    accounts.add("khan", "h", "officer")
    return accounts


def test_a_session_ends_when_idle_and_after_a_day_however_busy(accounts, clock) -> None:
    session = accounts.open_session("ada")
    for _ in range(ABSOLUTE_NS // IDLE_NS):
        clock[0] += IDLE_NS - 1
        assert accounts.session(session).name == "ada"  # control: each use keeps it
    clock[0] += IDLE_NS - 1
    assert accounts.session(session) is None

    session = accounts.open_session("ada")
    clock[0] += IDLE_NS + 1
    assert accounts.session(session) is None


def test_sign_out_a_new_password_and_disabling_end_sessions_and_tokens(accounts) -> None:
    one, two, other = (
        accounts.open_session("ada"),
        accounts.open_session("ada"),
        accounts.open_session("khan"),
    )
    accounts.close_session(one)
    assert accounts.session(one) is None and accounts.session(two) is not None
    token = accounts.new_token("ada")
    assert accounts.token_account(token).name == "ada"
    accounts.set_password("ada", "new")
    assert accounts.session(two) is None and accounts.token_account(token) is None
    assert accounts.session(other).role == "officer"  # control
    accounts.disable("khan")
    assert accounts.session(other) is None
    accounts.disable("khan", False)
    assert accounts.session(accounts.open_session("khan")) is not None


def test_the_file_holds_no_password_session_or_token_and_only_its_owner_reads_it(tmp_path) -> None:
    path = tmp_path / "accounts.sqlite"
    accounts = Accounts(str(path))
    accounts.add("ada", passwords.hashed("correct horse", CHEAP), "registrant")
    secrets = [accounts.open_session("ada"), accounts.new_token("ada"), "correct horse"]
    accounts.close()

    assert path.stat().st_mode & 0o077 == 0
    held = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"scrypt$" in held  # control
    assert [each for each in secrets if each.encode() in held] == []
    again = Accounts(str(path))
    assert again.secret == accounts.secret and again.session(secrets[0]) is not None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("ada", "h", "officer"), AccountExists), (("a b", "h", "officer"), BadAccount), (("x" * 65, "h", "officer"), BadAccount),
     (("bob", "h", "king"), BadAccount), (("bob", "h", "provider"), BadAccount), (("bob", "h", "officer", "isp1"), BadAccount)],
)  # fmt: skip
def test_wrong_accounts_are_refused(accounts, arguments, error) -> None:
    with pytest.raises(error):
        accounts.add(*arguments)


def test_a_limit_lets_a_burst_through_and_then_so_many_a_minute_to_each() -> None:
    now = [0.0]
    limiter = Limiter({"sign-in": Limit(3, 6)}, clock=lambda: now[0])

    assert [limiter.take("sign-in", "a") for _ in range(4)] == [0, 0, 0, 10.0]
    assert limiter.take("sign-in", "b") == 0  # control: another's is another's
    now[0] += 10
    assert limiter.take("sign-in", "a") == 0 and limiter.wait_s("sign-in", "a") == 10.0


def test_an_ipv6_line_counts_as_one_address() -> None:
    assert (
        address_key("2001:db8:1:2::3") == address_key("2001:db8:1:2:ffff::9") != address_key("2001:db8:1:3::")
    )
    assert address_key("::ffff:203.0.113.7") == address_key("203.0.113.7") != address_key("203.0.113.8")


def test_a_language_lacks_what_it_lacks_and_a_mistake_in_its_file_is_told(tmp_path) -> None:
    (tmp_path / "ur.yaml").write_text("language: {name: اردو, direction: rtl}\nnav: {help: مدد}\n")
    languages = load_languages(tmp_path)
    urdu = languages.choose(None, "de, ur;q=0.9, en;q=0.5")
    assert (urdu.t("nav.help"), urdu.t("nav.sign-in"), urdu.direction) == ("مدد", "Sign in", "rtl")
    assert languages.choose("en", "ur").language == "en" == languages.choose(None, "xx;q=z,*").language
    with pytest.raises(MissingText):
        urdu.t("nav.nowhere")
    for text, told in (("nav: {helpp: x}", "no such key"), ("home: {your-address: '{adress}'}", "adress"), ("nav: {help: 1}", "quotes"), ("x", "write keys")):  # fmt: skip
        (tmp_path / "ur.yaml").write_text(text)
        with pytest.raises(ValueError, match=told):
            load_languages(tmp_path)


def test_a_text_takes_its_values_as_they_are() -> None:
    assert "{wait}{9}" in ENGLISH.t("problem.too-many.text", wait="{wait}{9}")


@pytest.mark.parametrize(
    ("typed", "told"),
    [("203.0.113.7/24", "203.0.113.0/24 for the whole block, or 203.0.113.7"), ("203.0.113", "not an address"), ("10.0.0.1", "inside your own network"), ("192.168.1.5", "inside your own network"),
     ("100.64.3.4", "behind its own NAT"), ("127.0.0.1", "kept for other purposes"), ("fe80::1", "kept for other purposes"), ("fd00::7", "inside your own network"),
     ("11.0.0.0/8", "wider than /16"), ("2001:db8::/16", "can mean two things"), ("2002::/16", "wider than /32"), (" , ", "at least one"), ("1.1.1.1 " * 1025, "more than 1024")],
)  # fmt: skip
def test_a_wrong_address_is_told_with_what_to_write(typed, told) -> None:
    form = Form(ENGLISH, {"subscriber_prefixes": typed})
    form.prefixes("subscriber_prefixes")
    assert told in form.errors["subscriber_prefixes"]


def test_an_address_that_many_lines_have_is_told_with_where_help_is() -> None:
    form = Form(ENGLISH, {"subscriber_prefixes": "100.64.3.4", "endpoint_prefixes": "10.0.0.1"})
    form.prefixes("subscriber_prefixes"), form.prefixes("endpoint_prefixes")
    assert form.helps == {"subscriber_prefixes": "fixed-address"}
    assert "Write the address that your VPN app connects to" in form.errors["endpoint_prefixes"]
    lab = Form(ENGLISH, {"subscriber_prefixes": "10.0.0.1 100.64.3.4"}, accepts_private=True)
    assert lab.prefixes("subscriber_prefixes") == ["10.0.0.1/32"]
    assert "100.64.3.4" in lab.errors["subscriber_prefixes"]


def test_lists_are_read_as_people_write_them() -> None:
    form = Form(
        ENGLISH,
        {"subscriber_prefixes": "203.0.113.7,\n2001:db8::/48; 9.9.9.9", "endpoint_ports": "500, 4500"},
    )
    assert form.prefixes("subscriber_prefixes") == ["203.0.113.7/32", "2001:db8::/48", "9.9.9.9/32"]
    assert form.ports("endpoint_ports") == [500, 4500] and form.errors == {}


@pytest.mark.parametrize(
    ("typed", "told"),
    [("", "Write the date"), ("yesterday", "not a date"), ("2099-01-01T10:00", "future"), ("2019-01-01 10:00", "year ago"), ("2026-01-31T14:05", None)],
)  # fmt: skip
def test_a_moment_is_read_in_the_authoritys_time(typed, told) -> None:
    form = Form(ENGLISH, {"at": typed})
    now_ns = 1_770_000_000_000_000_000  # 2026-02-02
    at_ns = form.moment_ns("at", UTC, now_ns)
    if told:
        assert told in form.errors["at"]
    else:
        assert at_ns == 1_769_868_300_000_000_000


def test_templates_hold_no_words_of_their_own() -> None:
    def letters(source: str) -> list[str]:
        source = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", source, flags=re.S)
        spoken = re.findall(r'(?:title|alt|placeholder|aria-label|label)="([^"]*)"', source)
        text = re.sub(r"<!doctype html>|<[^>]*>", " ", re.sub(r'[\w-]+="[^"]*"', " ", source))
        return re.findall(r"[^\W\d_]+", " ".join([text, *spoken]))

    assert letters('<p title="Hi">{{ t("x") }} there</p>') == ["there", "Hi"]  # control
    templates = sorted((FOLDER.parent / "templates").glob("*.html"))
    assert len(templates) > 10
    assert {path.name: found for path in templates if (found := letters(path.read_text()))} == {}


def test_every_colour_of_the_sheet_can_be_read_on_its_paper_in_light_and_dark() -> None:
    sheet = (Path(FOLDER).parent / "static" / "portal.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", sheet, flags=re.S):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        pairs = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "card"), ("accent", "paper"), ("accent-ink", "accent"), ("bad", "card"), ("card", "bad"), ("ink", "off-paper")]  # fmt: skip
        pairs += [(kind, f"{kind}-paper") for kind in ("good", "bad", "wait", "off")]
        pairs += [("ink", f"{kind}-paper") for kind in ("good", "bad", "wait")]
        assert {
            pair: ratio for pair in pairs if (ratio := _contrast(*(colours[name] for name in pair))) < 4.5
        } == {}
        assert _contrast(colours["edge"], colours["card"]) >= 3  # borders of fields (WCAG 2.2, 1.4.11)
    assert (
        _contrast("#777777", "#ffffff") < 4.5 < _contrast("#767676", "#ffffff")
    )  # control: WCAG's own examples


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
