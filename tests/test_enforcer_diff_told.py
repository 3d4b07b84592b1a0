"""`enforcer diff`: the leader's changes told of all that follow it, what a difference means for people, and whole networks in few words."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest

from enforcer.allowlist import Entry
from enforcer.difference.alike import Alike
from enforcer.difference.change import ANY_PORT, EACH, Change, Outcome, Ports, Traffic
from enforcer.difference.changes import Difference, difference
from enforcer.difference.cover import Label
from enforcer.difference.following import with_followers
from enforcer.difference.prefixes import WHOLE, Prefix, Product, read
from enforcer.difference.sides import Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import is_milder, kind_of, moments, summary
from enforcer.difference.words import told
from tests.test_enforcer_diff_exact import POLICY

WIREGUARD = (Traffic("wireguard", ANY_PORT, "either"),)
DROP = Outcome("drop")


def prefix(text: str) -> Prefix:
    return read(text)[1]


def entry(number: int, line: str, endpoint: str = "192.0.2.1/32", *, who: str = "") -> Entry:
    return Entry(number, who or f"r{number}", (line,), (endpoint,), (), ("wireguard",), category="bank")


def side(*entries: Entry, **changes) -> Side:
    policy = replace(POLICY, **{"match": "subscriber+endpoint", **changes})
    return Side(policy, {each.registration: each for each in entries})


# following

LINES = tuple(prefix(f"10.0.0.{number}/32") for number in (1, 2, 3))
HOSTS = tuple(prefix(f"192.0.2.{number}/32") for number in (1, 2, 3))
OTHERS = (prefix("10.9.0.0/24"), prefix("10.9.1.0/24"))


def following(change: Change, covered_by=None, both=None) -> list[Change]:
    """Registration 2 leads, 1 and 3 follow."""
    items = [(number, LINES[number - 1], HOSTS[number - 1]) for number in (1, 2, 3)]
    traits = (("wireguard",), ())
    alike = Alike(items[1], both or (traits, None), [items[2], items[0]])
    return [*with_followers([change], [alike], defaultdict(set) if covered_by is None else covered_by)]


def lost(by: Label, *, ones=LINES[1:2], others=HOSTS[1:2], less: tuple[Product, ...] = ()) -> Change:
    return Change(4, ones, others, less, WIREGUARD, Outcome("pass", by), DROP)


def test_a_leaders_change_is_told_of_all_in_the_order_of_their_numbers():
    (found,) = following(lost(2))

    assert found == Change(4, LINES, HOSTS, (), WIREGUARD, Outcome("pass", EACH), DROP, (1, 2, 3))
    assert [each.before.by for each in found.singles()] == [1, 2, 3]
    assert [(each.subscribers, each.endpoints) for each in found.singles()] == [
        ((line,), (host,)) for line, host in zip(LINES, HOSTS, strict=True)
    ]


def test_another_registrations_change_stays_as_it_is():
    change = lost(9)

    assert following(change) == [change]


def test_what_is_taken_away_from_the_leader_is_taken_from_each_at_its_own_place():
    """A list is everybody's, the leader's own prefix each one's own, and its own line with its own endpoint a pair."""
    own, general = Product(LINES[1:2], HOSTS[1:2]), Product(LINES[1:2], OTHERS)
    (found,) = following(lost(2, others=(WHOLE,), less=(own, general)))

    assert found.exceptions == (Product(LINES, HOSTS, True), Product(LINES, OTHERS))
    for place, single in enumerate(found.singles()):
        mine = LINES[place : place + 1]
        assert single.endpoints == (WHOLE,)
        assert single.exceptions == (Product(mine, HOSTS[place : place + 1]), Product(mine, OTHERS))


def test_followers_are_covered_by_what_covers_their_leader():
    covered_by: dict[int, set[Label]] = defaultdict(set, {2: {7, "exempt:x"}})

    following(lost(2), covered_by)

    assert covered_by == {number: {7, "exempt:x"} for number in (1, 2, 3)}


def test_what_only_begins_covers_nothing_that_ended():
    covered_by: dict[int, set[Label]] = defaultdict(set, {2: {7}})

    following(lost(9), covered_by, (None, (("wireguard",), ())))

    assert covered_by == {2: {7}}


# summary


