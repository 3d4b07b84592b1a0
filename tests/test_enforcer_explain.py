"""`enforcer explain`: which entry, rule and serial decide, what would have to change, and what an audit says was stopped."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from enforcer.allowlist import Allowlist, Entry
from enforcer.audit import Audit
from enforcer.cli import main
from enforcer.decide import Fallback
from enforcer.explain_flow import answer
from enforcer.known import Known
from enforcer.policy import AuditRules, Exemption, load_policy
from enforcer.privacy import Addresses
from enforcer.question import questions
from tests.agent_bench import KEY, Bench
from tests.agent_bench import entry as bench_entry

ROOT = Path(__file__).parents[1]
PAIRS = load_policy(ROOT / "enforcer/policies/registered-pairs.policy.yaml")
LINE, MOVED, STRANGER, SERVER, OTHER = (
    "203.0.113.7",
    "203.0.113.99",
    "192.0.2.5",
    "198.51.100.9",
    "198.51.100.200",
)
NOW_NS, DAY_NS = 1_700_000_000_000_000_000, 86_400_000_000_000
SOFTHOUSE = Entry(
    7, "softhouse", (f"{LINE}/32", "2001:db8:7::/64"), (f"{SERVER}/32", "2001:db8:9::9/128"), (51820,), ("wireguard",)
)  # fmt: skip


def ask(
    src,
    dst,
    proto="wireguard",
    port=None,
    *,
    entries=(SOFTHOUSE,),
    policy=PAIRS,
    lasting=None,
    fallback: Fallback = "keep",
):
    known = Known(
        policy,
        Allowlist(12, {each.registration: each for each in entries}),
        "the list",
        lasting=lasting or {},
        fallback=fallback,
    )
    [asked] = questions(src, dst, proto, port, policy)
    return answer(asked, known, NOW_NS)


def test_a_registered_flow_is_told_its_entry_rule_and_serial():
    for ends in ((LINE, SERVER), ("2001:db8:7::1", "2001:db8:9::9")):
        found = ask(*ends)
        assert (found.verdict.reason, found.rule, found.serial) == (
            "registered",
            "match: subscriber+endpoint",
            12,
        )
        assert (
            found.entry == SOFTHOUSE and found.why == "registration 7 (softhouse) covers it, without an end"
        )
        assert found.changes == ()


# What is asked, what the entry is instead, and the first thing that would have to change.
CHANGES = {
    "renew": (
        (LINE, SERVER),
        {"valid_until_ns": NOW_NS - DAY_NS},
        "registration 7 (softhouse) nearly covers it: it ended at 2023-11-13 22:13:20 UTC: renew it",
    ),
    "wait": (
        (LINE, SERVER),
        {"valid_from_ns": NOW_NS + DAY_NS},
        "registration 7 (softhouse) nearly covers it: it counts from 2023-11-15 22:13:20 UTC: wait until then",
    ),
    "port": (
        (LINE, SERVER, "wireguard", 8443),
        {},
        "registration 7 (softhouse) nearly covers it: it is for port 51820: use that, or have port 8443 added to registration 7",
    ),
    "protocol": (
        (LINE, SERVER, "esp"),
        {},
        "registration 7 (softhouse) nearly covers it: it is for wireguard: use that, or have esp added to registration 7",
    ),
    "endpoint": (
        (LINE, OTHER),
        {},
        "registration 7 (softhouse) nearly covers it: it names the line, for the endpoint 198.51.100.9/32: use that, or have "
        "198.51.100.200 added to it",
    ),
    "line": (
        (STRANGER, SERVER),
        {},
        "registration 7 (softhouse) nearly covers it: it names the endpoint, for the line 203.0.113.7/32: have 192.0.2.5 entered "
        "as its line",
    ),
    "new address": (
        (MOVED, SERVER),
        {},
        "registration 7 (softhouse) nearly covers it: it names the endpoint, for the line 203.0.113.7/32, of the same network as "
        "203.0.113.99: if that line has a new address, report the change to 203.0.113.99",
    ),
    "register": (
        (STRANGER, OTHER),
        {},
        "register the line 192.0.2.5 together with the endpoint 198.51.100.200, port 51820, for wireguard",
    ),
    "asked from the server": (
        (OTHER, LINE),
        {},
        "registration 7 (softhouse) nearly covers it: it names the line, for the endpoint 198.51.100.9/32: use that, or have "
        "198.51.100.200 added to it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_stopped_flow_is_told_what_would_have_to_change(name):
    question, entry, wanted = CHANGES[name]
    found = ask(*question, entries=[replace(SOFTHOUSE, **entry)])
    assert (found.verdict.reason, found.rule, found.entry) == ("unregistered", "unregistered: drop", None)
    assert found.changes[0] == wanted
    assert found.changes[-1].startswith("register ")


def test_doing_what_is_said_lets_the_flow_pass():
    ended = replace(SOFTHOUSE, valid_until_ns=NOW_NS)
    assert "renew" in ask(LINE, SERVER, entries=[ended]).changes[0]
    assert ask(LINE, SERVER, entries=[replace(ended, valid_until_ns=NOW_NS + 1)]).verdict.passes
    added = replace(SOFTHOUSE, endpoint_prefixes=(*SOFTHOUSE.endpoint_prefixes, f"{OTHER}/32"))
    assert ask(LINE, OTHER, entries=[added]).verdict.passes


def test_the_nearest_registrations_come_first_and_are_few():
    entries = [
        replace(SOFTHOUSE, registration=number, subscriber_prefixes=("10.0.0.1/32",))
        for number in range(20, 60)
    ]
    found = ask(LINE, SERVER, entries=[*entries, replace(SOFTHOUSE, valid_until_ns=1)])
    assert "registration 7 (softhouse) nearly covers it: it ended" in found.changes[0]
    assert len(found.changes) == 4


def test_a_category_that_does_not_count_is_told():
    licensed = load_policy(ROOT / "enforcer/policies/licensed-providers-only.policy.yaml")
    found = ask(LINE, SERVER, policy=licensed, entries=[replace(SOFTHOUSE, category="company")])
    assert found.changes[0] == (
        "registration 7 (softhouse, company) nearly covers it: its category is company, and the policy counts only provider"
    )
    assert found.changes[-1].endswith("(only registrations of category provider count)")
    assert ask(
        STRANGER, SERVER, policy=licensed, entries=[replace(SOFTHOUSE, category="provider")]
    ).verdict.passes


def test_an_exemption_that_fits_or_nearly_fits_is_told():
    epdg = Exemption("epdg", "Emergency calls.", ("ikev2",), (f"{OTHER}/32",), (500,), (), "the operators")
    policy = replace(PAIRS, exempt=(epdg,))
    fits = ask(STRANGER, OTHER, "ikev2", policy=policy)
    assert (fits.rule, fits.verdict.reason) == ("exempt: epdg", "exempt")
    assert fits.why == "the exemption 'epdg' fits: Emergency calls. Its owner is the operators"
    nearly = ask(STRANGER, OTHER, "ikev2", 4500, policy=policy)
    assert (
        "the exemption 'epdg' (its owner: the operators) nearly fits: it is for the ports 500"
        in nearly.changes
    )
    far = ask(STRANGER, "192.0.2.99", "ikev2", policy=policy)
    assert not any("exemption" in change for change in far.changes)


def test_during_a_failure_the_condition_is_named_and_what_follows_it():
    lasting = {"feed-stale": "block", "disk-full": "keep"}
    found = ask(LINE, SERVER, lasting=lasting, fallback="block")
    assert (found.verdict.reason, found.rule) == ("fail-closed", "on-failure: feed-stale")
    assert found.changes[0].startswith("end the failure 'feed-stale': the registry answers, but")
    assert found.changes[1] == (
        "nothing else: without the failure it passes (registration 7 (softhouse) covers it, without an end)"
    )
    stranger = ask(STRANGER, OTHER, lasting=lasting, fallback="block")
    assert stranger.changes[-1].startswith("register ")
    opened = ask(STRANGER, OTHER, lasting={"feed-stale": "allow"}, fallback="allow")
    assert (opened.verdict.reason, opened.rule) == ("fail-open", "on-failure: feed-stale")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["explain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def files(tmp_path):
    snapshot = tmp_path / "snapshot.json"
    snapshot.write_text(json.dumps({"serial": 12, "entries": [SOFTHOUSE.to_json()]}))
    return ("--policy", ROOT / "enforcer/policies/registered-pairs.policy.yaml", "--snapshot", snapshot)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("203.0.113", SERVER), "'203.0.113' is not an address; write one such as 203.0.113.7 or 2001:db8::7"),
        ((LINE, "::1"), "are not of the same family; write two IPv4 or two IPv6 addresses"),
        ((LINE, SERVER, "--proto", "wiregaurd"), "unknown protocol 'wiregaurd'; did you mean 'wireguard'?"),
        ((LINE, SERVER, "--proto", "udp"), "udp needs a port; write --port 51820"),
        ((LINE, SERVER, "--proto", "esp", "--port", "1"), "esp has no ports; leave --port out"),
        ((LINE, SERVER, "--port", "70000"), "70000 is not a port; write 1 to 65535"),
        ((LINE, SERVER, "--at", "noon"), "'noon' is not a time; write 2024-11-10T16:00:00Z"),
        ((LINE,), "write two addresses: enforcer explain SRC DST"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_to_write(files, arguments, words):
    assert words in run(*arguments, *files, code=2)


@pytest.mark.parametrize("option", ["--audit", "--policy", "--config"])
def test_a_file_that_is_not_there_is_named_with_what_to_give(option):
    told = run(LINE, SERVER, option, "nowhere.file", code=2)
    assert (
        told
        == "nowhere.file:1:1: cannot be read (No such file or directory); give the path of a readable file\n"
    )


def test_without_a_protocol_each_governed_one_is_asked_about(files):
    text = run(LINE, SERVER, *files)
    assert (
        "serial 12" in text
        and "wireguard (udp port 51820): passes (registered), by 'match: subscriber+endpoint'" in text
    )
    assert "openvpn-udp (udp port 1194)" in text and "ask about one: --proto" in text
    found = json.loads(run(LINE, SERVER, "--json", *files))
    assert {each["asked"]: each["passes"] for each in found["answers"]} == {
        protocol: protocol == "wireguard" for protocol in PAIRS.governs
    }
    [registered] = [each for each in found["answers"] if each["passes"]]
    assert (registered["registration"], registered["serial"], registered["entry"]) == (
        7,
        12,
        SOFTHOUSE.to_json(),
    )
    assert "drop (unregistered)" in run(LINE, SERVER, "--port", 1194, *files)
    assert run("--packet", f"{LINE} {SERVER} udp 51820", *files).count("passes (registered)") == 1


def test_at_a_time_validity_is_judged_then(files, tmp_path):
    ending = replace(SOFTHOUSE, valid_until_ns=NOW_NS)
    (tmp_path / "snapshot.json").write_text(json.dumps({"serial": 1, "entries": [ending.to_json()]}))
    arguments = (LINE, SERVER, "--proto", "wireguard", *files)
    assert "passes (registered)" in run(*arguments, "--at", "2023-11-14T22:13:19Z")
    assert "renew it" in run(*arguments, "--at", "2023-11-14T22:13:20Z")


RULES = {"full": AuditRules(), "prefix": AuditRules("prefix"), "keyed-hash": AuditRules("keyed-hash")}
SECRET = bytes(range(32))


@pytest.mark.parametrize("setting", RULES)
def test_an_audit_answers_under_each_privacy_setting(tmp_path, setting):
    path, key = tmp_path / "audit", tmp_path / "key"
    key.write_text(SECRET.hex())
    key.chmod(0o600)
    audit = Audit(path, addresses=Addresses(RULES[setting], SECRET))
    audit.write("applied", serial=5)
    ends = {"src_port": 40000, "dst": SERVER, "dst_port": 51820, "protocol": "wireguard", "transport": "udp"}
    told = {"reason": "revoked", "registration": 7, "registration_state": "revoked", "count": 3}
    audit.write("block", src=LINE, **ends, **told)
    audit.close()

    with_key = ("--audit-key", key) if setting == "keyed-hash" else ()
    text = run(LINE, SERVER, "--audit", path, *with_key)
    assert "3 wireguard packets (udp, port 51820)" in text and "Registration 7 covered this flow once" in text
    assert "serial 5" in text and ("others of these networks" in text) == (setting == "prefix")
    nothing = run("192.0.2.77", "--audit", path, *with_key)  # control: somebody else's
    assert (
        "no block of" in nothing
        and "what would let it pass: enforcer explain 192.0.2.77 DST --config FILE" in nothing
    )
    if setting == "keyed-hash":
        assert "write --audit-key FILE" in run(LINE, "--audit", path, code=2)
        assert "3 wireguard packets" in run(Addresses(RULES[setting], SECRET).shown(LINE), "--audit", path)


def test_a_glitch_is_told_from_a_missing_registration(tmp_path):
    bench = Bench(tmp_path, PAIRS)
    bench.snapshot(1, bench_entry(7))
    bench.pass_time(10)
    from tests.test_enforcer_counting import blocks, stop

    blocks(bench, stop(bench), stop(bench, src="10.0.0.8"))
    glitch = run("10.0.0.7", "198.51.100.9", "--audit", bench.path)
    assert "registration 7 covers it, and was active: the kernel's table differed from the list" in glitch
    assert "No registration" not in glitch
    assert "No registration that has ended covered these two ends" in run("10.0.0.8", "--audit", bench.path)


def test_the_list_is_compared_with_an_older_audit_that_names_no_registration(tmp_path, files):
    path = tmp_path / "audit"
    audit = Audit(path)
    ends = {"src_port": 40000, "dst": SERVER, "dst_port": 51820, "protocol": "wireguard", "transport": "udp"}
    told = {"reason": "unregistered", "registration": None, "registration_state": None, "count": 1}
    audit.write("block", src=LINE, **ends, **told)
    audit.close()
    text = run(LINE, SERVER, "--proto", "wireguard", *files, "--audit", path)
    assert "The list covers it now, by registration 7 (softhouse)" in text and "passes (registered)" in text


def test_a_configuration_is_enough(tmp_path, monkeypatch):
    bench = Bench(tmp_path, PAIRS)
    bench.snapshot(3, bench_entry(7))
    (tmp_path / "feed.pub").write_text(KEY.public_key().public_bytes_raw().hex())
    config = tmp_path / "enforcer.yaml"
    config.write_text(
        json.dumps(
            {
                "policy": str(ROOT / "enforcer/policies/registered-pairs.policy.yaml"),
                "feed": {"url": "http://192.0.2.1/feed", "key": "feed.pub"},
                "state": "state",
                "audit": "audit.jsonl",
                "control": "sock",
            }
        )
    )
    text = run("10.0.0.7", "198.51.100.9", "--proto", "wireguard", "--config", config)
    assert "serial 3 (the list kept in" in text and "passes (registered)" in text and "no block of" in text
    assert "what would let it pass" not in text  # it was just said
    assert "drop (unregistered)" in run(
        "10.0.0.8", "198.51.100.9", "--proto", "wireguard", "--config", config
    )

    state = {"failures": {"feed-stale": "block"}, "fallback": "block"}
    monkeypatch.setattr("enforcer.known.ask", lambda path, command: state)
    text = run("10.0.0.7", "198.51.100.9", "--proto", "wireguard", "--config", config)
    assert "the enforcer runs, and says: feed-stale" in text and "by 'on-failure: feed-stale'" in text
    assert "nothing else: without the failure it passes" in text


def test_the_pages_examples_say_what_the_program_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/explain.md").read_text()
    examples = re.findall(r"^```console\n\$ enforcer explain ([^\n]*)\n(.*?)^```", page, re.M | re.S)
    assert len(examples) == 3
    for command, output in examples:
        assert run(*shlex.split(command)).strip() == output.strip()
