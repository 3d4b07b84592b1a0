"""PID 1 of a lab kernel: mounts what a lab needs, starts the one program, says how time gets on, switches the machine off.

The kernel starts it as `python -B -I -S init.py` with the host's file system read-only at /. The kernel process's working directory
on the host is the *control folder* (machine.py); it is reached by hostfs through /proc/self/cwd, so that the boot line, which
is mixed into the seeded random numbers, is the same for every run. Control folder:

    options.json   argv, env, cwd, mounts (path inside -> path below the control folder), period_s
    output, log    the program's standard output and error
    heartbeat      written every period_s: seconds since boot
    stop           made by the host: one SIGINT to the program
    exit           its exit code
"""

from __future__ import annotations

# pathlib would double the start-up time of this script.
# ruff: noqa: PTH103, PTH110, PTH123
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096  # sys/mount.h
_POWER_OFF = 0x4321FEDC  # linux/reboot.h
_CONTROL = "/run/allowlab/control"
_HOST_CONTROL = "/proc/self/cwd"  # of the kernel process, as hostfs resolves it on the host
_DESCRIPTORS, _MOST_DESCRIPTORS = 4096, 65_536
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    try:
        _furnish()
        with open(f"{_CONTROL}/options.json") as file:
            options = json.load(file)
        for inside, below in options["mounts"].items():
            os.makedirs(inside, exist_ok=True)
            _mount("none", inside, "hostfs", 0, f"{_HOST_CONTROL}/{below}")
        code = _run(options)
    except BaseException:
        with open(f"{_CONTROL}/log", "a") as log:
            traceback.print_exc(file=log)
        code = 126
    _say("exit", str(code))
    os.sync()
    _libc.reboot(_POWER_OFF)


def _furnish() -> None:
    # All is root's here already. To whom a set-user-ID program belongs depends on who looks at the host (a container's
    # user sees root's files as nobody's), and would take that from it.
    _mount("none", "/", "hostfs", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
    safe = _MS_NOSUID | _MS_NODEV
    for kind, path in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        _mount(kind, path, kind, safe)
    for path in ("/run/netns", "/run/wireguard", "/run/lock", _CONTROL):
        os.makedirs(path)
    os.makedirs("/dev/pts", exist_ok=True)
    _mount("devpts", "/dev/pts", "devpts", 0)
    os.makedirs("/dev/shm", exist_ok=True)
    _mount("tmpfs", "/dev/shm", "tmpfs", safe)
    _mount("none", _CONTROL, "hostfs", 0, _HOST_CONTROL)
    os.umask(0o022)
    socket.sethostname("allowlab")
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    # Some programs close every possible descriptor when they start: each call costs virtual time (tt-syscall-ns).
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _MOST_DESCRIPTORS))


def _run(options: dict) -> int:
    """The program's exit code. Waits for it in periods, and passes a request to stop on once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    output = os.open(f"{_CONTROL}/output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    log = os.open(f"{_CONTROL}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(log, 2)
        os.chdir(options["cwd"])
        try:
            os.execvpe(options["argv"][0], options["argv"], options["env"])
        except OSError as error:
            os.write(2, f"{options['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)
    is_asked = False
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, options["period_s"])
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 127
            if pid == child:
                os.close(output)
                os.close(log)
                return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            if pid == 0:
                break
        _say("heartbeat", f"{time.monotonic():.3f}")
        if not is_asked and os.path.exists(f"{_CONTROL}/stop"):
            is_asked = True
            os.kill(child, signal.SIGINT)


def _say(name: str, text: str) -> None:
    with open(f"{_CONTROL}/{name}", "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _mount(source: str, target: str, kind: str, flags: int, data: str | None = None) -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode() if data else None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


if __name__ == "__main__":
    main()
    sys.exit(0)
