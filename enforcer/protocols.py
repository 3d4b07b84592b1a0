"""The VPN protocols an enforcer may recognise, each by documented ports, protocol numbers and first-packet headers only."""

from __future__ import annotations

VPN_PROTOCOLS = (
    "wireguard",
    "openvpn-udp",
    "openvpn-tcp",
    "ikev2",  # IKEv1 and IKEv2 on 500 and 4500 (RFC 7296, 3948) with the ESP they set up, native or in UDP
    "esp",
    "ah",
    "l2tp",
    "pptp",  # control channel and GRE version 1 (RFC 2637)
    "openconnect",  # TLS: its headers are those of HTTPS; can be registered, cannot be recognised
)
