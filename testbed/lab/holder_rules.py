"""The nft tables that send a link's packets to the holder: one map lookup per hook, one NFQUEUE per link and direction.

Arriving packets are held in prerouting at priority raw, before connection tracking sees them; leaving packets in
postrouting behind everything, connection tracking's confirmation included (it has the same, greatest priority and, being
registered later, runs before: net/netfilter/core.c, nf_hook_entries_grow), so that no flow is held half-tracked.
There is no `bypass`: without a holder packets stop, they never pass undelayed.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.lab.netlink import attribute, nested, text
from testbed.lab.nfnetlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    SUBSYSTEM_NFTABLES,
    Nfnetlink,
    NfnetlinkError,
    Request,
)

TABLE = "allowlab_links"

_NEWTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM = 0, 3, 6, 9, 12
_FAMILIES = (2, 10)  # NFPROTO_IPV4, NFPROTO_IPV6
_PRIORITY_RAW = -300  # NF_IP_PRI_RAW
_PRIORITY_LAST = 2**31 - 1  # NF_IP_PRI_CONNTRACK_CONFIRM
_HOOKS = {
    "arriving": (0, _PRIORITY_RAW, 4),
    "leaving": (4, _PRIORITY_LAST, 5),
}  # hook, priority, NFT_META_IIF/OIF
_NFT_GOTO = -4 & 0xFFFFFFFF
_NFT_ACCEPT = 1
_SET_MAP_CONSTANT = 0x8 | 0x2
_TYPE_IFINDEX = 20  # nft's TYPE_IFINDEX: for the kernel only a note to user space, which prints it
_TYPE_VERDICT = 0xFFFFFF00  # NFT_DATA_VERDICT
_REG_VERDICT, _REG_1 = 0, 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Packets that arrive by, or leave by, the interface with this index go to queue `number` of its namespace."""

    interface_index: int
    way: Literal["arriving", "leaving"]
    number: int


def place(netlink: Nfnetlink, holds: Sequence[Hold], node: str) -> str:
    """Make the tables in the socket's namespace; returns the expression the kernel took ("queue" or "target").

    Raises NfnetlinkError when it has neither nft's queue expression nor the NFQUEUE target.
    """
    try:
        netlink.transaction(_ruleset(holds, node, _queue))
        return "queue"
    except NfnetlinkError as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    netlink.transaction(_ruleset(holds, node, _target))
    return "target"


def _ruleset(holds: Sequence[Hold], node: str, expression) -> list[Request]:
    requests: list[Request] = []
    for family in _FAMILIES:
        requests.append(_request(_NEWTABLE, family, text(1, TABLE), f"{node}: make table {TABLE}"))
        for hold in holds:
            name = text(1, TABLE) + text(3, f"q{hold.number}")
            requests.append(_request(_NEWCHAIN, family, name, f"{node}: chain of queue {hold.number}"))
            rule = _rule(f"q{hold.number}", [expression(hold.number)])
            requests.append(_request(_NEWRULE, family, rule, f"{node}: rule of queue {hold.number}"))
        for set_id, (way, (hook, priority, meta)) in enumerate(_HOOKS.items(), 1):
            wanted = [hold for hold in holds if hold.way == way]
            if wanted:
                requests += _hook(family, way, hook, priority, meta, set_id, wanted, node)
    return requests


def _hook(
    family: int, way: str, hook: int, priority: int, meta: int, set_id: int, holds: Iterable[Hold], node: str
) -> list[Request]:
    what = f"{node}: {way}"
    set_name = f"links-{way}"
    the_set = (
        text(1, TABLE) + text(2, set_name) + _u32(3, _SET_MAP_CONSTANT) + _u32(4, _TYPE_IFINDEX) + _u32(5, 4)
    )
    the_set += _u32(6, _TYPE_VERDICT) + _u32(7, 16) + _u32(10, set_id)
    elements = b"".join(
        nested(
            1,
            nested(1, attribute(1, struct.pack("=I", hold.interface_index))),
            nested(2, nested(2, _u32(1, _NFT_GOTO), text(2, f"q{hold.number}"))),
        )
        for hold in holds
    )
    base = text(1, TABLE) + text(3, way) + nested(4, _u32(1, hook), _u32(2, priority & 0xFFFFFFFF))
    base += _u32(5, _NFT_ACCEPT) + text(7, "filter")
    lookup = [
        _expression("meta", _u32(2, meta) + _u32(1, _REG_1)),
        _expression("lookup", text(1, set_name) + _u32(4, set_id) + _u32(2, _REG_1) + _u32(3, _REG_VERDICT)),
    ]
    in_set = text(1, TABLE) + text(2, set_name) + _u32(4, set_id)
    return [
        _request(_NEWSET, family, the_set, f"{what}: map"),
        *(
            _request(_NEWSETELEM, family, in_set + nested(3, part), f"{what}: map elements")
            for part in _parts(elements, holds)
        ),
        _request(_NEWCHAIN, family, base, f"{what}: chain"),
        _request(_NEWRULE, family, _rule(way, lookup), f"{what}: rule"),
    ]


def _parts(elements: bytes, holds: Iterable[Hold]) -> Iterable[bytes]:
    """Elements in attributes below the 64 KiB an attribute can hold; they may differ in length by their chain's name."""
    part = b""
    offset = 0
    while offset < len(elements):
        length = (struct.unpack_from("=H", elements, offset)[0] + 3) & ~3
        if len(part) + length > 60_000:
            yield part
            part = b""
        part += elements[offset : offset + length]
        offset += length
    if part:
        yield part


def _rule(chain: str, expressions: list[bytes]) -> bytes:
    return text(1, TABLE) + text(2, chain) + nested(4, *(nested(1, each) for each in expressions))


def _expression(name: str, data: bytes) -> bytes:
    return text(1, name) + nested(2, data)


def _queue(number: int) -> bytes:
    return _expression("queue", attribute(1, struct.pack(">H", number)) + attribute(2, struct.pack(">H", 1)))


def _target(number: int) -> bytes:
    # struct xt_NFQ_info_v3 {queuenum, queues_total, flags}, padded as XT_ALIGN does.
    info = struct.pack("=HHHxx", number, 1, 0)
    return _expression("target", text(1, "NFQUEUE") + _u32(2, 3) + attribute(3, info))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _request(message: int, family: int, body: bytes, what: str) -> Request:
    flags = NLM_F_CREATE | (NLM_F_APPEND if message == _NEWRULE else NLM_F_EXCL)
    return Request(SUBSYSTEM_NFTABLES << 8 | message, flags, family, body, what)
