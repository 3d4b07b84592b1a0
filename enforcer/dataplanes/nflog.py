"""The kernel's reports about stopped packets, by NFLOG over raw netlink: prefix and headers, read without waiting."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable

from enforcer.dataplanes import Stop
from enforcer.dataplanes.netlink import SUBSYSTEM_LOG, Netfilter, attribute, attributes, messages
from enforcer.packet import parse

# linux/netfilter/nfnetlink_log.h
_PACKET, _CONFIG = 0, 1
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_CMD_BIND = 1
_COPY_PACKET = 2
_TIMESTAMP, _IFINDEX_IN, _IFINDEX_OUT, _PAYLOAD, _PREFIX = 3, 4, 5, 9, 10
_TRANSPORTS = {6: "tcp", 17: "udp", 50: "esp", 51: "ah", 47: "gre", 1: "icmp", 58: "icmpv6"}

SNAP_BYTES = 128  # headers of IPv6 with extensions; the payload among them is never kept


class NfLog:
    """One NFLOG group. Raises OSError (EBUSY: another program reads this group)."""

    def __init__(self, group: int) -> None:
        self.lost = 0
        self._names: dict[bytes, str] = {}
        self._netfilter = Netfilter()
        self._netfilter.grow_receive_buffer()
        mode = struct.pack("!IBB", SNAP_BYTES, _COPY_PACKET, 0)
        for body in (
            attribute(_CFG_CMD, bytes([_CMD_BIND])),
            attribute(_CFG_MODE, mode),
            attribute(_CFG_QTHRESH, struct.pack("!I", 1)),
        ):
            self._netfilter.request(SUBSYSTEM_LOG, _CONFIG, socket.AF_UNSPEC, body, resource=group)
        self._netfilter.socket.setblocking(False)

    def fileno(self) -> int:
        return self._netfilter.socket.fileno()

    def read(self, most: int = 4096) -> list[Stop]:
        """What has come since the last call, at most about `most`."""
        stops: list[Stop] = []
        while len(stops) < most:
            try:
                data = self._netfilter.socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1  # the kernel says that it dropped reports, not how many: at least one
                continue
            for kind, _, body in messages(data):
                if kind == SUBSYSTEM_LOG << 8 | _PACKET:
                    stops.append(_stop(attributes(body[4:]), self._interface))
        return stops

    def _interface(self, index: bytes | None) -> str:
        """Its name when it was first seen: asking takes three system calls, and an index is not given twice."""
        if index is None:
            return ""
        if index not in self._names:
            self._names[index] = _name(index)
        return self._names[index]

    def close(self) -> None:
        self._netfilter.close()


def _stop(found: dict[int, bytes], interface: Callable[[bytes | None], str]) -> Stop:
    reason, _, protocol = found.get(_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace").partition(" ")
    packet = parse(found.get(_PAYLOAD, b""))
    number = packet.protocol if packet.protocol is not None else 0
    return Stop(
        _time_ns(found.get(_TIMESTAMP)),
        reason,
        None if protocol in ("", "unseen") else protocol,
        _TRANSPORTS.get(number, str(number)),
        packet.src_text,
        packet.src_port,
        packet.dst_text,
        packet.dst_port,
        interface(found.get(_IFINDEX_IN)),
        interface(found.get(_IFINDEX_OUT)),
    )


def _time_ns(stamp: bytes | None) -> int:
    if stamp is None or len(stamp) < 16:  # only packets that came from a device with time stamps carry one
        return time.time_ns()
    seconds, microseconds = struct.unpack("!QQ", stamp[:16])
    return seconds * 1_000_000_000 + microseconds * 1000


def _name(index: bytes) -> str:
    try:
        return socket.if_indextoname(int.from_bytes(index, "big"))
    except OSError:  # the interface is gone
        return ""
