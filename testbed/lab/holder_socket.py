"""An NFQUEUE socket as the holder reads it: many messages a system call, and of each only its head."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

from testbed.lab.nfnetlink import SUBSYSTEM_QUEUE, queue_segments_message

_PACKET = SUBSYSTEM_QUEUE << 8  # NFQNL_MSG_PACKET is 0
_SLOT_BYTES = 32
# Of a slot: message type, queue number, packet id (both as the kernel writes them: big-endian). In a metadata-only
# message the packet header is the first attribute (net/netfilter/nfnetlink_queue.c, nfqnl_build_packet_message).
_SLOT = struct.Struct("=4xH12xH4xI4x")
_SEND_BYTES = 65_536
_OUT_OF_SPACE = (errno.ENOBUFS, errno.ENOMEM)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = [("header", _Header), ("received", ctypes.c_uint)]


_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]


class QueueSocket:
    """overflows counts the times the kernel could not hand a packet over (it is lost, and that is counted in the kernel);
    refused counts verdicts on packets that were gone (their interface went down)."""

    slots = 128

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._fd = fd
        self._buffer = bytearray(self.slots * _SLOT_BYTES)
        self._view = memoryview(self._buffer)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._iovecs = (_Iovec * self.slots)(
            *(_Iovec(start + number * _SLOT_BYTES, _SLOT_BYTES) for number in range(self.slots))
        )
        self._messages = (_Message * self.slots)()
        for number in range(self.slots):
            self._messages[number].header.iov = ctypes.pointer(self._iovecs[number])
            self._messages[number].header.iov_length = 1
        self._messages_at = ctypes.addressof(self._messages)
        self._index: dict[int, int] = {}
        self.overflows = 0
        self.refused = 0

    def own(self, raw_queue: int, index: int) -> None:
        """Packets of this queue are reported under index."""
        self._index[raw_queue] = index

    def receive(self) -> tuple[int, list[tuple[int, list[int]]]]:
        """What has arrived, without waiting: how many messages, and the raw packet ids by queue index, in order."""
        count = _recvmmsg(self._fd, self._messages_at, self.slots, socket.MSG_DONTWAIT, None)
        if count <= 0:
            code = ctypes.get_errno()
            if count < 0 and code in _OUT_OF_SPACE:
                self.overflows += 1
                return self.slots, []
            if count < 0 and code not in (errno.EAGAIN, errno.EINTR):
                raise OSError(code, f"NFQUEUE: {os.strerror(code)}")
            return 0, []
        index = self._index
        found: dict[int, list[int]] = {}
        for kind, raw_queue, packet_id in _SLOT.iter_unpack(self._view[: count * _SLOT_BYTES]):
            if kind != _PACKET:
                self.refused += 1
                continue
            ids = found.get(raw_queue)
            if ids is None:
                found[raw_queue] = [packet_id]
            else:
                ids.append(packet_id)
        return count, [(index[raw_queue], ids) for raw_queue, ids in found.items()]

    def send(self, messages: bytes) -> None:
        """Send verdicts."""
        if not messages:
            return
        if len(messages) <= _SEND_BYTES:
            self._socket.send(messages)
            return
        for start in range(0, len(messages), _SEND_BYTES):
            self._socket.send(messages[start : start + _SEND_BYTES])

    def keep_segments(self, raw_queue: int, keeps_segments: bool) -> None:
        """Have offloaded segments whole (fast) or cut into packets (each can then be lost on its own)."""
        self._socket.send(queue_segments_message(socket.ntohs(raw_queue), keeps_segments=keeps_segments))
