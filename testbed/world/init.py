"""The world's init: makes the namespaces, is PID 1 inside, ends everything when its end has come.

A plain script with few imports (it starts in 20 ms): `python -I -S init.py OPTIONS_JSON -- ARGV…`, started by world.py.

Two processes: the *keeper* (in the host's PID namespace) unshares, forks PID 1 and passes its exit code on; *PID 1*
mounts the private file systems, starts ARGV and reaps. Two independent things end the world when the outer process is
gone: the parent-death signal of keeper and PID 1 (prctl(2), PR_SET_PDEATHSIG), and the lifeline, a pipe whose other end
only the outer process holds. When PID 1 ends the kernel kills everything in the PID namespace (pid_namespaces(7)).
"""

from __future__ import annotations

# pathlib would double the start-up time of this script.
# ruff: noqa: PTH102, PTH103, PTH123
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

# sched.h
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
# sys/mount.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 19,
)  # fmt: skip
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24  # linux/prctl.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, net/if.h
# Nothing inside has business with the host's modules, clock, ports or power (linux/capability.h: MODULE, RAWIO, BOOT, TIME).
_HOST_CAPABILITIES = (16, 17, 22, 25)
# How long ARGV may clean up after the one stop request of a lifeline that broke while it was being served.
_ORPHAN_GRACE_S = 3.0
_MIN_DESCRIPTORS = 65_536  # a lab of 1,000 hosts holds some 20 descriptors each

STOP, KILL = b"s", b"k"  # what the outer process writes into the lifeline

_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step of opening the world failed; step is a fixed word of `world.py`'s table of explanations."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step)
        self.step, self.error = step, error


def main() -> int:
    options = json.loads(sys.argv[1])
    argv = sys.argv[3:]
    lifeline, status = options["lifeline_fd"], options["status_fd"]
    # The kernel forgets nothing: should the outer process have died before this call, the lifeline says so.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # requests come through the lifeline only, once each
    try:
        _unshare(options["user_namespace"])
        pid = os.fork()
    except Failed as failed:
        return _report(status, failed)
    except OSError as error:
        return _report(status, Failed("fork", error))
    if pid:
        # SIGKILL of this process ends PID 1 by its parent-death signal.
        os.close(lifeline)
        os.close(status)
        return _exit_code(os.waitpid(pid, 0)[1])
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _furnish(options)
        child = _start(argv, options, (lifeline, status))
    except Failed as failed:
        return _report(status, failed)
    os.write(status, b'{"ready": true}\n')
    os.close(status)
    return _serve(child, lifeline)


