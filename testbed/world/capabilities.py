"""What a machine can do for a lab, and what each thing that is missing means for its user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SCHEMA = "allowlab.capabilities/1"

Need = Literal["required", "optional", "substituted"]


@dataclass(frozen=True, slots=True)
class Feature:
    """A kernel feature: what a user loses without it and how to get it.

    need: "required" (no lab without it), "optional" (some scenarios or views are lost), "substituted" (the lab has another way).
    """

    name: str
    title: str
    need: Need
    without: str
    get: str


FEATURES = (
    Feature("veth", "veth pairs", "required", "no links between nodes", "kernel option CONFIG_VETH; load the module: sudo modprobe veth"),
    Feature("bridge", "bridges", "required", "no exchange (its LAN is a bridge)", "kernel option CONFIG_BRIDGE; sudo modprobe bridge"),
    Feature("named_netns", "named namespaces", "required", "no nodes", "kernel option CONFIG_NET_NS"),
    Feature("ipv6", "IPv6", "required", "every lab speaks both families", "boot without ipv6.disable=1"),
    Feature("raw_sockets", "packet sockets", "required", "no witnesses and no captures", "kernel option CONFIG_PACKET"),
    Feature("htb", "HTB queues", "required", "links have no rate", "kernel option CONFIG_NET_SCH_HTB; sudo modprobe sch_htb"),
    Feature("tbf", "TBF queues", "required", "links have no rate", "kernel option CONFIG_NET_SCH_TBF; sudo modprobe sch_tbf"),
    Feature("netem", "netem", "substituted", "delay and loss are made by holding packets in an NFQUEUE (--links nfqueue): more CPU, about 0.1 ms less exact", "kernel option CONFIG_NET_SCH_NETEM; Ubuntu: linux-modules-extra-$(uname -r); sudo modprobe sch_netem"),
    Feature("iptables_nfqueue", "iptables NFQUEUE target", "substituted", "no substitute for netem on this kernel", "kernel option CONFIG_NETFILTER_XT_TARGET_NFQUEUE; package iptables"),
    Feature("nfqueue", "NFQUEUE listening", "substituted", "no substitute for netem on this kernel", "kernel option CONFIG_NETFILTER_NETLINK_QUEUE; sudo modprobe nfnetlink_queue"),
    Feature("nft_inet", "nft inet tables, ct state, reject", "required", "the nft dataplane cannot enforce", "kernel option CONFIG_NF_TABLES_INET; package nftables"),
    Feature("nft_concatenated_sets", "nft concatenated interval sets", "required", "the nft dataplane cannot hold an allowlist", "a kernel from 5.6 on"),
    Feature("nft_payload_match", "nft raw payload matches", "required", "protocols cannot be told by their first packet", "kernel option CONFIG_NF_TABLES"),
    Feature("nft_ct_mark", "nft conntrack marks", "required", "a decision cannot stay with its flow", "kernel option CONFIG_NFT_CT"),
    Feature("nft_log_group", "nft log to a group", "required", "the enforcer has no block log", "kernel option CONFIG_NFT_LOG; sudo modprobe nfnetlink_log"),
    Feature("nflog", "NFLOG listening", "required", "the enforcer has no block log", "kernel option CONFIG_NETFILTER_NETLINK_LOG"),
    Feature("nft_nat", "nft address translation", "required", "no carrier-grade NAT", "kernel option CONFIG_NFT_NAT"),
    Feature("conntrack", "conntrack over netlink", "required", "a revocation cannot cut a live flow", "kernel option CONFIG_NF_CT_NETLINK; sudo modprobe nf_conntrack_netlink"),
    Feature("nft_ingress", "nft ingress hook", "optional", "no dropping before conntrack", "kernel option CONFIG_NETFILTER_INGRESS"),
    Feature("nft_queue", "nft queue statement", "substituted", "rules for NFQUEUE are made with iptables instead", "kernel option CONFIG_NFT_QUEUE"),
    Feature("clsact", "clsact hook", "optional", "no bpf dataplane", "kernel option CONFIG_NET_SCH_INGRESS"),
    Feature("bpf", "loading eBPF", "optional", "no bpf dataplane", "run as root (an ordinary user may not load eBPF: kernel.unprivileged_bpf_disabled)"),
    Feature("tun", "TUN devices", "required", "no real VPN works", "sudo modprobe tun; sudo chmod 0666 /dev/net/tun (a container needs --device /dev/net/tun)"),
    Feature("kernel_wireguard", "WireGuard in the kernel", "substituted", "WireGuard runs as wireguard-go: slower bulk, the same protocol", "kernel option CONFIG_WIREGUARD; sudo modprobe wireguard"),
    Feature("esp", "ESP in the kernel", "substituted", "IPsec runs in charon (kernel-libipsec): ESP always in UDP 4500", "kernel option CONFIG_INET_ESP; sudo modprobe esp4 esp6"),
    Feature("tcp_rto_max", "net.ipv4.tcp_rto_max_ms", "optional", "after an outage TCP tunnels may wait up to 120 s for the kernel's back-off", "a kernel from 6.15 on"),
    Feature("ppp", "/dev/ppp", "optional", "L2TP and PPTP are handshake probes only; the lab's own kernel has it (--clock virtual, --world uml)", "kernel option CONFIG_PPP; sudo modprobe ppp_generic"),
    Feature("user_namespaces", "user namespaces", "optional", "only root can run a lab", "see the reason"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was found by trying, in a throw-away world. programs: version, "" when it tells none, None when not installed.

    reasons: why a feature is missing, in the kernel's or tool's own words. is_root: whether the world had the host's root.
    """

    kernel: str
    machine: str
    is_root: bool
    cpus: int
    memory_bytes: int
    veth: bool = False
    bridge: bool = False
    named_netns: bool = False
    ipv6: bool = False
    raw_sockets: bool = False
    htb: bool = False
    tbf: bool = False
    netem: bool = False
    iptables_nfqueue: bool = False
    nfqueue: bool = False
    nft_inet: bool = False
    nft_concatenated_sets: bool = False
    nft_payload_match: bool = False
    nft_ct_mark: bool = False
    nft_log_group: bool = False
    nflog: bool = False
    nft_nat: bool = False
    conntrack: bool = False
    nft_ingress: bool = False
    nft_queue: bool = False
    clsact: bool = False
    bpf: bool = False
    tun: bool = False
    kernel_wireguard: bool = False
    esp: bool = False
    tcp_rto_max: bool = False
    ppp: bool = False
    user_namespaces: bool = False
    programs: dict[str, str | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    schema: str = SCHEMA
