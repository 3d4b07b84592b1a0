"""What an agent does about keys, clocks, disks, restored registries and floods. No kernel, no network."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from enforcer import metrics
from enforcer.allowlist import Allowlist, Removal
from enforcer.audit import Audit, Blocks, read
from enforcer.dataplanes import Stop
from enforcer.registry.feed import Standing, delta_body, public_hex, sign, snapshot_body, standing_body
from enforcer.registry.roll import Roll, signed_roll
from enforcer.status import render, status
from tests.agent_bench import KEY, Bench, S, entry, on_failure

NEW = Ed25519PrivateKey.from_private_bytes(b"n" * 32)


def rolled(bench, by=KEY, to=NEW, begins_s=0, overlap_s=100):
    at_ns = bench.now_ns + begins_s * S
    return signed_roll(Roll(public_hex(to.public_key()), at_ns, at_ns + overlap_s * S), by)


def test_a_rolled_key_is_kept_and_the_old_one_refused_after_the_overlap(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(7))
    assert not bench.snapshot(2, entry(7), entry(8), key=NEW)
    bench.agent.intake.learn_keys([rolled(bench)])
    assert bench.snapshot(2, entry(7), entry(8), key=NEW)
    assert bench.snapshot(3, entry(7), key=KEY)  # the overlap
    bench.pass_time(101)
    assert not bench.snapshot(4, entry(8), key=KEY)
    assert bench.agent.conditions.lasting.keys() >= {"signature-wrong"}
    again = Bench(tmp_path)  # restarted: it knows the key, and what the old key signed is still its list
    again.now_ns = bench.now_ns
    assert again.dataplane.held.keys() == {7}
    assert again.snapshot(5, entry(9), key=NEW)
    assert not again.snapshot(6, entry(7), key=KEY)


def test_a_roll_over_that_must_not_be_followed_is_refused_in_words(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(7))
    late = rolled(bench, begins_s=-200)
    bench.agent.intake.learn_keys([late])
    assert bench.lines("refused-update")[-1]["word"] == "bad-key-roll"
    assert "by another way" in bench.lines("refused-update")[-1]["text"]
    bench.agent.intake.learn_keys([rolled(bench, by=NEW, to=NEW)])
    assert bench.lines("refused-update")[-1]["word"] == "bad-signature"
    assert not bench.snapshot(2, entry(8), key=NEW)
    assert bench.dataplane.held.keys() == {7}


def standing(bench, serial, mark, issued_ns=None, key=KEY):
    body = standing_body(Standing(serial, issued_ns or bench.now_ns, mark))
    return bench.agent.intake.take_standing(sign(body, key).encode())


def marked(bench, serial, mark, *entries):
    listing = Allowlist(serial, {each.registration: each for each in entries})
    return bench.agent.take(sign(snapshot_body(listing, bench.now_ns, mark), KEY).encode())


def test_a_sign_of_life_keeps_a_quiet_feed_fresh(tmp_path):
    bench = Bench(
        tmp_path,
        on_failure(feed_stale="block", feed_stale_after_ns=60 * S, registry_unreachable_after_ns=900 * S),
    )
    assert marked(bench, 1, "a", entry(7))
    issued_ns = bench.now_ns
    for _ in range(3):
        bench.pass_time(25)
    assert bench.dataplane.fallback == "block"
    assert standing(bench, 1, "a", issued_ns)  # an old one, replayed, is no sign of life
    assert bench.dataplane.fallback == "block"
    assert standing(bench, 1, "a")
    assert bench.dataplane.fallback == "keep"
    assert not standing(bench, 1, "a", key=NEW)
    assert not standing(bench, 0, "a")
    assert "serial-wrong" in bench.agent.conditions.lasting


def test_a_registry_that_came_another_way_to_our_serial_is_found_out(tmp_path):
    bench = Bench(tmp_path)
    assert marked(bench, 8, "ours", entry(7), entry(8))
    body = delta_body(bench_delta(8, 9, [entry(9)]), bench.now_ns, "theirs", "next")
    assert not bench.agent.take(sign(body, KEY).encode())
    assert bench.lines("refused-update")[-1]["word"] == "diverged"
    assert bench.agent.intake.wants_snapshot and bench.dataplane.held.keys() == {7, 8}
    assert marked(bench, 9, "next", entry(8), entry(9))
    assert bench.dataplane.held.keys() == {8, 9}
    body = delta_body(bench_delta(9, 10, [entry(7)]), bench.now_ns, "next", "last")
    assert bench.agent.take(sign(body, KEY).encode())  # control


def bench_delta(before, after, add):
    from enforcer.allowlist import Delta

    return Delta(before, after, tuple(add))


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_ends_nobodys_registration_and_makes_nothing_stale(tmp_path, hours):
    bench = Bench(tmp_path, on_failure(feed_stale="block", feed_stale_after_ns=60 * S, clock_jumped="keep"))
    start = bench.now_ns
    bench.snapshot(1, entry(7, valid_from_ns=start - 60 * S, valid_until_ns=start + 60 * S))
    bench.clock_ahead_ns = hours * 3600 * S
    bench.pass_time(1)
    assert bench.dataplane.held.keys() == {7} and bench.dataplane.fallback == "keep"
    assert bench.agent.conditions.times["clock-jumped"] == 1
    assert bench.agent.intake.wants_standing
    bench.clock_ahead_ns = 0
    bench.pass_time(1)
    assert "clock-jumped" not in bench.agent.conditions.lasting
    bench.pass_time(60)
    assert not bench.dataplane.held  # it ends at its second all the same


def test_a_clock_that_is_put_right_is_believed_when_the_registry_agrees(tmp_path):
    bench = Bench(tmp_path, on_failure(clock_jumped="allow"))
    bench.snapshot(1, entry(7))
    bench.clock_ahead_ns = 3600 * S
    bench.pass_time(1)
    assert bench.dataplane.fallback == "allow"
    bench.snapshot(2, entry(7), issued_ns=bench.now_ns + 3600 * S)
    bench.pass_time(1)
    assert bench.dataplane.fallback == "keep" and bench.agent.clock.now_ns() == bench.now_ns + 3600 * S


def test_a_full_disk_changes_nothing_but_what_the_policy_says_and_loses_no_count(tmp_path, monkeypatch):
    bench = Bench(tmp_path, on_failure(disk_full="block"))
    bench.snapshot(1, entry(7))
    honest = os.write
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_):
        raise full

    monkeypatch.setattr(os, "write", no_room)
    monkeypatch.setattr(os, "fsync", no_room)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    assert bench.delta(1, 2, [entry(8)])
    bench.pass_time(1.1)
    assert bench.dataplane.held.keys() == {7, 8} and bench.dataplane.fallback == "block"
    lost = bench.agent.audit.lost
    assert lost >= 2
    monkeypatch.undo()
    assert os.write is honest
    bench.pass_time(1.1)
    assert [line["count"] for line in bench.lines("lines-lost")] == [lost]
    assert bench.dataplane.fallback == "keep" and bench.agent.intake.wants_snapshot
    assert bench.agent.intake.tag is None  # the whole list, whatever the registry thinks is held
    bench.snapshot(2, entry(7), entry(8))
    assert Bench(tmp_path).dataplane.held.keys() == {7, 8}


def test_a_damaged_delta_on_the_disk_ends_what_is_loaded(tmp_path):
    first = Bench(tmp_path)
    first.snapshot(1, entry(7))
    first.delta(1, 2, [entry(8)])
    first.delta(2, 3, (), [Removal(7, "revoked")])
    kept = tmp_path / "state" / "deltas.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(lines[0] + lines[1][:-30])
    assert Bench(tmp_path).dataplane.held.keys() == {7, 8}


def test_an_agent_that_was_killed_is_counted_by_the_next(tmp_path):
    bench = Bench(tmp_path)
    assert bench.agent.conditions.times["agent-dead"] == 0
    killed = Bench(tmp_path)
    assert killed.agent.conditions.times["agent-dead"] == 1
    killed.agent._stop()
    assert Bench(tmp_path).agent.conditions.times["agent-dead"] == 0


def test_an_agent_that_hung_says_so(tmp_path):
    bench = Bench(tmp_path, on_failure(agent_dead_after_ns=5 * S))
    bench.pass_time(4)
    assert bench.agent.conditions.times["agent-dead"] == 0
    bench.pass_time(6)
    assert bench.agent.conditions.times["agent-dead"] == 1


def test_a_hostile_entry_is_refused_and_the_agent_lives(tmp_path):
    bench = Bench(tmp_path)
    bench.snapshot(1, entry(7))
    for text in ("1e999", "NaN", '"x"', "[]", "null", "-1", "1" * 5000):
        body = snapshot_body(Allowlist(2, {8: entry(8)}), bench.now_ns).replace(
            '"registration":8', f'"registration":{text}'
        )
        assert not bench.agent.take(sign(body, KEY).encode())
    assert bench.dataplane.held.keys() == {7}


def flood(bench, seconds, flows_per_s):
    number = 0
    for _ in range(seconds):
        for _ in range(flows_per_s):
            number += 1
            bench.dataplane.stops.append(
                Stop(
                    bench.now_ns,
                    "unregistered",
                    "wireguard",
                    "udp",
                    "10.1.0.1",
                    1024 + number % 60000,
                    f"198.51.{number // 60000}.9",
                    51820,
                )
            )
        bench.agent._read_stops()
        bench.pass_time(1.1)
    bench.pass_time(1.1)
    return number


def test_a_flood_makes_a_bounded_log_with_exact_counts(tmp_path):
    bench = Bench(tmp_path)
    bench.agent.blocks.most_lines = 100
    sent = flood(bench, seconds=5, flows_per_s=3000)
    listed, rest = bench.lines("block"), bench.lines("not-listed")
    assert len(listed) == 500 and len(rest) == 5
    assert sum(line["count"] for line in [*listed, *rest]) == sent == bench.agent.blocks.reported


def test_the_audits_files_never_take_more_than_they_may(tmp_path):
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, most_bytes=10_000, most_files=3)
    for number in range(1000):
        audit.write("counters", number=number)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert all(file.stat().st_size <= 10_000 for file in files) and audit.lost == 0
    numbers = [line["number"] for line in read(path)]
    assert numbers == list(range(numbers[0], 1000)) and len(numbers) > 150


def test_blocks_are_told_apart_by_the_kernels_clock_whatever_the_wall_clock(tmp_path):
    audit = Audit(tmp_path / "a")
    blocks = Blocks(audit, "block", lambda stop: {"registration": None, "registration_state": None})
    stop = Stop(0, "unregistered", None, "udp", "10.0.0.1", 1, "10.0.0.2", 2)
    for at_s in (0, 0.5, 1.5):
        blocks.note(stop, int(at_s * S))
        blocks.flush(int(at_s * S))
    assert [line["count"] for line in read(tmp_path / "a")] == [1, 2]


def test_status_and_metrics_say_what_an_operator_asks(tmp_path):
    bench = Bench(tmp_path, on_failure(signature_wrong="block"))
    bench.snapshot(4, entry(7), entry(8))
    bench.snapshot(5, entry(7), key=NEW)
    bench.pass_time(1.1)
    told = status(bench.agent)
    text = render(told)
    assert text.splitlines()[0].endswith("1 thing wrong")
    for words in (
        "signature-wrong: ",
        "the policy says block",
        "no VPN flow passes",
        "serial           4, 2 entries",
        "bad-signature 1",
        "registered",
    ):
        assert words in text
    json.dumps(told)
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render(told).decode())
        for sample in family.samples
    }
    assert found["allowlist_serial", ()] == 4
    assert found["allowlist_entries", ()] == 2
    assert found["allowlist_serial_age_seconds", ()] == pytest.approx(1.1)
    assert found["allowlist_refused_updates_total", (("word", "bad-signature"),)] == 1
    assert found["allowlist_condition", (("behaviour", "block"), ("condition", "signature-wrong"))] == 1
    assert found["allowlist_conditions_total", (("condition", "disk-full"),)] == 0
    labels = (("protocol", ""), ("reason", "registered"), ("verdict", "passed"))
    assert (found["allowlist_packets_total", labels], found["allowlist_bytes_total", labels]) == (3, 300)
    assert found["allowlist_last_load_seconds", ()] > 0
    bench.snapshot(5, entry(7))
    assert render(status(bench.agent)).splitlines()[0].endswith("all is well")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_KEYS = (
    "schema",
    "kind",
    "serial",
    "issued_ns",
    "entries",
    "add",
    "remove",
    "from_serial",
    "mark",
    "from_mark",
)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("followed"))
    bench.snapshot(1, entry(7))
    return bench


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_registry_signs_the_agent_lives_and_keeps_its_list(followed, data):
    """A good message with some of its parts replaced, signed with the right key: refused, or a list of good entries."""
    bench = followed
    number = bench.agent.allowlist.serial
    body = json.loads(
        data.draw(
            st.sampled_from(
                [
                    snapshot_body(Allowlist(number + 1, {7: entry(7)}), bench.now_ns),
                    delta_body(bench_delta(number, number + 1, [entry(9)]), bench.now_ns),
                    standing_body(Standing(number, bench.now_ns, "")),
                ]
            )
        )
    )
    for key in data.draw(st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3)):
        body[key] = data.draw(_JSON)
    entries = body.get("entries") or body.get("add")
    if isinstance(entries, list) and entries and isinstance(entries[0], dict) and data.draw(st.booleans()):
        entries[0][data.draw(st.sampled_from(sorted(entry(7).to_json())))] = data.draw(_JSON)
    message = sign(json.dumps(body), KEY).encode()
    before = dict(bench.dataplane.held)
    if not bench.agent.take(message):
        assert bench.dataplane.held == before
    bench.agent.intake.take_standing(message)
    bench.agent.intake.learn_keys([message.decode()])
    assert len(bench.agent.intake.ring.all) == 1
    json.dumps(status(bench.agent))


def test_a_long_list_keeps_neither_beats_nor_answers_waiting(tmp_path):
    """While another thread loads, the loop beats and answers; validity and failures wait, for they would change the list's table."""
    bench = Bench(tmp_path, on_failure(agent_dead_after_ns=4 * S))
    agent, dataplane = bench.agent, bench.dataplane
    loading, loaded = threading.Event(), threading.Event()
    beats, honest = [], dataplane.load

    def slow(allowlist):
        loading.set()
        assert loaded.wait(10)
        honest(allowlist)

    dataplane.load, dataplane.beat = slow, lambda: beats.append(bench.now_ns)
    message = sign(snapshot_body(Allowlist(1, {7: entry(7)}), bench.now_ns), KEY).encode()

    async def play():
        taking = asyncio.create_task(agent._aside(agent.take, message))
        await asyncio.to_thread(loading.wait, 10)
        for _ in range(3):
            bench.now_ns += 2 * S
            agent.tick()
            assert agent._beating is not None
            await agent._beating
        assert len(beats) == 3 and status(agent)["serial"] is None and not taking.done()
        assert "registry-unreachable" not in agent.conditions.lasting
        loaded.set()
        assert await taking

    asyncio.run(play())
    bench.pass_time(0)
    assert dataplane.held.keys() == {7} and "registry-unreachable" in agent.conditions.lasting
