"""The nft ruleset that follows from a policy, as text. Pure; `decide` is what it must agree with, chain by chain.

forward ─ clear by mark ─► accept                   judge ─ numbers, named endpoints, ports, first messages ─► found-KIND
        ├ a registration's mark ─► marked ─► accept     └─ nothing found ─► clear ─► accept, remembered in the mark
        └ a mark in `cut` ─ exempt ─► accept        found-KIND ─ exempt? ─ allow-KIND (a map per shape) ─ otherwise-PROTOCOL
                          └ the rest ─► judge
The set `cut.GENERATION` holds every mark that is no registration's in force: 0, decide's own, and those of registrations that ended.
"""

from __future__ import annotations

from collections.abc import Iterable

from enforcer.cells import PORTLESS, PackedKey, Shape, kinds_of
from enforcer.dataplanes.bucket import POLICE_BURST_BYTES
from enforcer.dataplanes.ruleset_judge import FAMILY, ends_match, judge_chains, ports_match
from enforcer.decide import (
    CLEAR,
    EXEMPT,
    FAIL_OPEN,
    JUDGED_AGAIN,
    OBSERVED,
    POLICED,
    Fallback,
)
from enforcer.packet import address_text
from enforcer.policy import Exemption, Policy

PASS_REASONS = ("not-vpn", "not-yet", "registered", "finishing", "exempt", "fail-open")
STOP_REASONS = ("unregistered", "revoked", "fail-closed")
UNSEEN = "unseen"  # the protocol of a flow that is stopped in its middle

# The class of cells a packet is looked up in, and the protocol reports name.
_KINDS = {
    "wireguard": "wireguard",
    "openvpn-udp": "openvpn-udp",
    "openvpn-tcp": "openvpn-tcp",
    "ikev2": "ikev2",
    "esp": "esp",
    "ah": "ah",
    "l2tp": "l2tp",
    "l2tp-ip": "l2tp",
    "pptp": "pptp",
    "gre": "pptp",
    "openconnect": "openconnect",
}
_UNREGISTERED = (
    f"{{ {', '.join(hex(mark) for mark, reason in JUDGED_AGAIN.items() if reason == 'unregistered')} }}"
)
# One report a packet would let a flood drown the rest: at most so many a second for each reason and protocol.
_LOG = "limit rate 1000/second burst 2000 packets log prefix"


def objects(policy: Policy, table: str) -> list[str]:
    """Commands that make the counters and sets every generation shares. They may be there already."""
    protocols = [*dict.fromkeys(_KINDS[kind] for kind in _kinds(policy)), UNSEEN]
    names = [*PASS_REASONS, *(stop_counter(reason, each) for reason in STOP_REASONS for each in protocols)]
    commands = [f"add counter {table} {name}" for name in names]
    commands.append(f"add set {table} finishing {{ type mark; }}")
    commands.append(f"add set {table} alive {{ type nf_proto; flags timeout; }}")
    for version, address in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        for name, key in (
            ("flow", f"{address} . {address} . inet_service . inet_service"),
            ("ends", f"{address} . {address}"),
        ):
            flags = "size 65536; flags dynamic,timeout; timeout 1m;"
            commands.append(f"add set {table} police-{name}{version} {{ type {key}; {flags} }}")
    return commands


def stop_counter(reason: str, protocol: str) -> str:
    return f"{reason}.{protocol}"


def base_chain(table: str) -> str:
    return f"add chain {table} forward {{ type filter hook forward priority filter - 10; policy accept; }}"


