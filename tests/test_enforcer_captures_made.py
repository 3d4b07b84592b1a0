"""What other captures may hold, made with scapy, which knows nothing of our parser: look-alikes pass and handshakes are recognised,
in whatever link layer, tags, options and extension headers they come; merged, in fragments, and with the first bytes drawn anew.
"""

from __future__ import annotations

import io
import random

import pytest
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.dot11 import Dot11, Dot11QoS, RadioTap
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import (
    ARP,
    GRE,
    LLC,
    SNAP,
    CookedLinux,
    CookedLinuxV2,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    Loopback,
)
from scapy.layers.ntp import NTPHeader
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.rtp import RTP
from scapy.layers.snmp import SNMP, SNMPget
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter

from enforcer.allowlist import Allowlist
from enforcer.capture import NotACapture, frames
from enforcer.decide import Flow, decide
from enforcer.packet import parse
from tests import enforcer_packets as make
from tests.test_enforcer_decide import STRICT

CLIENT4, SERVER4 = "10.1.2.3", "198.51.100.77"
CLIENT6, SERVER6 = "2001:db8:1::3", "2001:db8:99::77"
_PAD = PadN(optdata=b"\0" * 4)

# Headers between the two addresses and the transport.
NETWORKS = {
    "ipv4": lambda: IP(src=CLIENT4, dst=SERVER4),
    "ipv4-router-alert": lambda: IP(src=CLIENT4, dst=SERVER4, options=[IPOption_Router_Alert()]),
    "ipv4-record-route": lambda: IP(src=CLIENT4, dst=SERVER4, options=[IPOption_RR(length=39, pointer=4, routers=["0.0.0.0"] * 9)]),
    "ipv4-timestamp": lambda: IP(src=CLIENT4, dst=SERVER4, options=[IPOption_Timestamp()]),
    "ipv4-dscp-df": lambda: IP(src=CLIENT4, dst=SERVER4, tos=0xB9, flags="DF", id=0),
    "ipv6": lambda: IPv6(src=CLIENT6, dst=SERVER6, fl=0xABCDE),
    "ipv6-hop-by-hop": lambda: IPv6(src=CLIENT6, dst=SERVER6) / IPv6ExtHdrHopByHop(options=[RouterAlert(), _PAD]),
    "ipv6-destination": lambda: IPv6(src=CLIENT6, dst=SERVER6) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 40)]),
    "ipv6-routing": lambda: IPv6(src=CLIENT6, dst=SERVER6) / IPv6ExtHdrRouting(type=4, segleft=0, addresses=["2001:db8::5"] * 3),
    "ipv6-all": lambda: IPv6(src=CLIENT6, dst=SERVER6)
    / IPv6ExtHdrHopByHop(options=[_PAD])
    / IPv6ExtHdrDestOpt(options=[_PAD])
    / IPv6ExtHdrRouting(addresses=["2001:db8::5"], segleft=0)
    / IPv6ExtHdrFragment(offset=0, m=1, id=7)
    / IPv6ExtHdrDestOpt(options=[_PAD]),
}  # fmt: skip

