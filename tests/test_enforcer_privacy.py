"""What the audit says about people: addresses as the policy's privacy setting allows, never payload, exact counts."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.audit import Audit, Blocks
from enforcer.dataplanes import Stop
from enforcer.policy import AuditRules
from enforcer.privacy import Addresses, key_name, load_key, names, word

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
PREFIX, HASH = AuditRules("prefix"), AuditRules("keyed-hash")
PERSON4, PERSON6 = "203.0.113.77", "2001:db8:7:1:2:3:4:5"
ADDRESSES = st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("rules", "four", "six"),
    [
        (AuditRules(), PERSON4, PERSON6),
        (PREFIX, "203.0.113.0/24", "2001:db8:7::/48"),
        (AuditRules("prefix", 16, 32), "203.0.0.0/16", "2001:db8::/32"),
        (HASH, word(KEY, PERSON4), word(KEY, PERSON6)),
    ],
)
def test_an_address_is_written_as_the_policy_says(rules, four, six):
    addresses = Addresses(rules, KEY)
    assert (addresses.shown(PERSON4), addresses.shown(PERSON6)) == (four, six)
    assert addresses.shown("") == ""  # a packet that is not IP has none


@given(ADDRESSES, ADDRESSES)
def test_a_word_is_the_same_for_the_same_address_and_key_only(one, other):
    assert word(KEY, one) == Addresses(HASH, KEY).shown(one)
    assert (word(KEY, one) == word(KEY, other)) == (one == other)
    assert word(KEY, one) != word(OTHER_KEY, one)
    assert one not in word(KEY, one)


@given(ADDRESSES, st.sampled_from([AuditRules(), PREFIX, HASH]))
def test_whoever_has_the_address_and_the_key_finds_its_lines(address, rules):
    shown = Addresses(rules, KEY).shown(address)
    assert names(shown, address, KEY)
    assert names(shown, shown) or rules is PREFIX
    parsed = ip_address(address)
    another = str(type(parsed)(int(parsed) ^ (1 << (parsed.max_prefixlen - 1))))
    assert not names(shown, another, KEY)
    if rules is HASH:
        assert not names(shown, address, OTHER_KEY) and not names(shown, address)


@given(ADDRESSES, st.integers(0, 128), st.sampled_from([PREFIX, HASH]))
def test_no_address_stays_in_a_sentence(address, bits, rules):
    network = ip_network((address, min(bits, ip_address(address).max_prefixlen)), strict=False)
    text = Addresses(rules, KEY).shown_in(
        f"registration 7: from {address}, and {network}. At 12:30:45, 1.5 s"
    )
    assert f"from {address}," not in text
    assert text.endswith("At 12:30:45, 1.5 s") and text.startswith("registration 7: from ")
    longest = rules.ipv4_prefix if network.version == 4 else rules.ipv6_prefix
    assert (f" {network}." in text) == (rules is PREFIX and network.prefixlen <= longest)


def test_without_a_key_each_start_has_words_of_its_own():
    assert Addresses(HASH).shown(PERSON4) != Addresses(HASH).shown(PERSON4)


def stop(number: int, **changes) -> Stop:
    values = {"time_ns": number, "reason": "unregistered", "protocol": "wireguard", "transport": "udp"}
    values |= {"src": PERSON4, "src_port": 40000 + number, "dst": "198.51.100.9", "dst_port": 51820}
    return Stop(**(values | changes))


@pytest.mark.parametrize("rules", [PREFIX, HASH])
def test_no_line_of_an_audit_holds_an_address_that_must_not_be_there(tmp_path, rules):
    path = tmp_path / "audit"
    audit = Audit(path, addresses=Addresses(rules, KEY))
    blocks = Blocks(audit, "block", lambda stop: {"registration": None, "registration_state": None})
    audit.write("started", addresses=audit.addresses.told())
    for number in range(5):
        blocks.note(stop(number), number)
        blocks.note(stop(number, src=PERSON6, dst="2001:db8:9::9"), number)
    audit.write("refused-update", word="bad-entry", text=f"registration 3: '{PERSON4}/32' is not a prefix")
    audit.write("failure", condition="disk-full", text=f"from {PERSON6}: no room")
    audit.close()

    whole = path.read_text()
    assert PERSON4 not in whole and PERSON6 not in whole and "198.51.100.9" not in whole
    assert whole.count('"block"') == 10
    if rules is HASH:
        assert json.loads(whole.splitlines()[0])["addresses"] == {"as": "keyed-hash", "key": key_name(KEY)}
    full = Audit(tmp_path / "full")  # control: the check can fail
    full.write("block", src=PERSON4)
    assert PERSON4 in (tmp_path / "full").read_text()


@pytest.mark.parametrize("rules", [AuditRules(), PREFIX, HASH])
def test_sampling_loses_lines_and_no_count(tmp_path, rules):
    path = tmp_path / "audit"
    audit = Audit(path, addresses=Addresses(rules, KEY))
    blocks = Blocks(audit, "block", lambda stop: {}, most_lines=10)
    for number in range(1000):
        blocks.note(stop(number), now_ns=5)
    blocks.flush(6, everything=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len([line for line in lines if line["kind"] == "block"]) == 10
    assert sum(line["count"] for line in lines) == blocks.reported == 1000


def test_a_key_is_read_from_a_file_only_some_may_read(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o640)
    assert load_key(path) == KEY
    path.chmod(0o644)
    with pytest.raises(ValueError, match="anybody may read this key; write: chmod o= "):
        load_key(path)
    path.chmod(0o600)
    path.write_text("secret")
    with pytest.raises(ValueError, match="openssl rand -hex 32"):
        load_key(path)
