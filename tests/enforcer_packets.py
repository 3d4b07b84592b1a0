"""Packets made by hand for the enforcer's tests: whole IP packets with right checksums, and each protocol's first message."""

from __future__ import annotations

import struct
from ipaddress import ip_address

TCP, UDP, GRE, ESP, AH = 6, 17, 47, 50, 51
SYN, ACK, RST, PSH = 0x02, 0x10, 0x04, 0x08


def ip(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    tag: int = 0,
    options: bytes = b"",
    extensions: tuple[tuple[int, bytes], ...] = (),
    fragment: tuple[int, bool] = (0, False),
) -> bytes:
    """tag: the IPv4 identification or the IPv6 flow label. extensions: IPv6 headers as (type, bytes after the first two).

    fragment: offset in 8 bytes and whether more follow (IPv4).
    """
    source, destination = ip_address(src), ip_address(dst)
    if source.version == 4:
        length = 20 + len(options) + len(payload)
        flags = fragment[0] | (0x2000 if fragment[1] else 0)
        header = struct.pack(
            "!BBHHHBBH4s4s",
            0x45 + len(options) // 4,
            0,
            length,
            tag,
            flags,
            64,
            protocol,
            0,
            source.packed,
            destination.packed,
        )
        header += options
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload
    body, following = payload, protocol
    for kind, rest in reversed(extensions):
        size = (2 + len(rest)) // 8 - 1 if kind != 44 else 0
        body = bytes([following, size]) + rest + body
        following = kind
    head = struct.pack("!IHBB", 6 << 28 | tag, len(body), following, 64)
    return head + source.packed + destination.packed + body


def udp(src: str, dst: str, src_port: int, dst_port: int, data: bytes, **more) -> bytes:
    segment = struct.pack("!HHHH", src_port, dst_port, 8 + len(data), 0) + data
    total = checksum(_pseudo(src, dst, UDP, len(segment)) + segment) or 0xFFFF
    return ip(src, dst, UDP, segment[:6] + struct.pack("!H", total) + data, **more)