# The layers beneath IP: how a capture shows the packet. (pcap's link type is scapy's to know.)
_MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
LINKS = {
    "ethernet": lambda packet: Ether(**_MACS) / packet,
    "ethernet-padded": lambda packet: Ether(**_MACS) / packet / Raw(b"\0" * 18),
    "vlan": lambda packet: Ether(**_MACS) / Dot1Q(vlan=100, prio=5) / packet,
    "qinq": lambda packet: Ether(**_MACS) / Dot1AD(vlan=7) / Dot1Q(vlan=100) / packet,
    "qinq-8100": lambda packet: Ether(**_MACS) / Dot1Q(vlan=7) / Dot1Q(vlan=8) / Dot1Q(vlan=9) / packet,
    "pppoe": lambda packet: Ether(**_MACS) / PPPoE(sessionid=5) / PPP() / packet,
    "vlan-pppoe": lambda packet: Ether(**_MACS) / Dot1Q(vlan=7) / PPPoE(sessionid=5) / PPP() / packet,
    "mpls": lambda packet: Ether(**_MACS) / MPLS(label=20, s=0) / MPLS(label=21, s=1) / packet,
    "snap": lambda packet: Dot3(**_MACS) / LLC() / SNAP() / packet,
    "cooked": lambda packet: CookedLinux(proto=0x86DD if IPv6 in packet else 0x0800) / packet,
    "cooked2": lambda packet: CookedLinuxV2(proto=0x86DD if IPv6 in packet else 0x0800) / packet,
    "loopback": lambda packet: Loopback(type=24 if IPv6 in packet else 2) / packet,
    "ppp": lambda packet: PPP() / packet,
    "wifi": lambda packet: Dot11(type=2, subtype=8, FCfield=1) / Dot11QoS() / LLC() / SNAP() / packet,
    "radiotap": lambda packet: RadioTap() / Dot11(type=2, FCfield=2) / LLC() / SNAP() / packet,
    "raw": lambda packet: packet,
}

RANDOM = random.Random(3)


def bytes_after(first: bytes, size: int) -> bytes:
    return first + RANDOM.randbytes(max(0, size - len(first)))


def udp(port, payload, sport=41000):
    return UDP(sport=sport, dport=port) / payload


def tcp(port, payload, sport=41000, flags="PA"):
    return TCP(sport=sport, dport=port, flags=flags, seq=1, ack=1) / Raw(payload)


def many(make_one, count=24):
    return [make_one() for _ in range(count)]


