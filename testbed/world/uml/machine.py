"""Boots a lab kernel for one program: the same interface as a world of namespaces (testbed/world/world.py), in virtual time if wanted.

The kernel is a process of this user; it ends with the program inside, and everything of it with the kernel. The host's file system
is read-only inside; what may be written are the folders given.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.world.uml import modules
from testbed.world.uml.watch import STALLED_AFTER_S, Stalled, Watch
from testbed.world.world import IN_WORLD, SERVER_FOLDERS, WorldError

_INIT = Path(__file__).with_name("init.py")
_SELF = "/proc/self/cwd"  # of the kernel process: the control folder
_MEMORY_MIB = 1536
# How often PID 1 looks for a request to stop.
_PERIOD_REAL_S = 0.25
_POLL_S = 0.05
VIRTUAL = "ALLOWLAB_VIRTUAL_TIME"  # set to 1 in the environment of what runs inside in virtual time


@dataclass(frozen=True, slots=True)
class VirtualTime:
    """start_ns: Unix time at time 0; boot is lead_s before. seed: of the kernel's random numbers; the same seed and plan give the same run.

    period_s: how often PID 1 looks for a request to stop, and says how far time has got.
    """

    start_ns: int
    seed: int
    lead_s: int = 0
    period_s: float = 10.0


class Machine:
    """A running lab kernel. output gives the program's lines; stop(), kill() and wait() as of a World."""

    def __init__(self, process: subprocess.Popen[bytes], control: Path, watch: Watch) -> None:
        self.process, self._control, self._watch = process, control, watch
        self._code: int | None = None

    def lines(self) -> Iterator[str]:
        """The lines the program prints, as they come, until it has ended. Raises Stalled."""
        rest = b""
        with (self._control / "output").open("rb") as output:
            while True:
                has_ended = self.process.poll() is not None
                data = output.read()
                if data:
                    *whole, rest = (rest + data).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                    self._watch.saw_progress()
                    continue
                if has_ended:
                    if rest:
                        yield rest.decode(errors="replace")
                    return
                self._watch.look()
                time.sleep(_POLL_S)

    def stop(self) -> None:
        with suppress(OSError):
            (self._control / "stop").touch()

    def kill(self) -> None:
        # The kernel's own threads are in its process group, what runs inside in sessions of their own but traced by it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The program's exit code; 137 when the machine was killed."""
        self.process.wait()
        try:
            return int((self._control / "exit").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 137

    def close(self) -> None:
        self.kill()
        self.process.wait()


@contextmanager
def open_machine(
    kernel: Path,
    argv: Sequence[str],
    *,
    folders: Mapping[str, Path],
    log: Path,
    cwd: str = "/",
    virtual: VirtualTime | None = None,
    env: Mapping[str, str] | None = None,
    cpu: int | None = None,
    stalled_after_s: float = STALLED_AFTER_S,
) -> Iterator[Machine]:
    """Run argv as the one program of a new lab kernel; leaving the block ends it.

    folders: path inside -> folder of the host that may be written there. log gets what argv prints as errors, afterwards. virtual None: real
    time. cpu: the processor to stay on (three times as fast as moving between two). stalled_after_s: watch.py. Raises WorldError when it does not boot.
    """
    with tempfile.TemporaryDirectory(prefix="allowlab-uml-") as name:
        control = Path(name)
        mounts = {}
        compiled = modules.compiled(control)
        program = modules.mounts() | {modules.COMPILED: compiled}
        for number, (inside, folder) in enumerate(sorted((program | dict(folders)).items())):
            (control / f"folder{number}").symlink_to(folder.absolute())
            mounts[inside] = f"folder{number}"
        _expose(mounts, control)
        _name_first_program(control, compiled)
        python = modules.python_inside()
        options = {
            "argv": [word.replace(sys.executable, python) for word in argv],
            "env": _environment(env, virtual is not None),
            "cwd": cwd,
            "mounts": mounts,
            "period_s": _PERIOD_REAL_S if virtual is None else virtual.period_s,
        }
        (control / "options.json").write_text(json.dumps(options), encoding="utf-8")
        (control / "output").touch()
        (control / "home").mkdir()
        with (control / "console").open("wb") as console:
            process = subprocess.Popen(
                [str(kernel), *_boot_line(virtual)],
                executable=kernel,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd=control,
                # umid folders go to HOME; memory is a file there or in /dev/shm, of this size at most
                env={"HOME": str(control / "home"), "TMPDIR": "/dev/shm", "PATH": os.defpath},
                start_new_session=True,
                preexec_fn=_preparation(cpu),
            )
        start_s = 0.0 if virtual is None else virtual.lead_s
        watch = Watch(process.pid, control / "heartbeat", stalled_after_s, start_s)
        machine = Machine(process, control, watch)
        try:
            _await_boot(process, control)
            yield machine
        finally:
            machine.close()
            with suppress(OSError):
                shutil.copyfile(control / "log", log)


def _name_first_program(control: Path, compiled: Path) -> None:
    """Python and PID 1's script at names that are the same for every run: the boot line is mixed into the kernel's random numbers."""
    (control / "python").symlink_to(Path(sys.executable).resolve())
    (control / "init.py").symlink_to(_INIT)
    (control / "compiled").symlink_to(compiled.absolute())


def _boot_line(virtual: VirtualTime | None) -> list[str]:
    line = [f"mem={_MEMORY_MIB}M", "root=none", "rootfstype=hostfs", "ro", "quiet", "loglevel=1"]
    line += ["con=null", "con0=null", "ssl=null", "random.trust_cpu=on", "initcall_blacklist=jent_mod_init"]
    if virtual is not None:
        boot_ns = virtual.start_ns - virtual.lead_s * 10**9
        line += ["time-travel=inf-cpu", f"time-travel-start={boot_ns}"]
        line += [f"tt-seed={virtual.seed}", "tt-syscall-ns=10000"]
    start = [f"init={_SELF}/python", "--", "-B", "-I", "-S", "-X", f"pycache_prefix={_SELF}/compiled"]
    return [*line, *start, f"{_SELF}/init.py"]


def _environment(env: Mapping[str, str] | None, is_virtual: bool) -> dict[str, str]:
    """Nothing of the host's environment but what was asked for: it would make runs differ."""
    path = [str(Path(modules.python_inside()).parent), *SERVER_FOLDERS, "/usr/local/bin", "/usr/bin", "/bin"]
    environment = {
        "PATH": os.pathsep.join(path),
        "HOME": "/run",
        "TMPDIR": "/tmp",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": modules.PROJECT,
        "PYTHONPYCACHEPREFIX": modules.COMPILED,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYDANTIC_DISABLE_PLUGINS": "1",  # looked for among all packages that are installed
        IN_WORLD: "1",
    }
    return environment | ({VIRTUAL: "1"} if is_virtual else {}) | dict(env or {})


def _expose(mounts: dict[str, str], control: Path) -> None:
    """The interpreter's own folders where the private /tmp and /run would hide them; what else it needs is at paths of its own."""
    wanted = [Path(sys.base_prefix).resolve()]
    if modules.python_inside() == sys.executable:
        wanted.append(Path(sys.prefix).resolve())
    for number, path in enumerate(path for path in wanted if path.parts[1] in ("tmp", "run")):
        (control / f"program{number}").symlink_to(path)
        mounts[str(path)] = f"program{number}"


def _preparation(cpu: int | None):
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: the kernel ends with this process
        if os.getppid() != parent:
            os._exit(1)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})

    return prepare


def _await_boot(process: subprocess.Popen[bytes], control: Path) -> None:
    """Until the program was started, or the machine has ended."""
    while process.poll() is None:
        if (control / "log").exists():
            return
        time.sleep(0.01)
    if not (control / "exit").exists():
        text = (control / "console").read_text(errors="replace").strip().splitlines()
        raise WorldError(
            "the lab kernel did not boot: " + (" / ".join(text[-3:]) or f"exit code {process.returncode}")
        )


def quietest_cpu() -> int:
    """The processor this process may use that was idle most in the last tenth of a second."""
    allowed = os.sched_getaffinity(0)

    def idle() -> dict[int, int]:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        fields = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
        return {int(row[0][3:]): int(row[4]) + int(row[5]) for row in fields}

    before = idle()
    time.sleep(0.1)
    after = idle()
    return max(allowed, key=lambda cpu: (after.get(cpu, 0) - before.get(cpu, 0), cpu))


__all__ = ["Machine", "Stalled", "VirtualTime", "open_machine", "quietest_cpu"]
