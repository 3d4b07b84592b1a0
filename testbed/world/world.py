"""Opens a private world and runs a program inside it; the world ends when the program does, or when this process does.

A world has its own user (for an ordinary user), network, mount, PID, UTS and IPC namespaces, its own /proc, /sys, /run and
/tmp. Inside, the program is root over that network, and over nothing of the host's. See init.py for how it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from testbed.world.init import KILL, STOP
from testbed.world.refusal import explain

_INIT = Path(__file__).with_name("init.py")
_PROJECT = Path(__file__).resolve().parents[2]
# Where an ordinary user's PATH does not look and Debian puts servers (strongSwan has a folder of its own).
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/ipsec")
# AppArmor profiles attach to a program by its path, and Debian's for unbound, charon and swanctl confine them to the
# host's folders. Inside, PATH finds the same programs under these second names, which no profile mentions.
_ALIASES = {"/run/host/sbin": "/usr/sbin", "/run/host/bin": "/usr/bin", "/run/host/ipsec": "/usr/lib/ipsec"}
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
IN_WORLD = "ALLOWLAB_WORLD"  # set to 1 in the environment of what runs inside


class WorldError(Exception):
    """The world could not be opened; the text says what the kernel refused and what to do."""


class World:
    """A running world. stop() asks the program inside to end, kill() ends the world at once; wait() gives its exit code."""

    def __init__(self, process: subprocess.Popen[Any], lifeline: int) -> None:
        self.process = process
        self._lifeline: int | None = lifeline

    @property
    def stdout(self) -> IO[Any] | None:
        return self.process.stdout

    def stop(self) -> None:
        """One request to end (SIGINT to the program inside), which may clean up; does nothing once it has ended."""
        self._send(STOP)

    def kill(self) -> None:
        """End every process of the world now."""
        self._send(KILL)

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code of the program inside (128 + signal number if one ended it). Raises subprocess.TimeoutExpired."""
        code = self.process.wait(timeout_s)
        return 128 - code if code < 0 else code

    def close(self) -> None:
        """Kill what still runs and wait for the end of the world."""
        if self._lifeline is None:
            return
        self.kill()
        os.close(self._lifeline)
        self._lifeline = None
        self.process.wait()

    def _send(self, request: bytes) -> None:
        if self._lifeline is None:
            return
        with suppress(BrokenPipeError):  # it has ended already
            os.write(self._lifeline, request)


@contextmanager
def open_world(
    argv: Sequence[str],
    *,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = None,
    stderr: Any = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    keep: Sequence[Path] = (),
    hostname: str = "allowlab",
    terminal: bool = False,
) -> Iterator[World]:
    """Run argv as the one program of a new world; leaving the block ends the world whatever still runs there.

    env replaces the environment (PYTHONPATH gets the project's folder, so `python -m testbed…` works). Folders below /tmp and /run
    vanish inside except cwd, the project, the interpreter and `keep`. terminal=True leaves the program in this process's session
    and process group (for shells). Raises WorldError when the world cannot be made, or argv[0] cannot be executed.

    The calling thread must live as long as the world does: the parent-death signal is a thread's (prctl(2)).
    """
    lifeline_reader, lifeline = os.pipe2(os.O_CLOEXEC)
    status, status_writer = os.pipe2(os.O_CLOEXEC)
    cwd = (cwd or Path.cwd()).absolute()
    options = {
        "user_namespace": os.geteuid() != 0,
        "lifeline_fd": lifeline_reader,
        "status_fd": status_writer,
        "hostname": hostname,
        "terminal": terminal,
        "cwd": str(cwd),
        "keep": _kept([cwd, _PROJECT, Path(sys.prefix), Path(sys.base_prefix), *keep]),
    }
    aliases = _aliases()
    options["aliases"] = aliases
    environment = dict(os.environ if env is None else env)
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    path += [folder for folder in SERVER_FOLDERS if folder not in path]
    environment["PATH"] = os.pathsep.join([*aliases, *path])
    environment[IN_WORLD] = "1"
    environment["TMPDIR"] = "/tmp"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PROJECT), environment.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT), json.dumps(options), "--", *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            pass_fds=(lifeline_reader, status_writer),
            # A terminal's Ctrl-C reaches this process alone; it passes one request on.
            start_new_session=not terminal,
        )
    except BaseException:
        os.close(lifeline)
        os.close(status)
        raise
    finally:
        os.close(lifeline_reader)
        os.close(status_writer)
    world = World(process, lifeline)
    try:
        _await_ready(process, status, argv[0])
        yield world
    finally:
        world.close()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def run_inside(
    argv: Sequence[str],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    keep: Sequence[Path] = (),
    timeout_s: float | None = None,
) -> int:
    """Run argv in a new world to its end and return its exit code; output goes to `log`, or where this process's goes.

    Ctrl-C (KeyboardInterrupt) is passed in once and waited for; a second one kills the world and is raised. After timeout_s the
    world is killed and subprocess.TimeoutExpired raised. Raises WorldError like open_world.
    """
    output = log.open("wb") if log else None
    try:
        with open_world(
            argv, stdout=output, stderr=subprocess.STDOUT if output else None, env=env, cwd=cwd, keep=keep
        ) as world:
            try:
                return world.wait(timeout_s)
            except KeyboardInterrupt:
                world.stop()
                return world.wait(timeout_s)
    finally:
        if output:
            output.close()


def _await_ready(process: subprocess.Popen[Any], status: int, program: str) -> None:
    with os.fdopen(status, "rb") as reader:
        line = reader.readline()
    answer = json.loads(line) if line else {}
    if answer.get("ready"):
        return
    process.wait()
    if not answer:
        how = signal.Signals(-process.returncode).name if process.returncode < 0 else str(process.returncode)
        raise WorldError(
            f"the world's init ended before it was ready ({how}); look for the kernel's OOM killer in dmesg"
        )
    raise WorldError(explain(answer["step"], answer["errno"], answer["text"], answer["about"] or program))


def _aliases() -> dict[str, str]:
    try:
        is_enabled = _APPARMOR.read_text(encoding="ascii").strip() == "Y"
    except OSError:
        is_enabled = False
    return {alias: folder for alias, folder in _ALIASES.items() if is_enabled and Path(folder).is_dir()}


def _kept(paths: Sequence[Path]) -> list[str]:
    """The folders that the private /tmp and /run would hide, outermost first, each once."""
    kept: list[Path] = []
    for path in sorted({path.resolve() for path in paths}, key=lambda path: len(path.parts)):
        hidden = any(path.is_relative_to(root) and path != Path(root) for root in ("/tmp", "/run"))
        if hidden and path.is_dir() and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return [str(path) for path in kept]