def chains(
    policy: Policy, shapes: Iterable[Shape], generation: str, fallback: Fallback, log_group: int
) -> dict[str, list[str]]:
    """Every chain's rules by the chain's name. shapes: those that have a map in this generation."""
    marked = _marked(policy, fallback)
    found: dict[str, list[str]] = {
        # As few expressions as can be before a known flow passes: each costs 20 to 100 ns. What has no mark at all (connection
        # tracking calls it invalid) matches none of those that ask for one.
        "forward": [
            f'ct mark {CLEAR:#x} counter name "not-vpn" accept',
            'meta l4proto { icmp, icmpv6 } counter name "not-vpn" accept',
            f"ct mark != @{cut_name(generation)} {marked[0] if len(marked) == 1 else 'goto marked'}",
            f'ct mark {EXEMPT:#x} counter name "exempt" accept',
            "goto judge",
        ],
        "marked": marked,
        **judge_chains(policy),
        "clear": ["jump again", f'ct mark set {CLEAR:#x} counter name "not-vpn" accept'],
        "again": _again(policy, fallback),
        "police": _police(policy),
    }
    by_kind = list(shapes)
    for kind in _kinds(policy):
        protocol = _KINDS[kind]
        found[f"found-{kind}"] = _found(policy, kind, fallback)
        mine = sorted(
            (shape for shape in by_kind if shape.kind in kinds_of(kind)),
            key=lambda shape: (shape.version, shape.order),
        )
        found[f"allow-{kind}"] = [
            f'ct mark set {_key_expression(shape, turned)} map @{map_name(shape, generation)} counter name "registered" accept'
            for shape in mine
            for turned in (False, True)
        ]
        found[f"otherwise-{protocol}"] = [
            f"ct mark {_UNREGISTERED} goto unregistered-{protocol}",
            f"ct mark != 0 goto revoked-{protocol}",
            f"goto unregistered-{protocol}",
        ]
    for protocol in [*dict.fromkeys(_KINDS[kind] for kind in _kinds(policy)), UNSEEN]:
        for reason in STOP_REASONS:
            found[f"{reason}-{protocol}"] = _stop(policy, reason, protocol, log_group)
    return found


def map_name(shape: Shape, generation: str) -> str:
    ports = "port" if shape.has_port else "any"
    return f"{shape.kind}{shape.version}_{shape.subscriber_bits}_{shape.endpoint_bits}_{ports}.{generation}"


def add_map(shape: Shape, generation: str, table: str, room: int) -> str:
    """room: how many elements it takes. The kernel then has a table of fixed size for it, quicker to look up and to fill."""
    address = "ipv4_addr" if shape.version == 4 else "ipv6_addr"
    parts = [address] * bool(shape.subscriber_bits) + [address] * bool(shape.endpoint_bits)
    parts = (parts or ["nf_proto"]) + ["inet_service"] * shape.has_port
    return (
        f"add map {table} {map_name(shape, generation)} {{ type {' . '.join(parts)} : mark; size {room}; }}"
    )


def cut_name(generation: str) -> str:
    return f"cut.{generation}"


def add_cut(generation: str, table: str, room: int) -> str:
    return f"add set {table} {cut_name(generation)} {{ type mark; size {room}; }}"


def element_key(shape: Shape, key: PackedKey) -> str:
    subscriber, endpoint, port = shape.unpack(key)
    parts = []
    if shape.subscriber_bits:
        parts.append(address_text(shape.version, subscriber))
    if shape.endpoint_bits:
        parts.append(address_text(shape.version, endpoint))
    if not parts:
        parts.append(f"ipv{shape.version}")
    if shape.has_port:
        parts.append(str(port))
    return " . ".join(parts)


def _key_expression(shape: Shape, turned: bool) -> str:
    family, width = FAMILY[shape.version], 32 if shape.version == 4 else 128
    subscriber, endpoint, port = ("daddr", "saddr", "sport") if turned else ("saddr", "daddr", "dport")
    parts = []
    for bits, end in ((shape.subscriber_bits, subscriber), (shape.endpoint_bits, endpoint)):
        if bits:
            mask = ((1 << bits) - 1) << (width - bits)
            whole = f"{family} {end}"
            parts.append(whole if bits == width else f"({whole} & {address_text(shape.version, mask)})")
    if not parts:
        parts.append("meta nfproto")  # nothing else says which family the map is for
    if shape.has_port:
        parts.append(f"th {port}")
    return " . ".join(parts)


def _kinds(policy: Policy) -> list[str]:
    return [kind for kind, protocol in _KINDS.items() if protocol in policy.governs]


def _marked(policy: Policy, fallback: Fallback) -> list[str]:
    rules = []
    if fallback == "block":
        return ["goto fail-closed-unseen"]
    if policy.on_failure.agent_dead == "block":
        rules.append("meta nfproto != @alive goto fail-closed-unseen")
    if policy.live_flows == "let-finish":
        rules.append('ct mark @finishing counter name "finishing" accept')
    return [*rules, 'counter name "registered" accept']


