"""Policy files: what is read, that it is written back the same, and that no failure behaviour is implicit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.policy import Exemption, NamedEndpoint, OnFailure, Policy, load_policy, parse_policy
from enforcer.protocols import VPN_PROTOCOLS
from enforcer.yamlfile import FileError

ROOT = Path(__file__).parents[1]
STRICT = (ROOT / "enforcer/policies/strict.policy.yaml").read_text()

_PREFIXES = st.lists(
    st.sampled_from(["10.0.0.0/8", "203.0.113.7/32", "2001:db8::/48"]), unique=True, max_size=2
).map(tuple)
_PORTS = st.lists(st.integers(1, 65535), unique=True, max_size=2).map(tuple)
_PROTOCOLS = st.lists(st.sampled_from(VPN_PROTOCOLS[:-1]), unique=True, min_size=1, max_size=3).map(tuple)
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
                f"e{index}", draw(st.text()), draw(_PROTOCOLS), draw(_PREFIXES), draw(_PORTS), draw(_PREFIXES)
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
        ),
        recognise_by=draw(st.sampled_from([("ports",), ("first-packets",), ("ports", "first-packets")])),
    )


@given(policies())
def test_a_policy_written_as_json_is_a_policy_file_that_says_the_same(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy
    # A file is YAML 1.2: control characters beyond it are refused in files, so that text is left out here.
    if policy.title.isprintable() and all(item.reason.isprintable() for item in policy.exempt):
        assert parse_policy(json.dumps(policy.to_json(), ensure_ascii=False)) == policy


def test_the_shipped_policies_differ_in_what_their_names_say() -> None:
    strict, observe, lines = (
        load_policy(ROOT / f"enforcer/policies/{name}.policy.yaml")
        for name in ("strict", "observe", "by-subscriber")
    )
    assert (strict.mode, strict.match, strict.action, strict.live_flows) == (
        "enforce",
        "subscriber+endpoint",
        "drop",
        "cut",
    )
    assert observe.mode == "observe"
    assert lines.match == "subscriber"


FAILURES = [line.strip() for line in STRICT[STRICT.index("on-failure:") :].splitlines()[1:] if line.strip()]


@pytest.mark.parametrize("line", FAILURES)
def test_no_failure_behaviour_may_be_left_out(line: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_policy(STRICT.replace(f"  {line}\n", ""))
    [problem] = caught.value.problems
    assert problem.what == f"{line.partition(':')[0]!r} is missing"
    assert parse_policy(STRICT).name == "strict"  # control


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("action: drop", "action: police", "action police has no rate"),
        ("action: drop", "action: drop\n  rate: 1Mbit", "only action police has a rate"),
        ("live-flows: cut", "live-flows: let-finish", "let-finish has no bound"),
        ("live-flows: cut", "live-flows: cut\n  within: 5s", "cut is at once"),
        ("l2tp, pptp]", "l2tp, l2tp]", "'l2tp' is there twice"),
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
