"""Run a program inside a world that is running already: on one of its nodes, on this terminal, with its exit code.

nsenter(1) does the same; here the node's namespace is opened by its name inside the world. An ordinary user may enter the
worlds they opened (user_namespaces(7): a parent namespace's owner has all capabilities in it).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from testbed.lab.namespaces import NETNS_DIR

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_NOT_FOUND, _NOT_ENTERED = 127, 126  # as a shell says it
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
_OF_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def run_in_world(
    init_pid: int, node: str | None, argv: Sequence[str], env: Mapping[str, str] | None = None
) -> int:
    """Run argv in the world whose first process is init_pid, on a node (None: on none); its exit code.

    128 + number when a signal ended it, 127 when there is no such program, 126 when the world or node cannot be entered;
    the last two say why on standard error. Ctrl-C reaches the program, not this process.
    """
    return _fork_and_wait(lambda: _enter_and_run(init_pid, node, argv, env))


def _enter_and_run(
    init_pid: int, node: str | None, argv: Sequence[str], env: Mapping[str, str] | None
) -> int:
    here = Path.cwd()
    kinds = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    if os.stat(f"/proc/{init_pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:  # noqa: PTH116
        kinds |= _NEWUSER
    pidfd = os.pidfd_open(init_pid)
    _setns(pidfd, kinds, "the lab's world")
    os.close(pidfd)
    if node is not None:
        path = NETNS_DIR / node
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            known = ", ".join(sorted(os.listdir(NETNS_DIR)))  # noqa: PTH208
            _say(f"there is no node '{node}'; nodes are {known}")
            return _NOT_ENTERED
        _setns(fd, _NEWNET, node)
        os.close(fd)
    # The mount namespace came with its own root; the folder the user is in is usually there too.
    try:
        os.chdir(here)
    except OSError:
        os.chdir("/")
    # Only children are in the new PID namespace.
    return _fork_and_wait(lambda: _execute(argv, env))


def _execute(argv: Sequence[str], env: Mapping[str, str] | None) -> int:
    try:
        os.execvpe(argv[0], list(argv), dict(os.environ if env is None else env))
    except OSError as error:
        _say(f"{argv[0]}: {error.strerror}")
    return _NOT_FOUND


def _fork_and_wait(run: Callable[[], int]) -> int:
    """Run in a child and wait for it; a Ctrl-C at the terminal is for it alone, a request to end is passed on to it.

    Signals are blocked and fetched one by one: a handler could run just before the wait, and be missed.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_FORWARDED, *_OF_THE_TERMINAL})
    pid = os.fork()
    if pid == 0:
        code = _NOT_ENTERED
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = run()
        except OSError as error:
            _say(
                f"cannot enter the lab: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
            )
        finally:
            os._exit(code)
    try:
        while True:
            number = signal.sigwait({signal.SIGCHLD, *_FORWARDED, *_OF_THE_TERMINAL})
            if number in _FORWARDED:
                os.kill(pid, number)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _setns(fd: int, kinds: int, what: str) -> None:
    if _libc.setns(fd, kinds):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def _say(text: str) -> None:
    os.write(2, f"allowlab: {text}\n".encode())