def test_who_loses_and_who_gains_is_told_by_registrant():
    old = (
        entry(1, "10.0.0.1/32", who="ends"),
        entry(2, "10.0.0.2/32", who="keeps-one"),
        entry(3, "10.0.0.3/32", who="keeps-one"),
        entry(4, "10.0.0.4/32", who="moves"),
        entry(5, "10.0.0.5/32", who="more"),
    )
    new = (
        old[2],
        replace(old[3], subscriber_prefixes=("10.0.0.40/32",)),
        old[4],
        entry(6, "10.0.0.6/32", who="more"),
        entry(7, "10.0.0.7/32", who="begins"),
    )
    found = summary(difference(side(*old), side(*new)))

    def told_of(people) -> list:
        return [(each.name, each.category, each.registrations) for each in people]

    assert told_of(found.lose_all) == [("ends", "bank", (1,))]
    assert told_of(found.lose_some) == [("keeps-one", "bank", (2,))]
    assert told_of(found.both) == [("moves", "bank", (4,))]
    assert told_of(found.gain_more) == [("more", "bank", (6,))]
    assert told_of(found.gain_first) == [("begins", "bank", (7,))]
    assert found.stops is None and not found.wide and not found.without_effect


def test_what_ended_and_is_covered_is_without_effect():
    kept, ended = entry(1, "10.0.0.0/24"), entry(2, "10.0.0.9/32")

    assert summary(difference(side(kept, ended), side(kept))).without_effect == {2: {1}}
    assert summary(difference(side(ended), side())).without_effect == {}  # control: it has an effect


def test_a_stop_that_changes_is_seen_where_some_traffic_meets_it():
    found = summary(difference(side(), side(action="reject")))

    assert found.stops == ("drop", "reject") and found.is_stop_seen
    assert is_milder("drop", "reject") and is_milder("reject", "police 64kbit")
    assert not is_milder("observe", "drop")


def test_a_change_is_of_the_kind_that_its_ends_say():
    one = lost(1)
    assert kind_of(one) == "lose"
    assert kind_of(one._replace(before=DROP, after=Outcome("pass", 1))) == "gain"
    assert kind_of(one._replace(before=DROP, after=Outcome("reject"))) == "stop"


@pytest.mark.parametrize(
    "line, is_wide", [("10.0.0.0/24", True), ("10.0.0.0/25", False), ("10.0.0.1/32", False)]
)
def test_a_network_is_whole_from_a_24_on(line, is_wide):
    assert bool(summary(difference(side(), side(entry(1, line)))).wide) is is_wide


def test_moments_are_those_after_the_one_time_and_until_the_other():
    each = replace(entry(1, "10.0.0.1/32"), valid_from_ns=10, valid_until_ns=20)

    def at(from_ns: int, until_ns: int) -> list[tuple[int, str]]:
        return [(moment.at_ns, moment.what) for moment in moments([each], from_ns, until_ns)]

    assert at(0, 30) == [(10, "begins"), (20, "ends")]
    assert at(10, 19) == [] and at(9, 10) == [(10, "begins")] and at(19, 20) == [(20, "ends")]
    assert moments([replace(each, valid_until_ns=None)], 10, 99) == []


# words


def sentences(found: Difference, limit: int = 20) -> list[str]:
    listed = (Listed("a", None, found.old.entries), Listed("b", None, found.new.entries))
    text = told(found, summary(found), [], 0, listed, "7d", limit)
    return [line for line in text.splitlines() if "whole network" in line]


def networks(count: int) -> tuple[Entry, ...]:
    return tuple(entry(n, f"10.0.{n}.0/24", f"192.0.2.{n}/32") for n in range(1, count + 1))


def test_a_whole_network_is_told_once_whatever_its_ports():
    one = Change(4, (prefix("10.0.1.0/24"),), HOSTS[:1], (), WIREGUARD, DROP, Outcome("pass", 1))
    rest = one._replace(traffic=(Traffic("wireguard", Ports(False, frozenset({443})), "either"),))
    first = one._replace(traffic=(Traffic("wireguard", Ports(True, frozenset({443})), "either"),))

    found = Difference(side(), side(*networks(1)), [first, rest])

    assert sentences(found) == [
        "A whole network passes by one registration now: 10.0.1.0/24 → 192.0.2.1, registration 1: wireguard any port."
    ]


def test_many_whole_networks_are_one_sentence():
    found = difference(side(), side(*networks(9)))

    assert sentences(found) == [
        "9 whole networks pass by one registration each now: 10.0.1.0/24 → 192.0.2.1 (registration 1), "
        "10.0.2.0/24 → 192.0.2.2 (registration 2), 10.0.3.0/24 → 192.0.2.3 (registration 3) and 6 more "
        "(--limit 0 shows all), together: wireguard any port."
    ]
    assert len(sentences(found, 0)) == 9
    assert len(sentences(difference(side(), side(*networks(3))))) == 3
