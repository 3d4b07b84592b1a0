"""The comparison between the clocks finds what differs: the outcome of one attempt, delays beyond tolerance, another plan."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.clock_compare import compare, table
from tests.synthetic_run import S, synthetic_plan, write_synthetic_run


@pytest.fixture
def both(tmp_path) -> tuple[Path, Path]:
    for name in ("real", "virtual"):
        write_synthetic_run(tmp_path / name)
    return tmp_path / "real", tmp_path / "virtual"


def change_flows(run: Path, change) -> None:
    path = run / "flows.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for row in rows:
        change(row)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def compare_of_the_same(both):
    """Control: whole records again."""
    for run in both:
        write_synthetic_run(run)
    return compare(*both)


def test_the_same_records_agree_in_everything(both):
    found = compare(*both)
    assert found.attempts == found.same + found.near > 1000
    assert (found.differing, found.near_differing, found.only_one, found.beyond) == ([], 0, [], 0)
    assert set(found.delay_ns) == {0}
    assert table([found])[-1].startswith("| synthetic |")


def test_one_attempt_that_fared_otherwise_is_named(both):
    name = "dns-softhouse#90"  # far from any change

    def lose(row):
        if row["id"] == name:
            row |= {"is_delivered": False, "failure": "timeout", "rtt_ns": None, "received": 0}

    change_flows(both[1], lose)
    found = compare(*both)
    assert [each[0] for each in found.differing] == [name]
    assert name in table([found])[-1]


def test_a_block_for_another_reason_is_another_one(both):
    """Without the audit's word on its serial, what the glitch stopped is told as an older copy's doing."""
    path = both[1] / "audit.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows if row["kind"] != "applied").encode())
    )
    found = compare(*both)
    assert found.differing and all(
        "false_block" in one and "false_block" in two for _, one, two in found.differing
    )
    assert {one for _, one, _ in found.differing} == {"false_block, malfunction (timeout)"}


def test_what_neither_run_could_judge_is_no_agreement(both):
    """The witnesses wrote nothing in either: then no failed attempt says anything."""
    for run in both:
        (run / "witness.jsonl.gz").write_bytes(gzip.compress(b""))
    found = compare(*both)
    assert found.unjudged > 100 and not found.differing
    assert found.same + found.near + found.unjudged == found.attempts
    assert compare_of_the_same(both).unjudged == 0


def test_delays_beyond_what_calibration_tolerates_are_counted(both):
    def delay(row):
        row["rtt_ns"] = row["rtt_ns"] and row["rtt_ns"] * 2

    change_flows(both[0], delay)
    found = compare(*both)
    assert found.beyond == len(found.delay_ns) and not found.differing
    assert found.quantile_ms(0.5) > found.tolerance_ns / 1e6


def test_an_attempt_that_only_one_made_is_named_and_another_plan_refused(both, tmp_path):
    path = both[1] / "flows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(gzip.decompress(path.read_bytes()).splitlines()[1:]) + b"\n"))
    assert len(compare(*both).only_one) == 1
    plan = synthetic_plan()
    write_synthetic_run(tmp_path / "other", synthetic_plan(streams=plan.streams[1:]))
    with pytest.raises(ValueError, match="not the same plan"):
        compare(both[0], tmp_path / "other")
    assert plan.streams[0].at_ns[-1] < 60 * S
