"""docs/policy-files.md: one example for each feature of the policy language, each with what it changes about a decision."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema_rs
import pytest

from enforcer.allowlist import Allowlist, Entry
from enforcer.decide import Flow, Verdict, decide
from enforcer.packet import parse
from enforcer.policy import AuditRules, Policy, load_policy, parse_policy
from enforcer.policy_file import PolicyFile, json_schema
from enforcer.yamlfile import parse as parse_yaml
from tests import enforcer_packets as make

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/policy-files.md").read_text()
BASE = replace(load_policy(ROOT / "enforcer/policies/registered-pairs.policy.yaml"), exempt=())
SECTIONS = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", PAGE, re.M | re.S))
EXAMPLES = {
    title: block[1]
    for title, text in SECTIONS.items()
    if (block := re.search(r"^```yaml\n(.*?)^```", text, re.M | re.S))
}
LINE, ELSEWHERE, SERVER, TLS, EPDG = (
    "203.0.113.7",
    "203.0.113.99",
    "198.51.100.9",
    "198.51.100.80",
    "198.51.100.70",
)
NOW_NS = 1_700_000_000_000_000_000
COMPANY = Entry(7, "softhouse", (f"{LINE}/32",), (f"{SERVER}/32",), category="company")
PROVIDER = replace(COMPANY, category="provider")


def example(title: str) -> Policy:
    """The policy of the page's head with an example in the place of what it says."""
    found = parse_yaml(EXAMPLES[title], "docs/policy-files.md")
    assert not found.problems and found.data
    return parse_policy(json.dumps(BASE.to_json() | found.data))


def ask(policy: Policy, data: bytes, *entries: Entry, flow: Flow | None = None) -> Verdict:
    allowlist = Allowlist(1, {each.registration: each for each in entries})
    return decide(parse(data), flow or Flow(), allowlist, policy, NOW_NS)


def wireguard(port: int = 51820, line: str = LINE, server: str = SERVER) -> bytes:
    return make.udp(line, server, 40000, port, make.WIREGUARD_INITIATION)


OPENVPN = make.udp(LINE, SERVER, 40000, 1194, make.OPENVPN_RESET)
HTTPS = make.tcp(LINE, TLS, 40000, 443, make.SYN)
IKE = make.udp(LINE, EPDG, 40000, 500, make.IKE_SA_INIT)
ENDED = Flow(7, NOW_NS - 29_000_000_000)

# What a feature changes: asked under the page's policy, and under the example.
CHANGES: dict[str, Callable[[Policy], object]] = {
    "mode": lambda policy: ask(policy, wireguard()).action,
    "governs": lambda policy: ask(policy, OPENVPN).reason,
    "recognise-by": lambda policy: ask(policy, wireguard(8443)).reason,
    "named-endpoints": lambda policy: ask(policy, HTTPS).reason,
    "match": lambda policy: ask(policy, wireguard(line=ELSEWHERE), COMPANY).reason,
    "registrations": lambda policy: [
        ask(policy, wireguard(line=ELSEWHERE), each).reason for each in (COMPANY, PROVIDER)
    ],
    "unregistered": lambda policy: ask(policy, wireguard()).action,
    "unregistered, police": lambda policy: (ask(policy, wireguard()).action, policy.police_bps),
    "revocation": lambda policy: ask(policy, wireguard(), flow=ENDED).reason,
    "exempt": lambda policy: ask(policy, IKE).reason,
    "audit": lambda policy: policy.audit,
    "audit, keyed hash": lambda policy: policy.audit.addresses,
}
ANSWERS = {
    "mode": ("drop", "observe"),
    "governs": ("unregistered", "not-vpn"),
    "recognise-by": ("unregistered", "not-vpn"),
    "named-endpoints": ("not-yet", "unregistered"),
    "match": ("unregistered", "registered"),
    "registrations": (["unregistered", "unregistered"], ["unregistered", "registered"]),
    "unregistered": ("drop", "reject"),
    "unregistered, police": (("drop", None), ("police", 64_000)),
    "revocation": ("revoked", "finishing"),
    "exempt": ("unregistered", "exempt"),
    "audit": (AuditRules(), AuditRules("prefix", 20, 40)),
    "audit, keyed hash": ("full", "keyed-hash"),
}


@pytest.mark.parametrize("title", ANSWERS)
def test_an_example_changes_what_the_page_says_it_does(title: str) -> None:
    before, after = ANSWERS[title]
    assert CHANGES[title](BASE) == before  # control
    assert CHANGES[title](example(title)) == after


def test_every_feature_has_an_example() -> None:
    assert EXAMPLES.keys() == {*ANSWERS, "on-failure"}
    told = {title.partition(",")[0] for title in EXAMPLES}
    keys = {info.alias for info in PolicyFile.model_fields.values()}
    assert keys - told == {"policy", "title", "purpose", "hurts"}  # words for people: they change no decision
    assert set(example("on-failure").to_json()["on-failure"]) == set(BASE.to_json()["on-failure"])


def test_the_examples_fit_the_schema_editors_use() -> None:
    validator = jsonschema_rs.validator_for(json_schema())
    for path in sorted((ROOT / "enforcer/policies").iterdir()):
        validator.validate(parse_yaml(path.read_text(), path.name).data)
    for title, text in EXAMPLES.items():
        data = BASE.to_json() | parse_yaml(text, title).data
        validator.validate(json.loads(json.dumps(data)))
    wrong = BASE.to_json() | {"registrations": {"categories": ["isp"]}}
    assert not validator.is_valid(wrong)  # it can fail
