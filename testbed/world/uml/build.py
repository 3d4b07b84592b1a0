"""Builds the lab's kernel from the distribution's own source package: unpack, patch, configure, compile, strip, boot once."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from testbed.world.uml import store
from testbed.world.uml.store import Kernel

# What is installed for it, and why; the list is small: the configuration has no modules, no BTF, no signatures.
PACKAGES = {
    store.SOURCE_PACKAGE: "the kernel's source",
    "gcc": "compiling",
    "libc6-dev": "compiling",
    "make": "compiling",
    "flex": "the kernel's configuration tool",
    "bison": "the kernel's configuration tool",
    "bc": "the kernel's build",
    "xz-utils": "unpacking the source",
    "patch": "two boot options of our own",
}
_OBJECTS = 937  # of this configuration, for the share that is done
_FREE_BYTES = 1200 * 2**20  # 0.5 GiB of source, 0.15 of objects, and room
_FULL_BYTES = 16 * 2**20
# The source holds drivers for all the world; a lab's kernel has none, and their program text is not unpacked. (Kconfig and Makefile
# have no dot in their names, and are read.)
_NEVER = [
    *(f"*/arch/{name}/*.*" for name in (
        "alpha", "arc", "arm", "arm64", "csky", "hexagon", "ia64", "loongarch", "m68k", "microblaze", "mips", "nios2", "openrisc",
        "parisc", "powerpc", "riscv", "s390", "sh", "sparc", "xtensa",
    )),
    *(f"*/drivers/{name}/*.[chS]" for name in (
        "gpu", "net/ethernet", "net/wireless", "media", "scsi", "staging", "usb", "clk", "pinctrl", "infiniband", "video", "iio",
        "crypto", "input", "mtd", "hwmon", "acpi", "s390",
    )),
    "*/Documentation/*/*", "*/sound/*.[chS]", "*/tools/perf/*", "*/tools/testing/*", "*/samples/*.[chS]",
]  # fmt: skip

_UNFINISHED = ".building-"

Say = Callable[[str, float], None]


class BuildFailed(Exception):
    """The text says which step, the tool's own last words and where its whole output is."""


def missing_packages() -> list[str]:
    if shutil.which("dpkg-query") is None:
        return list(PACKAGES)
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *PACKAGES],
        capture_output=True,
        text=True,
    )
    there = {line.split()[0] for line in listed.stdout.splitlines() if line.endswith("ii ")}
    return [name for name in PACKAGES if name not in there]


def source_version() -> str:
    """The source package's version, "" when it is not installed."""
    if shutil.which("dpkg-query") is None:
        return ""
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", store.SOURCE_PACKAGE], capture_output=True, text=True
    )
    return shown.stdout.strip() if shown.returncode == 0 else ""


