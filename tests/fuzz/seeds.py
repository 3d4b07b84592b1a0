"""Where fuzzing starts: frames of real captures, the packets of the tests, signed messages, the shipped policies."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from enforcer.allowlist import Allowlist, Delta, Entry, Removal
from enforcer.capture import read
from enforcer.protocols import TCP_PORTS, UDP_PORTS, VPN_PROTOCOLS
from enforcer.registry.feed import delta_body, snapshot_body
from enforcer.registry.roll import Roll
from tests import enforcer_packets as make

CAPTURES = Path(__file__).resolve().parents[2] / ".." / "shared" / "captures"
_FRAMES_A_CAPTURE = 25
_MOST_BYTES = 1600


def seeds(target: str) -> Iterator[bytes]:
    """Inputs of a target of targets.py that begin it well."""
    yield from {
        "packet": _packets,
        "decision": _decisions,
        "capture": _captures,
        "feed": _messages,
        "policy": _policies,
    }[target]()


def words(target: str) -> list[bytes]:
    """What a mutation may put in beside bytes: the values that the code compares with."""
    if target == "capture":
        return [
            *_MAGIC,
            b"\x81\0\0\1",
            b"\x88\xa8\0\1",
            b"\x88\x64",
            b"\x88\x47\0\1\1\0",
            b"\x08\0",
            b"\x86\xdd",
        ]
    if target == "feed":
        return [
            json.dumps(word).encode() for word in (*_KEYS, *VPN_PROTOCOLS, "snapshot", "delta", "revoked")
        ] + _JSON
    if target == "policy":
        keys = re.findall(rb"[a-z-]+:", b"".join(_policies()))
        return [*dict.fromkeys(keys), *(f"[{name}]".encode() for name in VPN_PROTOCOLS), *_YAML]
    first = [
        bytes((value,)) for value in (0x38, 0x50, 0x40, 0x45, 0x60, 17, 6, 47, 50, 51, 115, 44, 43, 0, 60)
    ]
    ports = [struct.pack("!H", port) for port in (*UDP_PORTS, *TCP_PORTS)]
    return [
        *first,
        *ports,
        b"\x01\0\0\0",
        b"\x30\x81\x88\x0b",
        b"\x21\x20\x22\x08",
        b"\x1a\x2b\x3c\x4d",
        b"\xc8\x02",
    ]


_MAGIC = (
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",
    b"\x4d\x3c\x2b\x1a",
    b"\6\0\0\0",
    b"\3\0\0\0",
)
_KEYS = ("schema", "kind", "serial", "issued_ns", "entries", "from_serial", "add", "remove", "registration", "registrant",
         "subscriber_prefixes", "endpoint_prefixes", "endpoint_ports", "protocols", "valid_from_ns", "valid_until_ns",
         "key", "not_before_ns", "old_until_ns", "state", "mark", "from_mark", "body", "signature", "allowlab.feed/1", "10.0.0.0/33", "::/0")  # fmt: skip
_JSON = [b"null", b"true", b"[]", b"{}", b"-1", b"1e999", b"NaN", b"2147483648", b"\\ud800", b"[" * 40]
_YAML = [b"&a ", b"*a", b"!!int ", b"!!float ", b"!!binary ", b"<<: ", b"? ", b"- ", b"|\n", b"0x", b"1%", b"64kbit", b"30s",
         b"\t", b"---\n", b"{", b"}", b"198.51.100.0/24", b"::/0", b"police", b"let-finish", b"[" * 40]  # fmt: skip


def _packets() -> Iterator[bytes]:
    for path in sorted(CAPTURES.glob("*.pcap*")):
        for number, frame in enumerate(read(path)):
            if number == _FRAMES_A_CAPTURE:
                break
            if frame.data:
                yield frame.data[:_MOST_BYTES]
    ends = ("10.0.0.1", "198.51.100.9"), ("fd00::1", "2001:db8:9::9")
    for src, dst in ends:
        more = {"options": b"\1\1\1\0"} if ":" not in src else {"extensions": ((0, b"\1\4\0\0\0\0"), (60, b"\1\4\0\0\0\0"))}  # fmt: skip
        for transport, port, payload in make.LOOK_ALIKES.values():
            yield (make.udp if transport == "udp" else make.tcp)(src, dst, 40000, port, *(() if transport == "udp" else (make.ACK,)), payload)  # fmt: skip
        for payload in (make.WIREGUARD_INITIATION, make.OPENVPN_RESET, make.IKE_SA_INIT, make.L2TP_SCCRQ):
            yield make.udp(src, dst, 40000, 9999, payload, **more)
        yield make.tcp(src, dst, 40000, 1723, make.ACK, make.PPTP_REQUEST, **more)
        yield make.ip(src, dst, 47, make.GRE_PPTP, **more)
        yield make.ip(src, dst, 50, b"\xa5" * 40, **more)


def _decisions() -> Iterator[bytes]:
    for number, data in enumerate(_packets()):
        yield bytes((number % 5, number % 12, number % 3, number // 7 % 3)) + data


def _captures() -> Iterator[bytes]:
    for path in sorted(CAPTURES.glob("*.pcap*")):
        yield path.read_bytes()[:4096]
    for number in range(10):
        yield b"L" + bytes((number,)) + b"\0" * 12 + b"\x81\0\0\1\x08\0" + b"E" * 40


def _messages() -> Iterator[bytes]:
    entry = Entry(7, "softhouse", ("203.0.113.7/32",), ("198.51.100.0/24", "2001:db8::/32"), (51820,), ("wireguard",))  # fmt: skip
    yield b"S" + snapshot_body(Allowlist(3, {7: entry}), 5).encode()
    yield b"S" + delta_body(Delta(3, 4, (entry,), (Removal(9, "revoked"),)), 6).encode()
    yield b"S" + snapshot_body(Allowlist(0), 5, "a-mark").encode()
    yield b"S" + delta_body(Delta(3, 4, (), (Removal(9, "revoked"),)), 6, "a-mark", "another").encode()
    yield b'S{"schema":"allowlab.feed/1","kind":"serial","serial":3,"issued_ns":7,"mark":"a-mark"}'
    yield b"S" + Roll("ab" * 32, 5, 10**19).body().encode()
    yield b'{"body": "{}", "signature": "AAAA"}'


def _policies() -> Iterator[bytes]:
    for path in (files("enforcer") / "policies").iterdir():
        yield path.read_text("utf-8").encode()
    yield b"policy: x\ntitle: &a [*a, {b: !!int 0x1}]\ngoverns: [wireguard]\n"
