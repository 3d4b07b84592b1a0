"""The vectorised judge says what decide says, line by line, whatever the policy, the allowlist and the lines."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from enforcer.allowlist import Allowlist, Entry
from enforcer.cells import Index
from enforcer.policy import Exemption, NamedEndpoint, parse_policy
from enforcer.protocols import FIRST_MESSAGES, VPN_PROTOCOLS
from enforcer.replay import tables
from enforcer.replay.judge import Judge
from enforcer.replay.lines import Lines, decide_line, number
from enforcer.replay.prefixes import PrefixSet

STRICT = parse_policy((files("enforcer") / "replay" / "examples" / "border.policy.yaml").read_text())
# A few addresses that prefixes of any length tell apart.
ADDRESSES = {
    4: [0xCB007107, 0xCB007108, 0xCB007207, 0xC6336409, 0xC63364C8, 0x0A000001],
    6: [(0x20010DB8 << 96) + rest for rest in (1, 2, 1 << 64, 7 << 80, (7 << 80) + 1)] + [1],
}
WIDTHS = {4: 32, 6: 128}
PORTS = [0, 53, 443, 500, 1023, 1024, 1194, 1701, 1723, 4500, 40000, 51820, 65535]
NUMBERS = [6, 6, 17, 17, 17, 1, 58, 47, 50, 51, 115, 0, 132, 255]
START_NS = 1_700_000_000_000_000_000


def prefix(version, address, bits):
    from ipaddress import ip_network

    return str(ip_network((address >> (WIDTHS[version] - bits) << (WIDTHS[version] - bits), bits)))


@some.composite
def prefixes(draw, least=1):
    found = []
    for _ in range(draw(some.integers(least, 3))):
        version = draw(some.sampled_from([4, 6]))
        bits = draw(
            some.sampled_from([0, 8, 24, 31, 32] if version == 4 else [0, 32, 48, 63, 64, 65, 127, 128])
        )
        text = prefix(version, draw(some.sampled_from(ADDRESSES[version])), bits)
        # `ip_network((0, 0))` is IPv4 whatever was meant.
        found.append(
            "::/0" if version == 6 and bits == 0 else text if ":" in text or version == 4 else f"::/{bits}"
        )
    return tuple(found)


def moments():
    return some.integers(0, 5).map(lambda step: START_NS + step)


@some.composite
def entries(draw):
    found = {}
    for registration in draw(some.lists(some.integers(1, 40), max_size=8, unique=True)):
        found[registration] = Entry(
            registration,
            f"r{registration}",
            draw(prefixes()),
            draw(prefixes()),
            tuple(draw(some.lists(some.sampled_from(PORTS[1:]), max_size=2))),
            tuple(draw(some.lists(some.sampled_from(VPN_PROTOCOLS), max_size=2, unique=True))),
            draw(some.one_of(some.just(0), moments())),
            draw(some.one_of(some.none(), moments())),
        )
    return Allowlist(1, found)


@some.composite
def policies(draw):
    governs = tuple(draw(some.lists(some.sampled_from(VPN_PROTOCOLS), min_size=1, max_size=9, unique=True)))
    some_ports = some.lists(some.sampled_from(PORTS[1:]), max_size=2).map(tuple)
    named = tuple(
        NamedEndpoint(draw(some.sampled_from(VPN_PROTOCOLS)), draw(prefixes()), draw(some_ports))
        for _ in range(draw(some.integers(0, 2)))
    )
    exempt = tuple(
        Exemption(
            f"e{number}",
            "for the test",
            tuple(draw(some.lists(some.sampled_from(VPN_PROTOCOLS), max_size=2))),
            draw(prefixes(least=0)),
            draw(some_ports),
            draw(prefixes(least=0)),
        )
        for number in range(draw(some.integers(0, 2)))
    )
    return replace(
        STRICT,
        governs=governs,
        named_endpoints=named,
        exempt=exempt,
        match=draw(some.sampled_from(["subscriber", "endpoint", "subscriber+endpoint"])),
        mode=draw(some.sampled_from(["enforce", "observe"])),
        action=draw(some.sampled_from(["drop", "reject", "observe"])),
        recognise_by=draw(some.sampled_from([("ports",), ("first-packets",), ("ports", "first-packets")])),
    )


def random_lines(version, seed, count=60):
    draw = np.random.default_rng(seed)
    pool = ADDRESSES[version]
    if version == 4:
        addresses = np.array(pool, np.uint32)
    else:
        addresses = np.array([(each >> 64, each & (1 << 64) - 1) for each in pool], np.uint64)
    return Lines(
        version,
        addresses[draw.integers(0, len(pool), count)],
        addresses[draw.integers(0, len(pool), count)],
        draw.choice(np.array(NUMBERS, np.uint8), count),
        draw.choice(np.array(PORTS, np.uint16), count),
        draw.choice(np.array(PORTS, np.uint16), count),
        START_NS + draw.integers(0, 6, count),
        draw.integers(1, 9, count),
        draw.integers(40, 9000, count),
    )


def disagreements(policy, allowlist, lines, direction, at_ns, judge=None):
    judge = judge or Judge(policy, allowlist.entries.values(), direction, at_ns)
    judged = judge(lines)
    found = []
    for position in range(len(lines)):
        straight = decide_line(lines, position, allowlist, policy, at_ns, direction)
        indexed = decide_line(
            lines, position, Index(policy.match, allowlist.entries.values()), policy, at_ns, direction
        )
        assert straight == indexed
        if not judge.agrees(judged.verdict(position), *straight):
            found.append((position, judged.verdict(position), straight))
    return found


@settings(max_examples=120, deadline=None)
@given(
    policy=policies(),
    allowlist=entries(),
    version=some.sampled_from([4, 6]),
    direction=some.sampled_from(["either", "opener"]),
    at_ns=some.one_of(some.none(), moments()),
    seed=some.integers(0, 2**32),
)
def test_each_line_is_judged_as_decide_judges_it(policy, allowlist, version, direction, at_ns, seed):
    lines = random_lines(version, seed, 24)
    assert disagreements(policy, allowlist, lines, direction, at_ns) == []


def wide_open(**changes):
    values = {
        "registration": 7,
        "registrant": "softhouse",
        "subscriber_prefixes": ("203.0.113.0/24", "2001:db8::/32"),
        "endpoint_prefixes": ("0.0.0.0/0", "::/0"),
    }
    return Allowlist(1, {7: Entry(**(values | changes))})


@pytest.mark.parametrize("version", [4, 6])
def test_a_wrong_table_would_be_noticed(version):
    lines = random_lines(version, 1, 400)
    good = Judge(STRICT, wide_open().entries.values())
    assert disagreements(STRICT, wide_open(), lines, "either", None, good) == []
    for wrong in (
        Judge(STRICT, ()),
        Judge(STRICT, wide_open(valid_until_ns=START_NS).entries.values()),
        Judge(STRICT, wide_open(endpoint_ports=(1194,)).entries.values()),
        Judge(STRICT, wide_open().entries.values(), "opener"),
        Judge(replace(STRICT, governs=("wireguard",)), wide_open().entries.values()),
    ):
        assert disagreements(STRICT, wide_open(), lines, "either", None, wrong)


def test_no_first_message_fits_the_payload_nothing_is_known_of():
    assert all(max(field.offset + field.size for field in message.fields) > 1 for message in FIRST_MESSAGES)


def test_many_keys_are_found_each_and_no_other(monkeypatch):
    draw = np.random.default_rng(5)
    everybody = {
        number: Entry(number, "r", (prefix(4, int(line), 32),), (prefix(4, int(server), 32),), (51820,))
        for number, line, server in zip(
            range(1, 3001),
            draw.integers(1 << 24, 1 << 31, 3000),
            draw.integers(1 << 24, 1 << 31, 3000),
            strict=True,
        )
    }
    index = Index("subscriber+endpoint", everybody.values())

    def check():
        asked = tables.Tables(Index("subscriber+endpoint", everybody.values()))
        src = [number4(entry.subscriber_prefixes[0]) for entry in everybody.values()]
        dst = [number4(entry.endpoint_prefixes[0]) for entry in everybody.values()]
        there = udp_lines(src + src, dst + [each ^ 1 for each in dst])
        rows = asked.find(there, "wireguard", None)
        for position in range(len(there)):
            entry = index.find(
                4, "wireguard", int(there.src[position]), 40000, int(there.dst[position]), 51820, None
            )
            assert (entry.registration if entry else None) == (
                asked.entries[rows[position]].registration if rows[position] >= 0 else None
            )

    check()
    # Few slots, so that all probe far: a hash that keeps the high bits of every key alike.
    hashes = tables._hash
    monkeypatch.setattr(
        tables, "_hash", lambda words, seed: hashes(words, seed) >> np.uint64(12) | np.uint64(1)
    )
    check()


def test_a_key_is_compared_and_not_its_hash_alone(monkeypatch):
    """With a hash of 7 bits distinct keys of the table must not fall together, but others may fall on them."""
    entry = Entry(7, "r", ("203.0.113.7/32",), ("198.51.100.9/32",))
    monkeypatch.setattr(
        tables, "_hash", lambda words, seed: (words[0] & np.uint64(127)) << np.uint64(57) | np.uint64(1)
    )
    asked = tables.Tables(Index("subscriber+endpoint", [entry]))
    line, server = number4("203.0.113.7/32"), number4("198.51.100.9/32")
    found = asked.find(udp_lines([line, line, line ^ 128], [server, server ^ 128, server]), "wireguard", None)
    assert found.tolist() == [0, -1, -1]


def test_a_prefix_set_is_the_union_of_its_prefixes():
    mixed = PrefixSet(["10.0.0.0/8", "10.1.0.0/16", "203.0.113.7/32", "2001:db8::/33", "::/0"])
    addresses = np.array(
        [0x0A000000, 0x0AFFFFFF, 0x0B000000, 0x09FFFFFF, 0xCB007107, 0xCB007108, 0], np.uint32
    )
    assert mixed.holds(4, addresses).tolist() == [True, True, False, False, True, False, False]
    assert not np.any(mixed.holds(4, addresses) & ~mixed.may_hold(4, addresses))
    everywhere = np.array([[0, 1], [1 << 63, 0]], np.uint64)
    assert mixed.holds(6, everywhere).tolist() == [True, True]
    assert PrefixSet([]).holds(4, addresses).any() == np.False_


def number4(text):
    from ipaddress import ip_network

    return int(ip_network(text).network_address)


def udp_lines(src, dst):
    count = len(src)
    return Lines(
        4,
        np.array(src, np.uint32),
        np.array(dst, np.uint32),
        np.full(count, 17, np.uint8),
        np.full(count, 40000, np.uint16),
        np.full(count, 51820, np.uint16),
        np.full(count, START_NS, np.int64),
        np.ones(count, np.int64),
        np.full(count, 176, np.int64),
    )


def test_number_puts_an_address_together():
    assert number(6, np.array([[0x20010DB8 << 32, 5]], np.uint64), 0) == (0x20010DB8 << 96) + 5
