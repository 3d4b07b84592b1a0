"""Where the lab's kernel is kept: built once a machine, under the user's cache folder, keyed by all that it is built from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed import command

CONFIG = Path(__file__).with_name("kernel.config")
PATCH = Path(__file__).with_name("kernel.patch")
# In this order: the patch is made for the first, and is tried on the others.
SOURCES = (Path("/usr/src/linux-source-6.1.tar.xz"),)
SOURCE_PACKAGE = "linux-source-6.1"
_RECIPE = 1  # goes up when build.py does something else with the same files


class NoKernel(Exception):
    """There is no kernel that can be booted; the text says what to call."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A built kernel. source: the package's version; capabilities: what was found in it when it was booted (doctor.probe)."""

    path: Path
    key: str
    source: str
    release: str
    built: str
    took_s: float
    size_bytes: int
    compiler: str
    capabilities: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/allowlab/kernel, or ~/.cache/allowlab/kernel."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "allowlab" / "kernel"


def key_of(source_version: str) -> str:
    """What the kernel is built from, in 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (CONFIG.read_bytes(), PATCH.read_bytes(), source_version.encode(), str(_RECIPE).encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def kernels() -> list[Kernel]:
    """Those in the cache that are whole, the newest first."""
    found = []
    for path in cache_folder().glob("*/kernel.json"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kernel = Kernel(**data | {"path": path.with_name("linux")})
        except (OSError, ValueError, TypeError):
            continue
        if kernel.path.is_file():
            found.append(kernel)
    return sorted(found, key=lambda kernel: kernel.built, reverse=True)


def current() -> Kernel:
    """The kernel for this version of the project. Raises NoKernel."""
    if platform.machine() != "x86_64":
        raise NoKernel(f"the lab's own kernel runs on x86-64 only, not on {platform.machine()}")
    all_of_them = kernels()
    for kernel in all_of_them:
        if kernel.key == key_of(kernel.source):
            return kernel
    why = "the one in the cache was built from other files" if all_of_them else "there is none"
    raise NoKernel(
        f"no kernel for virtual time ({why}): call `{command()} kernel build` once (about 5 minutes)"
    )


def save(kernel: Kernel) -> None:
    path = kernel.path.with_name("kernel.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kernel.to_json(), indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def remove() -> list[Path]:
    """Takes every kernel and every unfinished build out of the cache; says what was there. Raises BlockingIOError during a build."""
    folder = cache_folder()
    if not folder.is_dir():
        return []
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = sorted(folder.iterdir())
        for path in gone:
            shutil.rmtree(path)
    finally:
        os.close(descriptor)
    return gone
