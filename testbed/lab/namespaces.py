"""Network namespaces: make them, name them in /run/netns, enter and leave them, start programs in them.

unshare(2), setns(2) and mount(2) are called through ctypes: Python has os.setns only since 3.12. All of it needs
CAP_SYS_ADMIN in the world's user namespace, which the world gives.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.lab import preloaded

NETNS_DIR = Path("/run/netns")

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_OWN_NETNS = "/proc/thread-self/ns/net"
# include/linux/proc_ns.h: PROC_PID_INIT_INO, the PID namespace a machine boots with.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def require_world() -> None:
    """Raise PermissionError unless this process is in a world of its own, so that nothing reaches the host."""
    if str(Path("/proc/self/ns/pid").readlink()) != _FIRST_PID_NAMESPACE:
        return
    if "User Mode Linux" in Path("/proc/cpuinfo").read_text():
        return
    raise PermissionError(
        "a lab is built inside a world only; start this through './allowlab', or through "
        "'unshare --net --mount --pid --fork --kill-child --mount-proc'"
    )


@contextmanager
def named_namespaces(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """New network namespaces, open and bound to /run/netns/NAME; yields their file descriptors by name.

    On leaving, the names go and the descriptors close; a namespace ends with the last process in it.
    Raises OSError naming the namespace that could not be made.
    """
    NETNS_DIR.mkdir(parents=True, exist_ok=True)
    # A mount of our own over the folder: taking it away takes all the names at once, however many.
    _mount("tmpfs", NETNS_DIR, "tmpfs", 0)
    fds: dict[str, int] = {}
    try:
        home = os.open(_OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for name in names:
                fds[name] = _make(name)
        finally:
            _setns(home)
            os.close(home)
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)
        _check(_libc.umount2(bytes(NETNS_DIR), _MNT_DETACH), f"unmount {NETNS_DIR}")


@contextmanager
def open_namespaces(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Descriptors of namespaces that exist in /run/netns. Raises FileNotFoundError naming the one that does not."""
    fds: dict[str, int] = {}
    try:
        for name in names:
            try:
                fds[name] = os.open(NETNS_DIR / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise FileNotFoundError(
                    errno.ENOENT, f"there is no node '{name}' in this world (no {NETNS_DIR / name})"
                ) from None
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


def cover_file(path: Path, text: str) -> None:
    """Show text as the content of an existing file, to this world only. Raises OSError."""
    cover = Path("/run") / f"cover-{path.name}"
    cover.write_text(text, encoding="utf-8")
    _mount(str(cover), path, "none", _MS_BIND)


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """This thread is in the namespace; sockets and children made here belong to it. Never await inside."""
    home = os.open(_OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(netns_fd)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def spawn(
    netns_fd: int,
    argv: Sequence[str],
    log: Path | None,
    *,
    private_run: bool = False,
    env: Mapping[str, str] | None = None,
    **popen: Any,
) -> subprocess.Popen[Any]:
    """Start a program in the namespace, in a session of its own (a Ctrl-C at the terminal does not reach it).

    log: a file its stdout and stderr are appended to, unless popen says otherwise. private_run gives it its own empty
    /run (programs with a compiled-in pid or socket path); the process id stays that of the program itself.
    env is added to this process's. Raises FileNotFoundError naming the program.
    """
    command = list(argv)
    if private_run:
        mount = 'mount -t tmpfs tmpfs /run && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", *command]
    popen.setdefault("stdin", subprocess.DEVNULL)
    popen.setdefault("start_new_session", True)
    if env is not None:
        popen["env"] = {**os.environ, **env}
    opened = None
    if log is not None:
        opened = log.open("ab", buffering=0)
        popen.setdefault("stdout", opened)
        popen.setdefault("stderr", subprocess.STDOUT)
    try:
        with inside(netns_fd):
            return preloaded.popen(command, **popen)
    finally:
        if opened is not None:
            opened.close()


def _make(name: str) -> int:
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"node '{name}': the name must do as a file name in {NETNS_DIR}")
    _check(_libc.unshare(_CLONE_NEWNET), f"node {name}: make a network namespace")
    path = NETNS_DIR / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    _mount(_OWN_NETNS, path, "none", _MS_BIND)
    return os.open(_OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, _CLONE_NEWNET), f"enter network namespace (fd {fd})")


def _mount(source: str, target: Path, kind: str, flags: int) -> None:
    result = _libc.mount(source.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), None)
    _check(result, f"mount {source} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