HTTP = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
SIZES = (14, 26, 38, 42, 50, 54, 92, 148, 344, 700, 1078, 1200)  # those that VPNs' first messages have
LOOK_ALIKES = {
    "turn-channel-data": [udp(port, Raw(bytes_after(bytes((first, RANDOM.randrange(256))) + (size - 4).to_bytes(2, "big"), size)))
                          for port in (3478, 443, 5349) for first in range(0x40, 0x50) for size in SIZES],
    "stun": many(lambda: udp(3478, Raw(bytes_after(b"\0\1\0\x08\x21\x12\xa4\x42", 28)))),
    "dtls": [udp(port, Raw(bytes_after(bytes((kind,)) + b"\xfe\xfd\0\0\0\0\0\0\0\0" + (size - 13).to_bytes(2, "big"), size)))
             for port in (443, 4433, 10000) for kind in range(20, 27) for size in SIZES],
    "quic-short-header": [udp(port, Raw(bytes_after(bytes((first,)), size)))
                          for port in (443, 8443) for first in range(0x40, 0x80, 3) for size in SIZES],
    "quic-long-header": [udp(443, Raw(bytes_after(bytes((first,)) + b"\0\0\0\1\x08", 1200))) for first in range(0xC0, 0x100, 3)],
    "http-over-tcp": [tcp(port, verb + b" / HTTP/1.1\r\nHost: example.org\r\n\r\n") for port in (80, 443, 8080, 8443)
                      for verb in (b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"PATCH", b"DELETE")],
    "banners": [tcp(port, text) for port, text in ((22, b"SSH-2.0-OpenSSH_9.2\r\n"), (25, b"EHLO example.org\r\n"), (21, b"USER x\r\n"),
                (143, b"a LOGIN x y\r\n"), (6667, b"NICK x\r\n"), (5222, b"<stream:stream>"), (3389, b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0"))],
    "tls": [tcp(443, bytes_after(b"\x16\3\1\2\0\1\0\1\xfc\3\3", 517)), tcp(8443, bytes_after(b"\x17\3\3\1\x2c", 305))],
    "dns": [udp(53, DNS(id=number, rd=flag, qd=DNSQR(qname=name))) for number in (0x0100, 0x0200, 0x0300, 0x0400, 0x3800, 0x3801)
            for flag in (0, 1) for name in ("example.org", "a" * 60 + ".example.org", ".".join(["b" * 30] * 4))],
    "dns-elsewhere": [udp(5353, DNS(id=0x0100, rd=0, qd=DNSQR(qname="c" * size + ".d"))) for size in (10, 20, 60)],
    "dns-answers-to-vpn-ports": [udp(port, DNS(id=0x0200, qr=1, an=DNSRR(rrname="example.org", rdata="192.0.2.1")), sport=53)
                                 for port in (51820, 1194, 4500, 1701)],
    "dns-over-tcp": [tcp(53, (lambda body: len(body).to_bytes(2, "big") + body)(bytes(DNS(id=number, qd=DNSQR(qname="example.org")))))
                     for number in (0x3800, 0x38FF, 0x5000, 0x4001)],
    "ntp": [udp(123, NTPHeader(leap=0, version=version, mode=mode), sport=123) for version in (1, 2, 3, 4) for mode in (1, 3, 4, 5)],
    "snmp": [udp(port, SNMP(community=name, PDU=SNMPget())) for port in (161, 162) for name in ("public", "x" * 20)],
    "rtp": [udp(port, RTP(payload_type=kind, sequence=number, timestamp=number * 160) / Raw(RANDOM.randbytes(160)))
            for port in (16384, 30000) for kind in (0, 8, 96, 127) for number in (0, 1, 0x0100)],
    "rtcp": many(lambda: udp(16385, Raw(bytes_after(b"\x80\xc8\0\6", 28)))),
    "gre-v0": [GRE(proto=0x0800) / IP(src="10.9.9.9") / udp(51820, Raw(make.WIREGUARD_INITIATION)), GRE(proto=0x88BE) / Raw(b"x" * 60),
               GRE(proto=0x6558, key_present=1, key=0x1234) / Ether(), GRE(proto=0x86DD, chksum_present=1) / IPv6()],
    "gtp-u": [udp(2152, GTP_U_Header(teid=RANDOM.randrange(2**32)) / IP() / udp(51820, Raw(make.WIREGUARD_INITIATION)), sport=2152)],
    "gtp-c": many(lambda: udp(2123, Raw(bytes_after(b"\x48\x20\0\x20", 40)), sport=2123)),
    "vxlan": [udp(4789, VXLAN(vni=number) / Ether() / IP() / udp(51820, Raw(make.WIREGUARD_INITIATION))) for number in (1, 2**24 - 1)],
    "geneve-gue-teredo": [udp(port, Raw(bytes_after(b"\0\0\x65\x58\0\0\1\0", 80))) for port in (6081, 6080, 3544, 8472)],
    "coap-mqtt-utp-steam": [udp(port, Raw(bytes_after(first, 40))) for port, first in
                            ((5683, b"\x40\1\0\1"), (1884, b"\x38\1"), (6881, b"\x41\0"), (6881, b"\1\0"), (27015, b"\xff\xff\xff\xffTSource"))],
    "wireguard-but-not-quite": [udp(port, Raw(bytes_after(b"\1\0\0\0", size))) for port in (9999, 443) for size in (147, 149, 92, 32, 1200)]
    + [udp(9999, Raw(bytes_after(first, 148))) for first in (b"\1\0\0\1", b"\2\0\0\0", b"\4\0\0\0", b"\5\0\0\0")],
    "icmp": [ICMP(type=8) / Raw(b"x" * 56)],
    "other-protocols": [Raw(b"x" * 40)],
}  # fmt: skip

HANDSHAKES = {
    "wireguard": (udp(51820, Raw(make.WIREGUARD_INITIATION)), "wireguard"),
    "wireguard-9999": (udp(9999, Raw(bytes_after(b"\1\0\0\0", 148))), "wireguard"),
    "openvpn-udp": (udp(1194, Raw(make.OPENVPN_RESET)), "openvpn-udp"),
    "openvpn-443": (udp(443, Raw(make.OPENVPN_RESET_TLS_AUTH)), "openvpn-udp"),
    "openvpn-crypt-v2-53": (udp(53, Raw(make.OPENVPN_RESET_TLS_CRYPT_V2)), "openvpn-udp"),
    "openvpn-tcp": (tcp(1194, make.behind_length(make.OPENVPN_RESET)), "openvpn-tcp"),
    "openvpn-tcp-443": (tcp(443, make.behind_length(make.OPENVPN_RESET_TLS_CRYPT)), "openvpn-tcp"),
    "tcp-syn-1194": (TCP(sport=41000, dport=1194, flags="S"), "openvpn-tcp"),
    "ike-500": (udp(500, Raw(make.IKE_SA_INIT), sport=500), "ikev2"),
    "ike-4500": (udp(4500, Raw(b"\0\0\0\0" + make.IKE_SA_INIT), sport=4500), "ikev2"),
    "ike-8500": (udp(8500, Raw(make.IKEV1_MAIN_MODE)), "ikev2"),
    "esp-in-udp": (udp(4500, Raw(b"\xde\xad\xbe\xef" + b"x" * 60), sport=4500), "ikev2"),
    "esp": (ESP(spi=5, data=b"x" * 60), "esp"),
    "ah": (AH(spi=5, icv=b"\0" * 12) / udp(53, Raw(b"x")), "ah"),
    "l2tp": (udp(1701, Raw(make.L2TP_SCCRQ), sport=1701), "l2tp"),
    "l2tp-9999": (udp(9999, Raw(make.L2TP_SCCRQ)), "l2tp"),
    "pptp": (tcp(1723, make.PPTP_REQUEST), "pptp"),
    "pptp-9999": (tcp(9999, make.PPTP_REQUEST), "pptp"),
    "pptp-gre": (GRE(proto=0x880B, version=1, key_present=1, seqnum_present=1, key=0x00200001) / Raw(b"\xff\x03\0\x21" + b"x" * 30), "pptp"),
}  # fmt: skip


def ip_packet(network: str, inner):
    base = NETWORKS[network]()
    if inner.__class__ is ICMP and base.version == 6:
        return None
    if inner.__class__ is Raw and base.version == 4:
        base.proto = 132  # SCTP
    elif inner.__class__ is Raw:
        base.lastlayer().nh = 132
    return base / inner


def judged(data: bytes):
    return decide(parse(data), Flow(), Allowlist(0), STRICT, 0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_look_alike_passes(name, network):
    inners = LOOK_ALIKES[name]
    if network not in ("ipv4", "ipv6"):  # what is before them does not change what they are like
        inners = inners[:: max(1, len(inners) // 8)]
    for inner in inners:
        packet = ip_packet(network, inner)
        if packet is not None:
            data = bytes(packet)
            found = judged(data)
            assert parse(data).version and found.passes, f"{found} {packet.summary()} {data.hex()}"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake_is_recognised(name, network):
    inner, protocol = HANDSHAKES[name]
    found = judged(bytes(ip_packet(network, inner)))
    assert (found.action, found.protocol) == ("drop", protocol)


@pytest.mark.parametrize(
    ("kind", "link"), [*(("pcap", link) for link in LINKS), ("pcapng", "ethernet"), ("pcapng", "cooked"), ("pcapng", "raw")]
)  # fmt: skip
def test_link_layers_hide_nothing_and_show_nothing_else(tmp_path, kind, link):
    path = tmp_path / f"made.{kind}"
    tunnels = [
        (ip_packet(network, inner), protocol)
        for network in ("ipv4-router-alert", "ipv6-hop-by-hop")
        for inner, protocol in HANDSHAKES.values()
    ]
    calm = [(ip_packet("ipv4", inners[0]), None) for inners in LOOK_ALIKES.values()]
    made = [(packet.__class__(bytes(packet)), protocol) for packet, protocol in tunnels + calm]
    with (PcapWriter if kind == "pcap" else PcapNgWriter)(str(path)) as writer:
        for packet, _ in made:
            writer.write(LINKS[link](packet))
        if link in ("ethernet", "vlan"):
            writer.write(Ether(**_MACS) / ARP())
    with path.open("rb") as file:
        found = [frame.data for frame in frames(file)]
    if link in ("ethernet", "vlan"):
        assert found.pop() == b""  # ARP is no IP packet
    assert [parse(data) for data in found] == [parse(bytes(packet)) for packet, _ in made]
    assert [None if judged(data).passes else judged(data).protocol for data in found] == [
        each for _, each in made
    ]


@pytest.mark.parametrize("total", [0, None])
def test_merged_segments_are_judged_by_their_first_bytes(total):
    """What offloads show a capture: TCP merged far beyond the MTU, UDP datagrams of one size in one, total length 0 above 64 KiB."""
    tail = RANDOM.randbytes(40_000)
    lengths = {} if total is None else {"len": total}
    calm = IP(src=CLIENT4, dst=SERVER4, **lengths) / tcp(443, HTTP + tail)
    tunnel = IP(src=CLIENT4, dst=SERVER4, **lengths) / tcp(443, make.behind_length(make.OPENVPN_RESET) + tail)
    assert judged(bytes(calm)).passes
    assert judged(bytes(tunnel)).protocol == "openvpn-tcp"
    quic = IP(src=CLIENT4, dst=SERVER4, **lengths) / udp(443, Raw(bytes_after(b"\x50", 1200 * 20)))
    assert judged(bytes(quic)).passes
    jumbo = bytes(IPv6(src=CLIENT6, dst=SERVER6, plen=0) / tcp(443, HTTP + RANDOM.randbytes(70_000)))
    assert judged(jumbo).passes and len(parse(jumbo).payload) > 70_000


def test_a_first_fragment_is_judged_and_a_later_one_passes():
    ike = make.IKE_SA_INIT + RANDOM.randbytes(1500)
    first = (
        IP(src=CLIENT4, dst=SERVER4, flags="MF")
        / UDP(sport=500, dport=500, len=8 + len(ike))
        / Raw(ike[:1000])
    )
    later = IP(src=CLIENT4, dst=SERVER4, frag=126, proto=17) / Raw(make.IKE_SA_INIT)
    assert judged(bytes(first)).protocol == "ikev2"
    assert judged(bytes(later)).reason == "fragment"
    head = IPv6(src=CLIENT6, dst=SERVER6)
    first6 = head / IPv6ExtHdrFragment(m=1) / UDP(sport=500, dport=9999, len=8 + len(ike)) / Raw(ike[:1000])
    later6 = head / IPv6ExtHdrFragment(offset=126, nh=17) / Raw(make.IKE_SA_INIT)
    assert judged(bytes(first6)).protocol == "ikev2"
    assert judged(bytes(later6)).reason == "fragment"


def test_what_is_inside_a_tunnel_that_is_no_vpn_is_not_looked_at():
    inside = IP(src=CLIENT4, dst=SERVER4) / udp(51820, Raw(make.WIREGUARD_INITIATION))
    for outer in (
        IP(proto=4) / inside,
        IPv6(nh=4) / inside,
        IP(proto=41) / IPv6() / inside,
        ICMP(type=3) / inside,
    ):
        assert judged(bytes(outer)).passes
    assert not judged(bytes(inside)).passes  # the control


def test_a_link_layer_that_is_not_known_is_no_empty_capture():
    buffer = io.BytesIO()
    PcapWriter(buffer, linktype=195).write(Raw(b"x" * 40))
    with pytest.raises(
        NotACapture, match="x has frames of link type 195; what can be read is BSD loopback, "
    ):
        list(frames(io.BytesIO(buffer.getvalue()), "x"))
