"""The ledger: legal transitions, the serial, what an enforcer following deltas ends up with, and that nothing is rewritten."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.allowlist import Allowlist
from enforcer.registry.ledger import Ledger, UnknownSerial
from enforcer.registry.states import (
    TRANSITIONS,
    Application,
    BadApplication,
    IllegalTransition,
    NotVerified,
    Rules,
    application,
)

FORM = Application("softhouse", ("203.0.113.7/32",), ("198.51.100.4/32",), (51820,), ("wireguard",))
STATES = ("pending", "active", "suspended", "expired", "revoked", "rejected", "withdrawn")
PATHS = {
    "pending": (),
    "active": ("approve",),
    "suspended": ("approve", "suspend"),
    "expired": ("approve", "expire"),
    "revoked": ("approve", "revoke"),
    "rejected": ("reject",),
    "withdrawn": ("withdraw",),
}
# Both need more than a state; tests/test_registry_states.py walks them.
APPEALS = ("appeal", "answer-appeal", "remind")


def ledger_with(state: str, **rules) -> Ledger:
    ledger = Ledger(":memory:", Rules(**rules), clock=lambda: 1_000)
    number = ledger.apply(FORM).number
    ledger.verify(number, True)
    for action in PATHS[state]:
        act(ledger, number, action)
    assert ledger.registration(number).state == state
    return ledger


def act(ledger: Ledger, number: int, action: str):
    if action == "verify":
        return ledger.verify(number, True)
    if action == "refuse":
        return ledger.verify(number, False)
    if action == "correct":
        form = ledger.registration(number).application
        return ledger.correct(number, replace(form, purpose=f"{form.purpose}!"))
    if action == "change-address":
        return ledger.change_address(number, ["203.0.113.9/32"])
    if action == "ask-renewal":
        return ledger.ask_renewal(number)
    if action == "withdraw":
        return ledger.withdraw(number)
    return ledger.decide(number, action)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", [each for each in TRANSITIONS if each not in ("apply", *APPEALS)])
def test_only_the_tables_transitions_are_possible(state, action):
    ledger = ledger_with(state, on_address_change="keep")
    events = len(list(ledger.events()))
    if state in TRANSITIONS[action]:
        assert act(ledger, 1, action).state == TRANSITIONS[action][state]
        assert len(list(ledger.events())) == events + 1
    else:
        with pytest.raises(IllegalTransition, match=f"registration 1 is {state}: cannot {action} it"):
            act(ledger, 1, action)
        assert len(list(ledger.events())) == events


def test_approval_waits_for_the_isp():
    ledger = Ledger(":memory:")
    ledger.apply(FORM)
    with pytest.raises(NotVerified, match="the ISP has not answered yet"):
        ledger.decide(1, "approve")
    ledger.verify(1, False)
    with pytest.raises(NotVerified, match="the ISP refused"):
        ledger.decide(1, "approve")
    ledger.verify(1, True)
    assert ledger.decide(1, "approve").state == "active"


def test_rules_can_waive_the_isp():
    ledger = Ledger(":memory:", Rules(requires_verification=False))
    ledger.apply(FORM)
    assert ledger.decide(1, "approve").state == "active"


def test_the_serial_counts_changes_of_the_allowlist_only():
    ledger = Ledger(":memory:")
    ledger.apply(FORM)
    ledger.verify(1, True)
    assert ledger.serial == 0
    ledger.decide(1, "approve")
    assert ledger.serial == 1
    ledger.decide(1, "renew")  # no end of validity: the entry is the same
    assert ledger.serial == 1
    ledger.decide(1, "revoke")
    assert ledger.serial == 2
    assert ledger.allowlist().entries == {}


def test_a_changed_address_is_removed_until_verified_and_approved_again():
    ledger = ledger_with("active")
    ledger.change_address(1, ["203.0.113.9/32"])
    assert ledger.registration(1).state == "pending"
    assert ledger.allowlist().entries == {}
    delta = ledger.delta(1)
    assert delta is not None and [gone.state for gone in delta.remove] == ["changed"]
    with pytest.raises(NotVerified):
        ledger.decide(1, "approve")
    ledger.verify(1, True)
    ledger.decide(1, "approve")
    assert ledger.allowlist().entries[1].subscriber_prefixes == ("203.0.113.9/32",)


@pytest.mark.parametrize(("is_verified", "prefix"), [(True, "203.0.113.9/32"), (False, "203.0.113.7/32")])
def test_under_keep_the_old_address_stays_until_the_isp_has_answered(is_verified, prefix):
    ledger = ledger_with("active", on_address_change="keep")
    ledger.change_address(1, ["203.0.113.9/32"])
    assert ledger.allowlist().entries[1].subscriber_prefixes == ("203.0.113.7/32",)
    ledger.verify(1, is_verified)
    assert ledger.allowlist().entries[1].subscriber_prefixes == (prefix,)


def test_what_has_run_out_expires_and_can_be_renewed():
    now = [1_000]
    ledger = Ledger(":memory:", Rules(validity_ns=500), clock=lambda: now[0])
    ledger.apply(FORM)
    ledger.verify(1, True)
    ledger.decide(1, "approve")
    now[0] = 1_499
    assert ledger.expire_due() == []
    now[0] = 1_500
    assert [each.number for each in ledger.expire_due()] == [1]
    assert ledger.registration(1).state == "expired"
    assert ledger.decide(1, "renew").valid_until_ns == 2_000


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET reason = 'nothing happened'",
        "DELETE FROM events",
        "UPDATE changes SET entry = NULL",
        "DELETE FROM changes",
        "REPLACE INTO changes VALUES (1, 1, 1, 'revoked', NULL)",
        "REPLACE INTO events VALUES (1, 0, 1, 'reject', 'officer', '', '{}', x'00')",
    ],
)
def test_the_file_refuses_to_forget(tmp_path, statement):
    path = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(path)
    ledger.apply(FORM)
    ledger.verify(1, True)
    ledger.decide(1, "approve")
    with sqlite3.connect(path) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)


def test_a_reopened_ledger_says_the_same(tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    first = Ledger(path, Rules(on_address_change="keep"))
    for _ in range(3):
        first.apply(FORM)
    for number in (1, 2):
        first.verify(number, True)
        first.decide(number, "approve")
    first.change_address(1, ["203.0.113.9/32"])
    first.decide(2, "suspend")
    registrations, allowlist = first.registrations(), first.allowlist()
    first.close()
    # Other rules: what was done under the old ones stays as it was.
    second = Ledger(path, Rules(on_address_change="remove"))
    assert second.registrations() == registrations
    assert second.allowlist() == allowlist


def test_a_broken_batch_leaves_nothing(tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(path)
    with pytest.raises(IllegalTransition), ledger.batch():
        ledger.apply(FORM)
        ledger.decide(1, "revoke")
    ledger.close()
    assert list(Ledger(path).events()) == []


def test_a_serial_from_another_registry_is_refused():
    with pytest.raises(UnknownSerial, match="serial 5 is not in this ledger"):
        Ledger(":memory:").delta(5)


def test_a_wrong_form_is_told_everything_at_once():
    form = {
        "registrant": " ",
        "subscriber_prefixes": ["203.0.113.7/24"],
        "endpoint_ports": [0],
        "protocols": ["vpn"],
        "x": 1,
    }
    with pytest.raises(BadApplication) as caught:
        application(form)
    told = "\n".join(caught.value.problems)
    for part in (
        "x: unknown",
        "registrant:",
        "has host bits set",
        "endpoint_prefixes: write a list",
        "0 is not a port",
        "'vpn'",
    ):
        assert part in told


ACTS = st.tuples(
    st.integers(1, 4),
    st.sampled_from(["refuse", *[each for each in TRANSITIONS if each not in ("apply", *APPEALS)]]),
)


@settings(max_examples=150, deadline=None)
@given(acts=st.lists(ACTS, max_size=40), stops=st.sets(st.integers(0, 39)), keep=st.booleans())
def test_following_deltas_gives_the_same_allowlist_as_the_snapshot(acts, stops, keep):
    """Whenever an enforcer asks, whatever happened since: its allowlist is the registry's, at every serial it was told."""
    ledger = Ledger(":memory:", Rules(on_address_change="keep" if keep else "remove"), clock=lambda: 5)
    for _ in range(4):
        ledger.apply(FORM)
    follower = Allowlist(0)
    one_by_one = Allowlist(0)
    for step, (number, action) in enumerate(acts):
        try:
            act(ledger, number, action)
        except IllegalTransition:
            continue
        if (delta := ledger.delta(one_by_one.serial)) is not None:
            one_by_one = one_by_one.after(delta)
        if step in stops and (delta := ledger.delta(follower.serial)) is not None:
            follower = follower.after(delta)
            assert follower == ledger.allowlist_at(follower.serial)
    last = ledger.delta(follower.serial)
    assert (follower.after(last) if last else follower) == ledger.allowlist()
    assert one_by_one == ledger.allowlist() == ledger.allowlist_at(ledger.serial)
