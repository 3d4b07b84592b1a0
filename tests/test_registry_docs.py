"""docs/registry.md: its configuration is one, its commands are there, its tables are the program's; and the registry keeps time."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from enforcer.registry.__main__ import main
from enforcer.registry.config import BadConfig, load_config, seed_ledger
from enforcer.registry.form import REQUIRED_DOCUMENTS
from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import Provider, SimulatedProviders
from enforcer.registry.states import TRANSITIONS, Application, Rules
from enforcer.registry.timekeeper import keep_time

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "registry.md").read_text(encoding="utf-8")


def test_its_configuration_is_one(tmp_path):
    (tmp_path / "registry.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    config = load_config(tmp_path / "registry.yaml")
    rules = config.rules.rules()
    assert (rules.grace_ns, rules.verification_ns) == (5 * 86400 * 10**9, 24 * 3600 * 10**9)
    assert config.providers[0].provider().spread_ns == 4 * 3600 * 10**9
    text = (tmp_path / "registry.yaml").read_text()
    (tmp_path / "registry.yaml").write_text(
        text.replace("365d", "soon").replace("wrong: 0.02", "wrong: 2").replace("09:00-17:00", "17:00-09:00")
    )
    with pytest.raises(BadConfig) as caught:
        load_config(tmp_path / "registry.yaml")
    for part in ("rules.validity: ", "rules.calendar.hours: ", "providers[0].wrong: "):
        assert part in str(caught.value)


def test_its_commands_and_options_are_there():
    lines = re.findall(r"^    enforcer-registry (\w+)(.*)", PAGE, re.MULTILINE)
    assert len(lines) >= 8
    for name, rest in lines:
        told = CliRunner().invoke(main, [name, "--help"]).output
        told += CliRunner().invoke(main, [name, "roll", "--help"]).output
        for option in re.findall(r"--[a-z-]+", rest.split("#")[0]):
            assert option in told, f"{name} has no {option}"


def test_its_tables_are_the_programs():
    actions = re.findall(
        r"^\| ([a-z-]+)(?: \(yes or no\))? \| (?:anybody|ISP|officer|applicant|the clock) \|", PAGE, re.M
    )
    assert sorted(actions) == sorted(TRANSITIONS)
    section = PAGE.split("## The form")[1].split("## ")[0]
    for category, needed in REQUIRED_DOCUMENTS.items():
        row = next(line for line in section.splitlines() if re.match(rf"\| (?:\w+, )?{category}\b", line))
        papers = "; ".join(" or ".join(f"`{kind}`" for kind in each) for each in needed)
        assert f"| {papers} |" in row


def test_the_registry_keeps_time(tmp_path):
    """A provider that answers in a tenth of a second, an approval that holds for half of one: nobody else acts."""
    ledger = Ledger(str(tmp_path / "ledger.sqlite"), Rules(validity_ns=500_000_000))
    ledger.apply(Application("a", ("203.0.113.7/32",), ("198.51.100.4/32",), provider="NF"))
    changes = []

    async def play() -> None:
        simulated = SimulatedProviders(ledger, (Provider("nf", delay_ns=100_000_000),))
        keeper = asyncio.create_task(keep_time(ledger, lambda: changes.append(1), simulated))
        deadline = time.monotonic() + 20
        while ledger.registration(1).state != "expired" and time.monotonic() < deadline:
            if ledger.registration(1).is_verified and ledger.registration(1).state == "pending":
                ledger.decide(1, "approve")
            await asyncio.sleep(0.01)
        keeper.cancel()

    asyncio.run(play())
    assert [event.action for event in ledger.events()] == ["apply", "verify", "approve", "expire"]
    expired = list(ledger.events())[-1]
    assert (
        0 <= expired.at_ns - expired.data["due_ns"] < 10 * 10**9
    )  # some milliseconds where nobody else is at work
    assert len(changes) == 2 and ledger.allowlist().entries == {}


def test_a_programs_seed_may_have_more_values_than_people_write(tmp_path):
    ports = ",".join(["443"] * 1000)
    form = f'{{"registrant":"a","state":"pending","subscriber_prefixes":["2::2"],"endpoint_prefixes":["2::1"],"endpoint_ports":[{ports}]}}'
    (tmp_path / "seed.json").write_text(f'{{"registrations":[{",".join([form] * 300)}]}}')
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    assert seed_ledger(ledger, tmp_path / "seed.json") == 300
    ledger.close()