def build(say: Say, verify: Callable[[Path], dict[str, object]], jobs: int | None = None) -> Kernel:
    """Build and keep the kernel; of a build that fails only its log is kept, of one that is interrupted nothing.

    say(step, share done) is called as it goes on. verify boots the kernel, raises when it does not work, and says what it can do. Raises BuildFailed.
    """
    source = next((path for path in store.SOURCES if path.is_file()), None)
    version = source_version()
    if source is None or not version:
        raise BuildFailed(f"{store.SOURCES[0]} is not there; install {store.SOURCE_PACKAGE}")
    started_s = time.monotonic()
    cache = store.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache), _folder(cache / store.key_of(version)) as folder:
        if (free := shutil.disk_usage(cache).free) < _FREE_BYTES:
            raise BuildFailed(
                f"{cache}: {free / 2**20:.0f} MiB are free, a build needs {_FREE_BYTES / 2**20:.0f}; "
                "make room, or name another disk with XDG_CACHE_HOME"
            )
        say("check the source", 0.0)
        _check_source(source)
        log = folder / "build.log"
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=cache) as name, log.open("w") as out:
            work = Path(name)
            binary = _compile(work, source, out, say, jobs or len(os.sched_getaffinity(0)))
            say("strip", 1.0)
            _step("strip", ["strip", str(binary)], work, out)
            say("boot", 1.0)
            capabilities = verify(binary)
            part = folder / "linux.part"  # a run may have the old one open, which then cannot be written
            shutil.copy2(binary, part)
            part.replace(folder / "linux")
            release = (work / "out" / "include" / "config" / "kernel.release").read_text(encoding="ascii")
        kernel = Kernel(
            folder / "linux",
            folder.name,
            version,
            release.strip(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            round(time.monotonic() - started_s, 1),
            (folder / "linux").stat().st_size,
            _first_line(["gcc", "--version"]),
            capabilities,
        )
        store.save(kernel)
    return kernel


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One build at a time; what one that was killed left is taken away."""
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildFailed(
                f"another build is going on in {cache}; call this again when it is done"
            ) from None
        for left in cache.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """The new kernel's folder. A kernel that was there stays until another is whole; a full disk is named."""
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException as error:
        (folder / "linux.part").unlink(missing_ok=True)
        is_stopped = not isinstance(error, Exception)
        if not (folder / "kernel.json").exists() and (is_stopped or not (folder / "build.log").exists()):
            shutil.rmtree(folder)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildFailed(
                f"{folder.parent}: the disk is full; a build needs {_FREE_BYTES / 2**20:.0f} MiB; make room, "
                "or name another disk with XDG_CACHE_HOME"
            ) from None
        raise


def _check_source(source: Path) -> None:
    """apt has checked the package's signature; this is about what happened to the file since (dpkg(1), --verify)."""
    done = subprocess.run(["dpkg", "--verify", store.SOURCE_PACKAGE], capture_output=True, text=True)
    if any(line.split()[-1] == str(source) for line in done.stdout.splitlines() if line.strip()):
        raise BuildFailed(
            f"{source} is not the file that {store.SOURCE_PACKAGE} installed (dpkg --verify); "
            f"install it again: apt-get install --reinstall {store.SOURCE_PACKAGE}"
        )


def _compile(work: Path, source: Path, out, say: Say, jobs: int) -> Path:
    tree, objects = work / "source", work / "out"
    tree.mkdir()
    objects.mkdir()
    say("unpack", 0.0)
    unpack = ["tar", "xf", str(source), "-I", f"xz -T{jobs}", "--strip-components=1", "-C", str(tree)]
    _step("unpack", [*unpack, *(f"--exclude={pattern}" for pattern in _NEVER)], work, out)
    say("patch", 0.0)
    try:
        _step("patch", ["patch", "-s", "-p1", "-d", str(tree), "-i", str(store.PATCH)], work, out)
    except BuildFailed as error:
        raise BuildFailed(
            f"{error}; {store.PATCH.name} is made for {store.SOURCE_PACKAGE} of Debian 12"
        ) from None
    say("configure", 0.0)
    make = ["make", "-s", "ARCH=um", f"O={objects}"]
    _step("configure", [*make, "tinyconfig"], tree, out)
    merge = [
        "scripts/kconfig/merge_config.sh",
        "-m",
        "-O",
        str(objects),
        str(objects / ".config"),
        str(store.CONFIG),
    ]
    _step("configure", merge, tree, out)
    _step("configure", [*make, "olddefconfig"], tree, out)
    _check_configuration(objects / ".config")
    done = 0

    def count(line: str) -> None:
        nonlocal done
        done += line.startswith("  CC ")
        say("compile", min(0.99, done / _OBJECTS))

    # Without the host's name and time in it, the same source gives the same kernel.
    stamp = {
        "KBUILD_BUILD_TIMESTAMP": "2024-01-01",
        "KBUILD_BUILD_USER": "allowlab",
        "KBUILD_BUILD_HOST": "lab",
    }
    _step("compile", ["make", "ARCH=um", f"O={objects}", f"-j{jobs}", "linux"], tree, out, count, stamp)
    return objects / "linux"


def _step(
    name: str,
    argv: list[str],
    cwd: Path,
    out,
    each: Callable[[str], None] = lambda line: None,
    env: dict[str, str] | None = None,
) -> None:
    """Runs a tool to its end, its words into the log; Ctrl-C ends it with all it started, and so does the death of this process."""
    try:
        process = subprocess.Popen(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True, env={**os.environ, "LC_ALL": "C", **(env or {})},
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0),  # PR_SET_PDEATHSIG
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildFailed(f"{argv[0]} is not installed") from None
    last, is_full = "", False
    assert process.stdout is not None
    try:
        for line in process.stdout:
            out.write(line)
            each(line)
            last = line.strip() if line.strip() and not line.startswith("make") else last
            is_full |= os.strerror(errno.ENOSPC) in line
        code = process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.read()  # until the last compiler has ended: nothing writes any more when the folder goes
        raise
    out.flush()
    if code and (is_full or shutil.disk_usage(cwd).free < _FULL_BYTES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cwd))
    if code:
        raise BuildFailed(f"{name} failed ({' '.join(argv[:3])}): {last}; the whole output is in {out.name}")


def _check_configuration(path: Path) -> None:
    """An option whose conditions do not hold is dropped without a word: then the kernel would be another than asked for."""
    chosen = path.read_text(encoding="ascii").splitlines()
    lines = store.CONFIG.read_text(encoding="ascii").splitlines()
    dropped = sorted({line for line in lines if line.endswith("=y")} - set(chosen))
    if dropped:
        raise BuildFailed(
            f"the kernel's configuration dropped {', '.join(dropped)}: this source does not have them"
        )
    off = {line.split()[1] for line in lines if line.endswith(" is not set")}
    chosen_off = sorted(name for name in off if f"{name}=y" in chosen)
    if chosen_off:  # such as HW_RANDOM, which UML_RANDOM selects: the host's entropy would make runs differ
        raise BuildFailed(
            f"the kernel's configuration has {', '.join(chosen_off)}, which it must not: something selects them"
        )


def _first_line(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True).stdout.partition("\n")[0]


if __name__ == "__main__":
    from testbed.world.uml.verify import verify

    print(build(lambda step, share: print(f"{step} {share:.0%}", file=sys.stderr), verify))
