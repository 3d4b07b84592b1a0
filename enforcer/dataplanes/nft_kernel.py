"""What of the table `inet allowlist` is in the kernel: names of its chains and sets, its counters; by raw netlink."""

from __future__ import annotations

from collections.abc import Iterator

from enforcer.dataplanes import Count
from enforcer.dataplanes.netlink import SUBSYSTEM_NFTABLES, Netfilter, attribute, attributes

TABLE = "allowlist"

# linux/netfilter/nf_tables.h
_GET_CHAIN, _GET_SET, _GET_OBJECT = 4, 10, 19
_TABLE, _SET_NAME, _CHAIN_NAME, _OBJECT_NAME, _OBJECT_DATA = 1, 2, 3, 2, 4
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_NFPROTO_INET = 1
_NAME = TABLE.encode() + b"\0"


def chain_names(netfilter: Netfilter) -> list[str]:
    return [_text(found[_CHAIN_NAME]) for found in _dump(netfilter, _GET_CHAIN, b"")]


def set_names(netfilter: Netfilter) -> list[str]:
    """Of sets and maps."""
    return [_text(found[_SET_NAME]) for found in _dump(netfilter, _GET_SET, attribute(_TABLE, _NAME))]


def counters(netfilter: Netfilter) -> dict[str, Count]:
    counts = {}
    for found in _dump(netfilter, _GET_OBJECT, attribute(_TABLE, _NAME)):
        data = attributes(found.get(_OBJECT_DATA, b""))
        packets, size = (
            int.from_bytes(data.get(kind, b""), "big") for kind in (_COUNTER_PACKETS, _COUNTER_BYTES)
        )
        counts[_text(found[_OBJECT_NAME])] = Count(packets, size)
    return counts


def _dump(netfilter: Netfilter, kind: int, wanted: bytes) -> Iterator[dict[int, bytes]]:
    """What is in the table, as attributes by type; nothing when it is not there."""
    try:
        for _, data in netfilter.dump(SUBSYSTEM_NFTABLES, kind, _NFPROTO_INET, wanted):
            found = attributes(data)
            if found.get(_TABLE) == _NAME:
                yield found
    except FileNotFoundError:
        return


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode()
