"""`enforcer diff`: of registrations that differ in number and addresses only one is compared; the others' changes are those they would have had."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random

import pytest

from enforcer.allowlist import Entry
from enforcer.difference import touch
from enforcer.difference.alike import divide
from enforcer.difference.changes import Difference, difference
from enforcer.difference.items import items
from enforcer.difference.prefixes import flat
from enforcer.difference.sides import Side
from enforcer.policy import Exemption, Policy
from tests.test_enforcer_diff_exact import POLICY, check

KINDS = ("wireguard", "openvpn-tcp", "ikev2", "l2tp")
MATCHES = ("subscriber", "endpoint", "subscriber+endpoint")


def policy(draw: Random) -> Policy:
    exempt = Exemption("x", "why", ("ikev2",) * draw.randint(0, 1), ("10.0.0.16/28",), (), ("198.18.0.0/29",))
    return replace(
        POLICY,
        match=draw.choice(MATCHES),
        governs=tuple(draw.sample((*KINDS, "pptp"), 3)),
        action=draw.choice(("drop", "reject")),
        exempt=(exempt,) if draw.random() < 0.4 else (),
    )


def entries(draw: Random, count: int) -> dict[int, Entry]:
    """Most lines and endpoints are one registration's; some are shared, nested, or stand on the other side too."""
    found = {}
    for number in range(1, count + 1):
        chance = draw.random()
        line, endpoint = f"10.0.0.{number}/32", f"198.18.0.{draw.randint(1, 200)}/32"
        if chance < 0.1:
            line = f"10.0.0.{draw.randint(0, 7) * 8}/29"
        elif chance < 0.15:
            line, endpoint = endpoint, line
        elif chance < 0.2:
            endpoint = "10.0.0.5/32"
        elif chance < 0.22:
            endpoint = "198.18.0.0/25"
        lines = (line, "10.0.1.0/24") if draw.random() < 0.05 else (line,)
        ports = (51820,) if draw.random() < 0.6 else ()
        kinds = () if draw.random() < 0.2 else (draw.choice(KINDS),)
        found[number] = Entry(number, f"r{number}", lines, (endpoint,), ports, kinds)
    return found


def told(found: Difference) -> dict:
    """Each registration's changes from one prefix to one prefix -> its ports."""
    seen: dict = {}
    for change in (single for each in found.changes for single in each.singles()):
        less = frozenset(flat(change.exceptions))
        for one, other in product(change.subscribers, change.endpoints):
            for look, ports, opened_by in change.traffic:
                for way in ("subscriber", "endpoint") if opened_by == "either" else (opened_by,):
                    key = (change.version, one, other, less, look, way, change.before, change.after)
                    seen[key] = seen[key].either(ports) if key in seen else ports
    return seen


def compare(seed: int) -> int:
    """How many followed, where the difference is as without any."""
    draw = Random(seed)
    old = entries(draw, 40)
    new = dict(old)
    for number in draw.sample(range(1, 41), 4) if draw.random() < 0.5 else ():
        del new[number]
    sides = Side(policy(draw), old), Side(policy(draw), new)
    found = difference(*sides)
    general = difference(*sides, is_led=False)
    assert told(found) == told(general)
    assert found.covered_by == general.covered_by
    return len(followers(*sides))


def followers(old: Side, new: Side) -> list:
    """In IPv4."""
    return [item for each in divide(old, new, items(old, new)[4], 4).alike for item in each.followers]


def test_followers_change_as_if_each_had_been_compared():
    followed = [compare(seed) for seed in (*range(60), 1180)]

    assert sum(followed) > 500 and sum(map(bool, followed)) > 40


@pytest.mark.nightly
def test_the_same_in_many_worlds():
    assert sum(compare(seed) for seed in range(1000, 3000)) > 10_000


FOUR = {
    number: Entry(
        number, f"r{number}", (f"198.51.100.{line}/32",), (f"198.51.100.{endpoint}/32",), (), KINDS[:1]
    )
    for number, (line, endpoint) in enumerate(((0, 32), (1, 33), (2, 34)), 1)
}


@pytest.mark.parametrize("old_match", MATCHES)
@pytest.mark.parametrize("new_match", MATCHES)
def test_followers_are_judged_as_decide_judges_them(old_match, new_match):
    governs = ("wireguard", "ikev2", "esp")
    old_policy = replace(POLICY, match=old_match, governs=governs)
    new_policy = replace(POLICY, match=new_match, governs=governs, action="reject")
    sides = Side(old_policy, FOUR), Side(new_policy, FOUR)

    assert len(followers(*sides)) == (4 if {old_match, new_match} == {"subscriber", "endpoint"} else 2)
    assert check(old_policy, FOUR, new_policy, FOUR) > 0


SHARED = {
    number: Entry(number, f"r{number}", (f"198.51.100.{line}/32",), ("198.51.100.32/32",), ports, kinds)
    for number, (line, ports, kinds) in enumerate(
        ((0, (), KINDS[:1]), (1, (51820,), KINDS[:1]), (2, (51820,), ()), (3, (500,), ("ikev2",))), 1
    )
}


@pytest.mark.parametrize("old_match", MATCHES)
@pytest.mark.parametrize("new_match", MATCHES)
def test_those_that_share_an_endpoint_are_judged_as_decide_judges_them(old_match, new_match):
    governs = ("wireguard", "ikev2", "esp")
    old_policy = replace(POLICY, match=old_match, governs=governs)
    new_policy = replace(POLICY, match=new_match, governs=governs, action="reject")

    assert check(old_policy, SHARED, new_policy, SHARED) > 0


def test_a_follower_that_is_not_free_is_caught(monkeypatch):
    """Whoever shares a line is no follower here; were it one, points would be told twice or not at all."""
    over = {**FOUR, 4: replace(FOUR[2], registration=4, endpoint_prefixes=("198.51.100.35/32",))}
    policies = (replace(POLICY, match="subscriber+endpoint"), replace(POLICY, match="subscriber"))
    assert check(policies[0], over, policies[1], over) > 0  # control

    monkeypatch.setattr(touch.Touch, "holds", lambda *_: False)

    with pytest.raises(AssertionError):
        check(policies[0], over, policies[1], over)
