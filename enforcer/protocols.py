"""The VPN protocols an enforcer may recognise, each by documented ports, protocol numbers and first-packet headers only.

One table of facts: `decide` reads it, and every dataplane is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VPN_PROTOCOLS = (
    "wireguard",
    "openvpn-udp",
    "openvpn-tcp",
    "ikev2",  # IKEv1 and IKEv2 on 500 and 4500 (RFC 7296, 3948) with the ESP they set up, native or in UDP
    "esp",
    "ah",
    "l2tp",
    "pptp",  # control channel and GRE version 1 (RFC 2637)
    "openconnect",  # TLS: its headers are those of HTTPS; can be registered, cannot be recognised
)

TCP, UDP, GRE, ESP, AH, ICMP, ICMPV6, L2TP_IP = 6, 17, 47, 50, 51, 1, 58, 115  # IANA protocol numbers

# Registered with IANA for the protocol; 51820 is WireGuard's customary port (wireguard.com/quickstart), not an IANA one.
UDP_PORTS = {51820: "wireguard", 1194: "openvpn-udp", 500: "ikev2", 4500: "ikev2", 1701: "l2tp"}
TCP_PORTS = {1194: "openvpn-tcp", 1723: "pptp"}

# IP protocol numbers (RFC 4303, 4302, 3931 section 4.1.1). GRE is judged by its version: see GRE_PPTP.
IP_PROTOCOLS = {ESP: "esp", AH: "ah", L2TP_IP: "l2tp"}

# RFC 2637 section 4.1: GRE version 1 (low three bits of the second byte) with protocol type 0x880B. Version 0 is plain GRE.
GRE_PPTP_VERSION, GRE_PPTP_TYPE = 1, 0x880B

# Ports below 1024 belong to services (RFC 6335 section 6): a packet *from* one of them to a documented VPN port is an answer to
# a client that happened to choose that port (behind carrier-grade NAT it may be any from 1024), not a VPN. IKE's own is excepted.
SERVICE_PORTS = range(1024)
SERVICE_PORTS_OF_VPN = (500,)


@dataclass(frozen=True, slots=True)
class Field:
    """Big-endian `size` bytes at `offset` of the payload must be one of values (`is_absent`: must be none of them)."""

    offset: int
    size: Literal[1, 2, 4]
    values: tuple[int, ...]
    is_absent: bool = False


@dataclass(frozen=True, slots=True)
class FirstMessage:
    """What the first message of a protocol looks like. from_server: what a server sends, looked for only from documented ports.

    lengths: smallest and largest UDP payload in bytes (None over TCP, where the message says its own length).
    """

    protocol: str
    name: str
    transport: Literal["udp", "tcp"]
    fields: tuple[Field, ...]
    lengths: tuple[int, int] | None = None
    from_server: bool = False
    source: str = ""


# OpenVPN: opcode << 3 | key id, and the key id of a first packet is 0 (openvpn-rfc, openvpn-wire-protocol.xml).
_CLIENT_V2, _CLIENT_V3, _SERVER_V2 = 7 << 3, 10 << 3, 8 << 3
_DATA_V2 = tuple(9 << 3 | key for key in range(8))
_OPENVPN_SOURCE = "openvpn-wire-protocol.xml; openvpn src/openvpn/ssl_pkt.h, packet_id.h"
# HMAC sizes of tls-auth digests: MD5, SHA1, SHA224, SHA256, SHA384, SHA512.
_HMACS = (16, 20, 28, 32, 48, 64)
# The first packet id under tls-auth and tls-crypt: 1, or EARLY_NEG_START + 1 (ssl_pkt.h) from clients of 2.6 on.
_FIRST_IDS = (1, 0x0F000000, 0x0F000001)


def _openvpn_plain(shift: int) -> dict[int, tuple[Field, ...]]:
    """Client resets without tls-crypt-v2, by message length: opcode, session id (8), [HMAC, id (4), time (4)], acks 0, id 0."""
    variants: dict[int, tuple[Field, ...]] = {
        14: (
            Field(shift, 1, (_CLIENT_V2,)),
            Field(shift + 9, 1, (0,)),
            Field(shift + 10, 4, (0,)),
        )
    }
    for hmac in _HMACS:
        end = shift + 9 + hmac + 8
        variants[22 + hmac] = (
            Field(shift, 1, (_CLIENT_V2,)),
            Field(shift + 9 + hmac, 4, _FIRST_IDS),
            Field(end, 1, (0,)),
            Field(end + 1, 4, (0,)),
        )
    return variants


# tls-crypt: opcode, session id (8), id (4), time (4), HMAC (32), encrypted acks and id (5): 54 bytes (openvpn doc/tls-crypt.txt).
def _openvpn_crypt(shift: int) -> tuple[Field, ...]:
    return (Field(shift, 1, (_CLIENT_V2,)), Field(shift + 9, 4, _FIRST_IDS))


# tls-crypt-v2 appends the wrapped client key: at least 290 bytes, at most 1024 (doc/tls-crypt-v2.txt, tls_crypt.h).
_CRYPT_V2_LENGTHS = (54 + 290, 54 + 1024)


def _openvpn_crypt_v2(shift: int) -> tuple[Field, ...]:
    return (Field(shift, 1, (_CLIENT_V3,)), Field(shift + 9, 4, _FIRST_IDS))


def _openvpn() -> tuple[FirstMessage, ...]:
    messages = []
    for length, fields in _openvpn_plain(0).items():
        messages.append(_openvpn_udp(f"reset-{length}", fields, (length, length)))
    messages.append(_openvpn_udp("reset-tls-crypt", _openvpn_crypt(0), (54, 54)))
    messages.append(_openvpn_udp("reset-tls-crypt-v2", _openvpn_crypt_v2(0), _CRYPT_V2_LENGTHS))
    # The same messages over TCP stand behind their 16-bit length; requiring it keeps GET, POST and SSH- out.
    for length, fields in _openvpn_plain(2).items():
        messages.append(_openvpn_tcp(f"reset-{length}", (Field(0, 2, (length,)), *fields)))
    messages.append(_openvpn_tcp("reset-tls-crypt", (Field(0, 2, (54,)), *_openvpn_crypt(2))))
    high_bytes = tuple(range(_CRYPT_V2_LENGTHS[0] >> 8, (_CRYPT_V2_LENGTHS[1] >> 8) + 1))
    messages.append(_openvpn_tcp("reset-tls-crypt-v2", (Field(0, 1, high_bytes), *_openvpn_crypt_v2(2))))
    # The server's answer: opcode, session id, one ack (1, id 0, the client's session id), id 0.
    answer = (Field(0, 1, (_SERVER_V2,)), Field(9, 1, (1,)), Field(10, 4, (0,)), Field(22, 4, (0,)))
    messages.append(_openvpn_udp("server-reset", answer, (26, 26), from_server=True))
    # P_DATA_V2 (9) with any key id, and a peer id below 65536 (openvpn-wire-protocol.xml).
    data = (Field(0, 1, _DATA_V2), Field(1, 1, (0,)))
    messages.append(_openvpn_udp("server-data", data, (24, 65507), from_server=True))
    shifted = (Field(2, 1, _DATA_V2), Field(3, 1, (0,)))
    messages.append(_openvpn_tcp("server-data", shifted, from_server=True))
    return tuple(messages)


def _openvpn_udp(
    name: str, fields: tuple[Field, ...], lengths: tuple[int, int], from_server: bool = False
) -> FirstMessage:
    return FirstMessage("openvpn-udp", name, "udp", fields, lengths, from_server, _OPENVPN_SOURCE)


def _openvpn_tcp(name: str, fields: tuple[Field, ...], from_server: bool = False) -> FirstMessage:
    return FirstMessage("openvpn-tcp", name, "tcp", fields, None, from_server, _OPENVPN_SOURCE)


# A DNS query with the id 0x0100 to 0x0400 and no flags begins like WireGuard (ipfixprobe PR 57); where WireGuard has a random
# index DNS says "one question, no answer": the look-alike that must pass costs one WireGuard handshake in 2**32.
_NOT_DNS = Field(4, 4, (0x00010000,), is_absent=True)
_WIREGUARD_SOURCE = "WireGuard paper section 5.4; wireguard-linux-compat src/messages.h"
_IKE_SOURCE = "RFC 7296 section 3.1; RFC 2408 section 3.1"


def _ike(shift: int, from_server: bool) -> tuple[FirstMessage, ...]:
    """IKE_SA_INIT (34), main mode (2), aggressive mode (4): responder SPI 0, first payload SA, message id 0."""
    first = (
        () if not shift else (Field(0, 4, (0,)),)  # the non-ESP marker of RFC 3948 section 2.2
    )
    if from_server:
        fields = (*first, Field(shift + 17, 1, (0x10, 0x20)), Field(shift + 24, 2, (0,)))
        return (
            FirstMessage("ikev2", "answer", "udp", fields, (shift + 28, 65507), True, source=_IKE_SOURCE),
        )
    zeros = (Field(shift + 8, 4, (0,)), Field(shift + 12, 4, (0,)), Field(shift + 20, 4, (0,)))
    length = (Field(shift + 24, 2, (0,)),)
    v2 = (*first, *zeros, Field(shift + 16, 2, (0x2120,)), Field(shift + 18, 2, (0x2208,)), *length)
    v1 = (*first, *zeros, Field(shift + 16, 2, (0x0110,)), Field(shift + 18, 2, (0x0200, 0x0400)), *length)
    limits = (shift + 28, 65507)
    return (
        FirstMessage("ikev2", "ike-sa-init", "udp", v2, limits, source=_IKE_SOURCE),
        FirstMessage("ikev2", "ikev1-first", "udp", v1, limits, source=_IKE_SOURCE),
    )


FIRST_MESSAGES: tuple[FirstMessage, ...] = (
    FirstMessage(
        "wireguard",
        "initiation",
        "udp",
        (Field(0, 4, (0x01000000,)), _NOT_DNS),
        (148, 148),
        source=_WIREGUARD_SOURCE,
    ),
    FirstMessage(
        "wireguard",
        "response",
        "udp",
        (Field(0, 4, (0x02000000,)), _NOT_DNS),
        (92, 92),
        from_server=True,
        source=_WIREGUARD_SOURCE,
    ),
    FirstMessage(
        "wireguard",
        "server-data",
        "udp",
        (Field(0, 4, (0x04000000,)),),
        (32, 65507),
        from_server=True,
        source=_WIREGUARD_SOURCE,
    ),
    *_openvpn(),
    *_ike(0, from_server=False),
    *_ike(4, from_server=False),
    *_ike(0, from_server=True),
    *_ike(4, from_server=True),
    FirstMessage(
        "l2tp",
        "sccrq",
        "udp",
        (
            Field(0, 2, (0xC802,)),
            Field(4, 4, (0,)),  # tunnel and session id
            Field(8, 4, (0,)),  # Ns, Nr
            Field(12, 4, (0x80080000,)),  # the Message Type AVP: mandatory, 8 bytes, vendor 0 ...
            Field(16, 4, (0x00000001,)),  # ... type 0, value 1
        ),
        (20, 65507),
        source="RFC 2661 sections 3.1, 4.4.1, 6.1",
    ),
    FirstMessage(
        "l2tp",
        "answer",
        "udp",
        (
            Field(0, 2, (0xC802, 0x4002, 0x0002, 0x4202, 0x0202)),
        ),  # control; data with or without length, offset
        (12, 65507),
        from_server=True,
        source="RFC 2661 section 3.1",
    ),
    FirstMessage(
        "pptp",
        "answer",
        "tcp",
        (Field(2, 2, (1,)), Field(4, 4, (0x1A2B3C4D,))),
        from_server=True,
        source="RFC 2637 section 2",
    ),
    FirstMessage(
        "pptp",
        "start-control-connection-request",
        "tcp",
        (Field(0, 2, (156,)), Field(2, 2, (1,)), Field(4, 4, (0x1A2B3C4D,)), Field(8, 2, (1,))),
        source="RFC 2637 section 2.1",
    ),
)