def _again(policy: Policy, fallback: Fallback) -> list[str]:
    """A flow that was VPN when it was judged, in its middle where no port says so: what it was it still is."""
    if fallback == "allow":
        return ['ct mark != 0 counter name "fail-open" accept']
    if fallback == "block":
        return ["ct mark != 0 goto fail-closed-unseen"]
    rules = []
    if policy.on_failure.agent_dead == "allow":
        rules.append('ct mark != 0 meta nfproto != @alive counter name "fail-open" accept')
    if policy.on_failure.agent_dead == "block":
        rules.append("ct mark != 0 meta nfproto != @alive goto fail-closed-unseen")
    return [
        *rules,
        f"ct mark {_UNREGISTERED} goto unregistered-unseen",
        "ct mark != 0 goto revoked-unseen",
    ]


def _found(policy: Policy, kind: str, fallback: Fallback) -> list[str]:
    protocol = _KINDS[kind]
    rules = [rule for exemption in policy.exempt for rule in _exempt(exemption, protocol, kind)]
    dead = policy.on_failure.agent_dead
    open_rules = [f"ct mark 0 ct mark set {FAIL_OPEN:#x}", 'counter name "fail-open" accept']
    if fallback == "block":
        return [*rules, f"goto fail-closed-{protocol}"]
    if fallback == "allow":
        return [*rules, f"jump allow-{kind}", *open_rules]
    if dead == "block":
        rules.append(f"meta nfproto != @alive goto fail-closed-{protocol}")
    rules.append(f"jump allow-{kind}")
    if dead == "allow":
        rules += [f"meta nfproto != @alive {rule}" for rule in open_rules]
    return [*rules, f"goto otherwise-{protocol}"]


def _exempt(exemption: Exemption, protocol: str, kind: str) -> list[str]:
    if exemption.protocols and protocol not in exemption.protocols:
        return []
    rules = []
    for subscriber, endpoint, port in (("saddr", "daddr", "dport"), ("daddr", "saddr", "sport")):
        for version in (4, 6):
            ends = ends_match(
                version,
                ((subscriber, exemption.subscriber_prefixes), (endpoint, exemption.endpoint_prefixes)),
            )
            if ends is None:
                continue
            ports = "" if kind in PORTLESS else ports_match(port, exemption.endpoint_ports)
            mark = f'ct mark set {EXEMPT:#x} counter name "exempt" accept'
            rules.append(" ".join(part for part in (f"meta nfproto ipv{version}", ends, ports, mark) if part))
    return rules


def _stop(policy: Policy, reason: str, protocol: str, log_group: int) -> list[str]:
    rules = [
        f'counter name "{stop_counter(reason, protocol)}"',
        f'{_LOG} "{reason} {protocol}" group {log_group} snaplen 128',
    ]
    action = "observe" if policy.mode == "observe" else policy.action
    if action == "observe":
        return [*rules, f"ct mark 0 ct mark set {OBSERVED:#x}", "accept"]
    if action == "police" and reason != "fail-closed":
        return [*rules, f"ct mark 0 ct mark set {POLICED:#x}", "goto police"]
    if action == "reject":
        return [*rules, "meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"]
    return [*rules, "drop"]


def _police(policy: Policy) -> list[str]:
    if policy.police_bps is None:
        return ["accept"]
    rate = max(1, policy.police_bps // 8)
    # The kernel's bucket holds a second's worth besides the burst (nft_limit.c: nsecs * (rate + burst) / rate).
    limit = f"limit rate over {rate} bytes/second burst {POLICE_BURST_BYTES} bytes"
    rules = []
    for version, family in FAMILY.items():
        ends = f"{family} saddr . {family} daddr"
        rules.append(
            f"meta l4proto {{ tcp, udp }} update @police-flow{version} {{ {ends} . th sport . th dport {limit} }} drop"
        )
        rules.append(f"meta l4proto != {{ tcp, udp }} update @police-ends{version} {{ {ends} {limit} }} drop")
    return [*rules, "accept"]
