"""`enforcer replay` when something is wrong: damage, interruptions, mistakes in files and options, verdicts that are not decide's."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest

from enforcer.replay import command, replay_log
from enforcer.replay.judge import Judge
from enforcer.yamlfile import FileError
from tests import replay_examples as examples
from tests.replay_command import ANSWER, data, log_of, replay
from tests.replay_examples import FOLDER


def test_damage_is_reported_with_its_place_and_the_exit_code_says_so(tmp_path):
    cut = tmp_path / "cut.pcap"
    whole = (FOLDER / "border.pcap").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    text = replay(cut, code=3)
    first, *rest = text.splitlines()
    assert first.startswith("DAMAGED: 1 place in the file") and "of what could be read" in first
    assert rest[-2] == "What could not be read" and "the file ends in the middle of a packet" in rest[-1]
    found = data(cut, code=3)
    assert found["source"]["packets"] > 100
    offset = found["source"]["damage"][0]["offset_bytes"]
    assert offset <= len(whole) // 2 < offset + 1600
    wrong = log_of(tmp_path, ANSWER, ANSWER.replace("17", "x"), ANSWER)
    text = replay(wrong, code=3)
    assert "line 3 (byte" in text and "2 flows, 2 packets" in text


def test_an_interruption_keeps_what_was_read(monkeypatch):
    made = replay_log.LogReplay.add

    def interrupted(self, lines):
        made(self, lines)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(replay_log.LogReplay, "add", interrupted)
    found = data("border-1.7.nfdump.csv", code=130)
    assert found["source"]["interrupted"] and 0 < found["source"]["flows"] <= 257
    monkeypatch.undo()

    from enforcer.replay import frames

    everything = frames.frames

    def few(source, damages):
        for number, frame in enumerate(everything(source, damages)):
            if number == 100:
                signal.raise_signal(signal.SIGINT)
            yield frame

    monkeypatch.setattr(frames, "frames", few)
    text = replay("border.pcap", code=130)
    assert "INTERRUPTED after" in text and " 100 packets" in text


def test_a_verdict_that_is_not_decides_stops_everything(monkeypatch):
    made = Judge.__call__

    def wrong(self, lines):
        judged = made(self, lines)
        return judged._replace(reason=np.where(judged.reason == 3, 1, judged.reason).astype(np.uint8))

    monkeypatch.setattr(Judge, "__call__", wrong)
    text = replay("border.parquet", code=3)
    assert "decide says" in text and "mistake of enforcer replay" in text and "would have been" not in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--map", "src=a"], "--map is for flow logs"),
        (["--direction", "opener"], "--direction is for flow logs"),
        (["--at", "yesterday"], "--at: 'yesterday' is not a time"),
        (["--inside", "203.0.113.7/24"], "--inside: '203.0.113.7/24' is no prefix"),
        (["--against", "/nowhere.policy.yaml"], "nowhere.policy.yaml"),
    ],
)
def test_a_mistake_says_what_to_write(options, says):
    assert says in replay("border.pcap", *options, code=2)


def test_a_file_that_is_not_there_or_no_recording_is_a_sentence(tmp_path):
    nowhere, remedy = (
        tmp_path / "nowhere.pcap",
        "give a capture (pcap, pcapng) or a flow log (CSV, Parquet)\n",
    )
    assert replay(nowhere, code=2) == f"{nowhere}:1:1: cannot be read (No such file or directory); {remedy}"
    assert replay(tmp_path, code=2) == f"{tmp_path}:1:1: is a folder; {remedy}"
    for name, says in (
        ("border.policy.yaml", "this is a policy, not a recording of traffic"),
        ("allowlist.json", "this is JSON (an allowlist or an audit?), not a recording of traffic"),
    ):
        assert replay(FOLDER / name, code=2) == f"{FOLDER / name}:1:1: {says}; {remedy}"
    assert "time zone" in replay("border-1.7.nfdump.csv", "--time-zone", "Mars", code=2)
    assert "neither a capture (pcap, pcapng) nor a flow log" in replay(FOLDER.parent / "text.py", code=2)


@pytest.mark.parametrize("size", [0, 4, 10, 23])
def test_a_capture_without_a_whole_header_is_no_capture(size, tmp_path):
    path = tmp_path / "short.pcap"
    whole = (FOLDER / "border.pcap").read_bytes()
    path.write_bytes(whole[:size])
    text = replay(path, code=2)
    assert text.count("\n") == 1
    assert (
        "it is empty" if size == 0 else f"no capture: it ends in the middle of its header, after {size} bytes"
    ) in text
    path.write_bytes(whole[:24])  # control
    assert "No flow was read" in replay(path)


def test_files_that_are_something_else_are_named_all_at_once(tmp_path):
    wrong = ["--policy", FOLDER / "allowlist.json", "--allowlist", FOLDER / "border.policy.yaml"]
    text = replay(tmp_path / "nowhere.pcap", *wrong, code=2)
    assert "a policy is needed here, and this seems to be an allowlist" in text
    assert "an allowlist is needed here, and this seems to be a policy" in text
    assert "nowhere.pcap:1:1" in text and text.count("\n") == 3 and "Error" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", ":1:1: an allowlist is needed here, and this seems to be neither JSON nor a policy"),
        ("[]", ":1:1: an allowlist is needed here, and this seems to be a JSON list"),
        ('{"entries": [5]}', "entries[0]: "),
        (
            json.dumps({"entries": [examples.entry(1, "a", ["203.0.113.7/24"], [])]}),
            "bits set after its prefix length",
        ),
        (
            json.dumps({"entries": [examples.entry(1, "a", [], [])] * 2}),
            "entries[1].registration: 1 is there twice",
        ),
    ],
)
def test_a_wrong_allowlist_says_where(text, says, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        command.load_allowlist(path)
    assert says in str(caught.value)


def test_a_signed_snapshot_is_read_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"body": json.dumps(examples.ALLOWLIST), "signature": "…"}))
    serial, entries = command.load_allowlist(path)
    assert serial == 41 and len(entries) == 4


def test_without_its_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert f"{sys.executable} -m pip install numpy pyarrow\n" in replay("border.pcap", code=3)
