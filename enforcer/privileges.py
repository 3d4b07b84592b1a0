"""Only what is needed: capabilities are taken away as soon as they have done their work, and cannot come back (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from collections.abc import Iterable
from pathlib import Path

# linux/capability.h
NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
# To begin with, and for as long as it runs. nft, nfqueue: netfilter's netlink. bpf: loading the classifier and finding an earlier
# one's map by its number (CAP_SYS_ADMIN, kernel/bpf/syscall.c bpf_map_get_fd_by_id); then maps (CAP_BPF) and attaching (CAP_NET_ADMIN).
STARTING = {
    "nft": ("CAP_NET_ADMIN",),
    "nfqueue": ("CAP_NET_ADMIN",),
    "bpf": (
        "CAP_NET_ADMIN",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYS_ADMIN",
        "CAP_SETPCAP",
    ),  # the last to drop the others
}
RUNNING = {"nft": ("CAP_NET_ADMIN",), "nfqueue": ("CAP_NET_ADMIN",), "bpf": ("CAP_NET_ADMIN", "CAP_BPF")}

# linux/prctl.h, linux/capability.h
_SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 8, 23, 24, 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def become(user: str, owned: Iterable[Path], keep: Iterable[str]) -> None:
    """Go on as this user, who from now on owns these files and folders, with these capabilities. Raises OSError, KeyError."""
    entry = pwd.getpwnam(user)
    for path in owned:
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    _prctl(_SET_KEEPCAPS, 1)  # or the change of user takes them all
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    only(keep)


def only(keep: Iterable[str]) -> None:
    """Keep these capabilities, of those that are there, for this thread and the programs and threads it will start. Raises OSError.

    It must come before other threads: capabilities belong to each.
    """
    has = _permitted()
    _set(has)  # a change of user has made them ineffective
    kept = [NUMBERS[name] for name in keep if has >> NUMBERS[name] & 1]
    _prctl(_SET_NO_NEW_PRIVS, 1)
    if has >> NUMBERS["CAP_SETPCAP"] & 1:
        number = 0
        while _libc.prctl(_CAPBSET_READ, number, 0, 0, 0) >= 0:
            if number not in kept:
                _prctl(_CAPBSET_DROP, number)
            number += 1
    mask = sum(1 << number for number in kept)
    _set(mask)
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in kept:  # for iptables, should the user not be root
        _libc.prctl(_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)


def held() -> set[str]:
    """Those of the capabilities named here that this thread may use."""
    has = _permitted()
    return {name for name, number in NUMBERS.items() if has >> number & 1}


def _permitted() -> int:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data))
    low, high = struct.unpack_from("=I", data, 4)[0], struct.unpack_from("=I", data, 16)[0]
    return low | high << 32


def _set(mask: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high))
    _check(_libc.capset(header, data))


def _prctl(what: int, value: int) -> None:
    _check(_libc.prctl(what, value, 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
