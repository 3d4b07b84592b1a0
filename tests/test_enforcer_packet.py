"""parse() says what the headers say, and never fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.allowlist import Allowlist
from enforcer.decide import Flow, decide
from enforcer.packet import parse
from tests import enforcer_packets as make
from tests.test_enforcer_decide import LINE4, LINE6, SERVER4, SERVER6, STRICT

_GOOD = [
    make.udp(LINE4, SERVER4, 40000, 51820, make.WIREGUARD_INITIATION),
    make.tcp(LINE6, SERVER6, 40000, 1194, make.ACK, make.behind_length(make.OPENVPN_RESET)),
    make.udp(
        LINE6, SERVER6, 1, 500, make.IKE_SA_INIT, extensions=((0, b"\1\4\0\0\0\0"), (44, b"\0\0\0\0\0\7"))
    ),
    make.ip(LINE4, SERVER4, 47, make.GRE_PPTP, options=b"\x07\x04\0\0"),
]


@given(st.binary(max_size=200))
def test_garbage_is_never_an_exception(data):
    decide(parse(data), Flow(), Allowlist(0), STRICT, 0)


@given(st.sampled_from(_GOOD), st.data())
def test_damaged_packets_are_never_an_exception(good, data):
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decide(parse(bytes(damaged)), Flow(), Allowlist(0), STRICT, 0)


@pytest.mark.parametrize("data", _GOOD)
def test_a_packet_cut_anywhere_says_less_but_nothing_else(data):
    whole = parse(data)
    for size in range(len(data)):
        cut = parse(data[:size])
        if cut.version:
            assert (cut.src, cut.dst) == (whole.src, whole.dst)
            assert cut.src_port in (0, whole.src_port)
            assert cut.protocol in (None, whole.protocol)


def test_fields():
    packet = parse(make.udp(LINE6, SERVER6, 1234, 500, b"hello", extensions=((60, b"\1\4\0\0\0\0"),)))
    assert (packet.version, packet.src_text, packet.dst_text) == (6, LINE6, SERVER6)
    assert (packet.protocol, packet.src_port, packet.dst_port, packet.udp_length) == (17, 1234, 500, 5)
    assert packet.payload == b"hello"
    assert packet.has_options
    padded = parse(make.udp(LINE4, SERVER4, 1234, 500, b"hello") + b"\0" * 18)  # Ethernet's padding
    assert padded.payload == b"hello"
