"""Any bytes: no exception but the declared one, no hang. And each input that ever broke this, kept (docs/fuzzing.md)."""

from __future__ import annotations

import gzip
import io
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.allowlist import Entry
from enforcer.capture import NotACapture, frames
from enforcer.packet import parse
from enforcer.registry.feed import BadSignature, verify
from enforcer.yamlfile import parse as parse_yaml
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, _key

_SEEDS = {target: list(seeds(target)) for target in TARGETS}
_LONGEST_S = 2.0  # of CPU; the slowest input of an hour took a fiftieth
_EXAMPLES = {"packet": 1500, "decision": 600, "capture": 600, "feed": 300, "policy": 60}


@st.composite
def damaged(draw, target):
    """A seed that was cut, changed in some places, or continued by another; or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(_SEEDS[target])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.binary(min_size=1, max_size=4))
        match draw(st.sampled_from(("change", "insert", "cut", "remove", "splice"))):
            case "change":
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = piece
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + draw(st.integers(1, 64))]
            case "splice":
                data[at:] = draw(st.sampled_from(_SEEDS[target]))[at : at + 2000]
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_break_it(target):
    @settings(max_examples=_EXAMPLES[target], deadline=None)
    @given(data=damaged(target))
    def holds(data):
        started_s = time.thread_time()
        TARGETS[target](data)
        assert time.thread_time() - started_s < _LONGEST_S

    holds()


def _raises(error):
    def broken(*rest, **more):
        raise error

    return broken


@pytest.mark.parametrize(
    ("target", "name", "broken"),
    [
        ("packet", "parse", lambda data: replace(parse(data), src_port=65536)),
        ("decision", "decide", lambda *rest: None),
        ("capture", "frames", _raises(IndexError())),
        ("feed", "verify", _raises(ValueError())),
        ("policy", "parse_policy", _raises(RecursionError())),
    ],
)
def test_a_broken_promise_is_told(monkeypatch, target, name, broken):
    TARGETS[target](_SEEDS[target][0])
    monkeypatch.setattr(f"tests.fuzz.targets.{name}", broken)
    with pytest.raises((AssertionError, IndexError, ValueError, RecursionError)):
        TARGETS[target](_SEEDS[target][0])


@pytest.mark.parametrize("version", [4, 6])
def test_the_largest_packets_are_parsed_in_no_time(version):
    """64 KiB of extension headers, options or zeros, each a thousand times."""
    tails = {4: (b"\x4f\0\xff\xff\0\0\0\0\x40\x06", b"\x4f\0\0\0"), 6: (b"\x60\0\0\0\xff\xff\0\x40", b"\x60\0\0\0\0\0\x3c\x40")}  # fmt: skip
    for head in tails[version]:
        for filling in (b"\0", b"\x3c\0\0\0\0\0\0\0", b"\xff"):
            data = (head + filling * 65536)[:65536]
            started_s = time.thread_time()
            for _ in range(1000):
                parse(data)
            assert time.thread_time() - started_s < _LONGEST_S


# What fuzzing found, each mended where it broke.


@pytest.mark.parametrize("size", range(24))
def test_a_pcap_shorter_than_its_header_ends_where_it_breaks(size):
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    if size < 4:
        with pytest.raises(NotACapture):
            list(frames(io.BytesIO(header[:size])))
    else:
        assert list(frames(io.BytesIO(header[:size]))) == []


def test_a_pcapng_option_that_is_cut_off_is_not_read():
    section = bytes.fromhex("0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff1c000000")
    interface = bytes.fromhex("01000000180000000100000000000400" + "09000100" + "18000000")
    assert list(frames(io.BytesIO(section + interface))) == []


def test_a_length_no_capture_has_is_damage_and_not_memory():
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    assert list(frames(io.BytesIO(header + b"\0" * 8 + b"\xff\xff\xff\x7f" * 2))) == []


def test_a_compressed_capture_says_what_to_do():
    with pytest.raises(
        NotACapture, match="x.pcap.gz is neither pcap nor pcapng; it is compressed, gunzip it"
    ):
        list(frames(io.BytesIO(gzip.compress(b"x")), "x.pcap.gz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint_ports": [float("inf")]}, "cannot convert float infinity"),
        ({"valid_from_ns": float("inf")}, "cannot convert float infinity"),
        ({"endpoint_ports": [65536]}, r"registration 7: port 65536 is out of range \(1 to 65535\)"),
        ({"endpoint_ports": [0]}, "port 0 is out of range"),
        ({"subscriber_prefixes": "10.0.0.0/8"}, "'10.0.0.0/8' is not a list of strings"),
        ({"endpoint_prefixes": [167772160]}, "is not a list of strings"),
        ({"protocols": None}, "None is not a list of strings"),
    ],
)
def test_an_entry_that_holds_something_else_is_refused(changes, message):
    good = Entry(7, "softhouse", ("203.0.113.7/32",), ("198.51.100.0/24",), (51820,)).to_json()
    assert Entry.from_json(good).registration == 7
    with pytest.raises(ValueError, match=message):
        Entry.from_json(good | changes)


@pytest.mark.parametrize("signature", ["A\ud800AA", "é", "====", "AAAA", "::/0"])
def test_a_signature_that_is_no_base64_is_a_bad_signature(signature):
    with pytest.raises(BadSignature):
        verify(json.dumps({"body": "{}", "signature": signature}), _key().public_key())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!int 1x1", "f:1:4: a: '1x1' is not a number that can be read; write a plain number"),
        ("a: !!float 1x1", "f:1:4: a: '1x1' is not a number that can be read; write a plain number"),
        (
            "a: " + "9" * 5000,
            f"f:1:4: a: '{'9' * 40}' is not a number that can be read; write a plain number",
        ),
        (
            "a: " + "[" * 500,
            "f:1:1: it is nested too deeply; write fewer brackets or blocks inside one another",
        ),
    ],
)
def test_yaml_that_no_value_comes_of_is_a_problem_with_its_place(text, problem):
    assert [str(each) for each in parse_yaml(text, "f").problems] == [problem]


def test_aliases_of_aliases_are_not_unfolded_without_end():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    problems = parse_yaml("\n".join(lines), "f").problems
    assert [str(each) for each in problems] == [
        "f:1:1: its aliases unfold to more than 250000 values; write less with aliases"
    ]
