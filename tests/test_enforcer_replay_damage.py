"""Recordings with bytes changed, lost or added anywhere: a report or a refusal, never an exception, never a figure too many."""

from __future__ import annotations

import random

import pytest

from enforcer.policy import load_policy
from enforcer.replay.command import load_allowlist
from enforcer.replay.frames import frames
from enforcer.replay.logs import Log, NotAFlowLog
from enforcer.replay.replay_capture import CaptureReplay
from enforcer.replay.replay_log import LogReplay
from enforcer.replay.report import report
from enforcer.replay.result import Result, Side
from enforcer.replay.source import Source
from enforcer.replay.text import render
from tests.replay_examples import FOLDER

NAMES = ["border.pcap", "border-1.6.nfdump.csv", "border-1.7.nfdump.csv", "border.parquet"]
POLICY = load_policy(FOLDER / "border.policy.yaml")
_, ENTRIES = load_allowlist(FOLDER / "allowlist.json")


def damaged(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice([1, 2, 8, 40])):
        place, kind = draw.randrange(len(data)), draw.random()
        if kind < 0.6:
            data[place] = draw.randrange(256)
        elif kind < 0.8:
            del data[place : place + draw.randrange(9)]
        else:
            data[place:place] = draw.randbytes(draw.randrange(9))
    return bytes(data)


def replayed(path):
    """The report's data; None when the file is refused."""
    source = Source(path)
    result = Result("x", source.kind(), [Side(POLICY, "p")])
    try:
        if result.format in ("pcap", "pcapng"):
            replay = CaptureReplay(result, [ENTRIES])
            replay.run(frames(source, result.damages))
            replay.finish()
        else:
            log = Log(source, None, False, "UTC")
            result.damages = log.damages
            replay = LogReplay(result, [ENTRIES], "either")
            for lines in log.lines():
                replay.add(lines)
    except NotAFlowLog:
        return None
    found = report(result, replay.ends, [{"serial": 1, "entries": 4, "file": "f"}], 5)
    assert render(found)
    return found


def check(name, rounds, seed, tmp_path):
    whole = (FOLDER / name).read_bytes()
    draw = random.Random(seed)
    path = tmp_path / name
    outcomes = set()
    for _ in range(rounds):
        path.write_bytes(damaged(whole, draw))
        found = replayed(path)
        if found is None:
            outcomes.add("refused")
            continue
        outcomes.add("damaged" if found["source"]["damage_count"] else "read")
        for sums in ("flows", "packets", "bytes"):
            assert sum(each[sums] for each in found["by_reason"].values()) == found["source"][sums]
    assert "damaged" in outcomes  # or the file was not hit


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_recording_is_reported_or_refused(name, tmp_path):
    check(name, 12, 7, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_recordings_are_reported_or_refused(name, tmp_path):
    check(name, 600, 8, tmp_path)
