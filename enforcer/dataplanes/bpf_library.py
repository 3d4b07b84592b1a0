"""libbpf by ctypes: objects, maps, clsact attachment, ring buffers. Errors are OSError.

libbpf and not the bare bpf(2): it places maps and BTF (spin locks need it) as the compiler wrote them, and speaks tc's netlink.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Container, Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

from enforcer.dataplanes import DataplaneError

IN, OUT = 1, 2  # enum bpf_tc_attach_point
LOCKED, MUST_EXIST = 4, 2  # BPF_F_LOCK, BPF_EXIST

_REPLACE = 1  # BPF_TC_F_REPLACE
_HANDLE, _PRIORITY = 0x4747, 1
_MEMBARRIER, _MEMBARRIER_GLOBAL = 324, 1  # x86-64; asm-generic has 283
_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


class _Hook(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("ifindex", c_int), ("point", c_int), ("parent", c_uint32)]


class _Attachment(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("program", c_int), ("flags", c_uint32), ("program_id", c_uint32),
                ("handle", c_uint32), ("priority", c_uint32)]  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("element_flags", c_uint64), ("flags", c_uint64)]


class _Run(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf."""

    _fields_ = [("size", c_size_t), ("data_in", c_void_p), ("data_out", c_void_p), ("data_size_in", c_uint32),
                ("data_size_out", c_uint32), ("context_in", c_void_p), ("context_out", c_void_p), ("context_size_in", c_uint32),
                ("context_size_out", c_uint32), ("returned", c_uint32), ("repeat", c_int), ("duration", c_uint32),
                ("flags", c_uint32), ("cpu", c_uint32), ("batch_size", c_uint32)]  # fmt: skip


class Library:
    """Raises DataplaneError when libbpf is not installed."""

    def __init__(self) -> None:
        try:
            self.c = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise DataplaneError(
                "the bpf dataplane needs libbpf 1 (libbpf.so.1); install it (apt-get install libbpf1), or use dataplane: nft"
            ) from error
        for name in (
            "bpf_object__open_file",
            "bpf_object__find_map_by_name",
            "bpf_object__find_program_by_name",
        ):
            getattr(self.c, name).restype = c_void_p
        self.c.ring_buffer__new.restype = c_void_p
        self.c.libbpf_set_print.restype = c_void_p
        self.said: list[str] = []

    def call(self, name: str, *arguments: object) -> int:
        """A function that returns a negative number when it fails."""
        ctypes.set_errno(0)
        value = getattr(self.c, name)(*arguments)
        if value < 0:
            number = ctypes.get_errno() or -value
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return value

    def pointer(self, name: str, *arguments: object) -> c_void_p:
        value = getattr(self.c, name)(*arguments)
        if not value:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return c_void_p(value)

    def quiet(self) -> None:
        """libbpf prints to stderr unless told otherwise. The verifier's words come with the error of a load."""
        self.c.libbpf_set_print(None)


