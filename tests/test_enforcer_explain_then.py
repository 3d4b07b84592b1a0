"""`enforcer explain --at`: the list that was in force then judges, and the serial is told; where it is not known, that is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enforcer.allowlist import Removal
from enforcer.audit import Audit, read
from enforcer.explain_then import by_audit
from enforcer.registry.ledger import Ledger
from enforcer.registry.states import Application
from tests.agent_bench import KEY, STRICT, Bench, S, entry, on_failure
from tests.test_enforcer_explain import run

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "enforcer/policies/registered-pairs.policy.yaml"
T0_S = 1_600_000_000
ENDS = ("10.0.0.7", "198.51.100.9", "--proto", "wireguard")


def at(seconds: float) -> tuple[str, str]:
    return "--at", datetime.fromtimestamp(seconds, UTC).isoformat()


def config(folder: Path) -> Path:
    (folder / "feed.pub").write_text(KEY.public_key().public_bytes_raw().hex())
    policy, feed = str(POLICY), {"url": "http://192.0.2.1/feed", "key": "feed.pub"}
    files = {"state": "state", "audit": "audit.jsonl", "control": "sock"}
    path = folder / "enforcer.yaml"
    path.write_text(json.dumps({"policy": policy, "feed": feed, **files}))
    return path


@pytest.fixture
def bench(tmp_path):
    """Registration 7 comes 100 s after the first list, and goes 200 s after it."""
    bench = Bench(tmp_path, STRICT)
    bench.snapshot(3, entry(1))
    bench.pass_time(100)
    bench.delta(3, 4, add=[entry(7)])
    bench.pass_time(100)
    bench.delta(4, 5, remove=[Removal(7, "revoked")])
    bench.pass_time(100)
    return bench


@pytest.fixture
def ledger(tmp_path):
    """The same of a registry's ledger: its serial 1 allows registration 1 at 100 s, serial 2 none at 200 s."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(str(path))
    form = Application("softhouse", ("10.0.0.7/32",), ("198.51.100.9/32",), (51820,), ("wireguard",))
    number = ledger.apply(form, at_ns=T0_S * S).number
    ledger.verify(number, True, at_ns=(T0_S + 50) * S)
    ledger.decide(number, "approve", at_ns=(T0_S + 100) * S)
    ledger.decide(number, "revoke", at_ns=(T0_S + 200) * S)
    ledger.close()
    return path


BEGAN_S = 1_700_000_000


@pytest.mark.parametrize("has_audit", [True, False])
@pytest.mark.parametrize(("after", "serial", "passes"), [(50, 3, False), (150, 4, True), (250, 5, False)])
def test_the_list_that_an_enforcer_kept_of_then_judges(tmp_path, bench, has_audit, after, serial, passes):
    if not has_audit:
        bench.path.unlink()
    text = run(*ENDS, "--config", config(tmp_path), *at(BEGAN_S + after))
    assert f"serial {serial} (the list of that time, of the list kept in" in text
    assert ("passes (registered)" in text) == passes
    how = "was in force then, as the enforcer's audit says" if has_audit else "was then the newest"
    assert f"Serial {serial} {how}" in text and "not known here" not in text.split("What was broken")[0]
    # Control: now it is the newest that judges, and nothing is said of another time.
    now = run(*ENDS, "--config", config(tmp_path))
    assert "serial 5 (the list kept in" in now and "Serial 5" not in now and "drop" in now


def test_before_the_first_list_there_was_none(tmp_path, bench):
    found = json.loads(run(*ENDS, "--config", config(tmp_path), *at(BEGAN_S), "--json"))
    assert found["serial"] == 3  # its first second already has it
    bench.path.write_text("".join(bench.path.read_text().splitlines(keepends=True)[:1]))
    text = run(*ENDS, "--config", config(tmp_path), *at(BEGAN_S + 1))
    assert "serial 0 (no list)" in text and "No list had come yet, as the enforcer's audit says." in text


def test_a_list_that_is_gone_is_not_pretended(tmp_path, bench, ledger):
    bench.snapshot(6, entry(1))  # replaces what was kept; registration 7 had passed at 150 s
    enforcer = ("--config", config(tmp_path))
    text = run(*ENDS, *enforcer, *at(BEGAN_S + 150))
    assert "The list of that time is not known here; judged by serial 6 of the list kept in" in text
    assert "Serial 4 was in force then, as the enforcer's audit says. With --ledger FILE" in text
    found = json.loads(run(*ENDS, *enforcer, *at(BEGAN_S + 150), "--json"))
    assert (found["list_is_of_then"], found["serial"]) == (False, 6)
    text = run(*ENDS, *enforcer, *at(BEGAN_S + 150), "--ledger", ledger)
    assert f"Serial 4 was in force then, as the enforcer's audit says. {ledger} ends at serial 2" in text
    later = run(*ENDS, *enforcer, *at(BEGAN_S + 299.9))
    assert "not known here" in later and "Serial 5 was in force then" in later


@pytest.mark.parametrize(("after", "serial", "passes"), [(99, 0, False), (150, 1, True), (250, 2, False)])
def test_the_registrys_ledger_has_the_list_of_any_time(ledger, after, serial, passes):
    files = ("--policy", POLICY, "--ledger", ledger)
    text = run(*ENDS, *files, *at(T0_S + after))
    assert f"serial {serial} (the list of that time, in {ledger})" in text
    assert f"Serial {serial} was the registry's then" in text and ("passes (registered)" in text) == passes
    now = run(*ENDS, *files)
    assert f"serial 2 (the list in {ledger})" in now and "drop (unregistered)" in now


