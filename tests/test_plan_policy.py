"""Policy files: what is read, that it is written back the same, and that no failure behaviour is implicit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.allowlist import Entry
from enforcer.checking import Checked, check_files
from enforcer.policy import (
    NOT_NAMED,
    AuditRules,
    Exemption,
    NamedEndpoint,
    OnFailure,
    Policy,
    load_policy,
    parse_policy,
)
from enforcer.protocols import VPN_PROTOCOLS
from enforcer.yamlfile import FileError

ROOT = Path(__file__).parents[1]
STRICT = (ROOT / "enforcer/policies/registered-pairs.policy.yaml").read_text()

_PREFIXES = st.lists(
    st.sampled_from(["10.0.0.0/8", "203.0.113.7/32", "2001:db8::/48"]), unique=True, max_size=2
).map(tuple)
_PORTS = st.lists(st.integers(1, 65535), unique=True, max_size=2).map(tuple)
_PROTOCOLS = st.lists(st.sampled_from(VPN_PROTOCOLS[:-1]), unique=True, min_size=1, max_size=3).map(tuple)
_SENTENCE = st.text(min_size=1)
_AFTER = st.integers(0, 10**15)
_KEEP = st.sampled_from(["keep", "allow", "block"])


@st.composite
def policies(draw) -> Policy:
    action = draw(st.sampled_from(["drop", "reject", "police", "observe"]))
    live = draw(st.sampled_from(["cut", "let-finish"]))
    governs = draw(_PROTOCOLS)
    return Policy(
        name="p",
        title=draw(st.text()),
        mode=draw(st.sampled_from(["enforce", "observe"])),
        governs=governs,
        named_endpoints=tuple(
            NamedEndpoint(name, ("10.0.0.0/8",), draw(_PORTS)) for name in draw(st.permutations(governs))[:1]
        ),
        match=draw(st.sampled_from(["subscriber", "endpoint", "subscriber+endpoint"])),
        action=action,
        police_bps=draw(st.integers(1, 10**12)) if action == "police" else None,
        live_flows=live,
        let_finish_ns=draw(_AFTER) if live == "let-finish" else None,
        exempt=tuple(
            Exemption(
                f"e{index}",
                draw(_SENTENCE),
                draw(_PROTOCOLS),
                draw(_PREFIXES),
                draw(_PORTS),
                draw(_PREFIXES),
                draw(_SENTENCE),
                draw(st.none() | st.dates().map(str)),
            )
            for index in range(draw(st.integers(0, 2)))
        ),
        on_failure=OnFailure(
            draw(st.sampled_from(["allow", "block"])),
            draw(_KEEP),
            draw(_AFTER),
            draw(_KEEP),
            draw(_AFTER),
            draw(st.sampled_from(["keep", "accept", "allow", "block"])),
            draw(st.floats(0, 1)),
            draw(_KEEP),
            draw(_KEEP),
            draw(_KEEP),
            draw(_KEEP),
            draw(_KEEP),
            draw(_AFTER),
            draw(st.sampled_from(["allow", "block"])),
            draw(_KEEP),
            draw(_KEEP),
        ),
        categories=draw(
            st.lists(st.sampled_from(["company", "provider"]), unique=True, max_size=2).map(tuple)
        ),
        audit=draw(
            st.sampled_from([AuditRules(), AuditRules("prefix", 20, 56), AuditRules("keyed-hash", 24, 48)])
        ),
        purpose=draw(_SENTENCE),
        hurts=tuple(draw(st.lists(_SENTENCE, max_size=2))),
        recognise_by=draw(st.sampled_from([("ports",), ("first-packets",), ("ports", "first-packets")])),
    )


@given(policies())
def test_a_policy_written_as_json_is_a_policy_file_that_says_the_same(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy
    # A file is YAML 1.2: control characters beyond it are refused in files, so that text is left out here.
    texts = [policy.title, policy.purpose, *policy.hurts]
    if "".join([*texts, *(item.reason + item.owner for item in policy.exempt)]).isprintable():
        assert parse_policy(json.dumps(policy.to_json(), ensure_ascii=False)) == policy


def test_the_shipped_policies_differ_in_what_their_names_say() -> None:
    strict, observe, lines = (
        load_policy(ROOT / f"enforcer/policies/{name}.policy.yaml")
        for name in ("registered-pairs", "observe-only", "registered-subscribers")
    )
    assert (strict.mode, strict.match, strict.action, strict.live_flows) == (
        "enforce",
        "subscriber+endpoint",
        "drop",
        "cut",
    )
    assert observe.mode == "observe"
    assert lines.match == "subscriber"


SHIPPED = sorted((ROOT / "enforcer/policies").iterdir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name.partition(".")[0])
def test_a_shipped_policy_says_what_it_is_for_and_whom_it_hurts(path: Path) -> None:
    policy = load_policy(path)
    assert policy.name == path.name.removesuffix(".policy.yaml")
    assert policy.purpose and policy.hurts
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert [line[:7] for line in head if line.startswith(("# For:", "# Hurts:"))] == ["# For: ", "# Hurts"]
    assert all(item.reason and item.owner not in ("", NOT_NAMED) for item in policy.exempt)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("strict", "registered-pairs"),
        ("by-subscriber", "registered-subscribers"),
        ("observe", "observe-only"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(old: str, new: str) -> None:
    path = ROOT / f"enforcer/policies/{old}.policy.yaml"
    with pytest.raises(FileError) as caught:
        load_policy(path)
    [problem] = caught.value.problems
    assert problem.what == "there is no such file any more"
    assert problem.fix.startswith(f"{old!r} is called {new!r} now: write ")
    assert load_policy(Path(problem.fix.rpartition("write ")[2])).name == new


def test_a_stored_policy_of_an_earlier_version_is_read_as_it_was_meant() -> None:
    document = parse_policy(STRICT).to_json()
    now = json.loads(json.dumps(document))
    for key in ("queue-full", "disk-full", "clock-jumped"):
        del document["on-failure"][key]
    del document["exempt"][0]["owner"], document["audit"], document["purpose"], document["hurts"]
    with pytest.raises(FileError, match="'queue-full' is missing"):
        parse_policy(json.dumps(document))  # a file has to say it
    old = Policy.from_json(document)
    assert (old.exempt[0].owner, old.audit) == (NOT_NAMED, AuditRules())
    assert old.on_failure == Policy.from_json(now).on_failure


def test_only_registrations_of_the_named_categories_count() -> None:
    licensed = load_policy(ROOT / "enforcer/policies/licensed-providers-only.policy.yaml")
    provider = Entry(1, "p", (), (), category="provider")
    company, unknown = replace(provider, category="company"), replace(provider, category="")
    assert [licensed.counts(each) for each in (provider, company, unknown)] == [True, False, False]
    assert all(parse_policy(STRICT).counts(each) for each in (provider, company, unknown))  # control


def test_an_entry_keeps_its_category_and_old_entries_have_none() -> None:
    entry = Entry(1, "p", ("10.0.0.1/32",), ("10.1.0.1/32",), category="provider")
    assert Entry.from_json(entry.to_json()) == entry
    old = entry.to_json()
    del old["category"]
    assert Entry.from_json(old) == replace(entry, category="")
    assert "category" not in replace(entry, category="").to_json()
    with pytest.raises(ValueError, match="not a word"):
        Entry.from_json(entry.to_json() | {"category": 3})


def test_a_review_that_is_past_is_a_doubt_and_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "p.policy.yaml"
    file.write_text(
        STRICT.replace("    protocols: [ikev2, esp]", "    review: 2026-06-30\n    protocols: [ikev2, esp]")
    )
    assert check_files([file], "2026-06-30") == Checked([], [], 1)  # control: due today
    checked = check_files([file], "2026-07-01")
    assert not checked.problems
    [doubt] = checked.doubts
    line = file.read_text().splitlines().index("    review: 2026-06-30") + 1
    assert (doubt.line, doubt.column, doubt.where) == (line, 13, "exempt[0].review")
    assert doubt.what == "the review of 'wifi-calling' was due on 2026-06-30"


@pytest.mark.parametrize(
    ("was", "written", "where", "fix"),
    [
        ("registry-unreachable: {after: 5s, do: keep}", "registry-unreachable: {after: 5s, do: block}", "on-failure.registry-unreachable.do", "write 'keep'"),
        ("feed-stale: {after: 1m, do: keep}", "feed-stale: {after: 1m, do: block}", "on-failure.feed-stale.do", "write 'keep'"),
        ("match: subscriber+endpoint", "match: subscriber+endpoint\nregistrations: {categories: [provider]}", "match", "write 'match: endpoint'"),
        ("governs: [wireguard, openvpn-udp, openvpn-tcp, ikev2, esp,", "governs: [wireguard, openvpn-udp, openvpn-tcp, ikev2,", "exempt[0].protocols[1]", "remove it here"),
    ],
)  # fmt: skip
def test_what_probably_is_not_meant_is_a_doubt(
    tmp_path: Path, was: str, written: str, where: str, fix: str
) -> None:
    file = tmp_path / "p.policy.yaml"
    assert was in STRICT
    file.write_text(STRICT.replace(was, written))
    checked = check_files([file], "2026-06-30")
    assert not checked.problems
    assert [(doubt.where, doubt.fix.startswith(fix)) for doubt in checked.doubts] == [(where, True)]


def test_a_policy_that_only_observes_may_say_block(tmp_path: Path) -> None:
    """It stops nobody, so nobody is cut off."""
    file = tmp_path / "p.policy.yaml"
    text = STRICT.replace(
        "registry-unreachable: {after: 5s, do: keep}", "registry-unreachable: {after: 5s, do: block}"
    )
    file.write_text(text.replace("mode: enforce", "mode: observe"))
    assert check_files([file], "2026-06-30") == Checked([], [], 1)


FAILURES = [line.strip() for line in STRICT[STRICT.index("on-failure:") :].splitlines()[1:] if line.strip()]


@pytest.mark.parametrize("line", FAILURES)
def test_no_failure_behaviour_may_be_left_out(line: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_policy(STRICT.replace(f"  {line}\n", ""))
    [problem] = caught.value.problems
    assert problem.what == f"{line.partition(':')[0]!r} is missing"
    assert parse_policy(STRICT).name == "registered-pairs"  # control


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("action: drop", "action: police", "action police has no rate"),
        ("action: drop", "action: drop\n  rate: 1Mbit", "only action police has a rate"),
        ("live-flows: cut", "live-flows: let-finish", "let-finish has no bound"),
        ("live-flows: cut", "live-flows: cut\n  within: 5s", "cut is at once"),
        ("l2tp, pptp]", "l2tp, l2tp]", "'l2tp' is there twice"),
        (
            "mode: enforce",
            "mode: enforce\naudit: {ipv4-prefix: 24}",
            "only addresses: prefix has a prefix length",
        ),
        (
            "mode: enforce",
            "mode: enforce\naudit: {addresses: prefix, ipv4-prefix: 33}",
            "33 is too large",
        ),
        ("mode: enforce", "mode: enforce\naudit: {addresses: hash}", "'hash' is not possible here"),
        ("mode: enforce", "mode: enforce\nregistrations: {categories: []}", "it is empty"),
        ("mode: enforce", "mode: enforce\nregistrations: {categories: [isp]}", "'isp' is not possible here"),
        (
            "mode: enforce",
            "mode: enforce\nregistrations: {categories: [bank, bank]}",
            "'bank' is there twice",
        ),
        ("    owner: the mobile operators' licensing desk\n", "", "'owner' is missing"),
        ("the mobile operators' licensing desk", "''", "it is empty"),
        ("    ports: [500, 4500]", "    ports: [500, 4500]\n    review: soon", "'soon' is not a day"),
        ("match: subscriber+endpoint", "match: address", "'address' is not possible here"),
    ],
)
def test_what_does_not_go_together_is_refused(old: str, new: str, problem: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_policy(STRICT.replace(old, new))
    assert [item.what for item in caught.value.problems] == [problem]


def test_a_tls_vpn_can_be_governed_by_naming_its_servers_only() -> None:
    governed = STRICT.replace("l2tp, pptp]", "l2tp, pptp, openconnect]")
    with pytest.raises(FileError, match="not classifiable on the wire"):
        parse_policy(governed)
    named = "named-endpoints: [{protocol: openconnect, endpoints: [10.201.17.10], ports: [443]}]\n"
    policy = parse_policy(governed + named)
    assert policy.named_endpoints == (NamedEndpoint("openconnect", ("10.201.17.10/32",), (443,)),)


def test_from_json_refuses_what_is_not_a_policy() -> None:
    with pytest.raises(FileError):
        Policy.from_json({})
