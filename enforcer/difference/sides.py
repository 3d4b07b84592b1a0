"""One side of a comparison: a policy with an allowlist, and what it takes which traffic for. What passes then: passing.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from enforcer.allowlist import Entry
from enforcer.difference.prefixes import WHOLE, Prefix, read
from enforcer.policy import Policy
from enforcer.protocols import TCP_PORTS, UDP_PORTS
from enforcer.units import render_rate

# What a flow looks like on the wire -> its transport; None has no ports. "other-…" shows nothing of a VPN: it is judged only
# where a port or a named endpoint says VPN.
LOOKS: dict[str, str | None] = {
    "wireguard": "udp",
    "openvpn-udp": "udp",
    "openvpn-tcp": "tcp",
    "ikev2": "udp",
    "esp": None,
    "ah": None,
    "l2tp": "udp",
    "l2tp-ip": None,
    "pptp": "tcp",
    "gre": None,
    "other-udp": "udp",
    "other-tcp": "tcp",
}
DOCUMENTED: dict[str | None, dict[int, str]] = {"udp": UDP_PORTS, "tcp": TCP_PORTS, None: {}}
PROTOCOL_OF = {"gre": "pptp", "l2tp-ip": "l2tp"}

Region = tuple[Prefix, Prefix]


class Judged(NamedTuple):
    """What a flow is taken for: by the first of the named regions that holds its ends, else base (None: no VPN).

    named: (regions, kind of cells) in the policy's order. has_ports: whether exemptions by port apply.
    """

    named: tuple[tuple[tuple[Region, ...], str], ...]
    base: str | None
    has_ports: bool

    @property
    def is_never(self) -> bool:
        return not self.named and self.base is None


class Side:
    """A policy and the entries that are active under it; entries whose category does not count are left out."""

    def __init__(self, policy: Policy, entries: Mapping[int, Entry]) -> None:
        self.policy = policy
        self.entries = {number: entry for number, entry in entries.items() if policy.counts(entry)}
        self.stop = stop_of(policy)

    def ports(self, transport: str | None) -> set[int]:
        """Ports at which this policy may take a flow for something else than at others."""
        named = {port for item in self.policy.named_endpoints for port in item.ports}
        return named | set(DOCUMENTED[transport]) if transport else set()

    def judged(self, look: str, port: int, version: int) -> Judged:
        """port 0: any that is not in ports()."""
        transport, governs = LOOKS[look], self.policy.governs
        if transport is None:
            return Judged((), look if PROTOCOL_OF.get(look, look) in governs else None, False)
        named = tuple(
            (regions, item.protocol)
            for item in self.policy.named_endpoints
            if item.protocol in governs
            and (not item.ports or port in item.ports)
            and (regions := _regions(item.prefixes, not item.ports, version))
        )
        by = self.policy.recognise_by
        at_port = DOCUMENTED[transport].get(port) if "ports" in by else None
        base = at_port if at_port in governs else None
        if base is None and "first-packets" in by and look in governs:
            base = look
        return Judged(named, base, True)


def stop_of(policy: Policy) -> str:
    """What happens to VPN that nothing lets pass: drop, reject, observe, or police with its rate."""
    if policy.mode == "observe":
        return "observe"
    if policy.action == "police" and policy.police_bps:
        return f"police {render_rate(policy.police_bps)}"
    return policy.action


def judge_alike(old: Policy, new: Policy) -> bool:
    """Whether the two can only differ in what no verdict depends on."""
    names = ("mode", "governs", "named_endpoints", "match", "action", "police_bps", "exempt", "recognise_by")
    return all(getattr(old, name) == getattr(new, name) for name in names)


def prefixes_of(prefixes: Iterable[str], version: int) -> list[Prefix]:
    """Those of the family; the whole of it when none is named at all."""
    prefixes = tuple(prefixes)
    if not prefixes:
        return [WHOLE]
    return list(dict.fromkeys(prefix for each, prefix in map(read, prefixes) if each == version))


def _regions(prefixes: tuple[str, ...], is_either_way: bool, version: int) -> tuple[Region, ...]:
    found = prefixes_of(prefixes, version) if prefixes else []
    turned = [(prefix, WHOLE) for prefix in found] if is_either_way else []
    return (*((WHOLE, prefix) for prefix in found), *turned)
