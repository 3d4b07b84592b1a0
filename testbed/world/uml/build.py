"""Builds the lab's kernel from the distribution's own source package: unpack, patch, configure, compile, strip, boot once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
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
_OBJECTS = 1690  # of this configuration, for the share that is done
_FREE_BYTES = 3 * 2**30

Say = Callable[[str, float], None]


class BuildFailed(Exception):
    """The text says which step, the tool's own last words and where its whole output is."""


def missing_packages() -> list[str]:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *PACKAGES],
        capture_output=True,
        text=True,
    )
    there = {line.split()[0] for line in listed.stdout.splitlines() if line.endswith("ii ")}
    return [name for name in PACKAGES if name not in there]


def source_version() -> str:
    """The source package's version, "" when it is not installed."""
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", store.SOURCE_PACKAGE], capture_output=True, text=True
    )
    return shown.stdout.strip() if shown.returncode == 0 else ""


def build(say: Say, verify: Callable[[Path], dict[str, object]], jobs: int | None = None) -> Kernel:
    """Build and keep the kernel; nothing is kept of a build that fails but its log.

    say(step, share done) is called as it goes on. verify boots the kernel, raises when it does not work, and says what it can do. Raises BuildFailed.
    """
    source = next((path for path in store.SOURCES if path.is_file()), None)
    version = source_version()
    if source is None or not version:
        raise BuildFailed(f"{store.SOURCES[0]} is not there; install {store.SOURCE_PACKAGE}")
    started_s = time.monotonic()
    key = store.key_of(version)
    folder = store.cache_folder() / key
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with (
        tempfile.TemporaryDirectory(prefix=".building-", dir=store.cache_folder()) as name,
        log.open("w") as out,
    ):
        work = Path(name)
        if (free := shutil.disk_usage(work).free) < _FREE_BYTES:
            raise BuildFailed(
                f"{work.parent}: {free / 2**30:.1f} GiB are free, a build needs {_FREE_BYTES / 2**30:.0f}"
            )
        binary = _compile(work, source, out, say, jobs or len(os.sched_getaffinity(0)))
        say("strip", 1.0)
        _step("strip", ["strip", str(binary)], work, out)
        say("boot", 1.0)
        capabilities = verify(binary)
        target = folder / "linux"
        shutil.copy2(binary, target)
        release = (work / "out" / "include" / "config" / "kernel.release").read_text(encoding="ascii").strip()
    kernel = Kernel(
        target,
        key,
        f"{version}",
        release,
        datetime.now(UTC).isoformat(timespec="seconds"),
        round(time.monotonic() - started_s, 1),
        target.stat().st_size,
        _first_line(["gcc", "--version"]),
        capabilities,
    )
    store.save(kernel)
    return kernel


def _compile(work: Path, source: Path, out, say: Say, jobs: int) -> Path:
    tree, objects = work / "source", work / "out"
    tree.mkdir()
    objects.mkdir()
    say("unpack", 0.0)
    _step("unpack", ["tar", "xf", str(source), "--strip-components=1", "-C", str(tree)], work, out)
    say("patch", 0.0)
    _step("patch", ["patch", "-s", "-p1", "-d", str(tree), "-i", str(store.PATCH)], work, out)
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
    """Runs a tool to its end, its words into the log; Ctrl-C ends it with all it started."""
    try:
        process = subprocess.Popen(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True, env={**os.environ, "LC_ALL": "C", **(env or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildFailed(f"{argv[0]} is not installed") from None
    last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            each(line)
            last = line.strip() or last
        code = process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    out.flush()
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
