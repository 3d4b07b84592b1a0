"""`enforcer diff` is exact: on small worlds its changes are the points whose verdict `decide` changes, each once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_network
from itertools import islice, product

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import Index, find
from enforcer.decide import Flow, decide, recognise
from enforcer.difference import changes as changes_module
from enforcer.difference import prefixes as prefixes_module
from enforcer.difference.alike import divide
from enforcer.difference.change import Change
from enforcer.difference.changes import difference
from enforcer.difference.items import items
from enforcer.difference.prefixes import flat
from enforcer.difference.sides import DOCUMENTED, LOOKS, Side
from enforcer.packet import parse
from enforcer.policy import Exemption, NamedEndpoint, Policy
from tests import enforcer_packets as made

_KEEP = ("signature-wrong", "serial-wrong", "table-full", "dataplane-dead", "disk-full", "clock-jumped")
POLICY = Policy.from_json(
    {
        "policy": "p",
        "title": "for tests",
        "mode": "enforce",
        "governs": ["wireguard"],
        "match": "subscriber",
        "unregistered": {"action": "drop"},
        "revocation": {"live-flows": "cut"},
        "on-failure": {
            "no-allowlist-yet": {"do": "block"},
            "queue-full": {"do": "block"},
            "feed-shrinks": {"by-more-than": "50%", "do": "keep"},
            **{
                key: {"after": "1m", "do": "keep"}
                for key in ("registry-unreachable", "feed-stale", "agent-dead")
            },
            **{key: {"do": "keep"} for key in _KEEP},
        },
    }
)
# One of each part into which the prefixes divide the addresses, and of each into which documented and named ports divide the
# ports: all others are judged like one of these. Each address may stand on either side.
ADDRESSES = {
    4: [*(f"198.51.100.{n}" for n in (0, 1, 2, 3, 4, 32, 33, 34)), "203.0.113.9"],
    6: ["2001:db8::", "2001:db8::1", "fd00::7"],
}
PREFIXES = (
    *("198.51.100.0/30", "198.51.100.0/31", "198.51.100.1/32", "198.51.100.2/32", "198.51.100.32/30"),
    *("198.51.100.32/32", "198.51.100.34/31", "198.51.100.0/26", "0.0.0.0/0"),
    *("2001:db8::/127", "2001:db8::1/128", "::/0"),
)
NAMED = (443, 500, 51820)
PORTS = (*NAMED, 1194, 1701, 1723, 4500, 40000)
FROM = 50000  # a port that nothing names
MESSAGES = {
    "wireguard": made.WIREGUARD_INITIATION,
    "openvpn-udp": made.OPENVPN_RESET,
    "openvpn-tcp": made.behind_length(made.OPENVPN_RESET),
    "ikev2": made.IKE_SA_INIT,
    "l2tp": made.L2TP_SCCRQ,
    "pptp": made.PPTP_REQUEST,
    "other-udp": b"\xc0\0\0\0\1" + b"\xa5" * 60,
    "other-tcp": b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + b"\xa5" * 60,
}
# Shrinking takes minutes; when one fails, let it: add Phase.shrink.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
NUMBERS = {"esp": 50, "ah": 51, "l2tp-ip": 115, "gre": 47}


def packet(look: str, source: str, destination: str, port: int):
    if look in NUMBERS:
        body = made.GRE_PPTP if look == "gre" else b"\xa5" * 32
        return parse(made.ip(source, destination, NUMBERS[look], body))
    if LOOKS[look] == "udp":
        marker = b"\0" * 4 if (look, port) == ("ikev2", 4500) else b""  # RFC 3948 section 2.2
        return parse(made.udp(source, destination, FROM, port, marker + MESSAGES[look]))
    return parse(made.tcp(source, destination, FROM, port, made.ACK | made.PSH, MESSAGES[look]))


PACKETS = [
    (look, source, destination, port, packet(look, source, destination, port))
    for pool in ADDRESSES.values()
    for look, source, destination in product(LOOKS, pool, pool)
    for port in (PORTS if LOOKS[look] else (0,))
]


def some(values, least=0, most=2):
    return st.lists(st.sampled_from(values), min_size=least, max_size=most, unique=True).map(tuple)


protocols = st.sampled_from(
    (*(("wireguard",), ("ikev2",), ("esp",)), *(("openvpn-tcp", "pptp"), ("l2tp",), ()))
)
entry = st.builds(
    lambda lines, endpoints, ports, kinds: (lines, endpoints, ports, kinds),
    some(PREFIXES, 1),
    some(PREFIXES, 1),
    some(NAMED),
    protocols,
)
entries = st.lists(entry, max_size=6).map(
    lambda found: {number: Entry(number, f"r{number}", *each) for number, each in enumerate(found, 1)}
)
policies = st.builds(
    lambda match, mode, stop, governs, by, named, exempt: replace(
        POLICY,
        match=match,
        mode=mode,
        action=stop,
        police_bps=64000 if stop == "police" else None,
        governs=governs,
        recognise_by=by,
        named_endpoints=tuple(NamedEndpoint(kind, *rest) for kind, *rest in named if kind in governs),
        exempt=tuple(Exemption(f"x{n}", "why", *each) for n, each in enumerate(exempt)),
    ),
    st.sampled_from(("subscriber", "endpoint", "subscriber+endpoint")),
    st.sampled_from(("enforce", "enforce", "observe")),
    st.sampled_from(("drop", "drop", "reject", "police")),
    st.sampled_from(
        (
            ("wireguard", "ikev2", "esp", "openconnect"),
            ("wireguard", "l2tp", "pptp", "ikev2"),
            ("openvpn-tcp", "esp", "wireguard", "openconnect"),
        )
    ),
    st.sampled_from((("ports", "first-packets"), ("ports",), ("first-packets",))),
    st.lists(
        st.tuples(st.sampled_from(("openconnect", "wireguard")), some(PREFIXES, 1), some((443,))), max_size=1
    ),
    st.lists(
        st.tuples(
            some(("ikev2", "esp", "wireguard"), 0, 1),
            some(PREFIXES, 0, 1),
            some((500, 443), 0, 1),
            some(PREFIXES),
        ),
        max_size=1,
    ),
)


_MOST_PIECES = 4000  # what lies outside a few addresses of IPv6, on both sides, is a hundred thousand pieces
POOLS = {version: [(text, int(ip_address(text))) for text in pool] for version, pool in ADDRESSES.items()}


@cache
def inside(version: int, prefix: tuple[int, int]) -> list[str]:
    """The world's addresses that lie in the prefix."""
    shift = (32 if version == 4 else 128) - prefix[1]
    return [text for text, number in POOLS[version] if number >> shift == prefix[0] >> shift]


