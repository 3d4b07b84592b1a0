"""Python programs of a lab, forked from a process that has loaded their modules, where loading them again would be most of the start.

In a lab kernel (testbed/world/uml/start.py) a program's imports take a second. begin() leaves a process behind that has done them;
popen() asks it for a program. What it gets is what it would have after exec: arguments, environment, folder, descriptors,
network namespace, limits, session, name. Without begin(), popen() is subprocess.Popen.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

_MOST_DESCRIPTORS = 240  # SCM_MAX_FD is 253: include/net/scm.h
_MOST_BYTES = 1 << 17
_CLONE_NEWNET = 0x40000000
_SET_NAME, _SET_MM, _SET_MM_ARG_START, _SET_MM_ARG_END = 15, 35, 8, 9  # linux/prctl.h
_ENDING = (signal.SIGINT, signal.SIGTERM)
_HIGH = 10_000  # above every descriptor a program is given
_libc = ctypes.CDLL(None, use_errno=True)
_lock = threading.Lock()
_server: socket.socket | None = None  # this process's, as its children and its memory are


def begin(module: str, arguments: list[str]) -> tuple[str, list[str]]:
    """This process goes on forking programs; the first is the one given. Returns in each of them what it is to run."""
    global _server
    gc.collect()
    gc.freeze()  # what is loaded stays, and a collection must not touch, so copy, its memory
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first = os.fork()
    if first == 0:
        theirs.close()
        _server = ours
        return module, arguments
    ours.close()
    return _Forker(theirs, first).serve()


def popen(argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """As subprocess.Popen; for `[sys.executable, "-m", …]` it need not load the modules again."""
    if _server is None or tuple(argv[:2]) != (sys.executable, "-m"):
        return subprocess.Popen(list(argv), **options)
    return _Forked(list(argv), **options)


class _Forked(subprocess.Popen):
    """A child of the forking process, which says how it ended."""

    _status: socket.socket

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any) -> None:  # type: ignore[override]  # fmt: skip
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[3:9]
        standard = [
            given if given != -1 else number for number, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {
            "argv": args,
            "env": dict(os.environ if env is None else env),
            "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),  # noqa: PTH109
            "session": bool(rest[-2]),
            "descriptors": [0, 1, 2, *pass_fds],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        given = [theirs.fileno(), netns, *standard, *pass_fds]
        try:
            with _lock:
                assert _server is not None
                socket.send_fds(_server, [json.dumps(order).encode()], given[:_MOST_DESCRIPTORS])
                for first in range(_MOST_DESCRIPTORS, len(given), _MOST_DESCRIPTORS):
                    socket.send_fds(_server, [b"more"], given[first : first + _MOST_DESCRIPTORS])
            theirs.close()
            answer = self._status.recv(64)
            if not answer:
                raise OSError("the process that forks the lab's programs has ended")
            self.pid = int(answer)
            self._child_created = True
        finally:
            os.close(netns)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """As os.waitpid."""
        try:
            answer = self._status.recv(64, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        return self.pid, int(answer or signal.SIGKILL)  # the forking process ends only with the world

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            with self._waitpid_lock:  # type: ignore[attr-defined]
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


class _Forker:
    def __init__(self, orders: socket.socket, first: int) -> None:
        self._orders, self._first = orders, first
        self._told: dict[int, int] = {}  # program -> where its end is told
        self._waking, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._writing = writing
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _ENDING:
            signal.signal(number, lambda number, _frame: os.kill(first, number))

    def serve(self) -> tuple[str, list[str]]:
        """Returns in the programs only; this process ends with the first program, and as it did."""
        waiting = select.poll()
        waiting.register(self._orders, select.POLLIN)
        waiting.register(self._waking, select.POLLIN)
        self._reap()  # who ended before this process was told of ends
        while True:
            for descriptor, _events in waiting.poll():
                if descriptor == self._waking:
                    os.read(self._waking, 4096)
                    self._reap()
                    continue
                data, received = self._order()
                if not data:  # the first program has ended, or is about to
                    waiting.unregister(self._orders)
                    continue
                order = json.loads(data)
                # What is sent to the program before it has handlers of its own waits until then, and is not passed to the first.
                signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
                program = os.fork()
                if program == 0:
                    signal.set_wakeup_fd(-1)
                    for each in (
                        self._orders.detach(),
                        self._waking,
                        self._writing,
                        *self._told.values(),
                        received[0],
                    ):
                        os.close(each)
                    return _become(order, received[1:])
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
                self._told[program] = received[0]
                os.write(received[0], str(program).encode())
                for each in received[1:]:
                    os.close(each)

    def _order(self) -> tuple[bytes, list[int]]:
        data, received, _flags, _address = socket.recv_fds(self._orders, _MOST_BYTES, _MOST_DESCRIPTORS)
        while data and len(received) < len(json.loads(data)["descriptors"]) + 2:
            received += socket.recv_fds(self._orders, 8, _MOST_DESCRIPTORS)[1]
        return data, received

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._first:
                os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
            with contextlib.suppress(OSError):
                os.write(self._told[pid], str(status).encode())
            os.close(self._told.pop(pid))


def _become(order: dict[str, Any], received: list[int]) -> tuple[str, list[str]]:
    if order["session"]:
        os.setsid()
    _check(_libc.setns(received[0], _CLONE_NEWNET), "enter the network namespace")
    os.close(received[0])
    soft, hard = order["files"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _HIGH + len(received))), hard))
    high = [_moved(each) for each in received[1:]]
    for each, wanted in zip(high, order["descriptors"], strict=True):
        os.dup2(each, wanted)
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115, PTH123
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115, PTH123
    stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)  # noqa: SIM115, PTH123
    sys.stderr = sys.__stderr__ = stderr
    _name(order["argv"])
    return order["argv"][2], order["argv"][3:]


def _moved(descriptor: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    return moved


def _name(argv: list[str]) -> None:
    """For those who look into /proc."""
    global _arguments
    text = b"\0".join(word.encode() for word in argv) + b"\0"
    _arguments = ctypes.create_string_buffer(text, len(text))
    start = ctypes.addressof(_arguments)
    _libc.prctl(_SET_NAME, os.path.basename(argv[0]).encode()[:15], 0, 0, 0)  # noqa: PTH119
    # Start first: this memory is below the stack, where the old end is. Needs CAP_SYS_RESOURCE; without, the old words stay.
    for what, at in ((_SET_MM_ARG_START, start), (_SET_MM_ARG_END, start + len(text))):
        _libc.prctl(_SET_MM, what, ctypes.c_ulong(at), 0, 0)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
