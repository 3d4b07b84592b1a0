"""First packets of VPN protocols: other decoders read them, our responder answers them, and nothing else counts as an answer."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.traffic import handshakes_raw
from testbed.traffic.handshake_responder import Answers, ResponderKeys
from testbed.traffic.handshakes import PROBES, HandshakeProbe

KEYS = ResponderKeys.new()
TLS_CRYPT = "\n".join(
    (
        "-----BEGIN OpenVPN Static key V1-----",
        *(os.urandom(16).hex() for _ in range(16)),
        "-----END OpenVPN Static key V1-----",
        "",
    )
)
WRAPPED_KEYS = ResponderKeys.new(TLS_CRYPT)


def probe(protocol: str, name: str = "alice", tls_crypt: str | None = None) -> HandshakeProbe:
    return HandshakeProbe(protocol, name, wireguard_server=KEYS.wireguard_public, tls_crypt=tls_crypt)


def answered(protocol: str, request: bytes, keys: ResponderKeys = KEYS) -> bytes | None:
    transport = PROBES[protocol][0]
    if transport == "tcp":
        return Answers(keys).stream(request)
    if transport == "udp":
        return Answers(keys).datagram(request)
    return handshakes_raw.answer(protocol, request)


@pytest.mark.parametrize("protocol", PROBES)
def test_a_request_is_answered_and_the_answer_is_for_that_request(protocol):
    asking = probe(protocol)
    answer = answered(protocol, asking.request(7))
    assert answer is not None
    assert asking.is_answer(answer)
    assert asking.is_answer(answer, 7)
    if protocol == "pptp":  # its first messages carry no identity
        return
    if PROBES[protocol][0] == "tcp":
        with pytest.raises(ValueError, match="not an OpenVPN"):
            asking.is_answer(answer, 8)
    else:
        assert not asking.is_answer(answer, 8)


@pytest.mark.parametrize("protocol", PROBES)
def test_a_request_is_no_answer_and_an_answer_is_not_answered(protocol):
    asking = probe(protocol)
    request = asking.request(0)
    answer = answered(protocol, request)
    assert answer is not None
    for data, is_refused in (
        (request, lambda d: not asking.is_answer(d)),
        (answer, lambda d: answered(protocol, d) is None),
    ):
        try:
            assert is_refused(data)
        except ValueError:
            assert PROBES[protocol][0] == "tcp"


@pytest.mark.parametrize("protocol", [name for name, (transport, _) in PROBES.items() if transport != "tcp"])
@given(data=st.binary(max_size=200))
def test_rubbish_is_neither_answered_nor_an_answer(protocol, data):
    assert answered(protocol, data) is None
    assert not probe(protocol).is_answer(data)


@pytest.mark.parametrize("protocol", PROBES)
@given(where=st.integers(0, 10**6))
def test_a_truncated_answer_is_none(protocol, where):
    asking = probe(protocol)
    answer = answered(protocol, asking.request(1))
    assert answer is not None
    assert not asking.is_answer(answer[: where % len(answer)])


@pytest.mark.parametrize("protocol", ["openvpn-udp", "openvpn-tcp"])
def test_tls_crypt_wraps_both_ways_and_refuses_what_another_key_wrapped(protocol):
    asking = probe(protocol, tls_crypt=TLS_CRYPT)
    answer = answered(protocol, asking.request(3), WRAPPED_KEYS)
    assert answer is not None
    assert asking.is_answer(answer, 3)
    other = "\n".join(TLS_CRYPT.splitlines()[:9] + TLS_CRYPT.splitlines()[1:9] + TLS_CRYPT.splitlines()[-1:])
    stranger = probe(protocol, tls_crypt=other).request(3)
    if protocol == "openvpn-tcp":
        with pytest.raises(ValueError, match="not the start of a VPN protocol"):
            answered(protocol, stranger, WRAPPED_KEYS)
    else:
        assert answered(protocol, stranger, WRAPPED_KEYS) is None


def test_wireguard_for_another_server_key_is_dropped():
    assert answered("wireguard", probe("wireguard").request(0)) is not None  # control
    assert answered("wireguard", probe("wireguard").request(0), ResponderKeys.new()) is None


def test_wireguard_response_for_another_client_is_no_answer():
    mine, other = probe("wireguard"), probe("wireguard")
    answer = answered("wireguard", mine.request(0))
    assert answer is not None
    assert mine.is_answer(answer)
    assert not other.is_answer(answer)  # same indices, another static key: its MAC is not for us


def test_wireguard_timestamps_grow_and_prebuilt_requests_are_given_once():
    asking = probe("wireguard")
    asking.prebuild(range(3))
    first = asking.request(1)
    assert first[4:8] == asking.request(1)[4:8]
    assert first != asking.request(1)


def test_the_same_name_gives_the_same_packets_and_another_name_others():
    for protocol in ("openvpn-udp", "openvpn-tcp", "ikev2", "ikev1", "l2tp"):
        assert probe(protocol).request(5) == probe(protocol).request(5)
        assert probe(protocol).request(5) != probe(protocol).request(6)
        assert probe(protocol).request(5) != probe(protocol, "bob").request(5)


def test_openvpn_packets_are_those_of_the_wire_protocol():
    session = probe("openvpn-udp").request(0)[1:9]
    assert probe("openvpn-udp").request(0) == b"\x38" + session + bytes(5)
    answer = answered("openvpn-udp", probe("openvpn-udp").request(0))
    assert answer is not None
    assert len(answer) == 26
    assert answer[:1] == b"\x40"
    assert answer[9:] == b"\x01" + bytes(4) + session + bytes(4)
    assert probe("openvpn-tcp").request(0)[:3] == b"\x00\x0e\x38"
    assert len(probe("openvpn-udp", tls_crypt=TLS_CRYPT).request(0)) == 54


def test_scapy_reads_wireguard():
    from scapy.contrib.wireguard import Wireguard, WireguardInitiation, WireguardResponse

    asking = probe("wireguard")
    request = asking.request(9)
    read = Wireguard(request)
    assert read.message_type == 1
    assert read[WireguardInitiation].sender_index == struct.unpack_from("<I", request, 4)[0]
    assert read[WireguardInitiation].mac2 == bytes(16)
    answer = Wireguard(answered("wireguard", request))
    assert answer[WireguardResponse].receiver_index == read[WireguardInitiation].sender_index


def test_scapy_reads_ike():
    from scapy.contrib.ikev2 import IKEv2, IKEv2_KE, IKEv2_Nonce, IKEv2_Proposal, IKEv2_SA
    from scapy.layers.isakmp import ISAKMP, ISAKMP_payload_SA

    for data in (probe("ikev2").request(0), answered("ikev2", probe("ikev2").request(0))):
        assert data is not None
        read = IKEv2(data)
        assert (read.version, read.exch_type, read.length) == (0x20, 34, len(data))
        assert read[IKEv2_SA].next_payload == 34
        assert read[IKEv2_Proposal].trans_nb == 3
        assert read[IKEv2_KE].group == 19
        assert len(read[IKEv2_KE].ke) == 64
        assert len(read[IKEv2_Nonce].nonce) == 32
    old = ISAKMP(probe("ikev1").request(0))
    assert (old.version, old.exch_type, old.length) == (0x10, 2, len(probe("ikev1").request(0)))
    assert old.haslayer(ISAKMP_payload_SA)


def test_scapy_reads_l2tp_and_pptp():
    from scapy.layers.l2tp import L2TP
    from scapy.layers.pptp import PPTPStartControlConnectionReply, PPTPStartControlConnectionRequest

    request = probe("l2tp").request(0)
    read = L2TP(request)
    assert (read.version, read.len, read.tunnel_id, read.ns, read.nr) == (2, len(request), 0, 0, 0)
    assert "control" in str(read.hdr)
    assigned = struct.unpack_from("!H", request, request.index(b"\x80\x08\x00\x00\x00\x09") + 6)[0]
    assert L2TP(answered("l2tp", request)).tunnel_id == assigned
    asked = PPTPStartControlConnectionRequest(probe("pptp").request(0))
    assert (asked.len, asked.magic_cookie, asked.ctrl_msg_type) == (156, 0x1A2B3C4D, 1)
    told = PPTPStartControlConnectionReply(answered("pptp", probe("pptp").request(0)))
    assert (told.len, told.ctrl_msg_type, told.result_code) == (156, 2, 1)


def test_scapy_reads_the_samples_without_ports():
    from scapy.layers.ipsec import AH, ESP
    from scapy.layers.l2 import GRE, GRE_PPTP

    assert ESP(probe("esp").request(5)).spi == 0x1005
    assert AH(probe("ah").request(5)).spi == 0x1005
    assert len(AH(probe("ah").request(5)).icv) == 12
    gre = GRE_PPTP(probe("gre").request(5))
    assert (gre.version, gre.proto, gre.call_id, gre.payload_len) == (1, 0x880B, 5, 10)
    plain = GRE(probe("gre-0").request(5))
    assert (plain.version, plain.key_present, plain.proto) == (0, 0, 0x88B5)


def test_a_wrong_protocol_or_a_missing_key_says_what_to_write():
    with pytest.raises(ValueError, match="no handshake for 'sstp'; there are wireguard, openvpn-udp"):
        HandshakeProbe("sstp")
    with pytest.raises(ValueError, match="needs wireguard_server"):
        HandshakeProbe("wireguard")
    with pytest.raises(ValueError, match="not an OpenVPN static key file"):
        HandshakeProbe("openvpn-udp", tls_crypt="no key")