def points(change: Change) -> list[tuple[str, str]]:
    """The world's pairs of addresses that a change speaks of: as pieces without exceptions, and as it is written where these are many."""
    version = change.version
    pieces = list(islice(change.pieces(), _MOST_PIECES + 1))
    if len(pieces) <= _MOST_PIECES:
        return [
            pair
            for subscriber, endpoint in pieces
            for pair in product(inside(version, subscriber), inside(version, endpoint))
        ]
    ones, others = (
        [text for prefix in prefixes for text in inside(version, prefix)]
        for prefixes in (change.subscribers, change.endpoints)
    )
    taken = {
        pair
        for one, other in flat(change.exceptions)
        for pair in product(inside(version, one), inside(version, other))
    }
    return [pair for pair in product(ones, others) if pair not in taken]


def told(old: Side, new: Side):
    """(look, source, destination, port) -> (before, after) of the difference; a point that is told twice fails."""
    found = {}
    for change in (one for each in difference(old, new).changes for one in each.singles()):
        pairs = points(change)
        for look, ports, opened_by in change.traffic:
            for port in PORTS if LOOKS[look] else (0,):
                if (port in ports.ports) == ports.is_all_but:
                    continue
                for one, other in pairs:
                    ways = {"subscriber": [(one, other)], "endpoint": [(other, one)]}
                    for way in ways.get(opened_by) or [(one, other), (other, one)]:
                        key = (look, *way, port)
                        # The same two ends, opened from either side, when one prefix stands on both sides.
                        if key in found and opened_by == "either" and one == other:
                            continue
                        assert key not in found, f"{key} is told twice"
                        found[key] = (change.before, change.after)
    return found


def verdict(packet, side: Side, index: Index):
    found = decide(packet, Flow(), index, side.policy, 0)
    if found.action == "police":
        return "police 64kbit", found
    return found.action, found


def check(old_policy: Policy, old, new_policy: Policy, new) -> int:
    old_side, new_side = Side(old_policy, old), Side(new_policy, new)
    indexes = Index(old_policy.match, old.values()), Index(new_policy.match, new.values())
    found = told(old_side, new_side)
    differing = 0
    for look, source, destination, port, packet in PACKETS:
        before, old_verdict = verdict(packet, old_side, indexes[0])
        after, new_verdict = verdict(packet, new_side, indexes[1])
        seen = found.get((look, source, destination, port))
        if before == after:
            assert seen is None, (look, source, destination, port, seen)
            continue
        differing += 1
        assert seen is not None, (look, source, destination, port, before, after)
        assert (seen[0].verdict, seen[1].verdict) == (before, after)
        for outcome, side, judged in ((seen[0], old_side, old_verdict), (seen[1], new_side, new_verdict)):
            if outcome.verdict != "pass":
                assert outcome.by is None
            elif isinstance(outcome.by, int):
                kind = recognise(packet, side.policy)
                assert kind is not None
                ends = (
                    packet.version,
                    kind.kind,
                    packet.src,
                    packet.src_port,
                    packet.dst,
                    packet.dst_port,
                    0,
                )
                one = Allowlist(0, {outcome.by: side.entries[outcome.by]})
                assert judged.reason == "registered" and find(one, side.policy.match, *ends)
            else:
                assert judged.reason == ("not-vpn" if outcome.by == "not-vpn" else "exempt")
    return differing


