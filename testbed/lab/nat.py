"""Carrier-grade NAT with a port block per subscriber (RFC 7422), so that a public address and port name one person.

The block is fixed in advance and no translation is logged; hosts keep their ephemeral ports inside their block, so a
port is as a rule the same on both sides. No hairpin: subscribers of one pool do not speak with each other.
"""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from testbed.plan.plan import Nat, Plan

TABLE = "carrier_nat"
# Seconds. RFC 4787 REQ-5 (UDP at least 2 minutes, 5 recommended), RFC 5382 REQ-5 (established TCP at least 2 h 4 min,
# the transitory states 4 min), RFC 5508 REQ-1 (ICMP query at least 60 s). Linux' own UDP 30 s would be below.
TIMEOUTS_S = {
    "nf_conntrack_udp_timeout": 120,
    "nf_conntrack_udp_timeout_stream": 300,
    "nf_conntrack_tcp_timeout_established": 7440,
    "nf_conntrack_tcp_timeout_syn_sent": 240,
    "nf_conntrack_icmp_timeout": 60,
}


class NatLab(Protocol):
    """The part of a lab this module uses."""

    @property
    def plan(self) -> Plan: ...

    @property
    def log_dir(self) -> Path: ...

    def inside(self, node: str) -> AbstractContextManager[None]: ...

    def cmd(self, node: str, argv: list[str], timeout_s: float = 10) -> subprocess.CompletedProcess: ...


def start_nat(lab: NatLab) -> None:
    """Load each translating router's blocks and give it the public addresses.

    The lab keeps each host's ephemeral ports inside its block (sysctls of testbed.lab.sysctls).

    Raises ValueError for blocks that overlap, RuntimeError when the kernel refuses a table, an address or a setting.
    """
    problems = block_problems(lab.plan)
    if problems:
        raise ValueError("; ".join(problems))
    for node in dict.fromkeys(nat.node for nat in lab.plan.nats):
        rules = lab.log_dir / f"nat-{node}.nft"
        rules.write_text(nat_rules(lab.plan, node), "utf-8")
        _run(lab, node, ["nft", "-f", str(rules)])
        addresses = lab.log_dir / f"nat-{node}.ip"
        addresses.write_text(
            "".join(f"address replace {public}/32 dev lo\n" for public in _publics(lab.plan, node)), "utf-8"
        )
        _run(lab, node, ["ip", "-batch", str(addresses)])
        for name, seconds in TIMEOUTS_S.items():
            _set(lab, node, f"net/netfilter/{name}", str(seconds))


def nat_rules(plan: Plan, node: str) -> str:
    """One nft batch: a map from inside address to public address and ports, looked up once per flow.

    Identifiers of ICMP echoes are translated into the block like ports. Protocols without ports (ESP, GRE) get the
    public address alone; only one subscriber at a time can use one of those with the same far end. What comes to a public
    address unasked ends there: taken in, it would hold the port against the subscriber whose block it is in.
    """
    nats = [nat for nat in plan.nats if nat.node == node]
    blocks = ",\n".join(
        f"      {nat.inside4} : {nat.public4} . {nat.port_first}-{nat.port_last}" for nat in nats
    )
    alone = ",\n".join(f"      {nat.inside4} : {nat.public4}" for nat in nats)
    inside = ", ".join(nat.inside4 for nat in nats)
    public = ", ".join(_publics(plan, node))
    return f"""table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr != {{ {inside} }} return
    meta l4proto {{ tcp, udp }} snat ip to ip saddr map {{
{blocks}
    }}
    meta l4proto icmp snat ip to ip saddr map {{
{blocks}
    }}
    snat to ip saddr map {{
{alone}
    }}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ip daddr {{ {public} }} meta l4proto != icmp drop
  }}
}}
"""


def block_problems(plan: Plan) -> list[str]:
    """Blocks that are empty, or that share ports of one public address."""
    problems = []
    by_public: dict[str, list[Nat]] = {}
    for nat in plan.nats:
        if not 1 <= nat.port_first <= nat.port_last <= 65535:
            problems.append(f"{nat.subscriber}: ports {nat.port_first}-{nat.port_last} are no block")
        by_public.setdefault(nat.public4, []).append(nat)
    for public, nats in by_public.items():
        nats.sort(key=lambda nat: nat.port_first)
        for one, other in zip(nats, nats[1:], strict=False):
            if other.port_first <= one.port_last:
                problems.append(
                    f"{one.subscriber} and {other.subscriber} share {public}:{other.port_first}-"
                    f"{min(one.port_last, other.port_last)}"
                )
    return problems


def _publics(plan: Plan, node: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(nat.public4 for nat in plan.nats if nat.node == node))


def _run(lab: NatLab, node: str, argv: list[str]) -> None:
    done = lab.cmd(node, argv)
    if done.returncode != 0:
        output = done.stderr or done.stdout or ""
        text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
        raise RuntimeError(f"{node}: {' '.join(argv)}: {text.strip()}")


def _set(lab: NatLab, node: str, name: str, value: str) -> None:
    """Write a kernel setting of the node's namespace and read it back: some are shared and refuse without a word."""
    path = Path("/proc/sys") / name
    with lab.inside(node):
        try:
            path.write_text(value, "ascii")
            now = path.read_text("ascii").strip()
        except OSError as error:
            raise RuntimeError(f"{node}: {name} cannot be set to {value}: {error.strerror}") from None
    if now.split() != value.split():
        raise RuntimeError(f"{node}: {name} is {now} after setting it to {value}")
