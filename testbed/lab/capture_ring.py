"""The capturing program: packets of one node from a kernel ring into a pcapng file, until SIGTERM or SIGINT.

    python -m testbed.lab.capture_ring FILE [--port N] [--index N]

Appends to FILE, whose section block is there already. Uses AF_PACKET's memory-mapped ring (TPACKET_V3,
Documentation/networking/packet_mmap.rst): tcpdump gives up root by changing its user, which an ordinary user's world
cannot, and loses what waits in its ring when it is ended; this drains the ring. Prints "listening", and at the end how
many packets it took and lost.
"""

from __future__ import annotations

import argparse
import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

from testbed.lab import pcapng

# 16 MiB of ring; a block must hold the largest segment (65,549 bytes) and is handed over after 20 ms at the latest.
_BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, _RETIRE_MS = 1 << 20, 16, 1 << 11, 20
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _TPACKET_V3 = 5, 6, 10, 2
_SOL_PACKET, _ETH_P_ALL, _PACKET_OUTGOING = 263, 3, 4
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_TP_STATUS_USER = 1
_STATUS = struct.Struct("=I")
_BLOCK = struct.Struct("=III")  # status, packets, offset of the first; at byte 8 of the block
_RECORD = struct.Struct(
    "=IIIIIIHH"
)  # next, seconds, nanoseconds, captured, on the wire, status, start, network start
_ADDRESS = struct.Struct(
    "=HHiHBB"
)  # struct sockaddr_ll: family, protocol, index, hardware type, packet type, length
_ADDRESS_OFFSET = 48  # TPACKET_ALIGN(sizeof(struct tpacket3_hdr))
_HEADERS_WITH_PORTS = (6, 17)  # TCP, UDP


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--port", type=int)
    parser.add_argument("--index", type=int, default=0)
    arguments = parser.parse_args()
    # Caught before "listening" is said: whoever waits for it may end us at once.
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with open(arguments.file, "ab", buffering=0) as file, Ring(arguments.index) as ring:  # noqa: PTH123
        print("listening", flush=True)
        writer = Writer(file, arguments.port)
        poller = select.poll()
        poller.register(ring.fileno(), select.POLLIN)
        poller.register(wake.fileno(), select.POLLIN)
        is_ending = False
        while not is_ending:
            is_ending = any(fd == wake.fileno() for fd, _events in poller.poll())
            if is_ending:
                # Packets until now are handed over when their block's time is up.
                time.sleep(2 * _RETIRE_MS / 1000)
            for block in ring.blocks():
                writer.write(block)
        received, dropped = ring.statistics()
        writer.finish(received, dropped)
    print(
        f"{writer.packets} packets written, {dropped} of {received} lost before they could be read",
        flush=True,
    )


class Ring:
    """A ring of captured packets, of one interface or (index 0) all."""

    def __init__(self, index: int) -> None:
        # Of one interface: nothing is captured before bind. Of all: making the ring drops what came before it.
        protocol = 0 if index else socket.htons(_ETH_P_ALL)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = _BLOCK_BYTES * _BLOCKS // _FRAME_BYTES
        request = struct.pack("=IIIIIII", _BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, frames, _RETIRE_MS, 0, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._memory = mmap.mmap(self._socket.fileno(), _BLOCK_BYTES * _BLOCKS)
        self._next = 0
        if index:
            self._socket.bind((socket.if_indextoname(index), _ETH_P_ALL))

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def blocks(self) -> Iterator[memoryview]:
        """The blocks that are full or due, each given back to the kernel afterwards."""
        view = memoryview(self._memory)
        try:
            for _ in range(_BLOCKS):
                start = self._next * _BLOCK_BYTES
                if not _STATUS.unpack_from(view, start + 8)[0] & _TP_STATUS_USER:
                    return
                with view[start : start + _BLOCK_BYTES] as block:
                    yield block
                _STATUS.pack_into(view, start + 8, 0)
                self._next = (self._next + 1) % _BLOCKS
        finally:
            view.release()

    def statistics(self) -> tuple[int, int]:
        """Packets that arrived, and those of them that found no room."""
        return struct.unpack_from("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12))


class Writer:
    """Writes blocks of a ring as pcapng; interfaces are announced when their first packet comes."""

    def __init__(self, file: BinaryIO, port: int | None) -> None:
        self.packets = 0
        self._file = file
        self._port = port
        self._numbers: dict[int, int] = {}

    def write(self, block: memoryview) -> None:
        _status, count, offset = _BLOCK.unpack_from(block, 8)
        out: list[bytes] = []
        for _ in range(count):
            following, seconds, nanoseconds, captured, wire, _state, start, _net = _RECORD.unpack_from(
                block, offset
            )
            _family, _protocol, index, hardware, kind, _length = _ADDRESS.unpack_from(
                block, offset + _ADDRESS_OFFSET
            )
            data = bytes(block[offset + start : offset + start + captured])
            offset += following
            is_ethernet = hardware in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)
            if self._port is not None and self._port not in _ports(data[14:] if is_ethernet else data):
                continue
            if index not in self._numbers:
                self._numbers[index] = len(self._numbers)
                linktype = pcapng.LINKTYPE_ETHERNET if is_ethernet else pcapng.LINKTYPE_RAW
                out.append(pcapng.interface(_interface_name(index), linktype))
            time_ns = seconds * 1_000_000_000 + nanoseconds
            number, is_outgoing = self._numbers[index], kind == _PACKET_OUTGOING
            out.append(pcapng.packet(number, time_ns, data, wire, is_outgoing=is_outgoing))
            self.packets += 1
        self._file.write(b"".join(out))

    def finish(self, received: int, dropped: int) -> None:
        if self._numbers:
            self._file.write(pcapng.statistics(0, time.time_ns(), received, dropped))


def _ports(packet: bytes) -> tuple[int, ...]:
    """The TCP or UDP ports of an IP packet; none of a fragment after the first, or of anything else."""
    if len(packet) < 20:
        return ()
    if packet[0] >> 4 == 4:
        protocol, at = packet[9], (packet[0] & 15) * 4
        if struct.unpack_from(">H", packet, 6)[0] & 0x1FFF:
            return ()
    else:
        protocol, at = packet[6], 40
    if protocol not in _HEADERS_WITH_PORTS or len(packet) < at + 4:
        return ()
    return struct.unpack_from(">HH", packet, at)


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # gone already
        return f"index-{index}"


if __name__ == "__main__":
    sys.exit(main())
