"""Captures as files: both formats in both byte orders, compressed, cut anywhere, with other link layers."""

from __future__ import annotations

import gzip
import struct

import pytest

from enforcer.policy import load_policy
from enforcer.replay import frames as frames_module
from enforcer.replay.frames import frames
from enforcer.replay.replay_capture import CaptureReplay
from enforcer.replay.result import Result, Side
from enforcer.replay.source import Damages, Source
from tests import enforcer_packets as make
from tests.replay_examples import FOLDER

BORDER = load_policy(FOLDER / "border.policy.yaml")
LINE, SERVER, OTHER = "203.0.113.7", "198.51.100.9", "203.0.113.8"
LINE6, SERVER6 = "2001:db8:7::1", "2001:db8:9::9"
START_NS = 1_700_000_000_000_000_000


def frames_of(path):
    damages = Damages()
    found = [
        (time_ns, link, data[start:end]) for time_ns, link, data, start, end in frames(Source(path), damages)
    ]
    return found, damages


def pcap(*packets, order="<", magic=0xA1B2C3D4, link=101):
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    return head + b"".join(struct.pack(order + "IIII", 1, 2, len(each), len(each)) + each for each in packets)


def block(kind, body, order="<"):
    size = 12 + len(body) + -len(body) % 4
    return (
        struct.pack(order + "II", kind, size)
        + body
        + b"\0" * (-len(body) % 4)
        + struct.pack(order + "I", size)
    )


def pcapng(*packets, order="<", options=b"", link=101):
    found = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    found += block(1, struct.pack(order + "HHI", link, 0, 0) + options, order)
    for each in packets:
        found += block(6, struct.pack(order + "IIIII", 0, 0, 7, len(each), len(each)) + each, order)
    return found


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_formats_are_read_in_both_byte_orders(order, tmp_path):
    file = tmp_path / "x"
    one, two = make.udp(LINE, SERVER, 1, 2, b"abc"), make.udp(LINE, SERVER, 1, 2, b"defgh")
    file.write_bytes(pcap(one, two, order=order))
    assert frames_of(file)[0] == [(1_000_002_000, 101, one), (1_000_002_000, 101, two)]
    file.write_bytes(pcap(one, order=order, magic=0xA1B23C4D))
    assert frames_of(file)[0] == [(1_000_000_002, 101, one)]
    file.write_bytes(pcapng(one, two, order=order))
    assert frames_of(file)[0] == [(7000, 101, one), (7000, 101, two)]
    nanoseconds = struct.pack(order + "HHB3x", 9, 1, 9) + struct.pack(order + "HHq", 14, 8, 5)
    file.write_bytes(pcapng(one, order=order, options=nanoseconds))
    assert frames_of(file)[0] == [(5_000_000_007, 101, one)]


@pytest.mark.parametrize("whole", [pcap, pcapng])
def test_a_capture_cut_anywhere_keeps_what_is_whole_and_says_where_it_breaks(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(
        frames_module, "_CHUNK_BYTES", 64
    )  # so that records cross the edges of what is read at once
    sent = [make.udp(LINE, SERVER, 1, 2, b"abcde" * number) for number in range(5)]
    data = whole(*sent)
    ends = [len(whole(*sent[:count])) for count in range(6)]
    file = tmp_path / "x"
    for size in range(4, len(data) + 1):
        file.write_bytes(data[:size])
        found, damages = frames_of(file)
        count = sum(1 for end in ends[1:] if end <= size)
        assert [each[2] for each in found] == sent[:count]
        is_whole = size in ends or (whole is pcapng and size == 28)
        assert (damages.count == 0) == is_whole, size
        if not is_whole:
            begins = max((end for end in [0, 28 if whole is pcapng else 0, *ends] if end <= size), default=0)
            assert damages.first[0].offset == begins


def test_an_impossible_length_is_damage_at_its_offset(tmp_path):
    file = tmp_path / "x"
    one = make.udp(LINE, SERVER, 1, 2, b"abc")
    file.write_bytes(pcap(one) + struct.pack("<IIII", 1, 2, 1 << 30, 60) + b"x" * 100)
    found, damages = frames_of(file)
    assert len(found) == 1 and damages.first[0].offset == 24 + 16 + len(one)
    assert "damaged here" in str(damages.first[0])
    file.write_bytes(pcapng(one) + struct.pack("<II", 6, 10) + b"x" * 100)
    found, damages = frames_of(file)
    assert len(found) == 1 and damages.first[0].offset == len(pcapng(one))


def test_compressed_captures_are_read_and_a_cut_one_says_so(tmp_path):
    file = tmp_path / "x.pcap.gz"
    sent = [make.udp(LINE, SERVER, 1, number, bytes(1200)) for number in range(200)]
    whole = gzip.compress(pcap(*sent))
    file.write_bytes(whole)
    assert [each[2] for each in frames_of(file)[0]] == sent
    file.write_bytes(whole[: len(whole) // 2])
    found, damages = frames_of(file)
    assert [each[2] for each in found] == sent[: len(found)] and len(found) < len(sent)
    assert damages.count == 1 and "breaks off" in damages.first[0].what


def test_link_layers_are_taken_off_as_capture_does_it():
    packet = make.udp(LINE, SERVER, 40000, 51820, b"x")
    six = make.udp(LINE6, SERVER6, 40000, 51820, b"x")
    ethernet = b"\2" * 12
    layers = [
        (1, ethernet + b"\x08\0" + packet),
        (1, ethernet + b"\x86\xdd" + six),
        (1, ethernet + b"\x81\0\0\5\x08\0" + packet),
        (113, b"\0" * 14 + b"\x08\0" + packet),
        (276, b"\x86\xdd" + b"\0" * 18 + six),
        (0, b"\2\0\0\0" + packet),
        (101, six),
    ]
    result = Result("test", "pcap", [Side(BORDER, "p")])
    replay = CaptureReplay(result, [[]])
    replay.run((START_NS + place, link, data, 0, len(data)) for place, (link, data) in enumerate(layers))
    replay.run([(START_NS, 1, ethernet + b"\x08\x06" + b"arp" * 9, 0, 41)])
    replay.finish()
    assert result.seen[:2] == [2, len(layers)] and result.capture.not_ip == 1
    assert list(result.sides[0].totals.reasons()) == ["unregistered"]