def _unshare(user_namespace: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    if user_namespace:
        _call("userns", _libc.unshare, _NEWUSER)
        try:
            _write(
                "/proc/self/setgroups", "deny"
            )  # user_namespaces(7): needed before an unprivileged gid_map
            _write("/proc/self/uid_map", f"0 {user} 1")
            _write("/proc/self/gid_map", f"0 {group} 1")
        except OSError as error:
            raise Failed("idmap", error) from None
    # Separate calls: the message can then name the kind of namespace that was refused.
    for step, flag in (
        ("netns", _NEWNET), ("mountns", _NEWNS), ("utsns", _NEWUTS), ("ipcns", _NEWIPC), ("pidns", _NEWPID),
    ):  # fmt: skip
        _call(step, _libc.unshare, flag)


def _furnish(options: dict) -> None:
    """Private /proc, /sys, /run, /tmp; nothing mounted here is seen outside; kept paths stay visible under /tmp and /run."""
    safe = _MS_NOSUID | _MS_NODEV
    _mount("propagation", None, "/", None, _MS_REC | _MS_SLAVE)
    _mount("proc", "proc", "/proc", "proc", safe | _MS_NOEXEC)
    # Only /proc/sys/net belongs to the network namespace; the rest of /proc/sys is the host's.
    _mount("proc-sys", "/proc/sys", "/proc/sys", None, _MS_BIND)
    _mount("proc-sys", "/proc/sys/net", "/proc/sys/net", None, _MS_BIND)
    _mount("proc-sys", None, "/proc/sys", None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | safe | _MS_NOEXEC)
    _mount("sys", "sysfs", "/sys", "sysfs", safe | _MS_NOEXEC)
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in options["keep"]]
    _mount("run", "tmpfs", "/run", "tmpfs", safe, "mode=755")
    _mount("tmp", "tmpfs", "/tmp", "tmpfs", safe, "mode=1777")
    for path, descriptor in kept:
        os.makedirs(path, exist_ok=True)
        _mount("keep", f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
        os.close(descriptor)
    for path in ("/run/netns", "/run/wireguard", "/run/lock"):
        os.mkdir(path)
    for alias, folder in options["aliases"].items():
        os.makedirs(alias)
        _mount("alias", folder, alias, None, _MS_BIND)
    # A world inside this world (a test of one) may mount a proc of its own only where an uncovered one is to be seen
    # (mount_too_revealing() in the kernel's fs/namespace.c).
    os.mkdir("/run/proc", 0o700)
    _mount("proc", "proc", "/run/proc", "proc", safe | _MS_NOEXEC)
    socket.sethostname(options["hostname"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        import fcntl

        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(probe, _SIOCSIFFLAGS, request)
    for capability in _HOST_CAPABILITIES:
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused in a user namespace's parent: harmless
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = hard if 0 <= hard < _MIN_DESCRIPTORS else _MIN_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _start(argv: list[str], options: dict, close: tuple[int, ...]) -> int:
    """Fork and execute ARGV in its own session; a failed exec is told through a close-on-exec pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            for descriptor in close:
                os.close(descriptor)
            if not options["terminal"]:
                os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(options["cwd"])
            os.execvpe(argv[0], argv, os.environ)
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        os._exit(127)
    os.close(writer)
    failed = os.read(reader, 16)
    os.close(reader)
    if failed:
        raise Failed("exec", OSError(int(failed), os.strerror(int(failed)), argv[0]))
    return pid


def _serve(child: int, lifeline: int) -> int:
    """Reap until the child ends or the outer process is gone; returning ends PID 1 and so the world."""
    waker, wakened = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    watched = [lifeline, waker]
    while True:
        code = _reap(child)
        if code is not None:
            return code
        readable, _, _ = select.select(watched, [], [])
        if waker in readable:
            os.read(waker, 4096)
        if lifeline in readable:
            request = os.read(lifeline, 1)
            if request == STOP:
                os.kill(child, signal.SIGINT)
            elif request == KILL:
                return 137
            else:  # the outer process is gone
                return _orphaned(child, waker)


def _orphaned(child: int, waker: int) -> int:
    """Nobody waits for results any more, but records may be half written: one request, a short grace, then the end.

    Only when the outer process closed its end and lives on; if it was killed, the parent-death signal ends this sooner.
    """
    os.kill(child, signal.SIGINT)
    deadline = time.monotonic() + _ORPHAN_GRACE_S
    while (left := deadline - time.monotonic()) > 0:
        if (code := _reap(child)) is not None:
            return code
        if select.select([waker], [], [], left)[0]:
            os.read(waker, 4096)
    return 137


def _reap(child: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return _exit_code(status)


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _mount(
    step: str, source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    arguments = [text.encode() if text is not None else None for text in (source, target, kind)]
    _call(step, _libc.mount, *arguments, flags, data.encode() if data else None, about=target)


def _call(step: str, function, *arguments, about: str | None = None) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise Failed(step, OSError(number, os.strerror(number), about))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _report(status: int, failed: Failed) -> int:
    error = failed.error
    text = {
        "step": failed.step,
        "errno": errno.errorcode.get(error.errno or 0, ""),
        "text": error.strerror or str(error),
        "about": error.filename,
    }
    os.write(status, json.dumps(text).encode() + b"\n")
    return 126


if __name__ == "__main__":
    sys.exit(main())
