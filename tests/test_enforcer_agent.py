"""The agent enforces what is signed and newer, and does what the policy says on each kind of failure. No kernel, no network."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer.allowlist import Removal
from enforcer.dataplanes import Stop, TableFull
from enforcer.status import status
from tests.agent_bench import STRICT, Bench, S, entry, on_failure


def test_without_any_allowlist_the_policy_decides(tmp_path):
    for behaviour in ("block", "allow"):
        folder = tmp_path / behaviour
        folder.mkdir()
        bench = Bench(folder, on_failure(no_allowlist_yet=behaviour))
        assert bench.dataplane.fallback == behaviour
        assert bench.snapshot(1, entry(7))
        assert bench.dataplane.fallback == "keep"
        assert bench.failures() == [
            ("no-allowlist-yet", "begun", behaviour),
            ("no-allowlist-yet", "ended", behaviour),
        ]


def test_snapshots_and_deltas_are_applied_and_said(tmp_path):
    bench = Bench(tmp_path)
    assert bench.snapshot(1, entry(7), entry(8))
    assert bench.delta(1, 3, [entry(9)], [Removal(7, "revoked")])
    assert bench.dataplane.held.keys() == {8, 9}
    applied = bench.lines("applied")
    assert [(line["serial"], line["how"], line["added"], line["removed"]) for line in applied] == [
        (1, "snapshot", 2, 0),
        (3, "delta", 1, 1),
    ]
    assert all(line["time"].endswith("Z") and line["monotonic_ns"] > 0 for line in applied)


@pytest.mark.parametrize("behaviour", ["keep", "allow", "block"])
def test_a_wrong_signature_changes_nothing_and_is_obeyed(tmp_path, behaviour):
    bench = Bench(tmp_path, on_failure(signature_wrong=behaviour))
    assert bench.snapshot(1, entry(7))
    assert not bench.snapshot(2, entry(8), key=Ed25519PrivateKey.generate())
    assert bench.dataplane.held.keys() == {7}
    assert bench.dataplane.fallback == behaviour
    assert bench.lines("refused-update")[-1]["word"] == "bad-signature"
    assert bench.snapshot(2, entry(8))
    assert bench.dataplane.fallback == "keep"
    assert bench.failures()[-2:] == [
        ("signature-wrong", "begun", behaviour),
        ("signature-wrong", "ended", behaviour),
    ]


def test_an_older_serial_changes_nothing(tmp_path):
    bench = Bench(tmp_path, on_failure(serial_wrong="block"))
    assert bench.snapshot(5, entry(7))
    assert not bench.snapshot(4, entry(8))
    assert not bench.delta(4, 6, [entry(9)])
    assert bench.dataplane.held.keys() == {7}
    assert bench.dataplane.fallback == "block"
    assert bench.delta(5, 6, [entry(9)])
    assert bench.dataplane.fallback == "keep"


def test_truncated_and_empty_updates_change_nothing(tmp_path):
    bench = Bench(tmp_path)
    assert bench.snapshot(1, entry(7))
    assert not bench.agent.take(b'{"body": "{')
    assert not bench.agent.take(b"")
    assert not bench.snapshot(2)
    assert [line["word"] for line in bench.lines("refused-update")] == ["truncated", "empty", "empty"]
    assert bench.dataplane.held.keys() == {7}


@pytest.mark.parametrize(
    "prefix", ["10.0.0.5/8", "10.0.0.1/33", "::1/129", "10.0.0.1", "1.2.3/8", "x", "2001:db8::1/64"]
)
def test_an_entry_with_a_wrong_prefix_changes_nothing(tmp_path, prefix):
    bench = Bench(tmp_path)
    assert bench.snapshot(1, entry(7))
    assert not bench.delta(1, 2, [entry(8), entry(9, subscriber_prefixes=(prefix,))])
    assert bench.dataplane.held.keys() == {7}
    assert bench.lines("refused-update")[-1]["word"] == "bad-entry"
    assert bench.delta(1, 2, [entry(8)])


@pytest.mark.parametrize(("behaviour", "is_taken"), [("keep", False), ("block", False), ("accept", True)])
def test_an_update_that_shrinks_too_much(tmp_path, behaviour, is_taken):
    bench = Bench(tmp_path, on_failure(feed_shrinks=behaviour, feed_shrinks_more_than_ratio=0.5))
    many = [entry(number) for number in range(1, 41)]
    assert bench.snapshot(1, *many)
    assert bench.snapshot(2, *many[:20])  # half is not more than half
    assert bench.snapshot(3, *many[:9]) is is_taken
    assert len(bench.dataplane.held) == (9 if is_taken else 20)
    assert bench.dataplane.fallback == ("block" if behaviour == "block" else "keep")
    assert bench.snapshot(4, *many[:19])
    assert bench.dataplane.fallback == "keep"


def test_revoking_one_of_two_is_not_shrinking(tmp_path):
    bench = Bench(tmp_path, on_failure(feed_shrinks_more_than_ratio=0.1))
    assert bench.snapshot(1, entry(7), entry(8))
    assert bench.delta(1, 2, (), [Removal(7, "revoked")])


@pytest.mark.parametrize("behaviour", ["keep", "allow", "block"])
def test_a_registry_that_does_not_answer(tmp_path, behaviour):
    bench = Bench(tmp_path, on_failure(registry_unreachable=behaviour, registry_unreachable_after_ns=5 * S))
    bench.snapshot(1, entry(7))
    bench.pass_time(4.9)
    assert bench.dataplane.fallback == "keep"
    bench.pass_time(0.2)
    assert bench.dataplane.fallback == behaviour
    assert bench.dataplane.held.keys() == {7}
    bench.agent.note_answer()
    assert bench.dataplane.fallback == "keep"


def test_a_feed_whose_newest_message_is_old(tmp_path):
    bench = Bench(tmp_path, on_failure(feed_stale="allow", feed_stale_after_ns=60 * S))
    bench.snapshot(1, entry(7))
    for _ in range(61):
        bench.agent.note_answer()
        bench.pass_time(1)
    assert bench.dataplane.fallback == "allow"
    assert bench.snapshot(1, entry(7))  # the same list, signed anew
    assert bench.dataplane.fallback == "keep"


@pytest.mark.parametrize("behaviour", ["keep", "allow", "block"])
def test_a_full_table_keeps_what_is_there(tmp_path, behaviour):
    bench = Bench(tmp_path, on_failure(table_full=behaviour))
    bench.snapshot(1, entry(7))
    bench.dataplane.broken = TableFull("no room")
    assert not bench.delta(1, 2, [entry(8)])
    assert bench.dataplane.held.keys() == {7}
    assert bench.dataplane.fallback == behaviour
    bench.dataplane.broken = None
    assert bench.delta(1, 2, [entry(8)])  # asked for again: nothing was lost
    assert bench.dataplane.held.keys() == {7, 8}
    assert bench.dataplane.fallback == "keep"


def test_rules_that_are_gone_are_loaded_again(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(7))
    bench.dataplane.alive, bench.dataplane.held = False, {}
    bench.pass_time(1.1)
    assert bench.dataplane.held.keys() == {7}
    assert [line[:2] for line in bench.failures()[-2:]] == [
        ("dataplane-dead", "begun"),
        ("dataplane-dead", "ended"),
    ]


def test_a_restart_enforces_what_was_kept_before_it_asks(tmp_path):
    first = Bench(tmp_path)
    first.snapshot(1, entry(7))
    first.delta(1, 2, [entry(8)])
    second = Bench(tmp_path)
    assert second.dataplane.held.keys() == {7, 8}
    assert second.lines("applied")[-1]["how"] == "state"
    assert second.lines("applied")[-1]["serial"] == 2
    assert second.delta(2, 3, (), [Removal(7, "revoked")])


def test_a_kept_snapshot_that_was_tampered_with_is_not_used(tmp_path):
    first = Bench(tmp_path)
    first.snapshot(1, entry(7))
    kept = tmp_path / "state" / "snapshot.json"
    kept.write_bytes(kept.read_bytes().replace(b"10.0.0.7", b"10.0.0.9"))
    second = Bench(tmp_path)
    assert not second.dataplane.held
    assert second.dataplane.fallback == "block"
    assert second.lines("refused-update")[-1]["word"] == "bad-signature"


def test_validity_begins_and_ends_on_time(tmp_path):
    bench = Bench(tmp_path)
    start = bench.now_ns
    bench.snapshot(1, entry(7, valid_from_ns=start + 2 * S, valid_until_ns=start + 5 * S), entry(8))
    assert bench.dataplane.held.keys() == {8}
    bench.pass_time(2)
    assert bench.dataplane.held.keys() == {7, 8}
    bench.pass_time(2.9)
    assert bench.dataplane.held.keys() == {7, 8}
    bench.pass_time(0.1)
    assert bench.dataplane.held.keys() == {8}
    assert [line["how"] for line in bench.lines("applied")] == ["snapshot", "validity", "validity"]


def test_let_finish_ends_live_flows_when_its_time_is_over(tmp_path):
    bench = Bench(tmp_path, replace(STRICT, live_flows="let-finish", let_finish_ns=30 * S))
    bench.snapshot(1, entry(7), entry(8), entry(9))
    bench.delta(1, 2, (), [Removal(7, "revoked"), Removal(8, "revoked")])
    bench.delta(2, 3, [entry(8)])  # back in time
    bench.pass_time(29.9)
    assert not bench.dataplane.live_cut
    bench.pass_time(0.2)
    assert bench.dataplane.live_cut == {7}


def stop(**changes):
    values = {
        "time_ns": 1_700_000_000 * S,
        "reason": "unregistered",
        "protocol": "wireguard",
        "transport": "udp",
        "src": "10.0.0.7",
        "src_port": 40000,
        "dst": "198.51.100.9",
        "dst_port": 51820,
    }
    return Stop(**(values | changes))


def test_a_block_names_the_registration_that_ended(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(7), entry(8))
    bench.delta(1, 2, (), [Removal(7, "suspended")])
    bench.dataplane.stops = [
        stop(),
        stop(src="10.0.0.99"),
        stop(src="198.51.100.9", dst="10.0.0.7", dst_port=40000),
    ]
    bench.agent._read_stops()
    lines = bench.lines("block")
    assert [(line["registration"], line["registration_state"]) for line in lines] == [
        (7, "suspended"),
        (None, None),
        (7, "suspended"),
    ]
    assert "payload" not in json.dumps(lines)


def test_repeats_of_a_flow_are_counted_not_repeated(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(8))
    for _ in range(5):
        bench.dataplane.stops = [stop()] * 10
        bench.agent._read_stops()
    bench.pass_time(1.1)
    bench.dataplane.stops = [stop()]
    bench.agent._read_stops()
    bench.pass_time(1.1)
    bench.pass_time(1.1)
    counts = [line["count"] for line in bench.lines("block")]
    assert counts == [1, 49, 1]


def test_observing_writes_would_block(tmp_path):
    bench = Bench(tmp_path, replace(STRICT, mode="observe"))
    bench.dataplane.stops = [stop()]
    bench.agent._read_stops()
    assert bench.lines("would-block") and not bench.lines("block")


def test_status_says_what_is_enforced_and_what_is_broken(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(4, entry(7))
    bench.pass_time(30)
    told = status(bench.agent)
    assert (told["serial"], told["loaded"], told["fallback"]) == (4, 1, "keep")
    assert told["failures"] == {"registry-unreachable": "keep"}
    assert told["issued_age_s"] == 30.0
