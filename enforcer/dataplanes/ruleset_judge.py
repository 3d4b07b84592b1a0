"""The nft rules that recognise a VPN, from the table of protocol facts: what `enforcer.decide.recognise` does, in the kernel."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import collapse_addresses, ip_network

from enforcer.policy import NamedEndpoint, Policy
from enforcer.protocols import (
    FIRST_MESSAGES,
    SERVICE_PORTS,
    SERVICE_PORTS_OF_VPN,
    TCP_PORTS,
    UDP_PORTS,
    Field,
    FirstMessage,
)

FAMILY = {4: "ip", 6: "ip6"}


def judge_chains(policy: Policy) -> dict[str, list[str]]:
    """Chains that end in found-KIND, or in clear when nothing is found."""
    return {
        "judge": _judge(policy),
        # Apart from the match on 47: nft 1.0.6 aborts when it prints the two in one rule.
        "judge-gre": ["@th,0,16 & 0x0007 == 1 @th,16,16 0x880b goto found-gre", "goto clear"]
        if "pptp" in policy.governs
        else [],
        "judge-tcp": _judge_tcp(policy),
        "judge-udp": _judge_udp(policy),
        "answers-udp": _answers(policy, "udp"),
        "answers-tcp": _answers(policy, "tcp"),
    }


def ends_match(version: int, wanted: Iterable[tuple[str, tuple[str, ...]]]) -> str | None:
    """Matches of addresses against prefixes; None when prefixes are wanted and none is of this version."""
    parts = []
    for end, prefixes in wanted:
        mine = [prefix for prefix in prefixes if (":" in prefix) == (version == 6)]
        if prefixes and not mine:
            return None
        if len(mine) == 1:
            parts.append(f"{FAMILY[version]} {end} {mine[0]}")
        elif mine:
            parts.append(" ".join((FAMILY[version], end, "{", ", ".join(_apart(mine)), "}")))
    return " ".join(parts)


def _apart(prefixes: list[str]) -> list[str]:
    """The prefixes without those inside others: an anonymous set takes no overlaps."""
    return [str(network) for network in collapse_addresses(ip_network(prefix) for prefix in prefixes)]  # type: ignore[type-var]


def ports_match(name: str, ports: tuple[int, ...]) -> str:
    return f"th {name} {{ {', '.join(map(str, sorted(set(ports))))} }}" if ports else ""


def _ranges(ports: range, without: Iterable[int]) -> list[str]:
    starts = [ports.start, *(port + 1 for port in sorted(without))]
    ends = [*(port - 1 for port in sorted(without)), ports.stop - 1]
    return [f"{first}-{last}" for first, last in zip(starts, ends, strict=True)]


_NOT_A_SERVICE = f"!= {{ {', '.join(_ranges(SERVICE_PORTS, SERVICE_PORTS_OF_VPN))} }}"


def _judge(policy: Policy) -> list[str]:
    rules = []
    if "ah" in policy.governs:
        rules.append("meta l4proto 51 goto found-ah")
    if "esp" in policy.governs:
        rules.append("meta l4proto 50 goto found-esp")
    if "l2tp" in policy.governs:
        rules.append("meta l4proto 115 goto found-l2tp-ip")
    if "pptp" in policy.governs:
        rules.append("meta l4proto 47 goto judge-gre")
    for named in policy.named_endpoints:
        if named.protocol in policy.governs:
            rules += _named(named)
    return [*rules, "meta l4proto 6 goto judge-tcp", "meta l4proto 17 goto judge-udp", "goto clear"]


def _judge_tcp(policy: Policy) -> list[str]:
    rules = []
    if "ports" in policy.recognise_by:
        for port, protocol in _governed(TCP_PORTS, policy):
            rules.append(f"tcp dport {port} tcp sport {_NOT_A_SERVICE} goto found-{protocol}")
        ports = _governed(TCP_PORTS, policy)
        if ports:
            sources = ", ".join(str(port) for port, _ in ports)
            rules.append(f"tcp sport {{ {sources} }} tcp dport {_NOT_A_SERVICE} jump answers-tcp")
    rules += _first_messages(policy, "tcp")
    # A raw load of a payload byte that is not there matches neither rule.
    has_payload = ["@ih,0,8 0 goto clear", "@ih,0,8 != 0 goto clear"]
    return [*rules, "jump again", *has_payload, 'counter name "not-yet" accept']


def _judge_udp(policy: Policy) -> list[str]:
    rules = []
    if "ports" in policy.recognise_by:
        ports = dict(_governed(UDP_PORTS, policy))
        for port, protocol in ports.items():
            rules.append(f"udp dport {port} udp sport {_NOT_A_SERVICE} goto found-{protocol}")
        if ports:
            rules.append(
                f"udp sport {{ {', '.join(map(str, ports))} }} udp dport {_NOT_A_SERVICE} jump answers-udp"
            )
    return [*rules, *_first_messages(policy, "udp"), "goto clear"]


def _answers(policy: Policy, transport: str) -> list[str]:
    """What comes from a documented port and has a header of its protocol."""
    rules = []
    for port, protocol in _governed(TCP_PORTS if transport == "tcp" else UDP_PORTS, policy):
        if transport == "tcp":
            rules.append(f"tcp sport {port} tcp flags & (syn | ack) == syn | ack goto found-{protocol}")
        rules += [
            f"{transport} sport {port} {_message(message)} goto found-{protocol}"
            for message in FIRST_MESSAGES
            if message.transport == transport and message.protocol == protocol
        ]
    return rules


def _first_messages(policy: Policy, transport: str) -> list[str]:
    if "first-packets" not in policy.recognise_by:
        return []
    return [
        f"{_message(message)} goto found-{message.protocol}"
        for message in FIRST_MESSAGES
        if message.transport == transport and not message.from_server and message.protocol in policy.governs
    ]


def _message(message: FirstMessage) -> str:
    parts = []
    if message.lengths:
        low, high = (length + 8 for length in message.lengths)  # the UDP header counts itself
        parts.append(f"udp length {low}" if low == high else f"udp length {low}-{high}")
    base, start = ("th", 64) if message.transport == "udp" else ("ih", 0)
    parts += [_field(field, base, start) for field in message.fields]
    return " ".join(parts)


def _field(field: Field, base: str, start: int) -> str:
    values = [f"{value:#x}" for value in field.values]
    value = values[0] if len(values) == 1 else "{ " + ", ".join(values) + " }"
    return f"@{base},{start + field.offset * 8},{field.size * 8} {'!= ' if field.is_absent else ''}{value}"


def _governed(ports: dict[int, str], policy: Policy) -> list[tuple[int, str]]:
    return [(port, protocol) for port, protocol in ports.items() if protocol in policy.governs]


def _named(named: NamedEndpoint) -> list[str]:
    rules = []
    for endpoint, port in (("daddr", "dport"), ("saddr", "sport")):
        for version in (4, 6):
            ends = ends_match(version, ((endpoint, named.prefixes),))
            if ends is not None:
                parts = (
                    "meta l4proto { tcp, udp }",
                    ends,
                    ports_match(port, named.ports),
                    f"goto found-{named.protocol}",
                )
                rules.append(" ".join(part for part in parts if part))
    return rules