class Map:
    """A map's file descriptor; keys and values are bytes as they lie in memory."""

    def __init__(self, library: Library, fd: int, key_bytes: int, value_bytes: int) -> None:
        self._library, self.fd = library, fd
        self._key_bytes, self._value_bytes = key_bytes, value_bytes

    def put(self, key: bytes, value: bytes, flags: int = 0) -> None:
        self._library.call("bpf_map_update_elem", self.fd, key, value, c_uint64(flags))

    def put_many(self, keys: bytes, values: bytes, flags: int = 0) -> None:
        count = c_uint32(len(keys) // self._key_bytes)
        batch = _Batch(ctypes.sizeof(_Batch), flags, 0)
        self._library.call(
            "bpf_map_update_batch", self.fd, keys, values, ctypes.byref(count), ctypes.byref(batch)
        )

    def get(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_bytes)
        try:
            self._library.call("bpf_map_lookup_elem", self.fd, key, value)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def delete_many(self, keys: bytes) -> None:
        """Those that are there."""
        while keys:
            count = c_uint32(len(keys) // self._key_bytes)
            batch = _Batch(ctypes.sizeof(_Batch), 0, 0)
            try:
                self._library.call(
                    "bpf_map_delete_batch", self.fd, keys, ctypes.byref(count), ctypes.byref(batch)
                )
                return
            except OSError as error:  # it stops at a key that is not there
                if error.errno != errno.ENOENT:
                    raise
                keys = keys[(count.value + 1) * self._key_bytes :]

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.items()]

    def items(
        self, first_words: Container[int] | None = None, most: int = 8192
    ) -> Iterator[tuple[bytes, bytes]]:
        """A hash map's keys and values, in batches; what comes or goes meanwhile may be missing.

        first_words: only values that begin with one of these 32-bit numbers (None: all).
        """
        keys = ctypes.create_string_buffer(most * self._key_bytes)
        values = ctypes.create_string_buffer(most * self._value_bytes)
        token, batch = c_uint64(0), _Batch(ctypes.sizeof(_Batch), 0, 0)
        previous = None
        is_last = False
        while not is_last:
            count = c_uint32(most)
            where = ctypes.byref(token) if previous is not None else None
            following = c_uint64(0)
            try:
                self._library.call(
                    "bpf_map_lookup_batch", self.fd, where, ctypes.byref(following), keys, values,
                    ctypes.byref(count), ctypes.byref(batch),
                )  # fmt: skip
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                is_last = True
            token, previous = following, True
            size, width = self._key_bytes, self._value_bytes
            all_keys, all_values = keys.raw, values.raw
            words = memoryview(all_values).cast("I")[:: width // 4]
            for at in range(count.value):
                if first_words is None or words[at] in first_words:
                    yield all_keys[at * size : (at + 1) * size], all_values[at * width : (at + 1) * width]


class Object:
    """A compiled object. Set sizes, then load; close gives everything back that nothing else holds."""

    def __init__(self, library: Library, path: Path) -> None:
        self._library = library
        self._object = library.pointer("bpf_object__open_file", str(path).encode(), None)

    def resize(self, name: str, most: int) -> None:
        self._library.call("bpf_map__set_max_entries", self._map(name), c_uint32(most))

    def reuse(self, name: str, fd: int) -> None:
        self._library.call("bpf_map__reuse_fd", self._map(name), fd)

    def load(self) -> None:
        """Raises OSError."""
        self._library.call("bpf_object__load", self._object)

    def map(self, name: str, key_bytes: int, value_bytes: int) -> Map:
        fd = self._library.call("bpf_map__fd", self._map(name))
        return Map(self._library, fd, key_bytes, value_bytes)

    def program(self, name: str) -> int:
        found = self._library.pointer("bpf_object__find_program_by_name", self._object, name.encode())
        return self._library.call("bpf_program__fd", found)

    def close(self) -> None:
        self._library.c.bpf_object__close(self._object)

    def _map(self, name: str) -> c_void_p:
        return self._library.pointer("bpf_object__find_map_by_name", self._object, name.encode())


def attach(library: Library, ifindex: int, point: int, program: int) -> None:
    """Put the program there, instead of an earlier one of ours; makes the clsact qdisc when there is none."""
    try:
        library.call("bpf_tc_hook_create", ctypes.byref(_hook(ifindex, point)))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    wanted = _Attachment(ctypes.sizeof(_Attachment), program, _REPLACE, 0, _HANDLE, _PRIORITY)
    library.call("bpf_tc_attach", ctypes.byref(_hook(ifindex, point)), ctypes.byref(wanted))


def run(library: Library, program: int) -> int:
    """Run a program of type syscall; what it returns."""
    wanted = _Run(ctypes.sizeof(_Run))
    library.call("bpf_prog_test_run_opts", program, ctypes.byref(wanted))
    return wanted.returned


def attached(library: Library, ifindex: int, point: int) -> int | None:
    """The id of the program there; None without one of ours."""
    found = _Attachment(ctypes.sizeof(_Attachment), 0, 0, 0, _HANDLE, _PRIORITY)
    try:
        library.call("bpf_tc_query", ctypes.byref(_hook(ifindex, point)), ctypes.byref(found))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            return None
        raise
    return found.program_id


def program_id(library: Library, program: int) -> int:
    return _info(library, program)[1]


def earlier_map(library: Library, ifindex: int, name: str, key_bytes: int, value_bytes: int) -> int | None:
    """A file descriptor of the map of this name that the program attached there uses; None without one of this make."""
    program = attached(library, ifindex, IN)
    if program is None:
        return None
    opened = library.call("bpf_prog_get_fd_by_id", program)
    try:
        maps = (c_uint32 * 64)()
        info = _info(library, opened, (64, ctypes.addressof(maps)))
        count = info[13]
    finally:
        os.close(opened)
    for number in maps[: min(count, 64)]:
        fd = library.call("bpf_map_get_fd_by_id", number)
        found = _info(library, fd)
        is_it = struct.pack("=4I", *found[6:10]).rstrip(b"\0") == name.encode()
        if is_it and found[2:4] == (key_bytes, value_bytes):
            return fd
        os.close(fd)
    return None


def detach(library: Library, ifindex: int, point: int) -> None:
    wanted = _Attachment(ctypes.sizeof(_Attachment), 0, 0, 0, _HANDLE, _PRIORITY)
    try:
        library.call("bpf_tc_detach", ctypes.byref(_hook(ifindex, point)), ctypes.byref(wanted))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise


class Ring:
    """A ring buffer read without waiting."""

    def __init__(self, library: Library, fd: int) -> None:
        self._library = library
        self._samples: list[bytes] = []
        self._callback = _SAMPLE(self._note)
        self._ring = library.pointer("ring_buffer__new", fd, self._callback, None, None)

    def fileno(self) -> int:
        return self._library.call("ring_buffer__epoll_fd", self._ring)

    def read(self) -> list[bytes]:
        self._library.call("ring_buffer__consume", self._ring)
        samples, self._samples = self._samples, []
        return samples

    def close(self) -> None:
        self._library.c.ring_buffer__free(self._ring)

    def _note(self, _context: int, data: int, size: int) -> int:
        self._samples.append(ctypes.string_at(data, size))
        return 0


def wait_for_readers() -> None:
    """Return once every program that runs now has ended (an RCU grace period): membarrier(2)."""
    number = _MEMBARRIER if os.uname().machine == "x86_64" else 283
    if ctypes.CDLL(None, use_errno=True).syscall(number, _MEMBARRIER_GLOBAL, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "membarrier")


def _info(library: Library, fd: int, maps: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    """bpf_prog_info or bpf_map_info (linux/bpf.h) in 32-bit words. maps: how many ids of maps are wanted, and where to."""
    asked = struct.pack("=13IIQ", *(0,) * 13, *maps).ljust(256, b"\0")
    info, size = ctypes.create_string_buffer(asked, 256), c_uint32(256)
    library.call("bpf_obj_get_info_by_fd", fd, info, ctypes.byref(size))
    return struct.unpack("=64I", info.raw)


def _hook(ifindex: int, point: int) -> _Hook:
    return _Hook(ctypes.sizeof(_Hook), ifindex, point, 0)
