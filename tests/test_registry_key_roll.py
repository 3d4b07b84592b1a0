"""The feed's key is rolled over: by whom it may be, by whom not, and what becomes of those who missed it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.allowlist import Allowlist
from enforcer.registry import feed
from enforcer.registry.roll import BadRoll, KeyRing, Roll, signed_roll
from enforcer.registry.signing import SigningKeys

S = 1_000_000_000
NOW, HOUR, DAY = 1_700_000_000 * S, 3600 * S, 86_400 * S
OLD, NEW, THIEF = (Ed25519PrivateKey.from_private_bytes(each * 32) for each in (b"o", b"n", b"t"))


def hexadecimal(key):
    return feed.public_hex(key.public_key())


ROLL = Roll(hexadecimal(NEW), NOW + HOUR, NOW + DAY)


def rolled(roll=ROLL, by=OLD):
    return signed_roll(roll, by)


def trusts(ring, key, at_ns):
    message = feed.sign(feed.snapshot_body(Allowlist(0), at_ns), key)
    try:
        feed.verify(message, ring.trusted(at_ns))
    except feed.BadSignature:
        return False
    return True


def test_both_keys_count_during_the_overlap_and_the_old_one_never_after():
    ring = KeyRing(OLD.public_key())
    assert ring.learn([rolled()], NOW) == [ROLL]
    when = {at: (trusts(ring, OLD, at), trusts(ring, NEW, at)) for at in (NOW, NOW + HOUR, NOW + DAY)}
    assert when == {NOW: (True, False), NOW + HOUR: (True, True), NOW + DAY: (False, True)}
    assert ring.learn([rolled()], NOW + 2 * DAY) == []  # told again: nothing new, and no mistake


def test_what_was_learnt_is_kept_whatever_the_time():
    ring = KeyRing(OLD.public_key())
    ring.learn([rolled()], NOW)
    again = KeyRing(OLD.public_key(), ring.messages)
    assert (trusts(again, OLD, NOW + 9 * DAY), trusts(again, NEW, NOW + 9 * DAY)) == (False, True)


def test_roll_overs_follow_one_another_and_a_new_enforcer_needs_only_the_last_key():
    third = Roll(hexadecimal(THIEF), NOW + 3 * DAY, NOW + 4 * DAY)
    chain = [rolled(), signed_roll(third, NEW)]
    ring = KeyRing(OLD.public_key())
    assert ring.learn(chain, NOW) == [ROLL, third]
    late = KeyRing(NEW.public_key())
    assert late.learn(chain, NOW + 2 * DAY) == [third]


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        (rolled(by=THIEF), feed.BadSignature, "not signed"),
        (rolled().replace(hexadecimal(NEW), hexadecimal(THIEF)), feed.BadSignature, "not signed"),
        (rolled(Roll(hexadecimal(OLD), NOW, NOW + DAY)), BadRoll, "in use"),
        (rolled(Roll(hexadecimal(NEW), NOW + DAY, NOW + HOUR)), BadRoll, "end before"),
        (rolled(Roll("zz", NOW, NOW + DAY)), feed.WrongSchema, "name a key"),
        (feed.sign(feed.snapshot_body(Allowlist(0), NOW), OLD), feed.WrongSchema, "name a key"),
        ("", feed.EmptyUpdate, "empty"),
        (rolled()[:40], feed.Truncated, "whole"),
    ],
    ids=["stranger", "tampered", "same-key", "backwards", "no-key", "snapshot", "empty", "cut"],
)
def test_what_is_not_a_roll_over_changes_nothing(message, error, words):
    ring = KeyRing(OLD.public_key())
    with pytest.raises(error, match=words):
        ring.learn([message], NOW)
    assert ring.messages == [] and trusts(ring, OLD, NOW) and not trusts(ring, THIEF, NOW + HOUR)


def test_a_stolen_old_key_cannot_name_another_successor():
    ring = KeyRing(OLD.public_key())
    ring.learn([rolled()], NOW)
    for at_ns in (NOW + 2 * HOUR, NOW + 2 * DAY):  # in the overlap, and after it
        theft = rolled(Roll(hexadecimal(THIEF), at_ns, at_ns + DAY))
        with pytest.raises(BadRoll, match="replaced once"):
            ring.learn([theft], at_ns)
        assert not trusts(ring, THIEF, at_ns + HOUR)
    assert trusts(ring, NEW, NOW + 2 * DAY)  # control


def test_an_enforcer_that_missed_the_overlap_is_told_what_to_do():
    ring = KeyRing(OLD.public_key())
    with pytest.raises(BadRoll, match="missed it; get the registry's new public key"):
        ring.learn([rolled()], NOW + DAY)
    assert not trusts(ring, NEW, NOW + DAY)
    assert KeyRing(NEW.public_key()).learn([rolled()], NOW + DAY) == []  # with the new key by hand it goes on


def test_the_registry_signs_with_the_new_key_from_its_time_on(tmp_path):
    now = NOW
    keys = SigningKeys(tmp_path / "feed.key", clock=lambda: now)
    old = feed.public_hex(keys.public_key())
    roll = keys.roll(NOW + HOUR, NOW + DAY)
    assert feed.public_hex(keys.public_key()) == old
    with pytest.raises(ValueError, match="still runs"):
        keys.roll(NOW + HOUR, NOW + DAY)
    now = NOW + HOUR
    assert feed.public_hex(keys.public_key()) == roll.key
    again = SigningKeys(tmp_path / "feed.key", clock=lambda: now)
    assert feed.public_hex(again.public_key()) == roll.key
    assert KeyRing(feed.load_public_key(tmp_path / "feed.pub")).learn(again.rolls(), NOW) == [roll]
    assert (tmp_path / "feed-1.pub").read_text().strip() == roll.key


def test_the_command_makes_a_key_and_rolls_it_while_the_registry_runs(tmp_path):
    path = tmp_path / "feed.key"

    def command(*arguments):
        argv = [sys.executable, "-m", "enforcer.registry", "key", *arguments]
        return subprocess.run(argv, capture_output=True, text=True)

    first = command(str(path)).stdout.strip()
    keys = SigningKeys(path)
    assert feed.public_hex(keys.public_key()) == first
    done = command("roll", str(path), "--in", "0s", "--overlap", "1h")
    assert done.returncode == 0 and feed.public_hex(keys.public_key()) == done.stdout.strip()
    assert len(keys.rolls()) == 1 and json.loads(json.loads(keys.rolls()[0])["body"])["kind"] == "key"
    assert command("roll", str(path)).returncode == 2  # the first still runs
    assert "write" in command("roll", str(path), "--in", "5").stderr
