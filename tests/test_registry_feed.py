"""The feed's messages: a good one is read back, and each way of being bad has its own name."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.registry import feed

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key()
ENTRY = Entry(
    3, "bank", ("203.0.113.7/32", "2001:db8::/48"), ("198.51.100.4/32",), (51820,), ("wireguard",), 5, 9
)
LIST = Allowlist(7, {3: ENTRY})


def snapshot(allowlist: Allowlist = LIST) -> str:
    return feed.sign(feed.snapshot_body(allowlist, 11), KEY)


def delta(change: Delta) -> str:
    return feed.sign(feed.delta_body(change, 11), KEY)


def test_what_is_signed_is_read_back():
    assert feed.verify(snapshot(), PUBLIC, newest_serial=7) == feed.Snapshot(LIST, 11)
    change = Delta(7, 9, (ENTRY,), (Removal(4, "revoked"),))
    assert feed.verify(delta(change), PUBLIC, newest_serial=7) == feed.SignedDelta(change, 11)


def test_every_byte_of_the_body_is_signed():
    envelope = json.loads(snapshot())
    for at in range(0, len(envelope["body"]), 7):
        body = envelope["body"]
        changed = body[:at] + ("x" if body[at] != "x" else "y") + body[at + 1 :]
        with pytest.raises(feed.BadSignature):
            feed.verify(json.dumps({**envelope, "body": changed}), PUBLIC)


def test_another_registrys_signature_is_refused():
    with pytest.raises(feed.BadSignature):
        feed.verify(snapshot(), Ed25519PrivateKey.generate().public_key())


def test_no_part_of_a_message_passes_for_one():
    whole = snapshot()
    for length in range(1, len(whole)):
        with pytest.raises(feed.FeedError):
            feed.verify(whole[:length], PUBLIC)
    with pytest.raises(feed.Truncated):
        feed.verify(whole[: len(whole) // 2], PUBLIC)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("", feed.EmptyUpdate),
        (feed.sign("", KEY), feed.EmptyUpdate),
        (snapshot(Allowlist(7)), feed.EmptyUpdate),
        (delta(Delta(7, 8)), feed.EmptyUpdate),
        ("<html>502 Bad Gateway</html>", feed.Truncated),
        ("[]", feed.WrongSchema),
        (feed.sign("{}", KEY), feed.WrongSchema),
        (feed.sign(feed.snapshot_body(LIST, 1).replace("feed/1", "feed/2"), KEY), feed.WrongSchema),
        (feed.sign(feed.snapshot_body(LIST, 1).replace("snapshot", "gossip"), KEY), feed.WrongSchema),
        (feed.sign(feed.snapshot_body(LIST, 1).replace("wireguard", "smoke"), KEY), feed.WrongSchema),
        (feed.sign(feed.snapshot_body(LIST, 1).replace('"serial":7', '"serial":-7'), KEY), feed.WrongSchema),
        (snapshot(Allowlist(6, {3: ENTRY})), feed.OlderSerial),
        (delta(Delta(6, 8, (ENTRY,))), feed.OlderSerial),
        (delta(Delta(7, 7, (ENTRY,))), feed.OlderSerial),
        (delta(Delta(8, 9, (ENTRY,))), feed.OlderSerial),
    ],
)
def test_each_defect_has_its_own_error(message, error):
    with pytest.raises(feed.FeedError) as caught:
        feed.verify(message, PUBLIC, newest_serial=7)
    assert type(caught.value) is error


def test_an_empty_list_is_accepted_at_the_beginning_or_when_asked_for():
    assert feed.verify(snapshot(Allowlist(0)), PUBLIC).serial == 0
    assert feed.verify(snapshot(Allowlist(7)), PUBLIC, allow_empty=True).serial == 7


def test_keys_are_made_once_and_kept_private(tmp_path):
    path = tmp_path / "feed.key"
    first = feed.load_or_create_key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert feed.load_or_create_key(path).private_bytes_raw() == first.private_bytes_raw()
    public = feed.load_public_key(tmp_path / "feed.pub")
    assert feed.verify(feed.sign(feed.snapshot_body(LIST, 0), first), public).serial == 7


def test_a_file_that_is_no_key_is_named(tmp_path):
    (tmp_path / "feed.key").write_text("not a key")
    with pytest.raises(ValueError, match=r"feed\.key: not a key; it must hold 64 hexadecimal digits"):
        feed.load_or_create_key(tmp_path / "feed.key")


def test_a_long_message_is_read_in_pieces_and_is_the_same(monkeypatch):
    entries = {
        number: Entry(
            number,
            'r"{}\\},\ud83d\ude00é' + "},{" * (number % 5),
            (f"10.0.{number >> 8}.{number & 255}/32",),
            ("198.51.100.4/32",),
        )
        for number in range(1, 400)
    }
    message = snapshot(Allowlist(9, entries))
    whole = feed.verify(message, PUBLIC)
    for size in (1, 7, 1000):
        monkeypatch.setattr(feed, "_LONG", size)
        assert feed.verify(message, PUBLIC) == whole
        assert feed.verify(message.encode(), PUBLIC) == whole
        assert feed.verify(json.dumps(json.loads(message), indent=3), PUBLIC) == whole
        for length in range(1, len(message), 997):
            with pytest.raises(feed.FeedError):
                feed.verify(message[:length], PUBLIC)
