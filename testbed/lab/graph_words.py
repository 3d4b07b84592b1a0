"""What a picture of a topology says of links and of the hosts at its edge."""

from __future__ import annotations

from testbed.plan.plan import Link, Node, Plan

_ADDRESSING = {"static": "static", "dynamic": "dynamic", "nat": "behind NAT"}
_PROTOCOLS = {
    "openvpn-udp": "OpenVPN",
    "openvpn-tcp": "OpenVPN",
    "wireguard": "WireGuard",
    "ikev2": "IKEv2",
    "openconnect": "OpenConnect",
    "l2tp": "L2TP",
    "pptp": "PPTP",
}


def link_words(link: Link) -> str:
    """What a link is, briefly: "358 Mbit/s, RTT 126 ms, loss 1 %"; "" when it is not shaped."""
    parts = []
    if link.rate_bps:
        parts.append(
            f"{link.rate_bps / 1e9:g} Gbit/s" if link.rate_bps >= 1e9 else f"{link.rate_bps / 1e6:g} Mbit/s"
        )
    if link.delay_ns:
        parts.append(f"RTT {2 * link.delay_ns / 1e6:g} ms")
    if link.loss_ratio:
        parts.append(f"loss {link.loss_ratio * 100:g} %")
    return ", ".join(parts)


def leaf_words(plan: Plan, node: Node) -> tuple[str, str]:
    """A leaf's kind for the legend, and what to say of it: "hospital · static", "VPN: WireGuard, IKEv2"."""
    for subscriber in plan.subscribers:
        if subscriber.node == node.name:
            return (
                subscriber.kind,
                f"{subscriber.kind.replace('-', ' ')} · {_ADDRESSING[subscriber.addressing]}",
            )
    protocols = [
        _PROTOCOLS.get(each.protocol, each.protocol) for each in plan.servers if each.node == node.name
    ]
    kinds = dict.fromkeys(each.kind for each in plan.services if each.node == node.name)
    if node.kind == "authority":
        return "authority", "registry"
    said = (["VPN: " + ", ".join(dict.fromkeys(protocols))] if protocols else []) + (
        [", ".join(kinds)] if kinds else []
    )
    return "server", "; ".join(said) or node.kind
