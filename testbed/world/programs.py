"""The programs a lab starts, where they are, and which version each says it is."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """package is Debian's; need says what does not work without it; is_required: no lab without it."""

    name: str
    argv: tuple[str, ...]
    package: str
    need: str
    is_required: bool = True


_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/ipsec", "/usr/libexec/ipsec")
PROGRAMS = (
    Program("ip", ("-V",), "iproute2", "a lab's interfaces are inspected and probed with it"),
    Program("tc", ("-V",), "iproute2", "links are inspected and probed with it"),
    Program("nft", ("--version",), "nftables", "the enforcer's nft dataplane and address translation"),
    Program("iptables-nft", ("--version",), "iptables", "delay and loss where the kernel has no netem"),
    Program("conntrack", ("--version",), "conntrack", "looking at live flows by hand", False),
    Program("bird", ("--version",), "bird2", "BGP routing: no lab is reachable without it"),
    Program("unbound", ("-V",), "unbound", "the DNS services of a lab"),
    Program("iperf3", ("--version",), "iperf3", "bulk phases (throughput)"),
    Program("openvpn", ("--version",), "openvpn", "OpenVPN servers and clients"),
    Program("wireguard-go", ("--version",), "wireguard-go", "WireGuard where the kernel has none"),
    Program("wg", ("--version",), "wireguard-tools", "looking at WireGuard tunnels by hand", False),
    Program("charon", ("--version",), "strongswan-charon", "IKEv2/IPsec servers and clients"),
    Program("swanctl", ("--version",), "strongswan-swanctl", "IKEv2/IPsec servers and clients"),
    Program("ocserv", ("--version",), "ocserv", "OpenConnect servers (scenarios that use them)", False),
    Program("openconnect", ("--version",), "openconnect", "OpenConnect clients (scenarios that use them)", False),
    Program("xl2tpd", ("-v",), "xl2tpd", "L2TP servers and clients, in a kernel that has PPP", False),
    Program("pptpd", ("--version",), "pptpd", "PPTP servers, in a kernel that has PPP", False),
    Program("pptp", ("--version",), "pptp-linux", "PPTP clients, in a kernel that has PPP", False),
    Program("pppd", ("--version",), "ppp", "L2TP and PPTP sessions, in a kernel that has PPP", False),
    Program("ping", ("-V",), "iputils-ping", "trying paths by hand", False),
    Program("tcpdump", ("--version",), "tcpdump", "--capture", False),
    Program("clang", ("--version",), "clang", "building the enforcer's bpf dataplane", False),
)  # fmt: skip


def find(name: str) -> str | None:
    """The program's path, also where an ordinary user's PATH does not look (/usr/sbin, strongSwan's own folder)."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def versions() -> dict[str, str | None]:
    """What each program says its version is; None where it is not installed, "" where it does not tell."""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        return dict(zip((p.name for p in PROGRAMS), pool.map(_version, PROGRAMS), strict=True))


def _version(program: Program) -> str | None:
    path = find(program.name)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *program.argv], capture_output=True, text=True, timeout=5, check=False, cwd=Path("/")
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+(\.\d+)+[-\w.]*|iproute2-[\w.]+|\b\d{8}\b", done.stdout + done.stderr)
    return found.group() if found else ""