def test_the_worlds_points_stand_for_all_others():
    """Where no prefix begins or ends nothing changes; so every part between two such places has an address here, or is like one."""
    for version, pool in ADDRESSES.items():
        networks = [ip_network(each) for each in PREFIXES if (":" in each) == (version == 6)]
        firsts = [int(each[0]) for each in networks]
        nexts = [int(each[-1]) + 1 for each in networks]
        parts = [number for number in (*firsts, *nexts) if number >> networks[0].max_prefixlen == 0]

        def around(number, networks=networks):
            return frozenset(each for each in networks if int(each[0]) <= number <= int(each[-1]))

        assert {around(number) for number in parts} == {around(int(ip_address(text))) for text in pool}
    assert {*NAMED, *DOCUMENTED["udp"], *DOCUMENTED["tcp"]} < set(PORTS)


@settings(max_examples=28, derandomize=True, deadline=None, phases=PHASES)
@given(policy=policies, old=entries, new=entries)
def test_changes_of_the_list_are_exactly_the_points_whose_verdict_differs(policy, old, new):
    check(policy, old, policy, new)


@settings(max_examples=12, derandomize=True, deadline=None, phases=PHASES)
@given(old_policy=policies, new_policy=policies, old=entries, new=entries)
def test_changes_of_policy_and_list_are_exactly_the_points_whose_verdict_differs(
    old_policy, new_policy, old, new
):
    check(old_policy, old, new_policy, new)


@pytest.mark.nightly
@settings(max_examples=2000, deadline=None, phases=PHASES)
@given(old_policy=policies, new_policy=policies, old=entries, new=entries)
def test_the_same_many_times(old_policy, new_policy, old, new):
    check(old_policy, old, new_policy, new)


LONELY = {
    1: Entry(1, "a", ("198.51.100.0/32",), ("198.51.100.33/32",), (51820,), ("wireguard",)),
    2: Entry(
        2, "b", ("198.51.100.2/31", "2001:db8::/128"), ("198.51.100.34/32", "fd00::7/128"), (), ("ikev2",)
    ),
}


def test_what_is_the_same_on_both_sides_is_only_looked_at_near_what_is_not():
    policy = replace(POLICY, match="subscriber+endpoint", governs=("wireguard", "ikev2", "esp"))
    new = LONELY | {1: replace(LONELY[1], subscriber_prefixes=("198.51.100.1/32",))}
    sides = Side(policy, LONELY), Side(policy, new)

    division = divide(*sides, items(*sides)[4], 4)

    assert [set(each) for each in division.own] == [{1}, {1}]
    assert check(policy, LONELY, policy, new) > 0


def test_what_a_named_endpoint_cuts_in_pieces_on_one_side_is_whole_on_the_other():
    """A piece of a registration overlaps itself alone, and passes on both sides all the same."""
    governs = ("wireguard", "openconnect")
    named = (NamedEndpoint("openconnect", ("198.51.100.32/32",), ()),)
    old = replace(
        POLICY,
        match="subscriber+endpoint",
        governs=governs,
        recognise_by=("ports",),
        named_endpoints=named,
        action="reject",
    )
    new = replace(old, recognise_by=("first-packets",), named_endpoints=())
    wide = {1: Entry(1, "a", ("198.51.100.32/30",), ("198.51.100.34/31",))}

    assert check(old, wide, new, wide) > 0


def test_a_broken_subtraction_is_caught(monkeypatch):
    """Nothing taken away from a rectangle: what another registration covers would be told as lost."""
    over = {**LONELY, 3: Entry(3, "c", ("198.51.100.0/30",), ("198.51.100.32/30",))}
    policy = replace(POLICY, match="subscriber+endpoint")
    assert check(policy, over, policy, {3: over[3]}) == 0  # control: right as it is

    monkeypatch.setattr(changes_module, "_overlaps", lambda *_: iter(()))

    with pytest.raises(AssertionError):
        check(policy, over, policy, {3: over[3]})


def test_a_cut_that_loses_a_half_is_caught(monkeypatch):
    """Changes as plain prefixes: a half that is left out leaves points untold."""
    wide = {1: Entry(1, "a", ("198.51.100.0/26",), ("198.51.100.0/26",))}
    some = {2: Entry(2, "b", ("198.51.100.0/31",), ("198.51.100.0/26",))}
    policy = replace(POLICY, match="subscriber+endpoint")
    assert check(policy, wide, policy, some) > 0  # control

    halves = prefixes_module._halves
    monkeypatch.setattr(prefixes_module, "_halves", lambda *words: halves(*words)[:1])

    with pytest.raises(AssertionError):
        check(policy, wide, policy, some)
