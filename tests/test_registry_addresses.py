"""Which addresses can be registered, however they come."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from click.testing import CliRunner

from enforcer.registry.__main__ import main
from enforcer.registry.addresses import kind_of
from enforcer.registry.config import BadConfig, seed_ledger
from enforcer.registry.form import BadApplication, application, checked_prefixes
from enforcer.registry.ledger import Ledger
from enforcer.registry.rules import Rules
from tests.portal_site import FIELDS, Site

GOOD = {"registrant": "sana", "subscriber_prefixes": ["203.0.113.7/32"], "endpoint_prefixes": ["198.51.100.4/32"]}  # fmt: skip
SHARED = "100.64.3.4/32 is what a provider gives to lines behind its own NAT"


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("9.9.9.9/32", None), ("203.0.113.7/32", None), ("192.0.2.0/24", None), ("198.51.100.0/24", None), ("2001:db8::/48", None), ("198.18.0.1/32", None),
     ("172.15.255.255/32", None), ("172.32.0.0/16", None), ("100.63.255.255/32", None), ("100.128.0.0/16", None), ("2400::/32", None),
     ("10.1.2.3/32", "private"), ("172.16.0.0/16", "private"), ("172.31.255.0/24", "private"), ("192.168.1.5/32", "private"), ("fd12::/48", "private"),
     ("100.64.3.4/32", "shared"), ("100.127.255.255/32", "shared"), ("192.0.0.2/32", "shared"), ("100.0.0.0/8", "shared"),
     ("0.0.0.0/32", "special"), ("127.0.0.1/32", "special"), ("169.254.9.9/32", "special"), ("224.0.0.1/32", "special"), ("240.0.0.1/32", "special"),
     ("255.255.255.255/32", "special"), ("::/128", "special"), ("::1/128", "special"), ("::ffff:9.9.9.9/128", "special"), ("fe80::1/128", "special"), ("ff02::1/128", "special")],
)  # fmt: skip
def test_what_is_kept_for_other_purposes_is_nobodys(prefix, kind) -> None:
    network = ip_network(prefix)
    assert kind_of(network) == kind
    assert kind_of(network, accepts_private=True) == (None if kind == "private" else kind)
    for field in ("subscriber_prefixes", "endpoint_prefixes"):
        if kind is None:
            application(GOOD | {field: [prefix]}, accepts_private=False)
        else:
            with pytest.raises(BadApplication, match=f"^{field}: {prefix} .*; write the address that the"):
                application(GOOD | {field: [prefix]}, accepts_private=False)


def test_a_change_of_address_is_looked_at_too() -> None:
    assert checked_prefixes(["203.0.113.7/32"], accepts_private=False) == ("203.0.113.7/32",)
    with pytest.raises(BadApplication, match="own network"):
        checked_prefixes(["192.168.1.5/32"], accepts_private=False)


def test_a_seed_and_an_import_are_refused_with_the_place(tmp_path) -> None:
    seed = tmp_path / "seed.yaml"
    line = "  - {{registrant: sana, subscriber_prefixes: [{}], endpoint_prefixes: [198.51.100.4/32], state: active}}\n"
    seed.write_text("registrations:\n" + line.format("203.0.113.7/32") + line.format("100.64.3.4/32"))
    with pytest.raises(BadConfig, match=r"seed.yaml:3:.*100\.64\.3\.4/32 is what a provider gives"):
        seed_ledger(Ledger(":memory:"), seed)
    seed.write_text("registrations:\n" + line.format("10.0.0.7/32"))
    with pytest.raises(BadConfig, match="own network"):
        seed_ledger(Ledger(":memory:"), seed)
    assert seed_ledger(Ledger(":memory:", Rules(accepts_private_addresses=True)), seed) == 1  # a lab's

    rows = tmp_path / "rows.csv"
    head = "registrant,subscriber_prefixes,endpoint_prefixes\n"
    for address, code in (("100.64.3.4/32", 2), ("192.168.1.5/32", 2), ("203.0.113.7/32", 0)):
        rows.write_text(f"{head}sana,{address},198.51.100.4/32\n")
        arguments = ["import", str(tmp_path / "ledger.sqlite"), str(rows), "--as", "applications"]
        answer = CliRunner().invoke(main, arguments)
        assert answer.exit_code == code, answer.output
        assert code == 0 or f"rows.csv:2:6: subscriber_prefixes: {address} is " in answer.output


def test_the_api_and_the_pages_refuse_them_and_the_page_says_where_help_is() -> None:
    site = Site()
    ada = site.person("ada")
    page = ada.send("/my/apply", FIELDS | {"subscriber_prefixes": "100.64.3.4"})
    assert (
        page.status_code == 422 and page.text.count('href="/help#fixed-address"') == 2
    )  # the hint's and the mistake's
    assert 'id="fixed-address"' in ada.see("/help").text
    rows = "registrant,subscriber_prefixes,endpoint_prefixes,category,documents\nsana,100.64.3.4/32,198.51.100.4/32,freelancer,identity employment\n"
    assert SHARED in ada.send("/bulk", {"rows": rows}).text
    api = Site(Rules())
    client = api.person()
    for changes, code in (
        ({"subscriber_prefixes": ["100.64.3.4/32"]}, 422),
        ({"subscriber_prefixes": ["192.168.1.5/32"]}, 422),
        ({}, 201),
    ):
        answer = client.call("POST", "/applications", json=GOOD | changes)
        assert answer.status_code == code, answer.text
        assert code == 201 or "the world never sees it" in answer.text
