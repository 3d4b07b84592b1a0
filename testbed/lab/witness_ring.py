"""A passive tap on one interface: an AF_PACKET socket whose kernel ring (TPACKET_V3) is read in blocks. packet(7).

It sees what arrives (before any hook of netfilter) and what leaves (after all of them, and after the queueing discipline:
net/core/dev.c, xmit_one). A classic BPF program in the kernel lets IPv4 and IPv6 to or through the node pass, first bytes only.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator

from testbed.lab.witness_packet import SNAP_BYTES

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_SOL_PACKET, _PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 263, 5, 6, 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_BLOCK_BYTES, _BLOCKS, _FRAME_BYTES = 1 << 17, 32, 2048
# A block that is not full is handed over after this; the kernel has a timer for it, which in virtual time costs what it has to do.
RETIRE_MS, VIRTUAL_RETIRE_MS = 60, 60_000
_USER = 1  # TP_STATUS_USER
# struct tpacket_block_desc: status, packets, offset of the first. struct tpacket3_hdr: next, seconds, nanoseconds, bytes
# taken, length, (status, mac,) offset of the network header.
_BLOCK = struct.Struct("=8xIII")
_FRAME = struct.Struct("=IIIII4xxxH")
# linux/filter.h: load the protocol, then the packet type (SKF_AD_OFF + SKF_AD_PROTOCOL, + SKF_AD_PKTTYPE).
_LOAD, _EQUAL, _RETURN, _ANCILLARY = 0x20, 0x15, 0x06, 0xFFFFF000
_HOST, _OUTGOING = 0, 4
_FILTER = (
    (_LOAD, 0, 0, _ANCILLARY + 0),
    (_EQUAL, 1, 0, _ETH_P_IP),
    (_EQUAL, 0, 4, _ETH_P_IPV6),
    (_LOAD, 0, 0, _ANCILLARY + 4),
    (_EQUAL, 1, 0, _HOST),
    (_EQUAL, 0, 1, _OUTGOING),
    (_RETURN, 0, 0, SNAP_BYTES),
    (_RETURN, 0, 0, 0),
)

# realtime ns of the kernel's stamp, IP length, where the packet's first bytes are
Packet = tuple[int, int, int, int]


def open_tap(interface: str, retire_ms: int = RETIRE_MS) -> socket.socket:
    """A tap on an interface of the namespace the calling thread is in. Raises OSError (no such interface, no privilege)."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        buffer = ctypes.create_string_buffer(program)
        tap.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_FILTER), ctypes.addressof(buffer))
        )
        tap.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = _BLOCK_BYTES * _BLOCKS // _FRAME_BYTES
        # struct tpacket_req3: block size and number, frame size and number, retire timeout, private bytes, features.
        ring = struct.pack("=IIIIIII", _BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, frames, retire_ms, 0, 0)
        tap.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
        tap.bind((interface, _ETH_P_ALL))
    except BaseException:
        tap.close()
        raise
    return tap


class Ring:
    """Reads an opened tap. lost counts packets the kernel could not put into the ring."""

    def __init__(self, tap: socket.socket) -> None:
        self._tap = tap
        self._map = mmap.mmap(
            tap.fileno(), _BLOCK_BYTES * _BLOCKS, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self.data = memoryview(self._map)
        self._next = 0
        self.lost = 0

    def read(self) -> Iterator[list[Packet]]:
        """The packets of each block the kernel has handed over; a block goes back when the next is asked for."""
        data = self.data
        while True:
            base = self._next * _BLOCK_BYTES
            status, count, offset = _BLOCK.unpack_from(data, base)
            if not status & _USER:
                return
            packets: list[Packet] = []
            at = base + offset
            for _ in range(count):
                following, seconds, nanoseconds, taken, length, network = _FRAME.unpack_from(data, at)
                start = at + network
                packets.append((seconds * 1_000_000_000 + nanoseconds, length, start, start + taken))
                at += following
            yield packets
            struct.pack_into("=I", data, base + 8, 0)  # TP_STATUS_KERNEL
            self._next = (self._next + 1) % _BLOCKS

    def count_lost(self) -> int:
        """How many packets were lost since the last call."""
        _packets, drops, _freezes = struct.unpack(
            "=III", self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        )
        self.lost += drops
        return drops
