"""The hash chain: whatever is changed, taken out, swapped or cut off shows, and is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from enforcer.registry import feed
from enforcer.registry.__main__ import main
from enforcer.registry.chain import GENESIS, canonical, event_link, link
from enforcer.registry.journal import Journal
from enforcer.registry.ledger import BadLedger, Ledger
from enforcer.registry.past import STEP
from enforcer.registry.reading import open_to_read
from enforcer.registry.states import Application
from enforcer.registry.tables import TAIL
from enforcer.registry.verification import Witness, verify_chain, verify_derived

FORM = Application("softhouse", ("203.0.113.7/32",), ("198.51.100.4/32",))


def written(folder: Path, registrations: int = 40) -> Path:
    """A ledger of four events a registration, so that its first ones are before the tail that opening checks."""
    path = folder / "ledger.sqlite"
    now = [1_000]

    def clock() -> int:
        now[0] += 1
        return now[0]

    ledger = Ledger(str(path), clock=clock)
    for _ in range(registrations):
        number = ledger.apply(FORM).number
        ledger.verify(number, True)
        ledger.decide(number, "approve", reason=f"papers {number}")
        ledger.decide(number, "suspend")
    ledger.close()
    assert ledger_says(path) == ""  # control: untouched, it fits
    return path


def tampered(path: Path, *statements: str) -> None:
    """As somebody with the file would: the triggers go first."""
    with sqlite3.connect(path) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)


def ledger_says(path: Path, *witnesses: Witness) -> str:
    with sqlite3.connect(path) as database:
        found = verify_chain(database, witnesses)
        if found.is_whole:
            found = verify_derived(database, found.head)
    return found.differs


def test_each_events_hash_follows_from_it_and_the_one_before(tmp_path):
    ledger = Ledger(str(written(tmp_path)))
    previous = GENESIS
    for event in ledger.events():
        previous = event_link(previous, event)
        assert event.hash == previous.hex()
    assert ledger.head().hash == previous.hex()


@pytest.mark.parametrize(
    ("statements", "sequence", "told"),
    [
        (["UPDATE events SET reason = 'bribed' WHERE sequence = 7"], 7, "event 7 (approve of registration 2 by officer) does not give its hash"),
        (["UPDATE events SET data = replace(data, '203', '204') WHERE sequence = 1"], 1, "event 1 (apply of registration 1 by applicant) does not"),
        (["UPDATE events SET at_ns = at_ns + 1 WHERE sequence = 9"], 9, "event 9"),
        (["UPDATE events SET hash = x'00' WHERE sequence = 5"], 5, "00 is written"),
        (["DELETE FROM events WHERE sequence = 3"], 3, "event 3 is missing: after 2 comes 4"),
        (["DELETE FROM events WHERE sequence = 1"], 1, "event 1 is missing: the first is 2"),
        (
            ["UPDATE events SET sequence = -3 WHERE sequence = 3", "UPDATE events SET sequence = 3 WHERE sequence = 7",
             "UPDATE events SET sequence = 7 WHERE sequence = -3"],
            3,
            "event 3 (approve of registration 2 by officer) does not give its hash",
        ),
        (["DELETE FROM events WHERE sequence > 150"], 151, "events 151 to 160 are missing at the end"),
        (["UPDATE changes SET entry = NULL WHERE serial = 1"], 3, "the allowlist's changes say"),
        (["DELETE FROM changes WHERE serial = 80"], 160, "the allowlist's changes say None"),
        (["UPDATE standing SET state = 'active' WHERE registration = 4"], 16, "registration 4 is listed as"),
    ],
)  # fmt: skip
def test_tampering_is_named(tmp_path, statements, sequence, told):
    path = written(tmp_path)
    tampered(path, *statements)
    answer = CliRunner().invoke(main, ["verify", str(path)])
    assert answer.exit_code == 1
    assert f"event {sequence}" in answer.output and told in answer.output


def rewritten(path: Path, last: int = 160) -> None:
    """Whoever rewrites every hash after a change, and forgets that anything was cut off, has a file that is whole in itself."""
    tampered(path, "UPDATE events SET reason = 'bribed' WHERE sequence = 7", f"DELETE FROM events WHERE sequence > {last}",
             f"DELETE FROM changes WHERE sequence > {last}", f"UPDATE sqlite_sequence SET seq = {last} WHERE name = 'events'")  # fmt: skip
    previous = GENESIS
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT sequence, at_ns, registration, action, actor, reason, data FROM events"
        ).fetchall()
        for row in rows:
            previous = link(previous, *row)
            database.execute("UPDATE events SET hash = ? WHERE sequence = ?", (previous, row[0]))


@pytest.mark.parametrize(
    ("last", "told"), [(160, "were rewritten"), (150, "events 151 to 160 are missing at the end")]
)
def test_a_head_that_was_kept_tells_of_a_rewritten_or_shortened_ledger(tmp_path, last, told):
    path, head = written(tmp_path), tmp_path / "head.json"
    head.write_text(CliRunner().invoke(main, ["head", str(path)]).output)
    verify = ["verify", str(path), "--head", str(head), "--chain-only"]
    assert CliRunner().invoke(main, verify).exit_code == 0
    rewritten(path, last)
    assert (
        CliRunner().invoke(main, ["verify", str(path), "--chain-only"]).exit_code == 0
    )  # nothing shows in itself
    answer = CliRunner().invoke(main, verify)
    assert answer.exit_code == 1 and told in answer.output


def test_a_snapshot_of_the_feed_tells_as_well(tmp_path):
    path, key = written(tmp_path), feed.load_or_create_key(tmp_path / "feed.key")
    ledger = Ledger(str(path))
    ledger.decide(1, "revoke")
    number = ledger.apply(FORM).number
    ledger.verify(number, True)
    ledger.decide(number, "approve")
    body = feed.snapshot_body(ledger.allowlist(), 5, ledger.mark(ledger.serial))
    (tmp_path / "snapshot.json").write_text(feed.sign(body, key))
    ledger.close()
    verify = ["verify", str(path), "--head", str(tmp_path / "snapshot.json")]
    assert "needs --key" in CliRunner().invoke(main, verify).output
    verify += ["--key", str(tmp_path / "feed.pub"), "--chain-only"]
    assert CliRunner().invoke(main, verify).exit_code == 0
    rewritten(path, last=164)
    assert "were rewritten" in CliRunner().invoke(main, verify).output


def test_opening_checks_the_newest_events_and_the_end(tmp_path):
    path = written(tmp_path)
    tampered(path, f"UPDATE events SET reason = 'x' WHERE sequence = {160 - TAIL + 1}")
    with pytest.raises(BadLedger, match="was changed, or one before it taken out"):
        Ledger(str(path))
    (tmp_path / "cut").mkdir()
    path = written(tmp_path / "cut")
    tampered(path, "DELETE FROM events WHERE sequence = 160")
    with pytest.raises(BadLedger, match="events 160 to 160 are missing at the end"):
        Ledger(str(path))


def test_a_wrong_checkpoint_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("enforcer.registry.past.STEP", 50)
    assert STEP > 160
    path = written(tmp_path)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT sequence FROM checkpoints").fetchall() == [(50,), (100,), (150,)]
    assert ledger_says(path) == ""
    tampered(
        path,
        "UPDATE checkpoints SET states = (SELECT states FROM checkpoints WHERE sequence = 50) WHERE sequence = 100",
    )
    assert "the checkpoint after event 100 does not say what the events say" in ledger_says(path)


def test_checkpoints_are_kept_up_while_a_registry_serves(tmp_path, monkeypatch):
    monkeypatch.setattr("enforcer.registry.past.STEP", 3)
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    for expected in ([], [], [3], [3], [3], [3, 6]):
        ledger.apply(FORM)
        ledger.keep_checkpoints()
        with closing(open_to_read(tmp_path / "ledger.sqlite")) as beside:
            rows = beside.execute("SELECT sequence FROM checkpoints").fetchall()
        assert [sequence for (sequence,) in rows] == expected
    assert ledger.state_at(0).counts() == {"pending": 6}


def test_a_ledger_from_before_the_chain_is_refused_with_what_to_do_and_migrated(tmp_path):
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    form = {
        "registrant": "a",
        "subscriber_prefixes": ["203.0.113.7/32"],
        "endpoint_prefixes": ["198.51.100.4/32"],
        "category": "hospital",
    }
    with sqlite3.connect(old) as database:
        database.execute(
            "CREATE TABLE events (sequence INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER, registration INTEGER, "
            "action TEXT, actor TEXT, reason TEXT, data TEXT)"
        )
        for row in (
            (5, 1, "apply", "applicant", "", canonical({"form": form})),
            (6, 1, "reject", "officer", "no", "{}"),
        ):
            database.execute(
                "INSERT INTO events (at_ns, registration, action, actor, reason, data) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
    with pytest.raises(BadLedger, match=r"registry migrate .*old.sqlite NEW"):
        Ledger(str(old))
    answer = CliRunner().invoke(main, ["migrate", str(old), str(new)])
    assert answer.exit_code == 0, answer.output
    assert Ledger(str(new)).registration(1).state == "rejected"
    assert [event.at_ns for event in Ledger(str(new)).events()] == [5, 6]
    assert ledger_says(new) == ""


def test_two_processes_may_write_in_turn(tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    one, other = Ledger(path), Ledger(path)
    assert one.apply(FORM).number == 1
    assert other.apply(FORM).number == 2
    assert one.verify(2, True).is_verified
    assert other.decide(2, "approve").state == "active"
    assert one.serial == 1 and one.allowlist() == other.allowlist()
    one.close(), other.close()
    assert ledger_says(Path(path)) == ""


def test_a_failed_act_leaves_the_ledger_usable(tmp_path):
    journal = Journal(str(tmp_path / "ledger.sqlite"))
    ledger = Ledger(str(tmp_path / "other.sqlite"))
    with pytest.raises(RuntimeError), ledger.batch():
        ledger.apply(FORM)
        raise RuntimeError
    assert ledger.head().events == 0 and ledger.registrations() == []
    assert ledger.apply(FORM).number == 1
    assert journal.sequence == 0
    assert (
        json.loads(CliRunner().invoke(main, ["head", str(tmp_path / "other.sqlite")]).output)["events"] == 1
    )
