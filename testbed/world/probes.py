"""What the kernel lets a world do, found out by doing it: `python -m testbed.world.probes` inside a throw-away world prints JSON.

Each probe returns "" when it worked, else why not. Nothing is read from a configuration: a built-in feature may be forbidden,
a missing one loads as a module when it is used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PROBES: dict[str, Callable[[], str]] = {}
_WIRE = "probe0"  # a veth made first, for the probes that need a device
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    from testbed.world.programs import versions

    with concurrent.futures.ThreadPoolExecutor(1) as aside:
        programs = aside.submit(versions)
        failures = {"veth": _run("ip", "link", "add", _WIRE, "type", "veth", "peer", "name", "probe1")}
        failures |= {name: _safely(probe) for name, probe in _PROBES.items()}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found = {"failures": failures, "programs": programs.result()}
        json.dump(found | {"kernel": platform.release(), "memory_bytes": memory}, sys.stdout)


def _safely(probe: Callable[[], str]) -> str:
    try:
        return probe()
    except OSError as error:
        return f"{errno.errorcode.get(error.errno or 0, '')}: {error.strerror or error}"


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=5, check=False)
    except FileNotFoundError:
        return f"{argv[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"{argv[0]} did not answer within 5 s"
    if done.returncode == 0:
        return ""
    first = (done.stderr or done.stdout).strip().partition("\n")[0]
    return first.partition("; did you mean")[0] or "failed"  # nft guesses at names it has nothing to do with


def _probe(function: Callable[[], str]) -> Callable[[], str]:
    _PROBES[function.__name__.removeprefix("_")] = function
    return function


def _commands(**probes: tuple[str, ...]) -> None:
    for name, argv in probes.items():
        _PROBES[name] = lambda argv=argv: _run(*argv)


def _rules(**probes: str) -> None:
    for name, rules in probes.items():
        _PROBES[name] = lambda rules=rules: _run("nft", "-f", "-", stdin=rules)


_commands(
    bridge=("ip", "link", "add", "probebr", "type", "bridge"),
    named_netns=("ip", "netns", "add", "probe"),
    htb=("tc", "qdisc", "add", "dev", _WIRE, "root", "handle", "1:", "htb", "default", "1"),
    netem=("tc", "qdisc", "add", "dev", "probe1", "root", "netem", "delay", "10ms"),
    tbf=("tc", "qdisc", "replace", "dev", "probe1", "root", "tbf", "rate", "1mbit", "burst", "3000", "latency", "50ms"),
    clsact=("tc", "qdisc", "add", "dev", _WIRE, "clsact"),
    kernel_wireguard=("ip", "link", "add", "probewg", "type", "wireguard"),
    esp=(
        "ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x100",
        "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128",
    ),
    iptables_nfqueue=("iptables-nft", "-w", "-t", "mangle", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", "7"),
)  # fmt: skip

_rules(
    nft_inet="""table inet p1 { chain c { type filter hook forward priority 0; ct state established accept; counter reject; }; }""",
    nft_concatenated_sets="""table inet p2 {
        set s { type ipv4_addr . ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 192.0.2.1 . 500-4500 } }
        chain c { type filter hook forward priority 0; ip saddr . ip daddr . udp dport @s accept; }; }""",
    nft_payload_match="table inet p3 { chain c { type filter hook forward priority 0; @th,64,32 0x01000000 counter; }; }",
    nft_ct_mark="table inet p4 { chain c { type filter hook forward priority 0; ct mark set 0x1; }; }",
    nft_ingress=f'table netdev p5 {{ chain c {{ type filter hook ingress device "{_WIRE}" priority 0; counter; }}; }}',
    nft_queue="table inet p6 { chain c { type filter hook forward priority 0; queue num 7; }; }",
    nft_log_group="table inet p7 { chain c { type filter hook forward priority 0; log group 7 snaplen 64; }; }",
    nft_nat="table ip p8 { chain c { type nat hook postrouting priority 100; ip protocol udp snat to 192.0.2.1:1024-2047; }; }",
)


@_probe
def _ipv6() -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
        end.bind(("::1", 0))
        end.settimeout(1)
        end.sendto(b"x", end.getsockname())
        return "" if end.recv(8) == b"x" else "a datagram to ::1 came back changed"


@_probe
def _raw_sockets() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):  # ETH_P_ALL, if_ether.h
        return ""


@_probe
def _tun() -> str:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        # TUNSETIFF, IFF_TUN | IFF_NO_PI (linux/if_tun.h)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH14x", b"probetun", 0x1001))
    finally:
        os.close(descriptor)
    return ""


@_probe
def _ppp() -> str:
    os.close(os.open("/dev/ppp", os.O_RDWR))
    return ""


@_probe
def _tcp_rto_max() -> str:
    path = Path("/proc/sys/net/ipv4/tcp_rto_max_ms")
    path.write_text("3000", encoding="ascii")
    # A refused sysctl may report success: only what is read back counts.
    return (
        ""
        if path.read_text(encoding="ascii").strip() == "3000"
        else "the value written is not the value read"
    )


@_probe
def _bpf() -> str:
    """bpf(2), BPF_PROG_LOAD of `r0 = 0; exit` as BPF_PROG_TYPE_SCHED_CLS."""
    program = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    code, license_ = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("<IIQQIIQ", 3, 2, ctypes.addressof(code), ctypes.addressof(license_), 0, 0, 0)
    number = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
    if number is None:
        return f"not probed on {platform.machine()}"
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    descriptor = _libc.syscall(number, 5, buffer, 128)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(descriptor)
    return ""


@_probe
def _nfqueue() -> str:
    # NFQNL_MSG_CONFIG (subsystem 3, message 2), attribute NFQA_CFG_CMD: bind to queue 7 (linux/netfilter/nfnetlink_queue.h)
    return _netfilter(3, 2, 7, _attribute(1, struct.pack(">BBH", 1, 0, 0)))


@_probe
def _nflog() -> str:
    # NFULNL_MSG_CONFIG (subsystem 4, message 1), attribute NFULA_CFG_CMD: bind to group 7 (linux/netfilter/nfnetlink_log.h)
    return _netfilter(4, 1, 7, _attribute(1, struct.pack(">B", 1)))


@_probe
def _conntrack() -> str:
    # IPCTNL_MSG_CT_GET of a flow that does not exist (subsystem 1, message 1): ENOENT is the right answer.
    addresses = _attribute(1, socket.inet_aton("192.0.2.1")) + _attribute(2, socket.inet_aton("192.0.2.2"))
    ports = _attribute(1, b"\x11") + _attribute(2, struct.pack(">H", 1)) + _attribute(3, struct.pack(">H", 2))
    nested = _attribute(0x8001, addresses) + _attribute(0x8002, ports)
    answer = _netfilter(1, 1, 0, _attribute(0x8001, nested), family=socket.AF_INET)
    return "" if answer.startswith("ENOENT") else answer or "found a flow that does not exist"


def _netfilter(subsystem: int, message: int, resource: int, body: bytes, family: int = 0) -> str:
    """One acknowledged nfnetlink request; "" or the error (linux/netfilter/nfnetlink.h)."""
    payload = struct.pack(">BBH", family, 0, resource) + body
    header = struct.pack(
        "=IHHII", 16 + len(payload), subsystem << 8 | message, 1 | 4, 1, 0
    )  # NLM_F_REQUEST|NLM_F_ACK
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:  # NETLINK_NETFILTER
        link.bind((0, 0))
        link.settimeout(2)
        link.send(header + payload)
        answer = link.recv(65536)
        if struct.unpack_from("=H", answer, 4)[0] != 2:  # NLMSG_ERROR
            return ""
        number = -struct.unpack_from("=i", answer, 16)[0]
    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}" if number else ""


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
