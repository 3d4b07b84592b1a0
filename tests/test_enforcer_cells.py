"""Either index gives what looking through all entries gives, whatever came and went."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import Index, find
from enforcer.dataplanes.prefix_index import PrefixIndex

_SUBSCRIBERS = ("10.0.0.1/32", "10.0.0.0/31", "10.0.0.0/24", "0.0.0.0/0", "fd00::1/128", "fd00::/64", "::/0")
_ENDPOINTS = ("10.9.0.1/32", "10.9.0.0/30", "0.0.0.0/0", "fd09::1/128", "fd09::/127", "::/0")
_PROTOCOLS = ("wireguard", "openvpn-udp", "ikev2", "esp", "l2tp", "pptp")
_KINDS = ("wireguard", "openvpn-udp", "ikev2", "esp", "ah", "l2tp", "l2tp-ip", "pptp", "gre")


def _some(values, smallest=0):
    return st.lists(st.sampled_from(values), min_size=smallest, max_size=3, unique=True).map(tuple)


entries = st.builds(
    Entry,
    registration=st.integers(1, 6),
    registrant=st.just("r"),
    subscriber_prefixes=_some(_SUBSCRIBERS, 1),
    endpoint_prefixes=_some(_ENDPOINTS, 1),
    endpoint_ports=_some((500, 1194, 51820)),
    protocols=_some(_PROTOCOLS),
    valid_from_ns=st.sampled_from((0, 5)),
    valid_until_ns=st.sampled_from((None, 7)),
)
v4 = st.sampled_from(("10.0.0.1", "10.0.0.0", "10.0.0.9", "10.9.0.1", "10.9.0.3", "192.0.2.1"))
v6 = st.sampled_from(("fd00::1", "fd00::2", "fd09::1", "fd09::", "2001:db8::1"))


@pytest.mark.parametrize("make_index", [Index, PrefixIndex])
@settings(max_examples=300, deadline=None)
@given(
    match=st.sampled_from(("subscriber", "endpoint", "subscriber+endpoint")),
    steps=st.lists(st.tuples(st.booleans(), entries), max_size=8),
    data=st.data(),
)
def test_an_index_agrees_with_looking_through_all(make_index, match, steps, data):
    from ipaddress import ip_address

    index, held = make_index(match), {}
    for is_added, entry in steps:
        index.remove(entry.registration)
        held.pop(entry.registration, None)
        if is_added:
            index.add(entry)
            held[entry.registration] = entry
    for _ in range(5):
        addresses = data.draw(st.sampled_from((v4, v6)))
        src, dst = ip_address(data.draw(addresses)), ip_address(data.draw(addresses))
        kind = data.draw(st.sampled_from(_KINDS))
        ports = data.draw(st.tuples(*[st.sampled_from((0, 500, 1194, 51820, 40000))] * 2))
        now_ns = data.draw(st.sampled_from((0, 5, 7)))
        ends = (src.version, kind, int(src), ports[0], int(dst), ports[1], now_ns)
        assert index.find(*ends) == find(Allowlist(1, held), match, *ends)
    for number in held:
        index.remove(number)
    assert not index.entries and index.count() == 0


@settings(deadline=None)
@given(
    match=st.sampled_from(("subscriber", "endpoint", "subscriber+endpoint")),
    some=st.lists(entries, max_size=6, unique_by=lambda entry: entry.registration),
)
def test_many_at_once_make_the_index_that_one_by_one_make(match, some):
    index = Index(match)
    for entry in some:
        index.add(entry)
    assert Index(match, some).tables == index.tables and Index(match, some).entries == index.entries


@given(st.lists(entries, max_size=6, unique_by=lambda entry: entry.registration))
def test_taking_out_what_was_put_in_leaves_nothing(some):
    index = Index("subscriber+endpoint", some)
    for entry in some:
        index.remove(entry.registration)
    assert not index.tables and not index.entries


@given(st.lists(entries, min_size=2, max_size=6, unique_by=lambda entry: entry.registration))
def test_the_changes_say_what_a_table_elsewhere_must_do(some):
    index = Index("subscriber+endpoint")
    elsewhere = {}
    for change in [change for entry in some for change in index.add(entry)] + index.remove(
        some[0].registration
    ):
        assert elsewhere.get((change.shape, change.key)) == change.before
        if change.after is None:
            del elsewhere[change.shape, change.key]
        else:
            elsewhere[change.shape, change.key] = change.after
    held = {(shape, key) for shape, table in index.tables.items() for key in table}
    assert held == elsewhere.keys()