def tcp(
    src: str,
    dst: str,
    src_port: int,
    dst_port: int,
    flags: int = SYN,
    data: bytes = b"",
    sequence: int = 1000,
    acknowledge: int = 0,
    options: bytes = b"",
    **more,
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", src_port, dst_port, sequence, acknowledge, offset, flags, 64240, 0, 0)
    segment = head + options + data
    total = checksum(_pseudo(src, dst, TCP, len(segment)) + segment)
    return ip(src, dst, TCP, segment[:16] + struct.pack("!H", total) + segment[18:], **more)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(src: str, dst: str, protocol: int, length: int) -> bytes:
    source, destination = ip_address(src), ip_address(dst)
    if source.version == 4:
        return source.packed + destination.packed + struct.pack("!BBH", 0, protocol, length)
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


# First messages. "\xa5" stands for what is random on the wire.
_RANDOM = b"\xa5"
WIREGUARD_INITIATION = b"\x01\0\0\0" + _RANDOM * 144
WIREGUARD_RESPONSE = b"\x02\0\0\0" + _RANDOM * 88
WIREGUARD_DATA = b"\x04\0\0\0" + _RANDOM * 60
OPENVPN_RESET = b"\x38" + _RANDOM * 8 + b"\0" * 5
OPENVPN_RESET_TLS_AUTH = b"\x38" + _RANDOM * 28 + b"\0\0\0\1" + b"\x67\x32\x01\x02" + b"\0" * 5
OPENVPN_RESET_TLS_CRYPT = b"\x38" + _RANDOM * 8 + b"\x0f\0\0\1" + _RANDOM * 41
OPENVPN_RESET_TLS_CRYPT_V2 = b"\x50" + _RANDOM * 8 + b"\0\0\0\1" + _RANDOM * 531
OPENVPN_SERVER_RESET = b"\x40" + _RANDOM * 8 + b"\1" + b"\0" * 4 + _RANDOM * 8 + b"\0" * 4
OPENVPN_DATA = b"\x48\0\0\1" + _RANDOM * 60
IKE_SA_INIT = _RANDOM * 8 + b"\0" * 8 + b"\x21\x20\x22\x08" + b"\0" * 4 + b"\0\0\1\x08" + _RANDOM * 236
IKEV1_MAIN_MODE = _RANDOM * 8 + b"\0" * 8 + b"\x01\x10\x02\0" + b"\0" * 4 + b"\0\0\0\xa0" + _RANDOM * 132
L2TP_SCCRQ = b"\xc8\x02\0\x40" + b"\0" * 8 + b"\x80\x08\0\0\0\0\0\1" + _RANDOM * 44
PPTP_REQUEST = b"\0\x9c\0\1\x1a\x2b\x3c\x4d\0\1\0\0" + b"\1\0\0\0" + b"\0" * 140
GRE_PPTP = b"\x30\x81\x88\x0b\0\4\0\1\0\0\0\0" + _RANDOM * 4
GRE_PLAIN = b"\0\0\x08\0" + _RANDOM * 20


def behind_length(message: bytes) -> bytes:
    """The OpenVPN message as it goes over TCP."""
    return struct.pack("!H", len(message)) + message


# What is mistaken for a VPN by careless rules (name -> transport, destination port, payload): all of it must pass.
DNS_QUESTION = b"\0\1\0\0\0\0\0\0" + b"\7example\3org\0\0\1\0\1"
LOOK_ALIKES = {
    "dns-like-wireguard": ("udp", 53, b"\x01\0\0\0" + DNS_QUESTION),
    "dns-like-wireguard-148": ("udp", 5300, (b"\x01\0\0\0" + DNS_QUESTION).ljust(148, b"\0")),
    "quic-short-header": ("udp", 443, b"\x40" + _RANDOM * 60),
    "quic-short-header-38": ("udp", 443, b"\x50" + _RANDOM * 1199),
    "quic-initial": ("udp", 443, b"\xc0\0\0\0\1\x08" + _RANDOM * 1194),
    "turn-channel-data": ("udp", 3478, b"\x40\0\0\x20" + _RANDOM * 32),
    "turn-channel-data-48": ("udp", 3478, b"\x48\0\0\x20" + _RANDOM * 32),
    "stun-binding": ("udp", 3478, b"\0\1\0\0\x21\x12\xa4\x42" + _RANDOM * 12),
    "dtls-client-hello": ("udp", 4433, b"\x16\xfe\xff\0\0\0\0\0\0\0\0" + _RANDOM * 100),
    "http-get": ("tcp", 80, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
    "http-post": ("tcp", 8080, b"POST /8 HTTP/1.1\r\nHost: example.org\r\n\r\n"),
    "ssh-banner": ("tcp", 22, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "smtp-ehlo": ("tcp", 25, b"EHLO example.org\r\n"),
    "tls-client-hello": ("tcp", 443, b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + _RANDOM * 500),
    "dns-over-tcp-38": (
        "tcp",
        53,
        b"\0\x1d\x38" + _RANDOM[:1] + b"\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1",
    ),
    "ntp": ("udp", 123, b"\x23\0\6\xec" + b"\0" * 44),
    "ntp-v3": ("udp", 123, b"\x1b" + b"\0" * 47),
    "snmp": ("udp", 161, b"\x30\x26\2\1\1\4\6public" + _RANDOM * 26),
    "rtp": ("udp", 16384, b"\x80\x08" + _RANDOM * 170),
    "sip": ("udp", 5060, b"OPTIONS sip:a@example.org SIP/2.0\r\n\r\n"),
    "ssdp": ("udp", 1900, b"M-SEARCH * HTTP/1.1\r\n\r\n"),
    "utp-syn": ("udp", 6881, b"\x41\0" + _RANDOM * 18),
    "gtp-u": ("udp", 2152, b"\x30\xff\0\x20\0\0\0\1" + _RANDOM * 32),
    "gtp-c": ("udp", 2123, b"\x48\x20\0\x20" + _RANDOM * 32),
    "vxlan": ("udp", 4789, b"\x08\0\0\0\0\0\1\0" + _RANDOM * 60),
    "coap": ("udp", 5683, b"\x40\1\0\1" + _RANDOM * 8),
    "wireguard-like-length": ("udp", 9999, b"\x01\0\0\1" + _RANDOM * 144),
    "ike-like-but-reply": ("udp", 9998, _RANDOM * 16 + b"\x21\x20\x22\x20" + b"\0" * 4 + b"\0\0\1\x08"),
}
