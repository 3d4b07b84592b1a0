"""Prefix lookups are what ipaddress says they are; and what pytricia by itself would have said."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from socket import AF_INET6

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytricia import PyTricia

from enforcer.prefixes import Prefix, PrefixMap


@st.composite
def networks(draw):
    """Networks of both families that lie inside one another more often than chance would have it."""
    version = draw(st.sampled_from((4, 6)))
    width = 32 if version == 4 else 128
    address = draw(st.sampled_from((0, 1, 0x20010DB8 << width - 32, (1 << width) - 1, draw(st.integers(0, (1 << width) - 1)))))  # fmt: skip
    bits = draw(st.sampled_from((0, 1, 8, 31, 32, 33, 64, 96, 127, 128)).filter(lambda each: each <= width))
    return ip_network((address >> width - bits << width - bits, bits))


@st.composite
def addresses(draw, held):
    """Addresses at the edges of what is held, one beyond, and anywhere."""
    edges = [int(end) + step for each in held for end in (each[0], each[-1]) for step in (-1, 0, 1)]
    version = draw(st.sampled_from((4, 6)))
    most = (1 << (32 if version == 4 else 128)) - 1
    number = draw(st.sampled_from(edges) | st.integers(0, most) if edges else st.integers(0, most))
    return ip_address(min(max(number, 0), most)) if version == 4 else ip_address(min(max(number, 1 << 32), most))  # fmt: skip


@given(held=st.lists(networks(), max_size=8), gone=st.lists(networks(), max_size=4), data=st.data())
def test_lookups_are_those_of_ipaddress_whatever_came_and_went(held, gone, data):
    table = PrefixMap((str(each), number) for number, each in enumerate(held))
    expected = {each: number for number, each in enumerate(held)}
    for each in gone:
        assert table.pop(str(each), None) == expected.pop(each, None)
    assert {ip_network(str(each)): value for each, value in table.items()} == expected
    assert len(table) == len(expected)
    for each in (*held, *gone):
        assert (str(each) in table, table.get(str(each))) == (each in expected, expected.get(each))
    for _ in range(4):
        address = data.draw(addresses(held))
        covering = sorted((each for each in expected if address in each), key=lambda each: -each.prefixlen)
        ends = (address.version, int(address))
        found = [(ip_network(str(prefix)), value) for prefix, value in table.covering(*ends)]
        assert found == [(each, expected[each]) for each in covering]
        longest = table.longest(*ends)
        assert (longest and longest[1]) == (expected[covering[0]] if covering else None)
        assert table.covers(*ends) == bool(covering)


@given(st.text(max_size=50) | st.from_regex(r"[0-9a-f:.]{1,20}(/[0-9]{1,3})?", fullmatch=True))
def test_a_text_is_a_prefix_exactly_when_ipaddress_says_so_and_it_has_a_length(text):
    try:
        expected = ip_network(text) if "/" in text else None
    except ValueError:
        expected = None
    if expected is not None and (
        "%" in text or "." in text.partition("/")[2] or len(text.partition("/")[2]) > 3
    ):
        expected = None  # zones, netmasks and lengths with many zeros are not CIDR notation
    try:
        found = Prefix.parse(text)
    except ValueError:
        assert expected is None
    else:
        assert expected is not None
        assert (found.version, found.address, found.bits) == (
            expected.version,
            int(expected.network_address),
            expected.prefixlen,
        )
        assert ip_network(str(found)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/33", "an IPv4 prefix cannot have 33 bits; write 0 to 32"),
        ("::1/129", "an IPv6 prefix cannot have 129 bits; write 0 to 128"),
        ("10.0.0.5/8", "'10.0.0.5/8' has bits set after its prefix length; write '10.0.0.0/8'"),
        ("10.0.0.0/+8", "'+8' in '10.0.0.0/+8' is not a prefix length; write 0 to 32"),
        ("10.0.0.0/-1", "'-1' in '10.0.0.0/-1' is not a prefix length; write 0 to 32"),
        ("10.0.0.1", "'10.0.0.1' has no prefix length; write '10.0.0.1/32'"),
        ("10.1/16", "'10.1/16' is not a prefix; write '203.0.113.0/24' or '2001:db8::/48'"),
        ("zebra", "'zebra' is not a prefix; write '203.0.113.0/24' or '2001:db8::/48'"),
    ],
)
def test_a_wrong_prefix_is_refused_in_words(text, message):
    with pytest.raises(ValueError) as error:
        PrefixMap()[text] = 1
    assert str(error.value) == message


def test_prefixes_made_of_numbers_are_checked_too():
    for wrong in (Prefix(5, 0, 0), Prefix(4, 1 << 32, 32), Prefix(6, 1, 64), Prefix(4, 0, 33)):
        with pytest.raises(ValueError, match="4 or 6|not an IPv4 address|bits"):
            PrefixMap()[wrong] = 1


# The traps: what the bare library does, and what the wrapper does instead. Should a release of pytricia close one, its first
# half fails, and the wrapper's reason for being is one less.


def test_trap_ipv6_in_the_default_trie():
    bare = PyTricia()
    bare["2001:db8::/32"] = (
        "registered"  # taken without a word; whether a longer one is found again is chance
    )
    assert bare.get("32.1.13.184") == "registered"  # an IPv4 address with the same 32 bits: over-allowed

    table = PrefixMap([("2001:db8:1::/48", "registered"), ("2001:db8::/32", "registered")])
    assert table.covers(6, int(ip_address("2001:db8:1::1")))
    assert not table.covers(4, int(ip_address("32.1.13.184")))


@pytest.mark.parametrize(("default", "other"), [("::/0", "1.2.3.4"), ("0.0.0.0/0", "2001:db8::1")])
def test_trap_a_default_route_covers_the_other_family(default, other):
    bare = PyTricia(128, AF_INET6)
    bare[default] = "all"
    assert bare.get(other) == "all"

    table, address = PrefixMap([(default, "all")]), ip_address(other)
    assert not table.covers(address.version, int(address))
    assert table.covers(10 - address.version, 1 << 31)


def test_trap_a_length_beyond_the_family_becomes_the_longest():
    bare = PyTricia(32)
    bare["10.0.0.1/33"] = "x"
    assert list(bare) == ["10.0.0.1/32"]
    with pytest.raises(ValueError, match="33 bits"):
        PrefixMap([("10.0.0.1/33", "x")])


def test_trap_a_length_that_is_no_number_becomes_zero():
    bare = PyTricia(32)
    bare["10.0.0.0/x"] = "everybody"
    assert bare.get("192.0.2.1") == "everybody"
    with pytest.raises(ValueError, match="not a prefix length"):
        PrefixMap([("10.0.0.0/x", "everybody")])


def test_trap_host_bits_are_kept_in_the_key():
    bare = PyTricia(32)
    bare["10.0.0.5/8"] = "x"
    assert list(bare) == ["10.0.0.5/8"] and bare.get("10.200.0.1") == "x"
    with pytest.raises(ValueError, match="write '10.0.0.0/8'"):
        PrefixMap([("10.0.0.5/8", "x")])


def test_trap_an_item_is_the_longest_match_and_not_the_prefix():
    bare = PyTricia(32)
    bare["10.0.0.0/8"] = "wide"
    assert bare["10.1.0.0/16"] == "wide" and "10.1.0.0/16" in bare
    table = PrefixMap([("10.0.0.0/8", "wide")])
    assert "10.1.0.0/16" not in table and table.get("10.1.0.0/16") is None
    with pytest.raises(KeyError):
        del table["10.1.0.0/16"]


def test_trap_numbers_of_more_than_64_bits_fail_and_leave_a_key():
    bare = PyTricia(128, AF_INET6)
    with pytest.raises(SystemError):
        bare.insert(1 << 127, "x")
    table = PrefixMap([(Prefix(6, 1 << 127, 1), "x")])
    assert table.covers(6, (1 << 127) + 5) and len(table) == 1


def test_a_mapped_address_is_an_ipv6_address():
    table = PrefixMap([("::ffff:0:0/96", "mapped"), ("10.0.0.0/8", "native")])
    assert table.longest(4, int(ip_address("10.0.0.1"))) == (Prefix.parse("10.0.0.0/8"), "native")
    assert table.longest(6, int(ip_address("::ffff:10.0.0.1"))) == (Prefix.parse("::ffff:0:0/96"), "mapped")
    assert table.longest(4, int(ip_address("192.0.2.1"))) is None


def test_a_value_may_be_none():
    table = PrefixMap([("::/0", None)])
    assert table.longest(6, 5) == (Prefix(6, 0, 0), None) and table["::/0"] is None
