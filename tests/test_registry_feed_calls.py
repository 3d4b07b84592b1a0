"""The feed over HTTP: entity tags, signs of life, and key roll-overs that a running registry publishes."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from enforcer.registry import feed
from enforcer.registry.feed_calls import FeedCalls
from enforcer.registry.ledger import Ledger
from enforcer.registry.signing import SigningKeys
from enforcer.registry.states import Rules, application

S = 1_000_000_000
FORM = {
    "registrant": "bank",
    "subscriber_prefixes": ["10.0.0.7/32"],
    "endpoint_prefixes": ["198.51.100.9/32"],
}


class Office:
    def __init__(self, folder):
        self.now_ns = 1_700_000_000 * S
        self.ledger = Ledger(":memory:", Rules(requires_verification=False))
        self.keys = SigningKeys(folder / "feed.key", clock=lambda: self.now_ns)
        self.calls = FeedCalls(self.ledger, self.keys, lambda: self.now_ns)
        self._application = Starlette(routes=self.calls.routes())

    def approve(self):
        number = self.ledger.apply(application(FORM)).number
        self.ledger.decide(number, "approve")
        return number

    def get(self, path, **headers):
        async def ask():
            transport = httpx.ASGITransport(app=self._application)
            async with httpx.AsyncClient(transport=transport, base_url="http://registry") as client:
                return await client.get(f"/feed/{path}", headers=headers)

        return asyncio.run(ask())


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


def test_a_snapshot_that_is_held_already_is_not_sent_again(office):
    office.approve()
    whole = office.get("snapshot")
    tag = whole.headers["etag"]
    update = feed.verify(whole.text, office.keys.public_key())
    assert isinstance(update, feed.Snapshot) and tag == feed.snapshot_tag(update.serial, update.mark)
    again = office.get("snapshot", **{"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert office.get("snapshot", **{"if-none-match": 'W/"0-x"'}).status_code == 200
    office.now_ns += 3600 * S  # signed anew, and still the same list
    assert office.get("snapshot", **{"if-none-match": tag}).status_code == 304
    office.approve()
    assert office.get("snapshot", **{"if-none-match": tag}).status_code == 200


def test_a_sign_of_life_is_signed_and_fresh(office):
    office.approve()
    first = feed.verify_standing(office.get("serial").text, office.keys.public_key())
    office.now_ns += 5 * S
    second = feed.verify_standing(office.get("serial").text, office.keys.public_key())
    assert (second.serial, second.mark) == (first.serial, first.mark) == (1, office.ledger.mark(1))
    assert second.issued_ns - first.issued_ns == 5 * S
    with pytest.raises(feed.WrongSchema):
        feed.verify_standing(office.get("snapshot").text, office.keys.public_key())
    with pytest.raises(feed.WrongSchema):
        feed.verify(office.get("serial").text, office.keys.public_key())


def test_two_histories_have_two_marks_at_the_same_serial(office, tmp_path):
    office.approve()
    office.approve()
    other = Office(tmp_path / "other")
    other.now_ns += 1
    other.ledger._clock = lambda: other.now_ns
    other.approve()
    other.approve()
    assert office.ledger.serial == other.ledger.serial == 2
    assert office.ledger.mark(2) != other.ledger.mark(2)


def test_every_answer_says_how_many_roll_overs_there_are(office):
    assert office.get("snapshot").headers["feed-keys"] == "0"
    assert office.get("keys").json() == []
    office.keys.roll(office.now_ns, office.now_ns + 3600 * S)
    assert [office.get(path).headers["feed-keys"] for path in ("snapshot", "serial", "deltas?since=0")] == [
        "1"
    ] * 3
    assert len(office.get("keys").json()) == 1
