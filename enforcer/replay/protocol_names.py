"""IP protocol numbers by the names flow exporters write (IANA keywords, and nfdump's own spellings)."""

from __future__ import annotations

_NAMES = {
    "HOPOPT": 0, "ICMP": 1, "IGMP": 2, "GGP": 3, "IPIP": 4, "IPV4": 4, "ST": 5, "TCP": 6, "CBT": 7, "EGP": 8, "IGP": 9,
    "UDP": 17, "HMP": 20, "RDP": 27, "DCCP": 33, "IPV6": 41, "SDRP": 42, "RTHDR": 43, "IPV6-ROUTE": 43, "FRAG": 44,
    "IPV6-FRAG": 44, "IDRP": 45, "RSVP": 46, "GRE": 47, "DSR": 48, "BNA": 49, "ESP": 50, "AH": 51, "I-NLSP": 52,
    "SWIPE": 53, "NARP": 54, "MOBILE": 55, "TLSP": 56, "SKIP": 57, "ICMP6": 58, "ICMPV6": 58, "IPV6-ICMP": 58,
    "NOHE": 59, "IPV6-NONXT": 59, "OPTS6": 60, "IPV6-OPTS": 60, "EIGRP": 88, "OSPF": 89, "OSPFIGP": 89, "MTP": 92,
    "ETHIP": 97, "ETHERIP": 97, "ENCAP": 98, "PIM": 103, "IPCOMP": 108, "SNP": 109, "VRRP": 112, "PGM": 113,
    "L2TP": 115, "SCTP": 132, "FC": 133, "RSVP-E2E-IGNORE": 134, "MOBILITY": 135, "UDPLITE": 136, "UDP-LITE": 136,
    "MPLS-IN-IP": 137, "MANET": 138, "HIP": 139, "SHIM6": 140, "WESP": 141, "ROHC": 142,
}  # fmt: skip


def protocol_number(text: str) -> int | None:
    """The number of "UDP", "udp" or "17"; None when nobody writes it so."""
    text = text.strip()
    if text.isdecimal():
        return int(text) if int(text) < 256 else None
    return _NAMES.get(text.upper())
