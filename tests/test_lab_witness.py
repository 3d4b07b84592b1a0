"""What a witness reads from a packet's head: protocol, addresses, ports, of both families, with headers in between and in fragments."""

from __future__ import annotations

import zlib
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from testbed.lab.witness_packet import SNAP_BYTES, flow_of, names, packets_in, transport_name
from testbed.lab.witness_process import _record
from testbed.records import WitnessRecord

V4 = IP(src="10.1.1.2", dst="10.9.0.10")
V6 = IPv6(src="fd00:1:1::2", dst="fd00:9::10")


def seen(packet: Packet) -> tuple[str, str, int, str, int]:
    data = bytes(packet)[:SNAP_BYTES]
    flow = flow_of(b"??" + data, 2, 2 + len(data))
    assert flow is not None
    protocol, addresses, source, destination = flow
    src, dst = names(addresses)
    return transport_name(protocol), src, source, dst, destination


@pytest.mark.parametrize("head", [V4, V6, IP(src="10.1.1.2", dst="10.9.0.10", options=b"\x01" * 40),
                                  V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()])  # fmt: skip
@pytest.mark.parametrize(
    ("body", "name"), [(UDP(sport=1000, dport=51820), "udp"), (TCP(sport=1000, dport=51820), "tcp")]
)
def test_ports_are_found_behind_options_and_extension_headers(head: Packet, body: Packet, name: str):
    transport, src, source, dst, destination = seen(head / body / Raw(b"x" * 500))
    assert (transport, source, destination) == (name, 1000, 51820)
    assert (src, dst) in (("10.1.1.2", "10.9.0.10"), ("fd00:1:1::2", "fd00:9::10"))


@pytest.mark.parametrize(
    ("packet", "name"),
    [(V4 / ESP(spi=7), "esp"), (V6 / ESP(spi=7), "esp"), (V4 / AH(spi=7), "ah"), (V6 / AH(spi=7), "ah"),
     (V4 / GRE(), "gre"), (V6 / GRE(), "gre"), (IP(src="10.1.1.2", dst="10.9.0.10", proto=89) / Raw(b"x" * 40), "89")],
)  # fmt: skip
def test_protocols_without_ports_have_none(packet: Packet, name: str):
    transport, _src, source, _dst, destination = seen(packet)
    assert (transport, source, destination) == (name, 0, 0)


@pytest.mark.parametrize(
    ("packet", "name", "identifier"),
    [(V4 / ICMP(type=8, id=4711), "icmp", 4711), (V4 / ICMP(type=0, id=4711), "icmp", 4711),
     (V6 / ICMPv6EchoRequest(id=4711), "icmpv6", 4711), (V6 / ICMPv6EchoReply(id=4711), "icmpv6", 4711),
     (V4 / ICMP(type=3, code=13) / V4 / UDP(), "icmp", 0), (V6 / ICMPv6DestUnreach() / V6 / UDP(), "icmpv6", 0)],
)  # fmt: skip
def test_an_echo_has_its_identifier_and_an_error_nothing(packet: Packet, name: str, identifier: int):
    transport, _src, source, _dst, destination = seen(packet)
    assert (transport, source, destination) == (name, identifier, 0)


def test_later_fragments_are_counted_without_ports_and_the_first_with():
    udp = UDP(sport=1000, dport=2000) / Raw(b"x" * 64)
    first4 = IP(src="10.1.1.2", dst="10.9.0.10", flags="MF") / udp
    later4 = IP(src="10.1.1.2", dst="10.9.0.10", frag=185, proto=17) / Raw(b"x" * 64)
    first6 = V6 / IPv6ExtHdrFragment(nh=17, m=1, offset=0) / udp
    later6 = V6 / IPv6ExtHdrFragment(nh=17, m=0, offset=185) / Raw(b"x" * 64)
    assert [seen(each)[2] for each in (first4, first6)] == [1000, 1000]
    assert [(seen(each)[0], seen(each)[2], seen(each)[4]) for each in (later4, later6)] == [("udp", 0, 0)] * 2


@given(st.binary(max_size=SNAP_BYTES))
def test_no_bytes_whatever_upset_it(data: bytes):
    flow = flow_of(data, 0, len(data))
    if flow is not None:
        protocol, addresses, source, destination = flow
        assert len(addresses) in (8, 32) and 0 <= protocol <= 255
        assert 0 <= source <= 65535 and 0 <= destination <= 65535


def test_a_segment_kept_whole_counts_as_its_packets():
    assert [packets_in(length) for length in (84, 1500, 1501, 2960, 64_280)] == [1, 1, 2, 2, 44]


def test_a_line_is_a_witness_record():
    import json

    line = _record("gw", "inside", "udp", "10.1.1.2", 1, "10.9.0.10", 2, [-5, 6, 7, 8])
    record = WitnessRecord(**json.loads(line))
    assert asdict(record) == dict(
        zip([each.name for each in fields(WitnessRecord)],
            ["gw", "inside", "udp", "10.1.1.2", 1, "10.9.0.10", 2, -5, 6, 7, 8], strict=True)
    )  # fmt: skip


def test_a_flushed_stream_can_be_read_without_its_end():
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    written = deflate.compress(b"one\n") + deflate.flush(zlib.Z_SYNC_FLUSH)
    deflate.compress(b"never flushed\n")
    assert zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(written) == b"one\n"