def test_an_audit_says_which_of_the_ledgers_lists_was_in_force(tmp_path, ledger):
    path = tmp_path / "audit"
    audit = Audit(path, realtime_ns=lambda: (T0_S + 105) * S)  # five seconds after the registry had it
    audit.write("started", policy="registered-pairs", mode="enforce")
    audit.write("applied", serial=0)
    audit.close()
    files = ("--policy", POLICY, "--ledger", ledger, "--audit", path)
    behind = run(*ENDS, *files, *at(T0_S + 150))
    assert "serial 0 (the list of that time, in" in behind and "drop (unregistered)" in behind
    before = run(*ENDS, *files, *at(T0_S + 102))  # the audit begins later
    assert (
        "Serial 1 was the registry's then" in before and "What was broken at that time is not known" in before
    )


def test_a_start_that_found_no_list_kept_begins_without_one(tmp_path):
    audit = Audit(tmp_path / "audit", realtime_ns=lambda: (T0_S + 105) * S)
    audit.write("started", policy="registered-pairs", mode="enforce")
    audit.write("applied", serial=7)
    audit.write("started", policy="registered-pairs", mode="enforce")  # the kernel kept what it had …
    then = by_audit(read(tmp_path / "audit"), (T0_S + 150) * S)
    assert then and then.serial == 7
    audit.write("failure", condition="no-allowlist-yet", state="begun", behaviour="keep")  # … or it did not
    audit.close()
    then = by_audit(read(tmp_path / "audit"), (T0_S + 150) * S)
    assert then and then.serial is None and then.lasting == {"no-allowlist-yet": "keep"}


def test_a_snapshot_alone_says_that_it_may_not_be_the_list_of_then(tmp_path):
    snapshot = tmp_path / "snapshot.json"
    snapshot.write_text(json.dumps({"serial": 12, "entries": [entry(7).to_json()]}))
    files = ("--policy", POLICY, "--snapshot", snapshot)
    text = run(*ENDS, *files, *at(T0_S))
    assert f"The list of that time is not known here; judged by serial 12 of the list in {snapshot}." in text
    assert "not known" not in run(*ENDS, *files)
    assert "That time is still to come" in run(*ENDS, *files, "--at", "2999-01-01T00:00:00Z")


def test_the_failures_and_the_policy_of_then_judge_not_those_of_now(tmp_path, monkeypatch):
    bench = Bench(tmp_path, on_failure(registry_unreachable="block"))
    bench.snapshot(3, entry(7))
    bench.pass_time(10)  # nobody answers
    begun = {line["condition"]: line["realtime_ns"] for line in bench.lines("failure")}
    failed_s = begun["registry-unreachable"] / S
    state = {"failures": {"feed-stale": "allow"}, "fallback": "allow"}
    monkeypatch.setattr("enforcer.known.ask", lambda path, command: state)
    enforcer = ("10.0.0.8", "198.51.100.9", "--proto", "wireguard", "--config", config(tmp_path))
    assert "passes (fail-open)" in run(*enforcer)
    assert "drop (unregistered)" in run(*enforcer, *at(BEGAN_S))
    assert "by 'on-failure: registry-unreachable'" in run(*enforcer, *at(failed_s))

    bench.agent.audit.write("started", policy="another", mode="observe")
    bench.agent.audit.write("stopped")
    text = run(*enforcer, *at(bench.now_ns / 1e9))
    assert "At that time the policy was 'another' (observe), as the audit says; judged by" in text
    assert "The enforcer had ended by then" in text and "for agent-dead: keep" in text


def test_older_files_of_the_audit_are_read_too(tmp_path, bench):
    audit = Audit(bench.path, realtime_ns=lambda: (BEGAN_S + 400) * S, most_bytes=1, most_files=9)
    audit.write("counters")
    audit.close()
    assert bench.path.with_name("audit.jsonl.1").exists()
    text = run(*ENDS, "--config", config(tmp_path), *at(BEGAN_S + 150))
    assert "Serial 4 was in force then, as the enforcer's audit says." in text
    bench.path.with_name("audit.jsonl.1").unlink()
    assert "The audit's older lines are gone" in run(*ENDS, "--config", config(tmp_path), *at(BEGAN_S + 500))


def test_mistakes_about_the_ledger_say_what_to_write(tmp_path, bench, ledger):
    (tmp_path / "text").write_text("no ledger, but a text that is long enough to be looked at" * 99)
    files = ("--policy", POLICY)
    assert "text: cannot be read as a ledger" in run(*ENDS, *files, "--ledger", tmp_path / "text", code=2)
    gone = tmp_path / "gone"
    assert f"{gone}:1:1: cannot be read" in run(*ENDS, *files, "--ledger", gone, code=2)
    assert not gone.exists()
    assert "--ledger: write it with --at TIME" in run(
        *ENDS, "--config", config(tmp_path), "--ledger", ledger, code=2
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x1f\x8b\x08\n", "audit: is compressed; write gunzip -k"),
        (b'{"t_ns": 1, "node": "gateway", "kind": "applied", "data": {}}\n', "audit:1: not a line of an enforcer's audit"),
        (b"[]\n", "audit:1: not a line of an enforcer's audit"),
        (b"{]\n", "audit:1: not an audit line: "),
    ],
)  # fmt: skip
def test_what_is_no_enforcers_audit_is_told(tmp_path, content, told):
    (tmp_path / "audit").write_bytes(content)
    assert told in run("10.0.0.7", "--audit", tmp_path / "audit", code=2)
