"""The Python modules of what runs inside a lab kernel, compiled on the host before it boots.

Inside, project and Python environment are always at the same paths, and compiled modules are found in one folder made from the
sources' content. So neither where a checkout lies, nor its files' times, nor what the host happens to have compiled reaches a run: each compilation inside
would be some hundred system calls and clock readings that another run does not make. A module that is not in the folder
is compiled inside, every time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from testbed.world.uml.store import cache_folder

# Inside. /run is the kernel's own there.
PROJECT, ENVIRONMENT, COMPILED = "/run/allowlab/project", "/run/allowlab/python", "/run/allowlab/compiled"
_PROJECT = Path(__file__).resolve().parents[3]
# Before a module's name and its arguments: how programs that start others are run inside (start.py).
START = (
    *(sys.executable, "-B", "-I", "-S", "-X", f"pycache_prefix={COMPILED}"),
    *(f"{PROJECT}/testbed/world/uml/start.py", COMPILED),
)
_PACKAGES = ("testbed", "enforcer")
_LIST, _BUNDLE = "sources.json", "bundle"
_UNUSED_S = 7 * 86_400  # then a folder is taken away; no run takes that long
# What is imported inside, as a rule, so that the packages it needs are found.
_IMPORTED = (
    "testbed.timeline.play",
    "testbed.traffic.handshake_responder",
    "enforcer.cli",
    "enforcer.daemon",
    "enforcer.dataplanes.nft",
    "enforcer.dataplanes.nfqueue",
    "enforcer.registry.__main__",
    "enforcer.registry.portal",
    "enforcer.registry.timekeeper",
    "enforcer.registry.web.office",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.lifespan.on",
    "zoneinfo",
    "testbed.lab.preloaded",
)
# Found, and loaded by those who need them.
_AT_TIMES = (
    *(
        "ctypes",
        "json",
        "resource",
        "socket",
        "traceback",
        "runpy",
        "_decimal",
        "unicodedata",
        "stringprep",
        "ntpath",
    ),
    *(
        "encodings.ascii",
        "encodings.idna",
        "anyio._backends._asyncio",
        "anyio.streams.memory",
        "anyio.streams.stapled",
    ),
    *("anyio.streams.tls", "anyio.abc", "anyio.lowlevel", "cryptography.hazmat.backends.openssl.backend"),
    *("cryptography.hazmat.primitives.asymmetric.dh", "cryptography.hazmat.primitives.ciphers.modes"),
    *("cryptography.hazmat.primitives.ciphers.algorithms", "cryptography.hazmat.primitives.serialization"),
    *("pydantic.networks", "uvicorn.main", "starlette.applications"),
)
# In a process of its own: this one has imported others. What was looked for in vain (some packages do without) is remembered.
_FIND = f"""
import importlib, json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
modules, absent = {{}}, set()
class Seen:
    def find_spec(self, name, path=None, target=None):
        if BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name):
            return
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            absent.add(name)
        else:
            modules[name] = spec.origin or list(spec.submodule_search_locations)[0]
        return spec
sys.path[:] = [each for each in sys.path if each]
sys.meta_path.insert(0, Seen())
for name in {_IMPORTED!r} + {_AT_TIMES!r}:
    importlib.import_module(name)
for name, module in list(sys.modules.items()):
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or ""
    if name == module.__name__ and origin.startswith("/"):
        modules.setdefault(name, origin)
print(json.dumps({{"modules": modules, "absent": sorted(absent), "path": sys.path}}))
"""


def python_inside() -> str:
    """This interpreter's path inside: the environment's, when it is one."""
    executable = Path(sys.executable)
    if sys.prefix == sys.base_prefix or not executable.is_relative_to(sys.prefix):
        return sys.executable
    return f"{ENVIRONMENT}/{executable.relative_to(sys.prefix)}"


def mounts() -> dict[str, Path]:
    """Path inside -> folder of the host, of the project's packages and the Python environment. Not of the whole project: Python lists the
    folders of its search path, and memory and virtual time would follow from what else lies there."""
    packages = (
        *_PACKAGES,
        "tests",
    )  # whose enforcers are run by `-m`; everybody else's are found by their path
    found = {f"{PROJECT}/{each}": _PROJECT / each for each in packages if (_PROJECT / each).is_dir()}
    return found | {inside: outside for inside, outside in _folders().items() if inside != PROJECT}


def _folders() -> dict[str, Path]:
    found = {PROJECT: _PROJECT}
    if sys.prefix != sys.base_prefix:
        found[ENVIRONMENT] = Path(sys.prefix)
    return found


def compiled(spare: Path) -> Path:
    """The folder of compiled modules, made if need be, in the user's cache; where that cannot be written, in the folder `spare`."""
    key = _key()
    try:
        above = cache_folder().with_name("modules")
        for folder in sorted(above.glob(f"{key}-*")):
            if _is_whole(folder):
                with contextlib.suppress(OSError):  # somebody else's, or of a disk that cannot be written to
                    os.utime(folder)
                return folder
        above.mkdir(parents=True, exist_ok=True)
        made = _make(above, _newest(above))
        # Of other packages another folder: a run may be using the one there is.
        folder = above / f"{key}-{sha256((made / _LIST).read_bytes()).hexdigest()[:16]}"
        with contextlib.suppress(OSError):  # another run was first
            made.rename(folder)
        if made.exists():
            shutil.rmtree(made, ignore_errors=True)
        _clean(above, folder)
        return folder
    except OSError:
        return _make(spare, None)


def _key() -> str:
    """Of the interpreter and the project's sources; those of packages are compared one by one."""
    digest = sha256(repr((sys.version, sys.base_prefix, sys.implementation.cache_tag, _FIND)).encode())
    for path in _own():
        digest.update(f"{path.relative_to(_PROJECT)}\0".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _is_whole(folder: Path) -> bool:
    try:
        listed: dict[str, str] = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        return all(_hash(_outside(inside)).hex() == known for inside, known in listed.items())
    except (OSError, ValueError):
        return False


def _make(above: Path, earlier: Path | None) -> Path:
    """A new folder above: what did not change is taken from an earlier one, the rest is compiled by another process.

    Compiled code's bytes depend on what else its compiler has in memory: a fresh process has always the same.
    """
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=above))
    try:
        folder.chmod(0o755)
        _fill(folder, earlier)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _fill(folder: Path, earlier: Path | None) -> None:
    listed: dict[str, str] = {}
    left: list[tuple[str, str, str]] = []
    found = json.loads(_python(["-c", _FIND]))
    names = {name: Path(origin) for name, origin in found["modules"].items()} | _own_names()
    sources = {path for path in names.values() if path.suffix == ".py"}
    for path in sorted(sources):
        inside = _inside(path)
        hashed = _hash(path)
        if not path.is_relative_to(_PROJECT) or path.is_relative_to(sys.prefix):
            listed[inside] = hashed.hex()
        target = folder / _name(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (earlier and _taken_over(earlier / _name(inside), target, hashed)):
            left.append((str(path), str(target), inside))
    _python(["-m", "testbed.world.uml.modules"], json.dumps(left))
    _bundle(folder, names, found)
    (folder / _LIST).write_text(json.dumps(listed), encoding="utf-8")


def _taken_over(old: Path, new: Path, hashed: bytes) -> bool:
    try:
        with old.open("rb") as file:
            header = file.read(16)
        # PEP 552: magic, flags (1: by hash, and not looked at again), hash of the source.
        if header != importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + hashed:
            return False
        os.link(old, new)
    except OSError:
        return False
    return True


def _own() -> Iterator[Path]:
    for package in _PACKAGES:
        yield from sorted((_PROJECT / package).rglob("*.py"))


def _own_names() -> dict[str, Path]:
    names = {}
    for path in _own():
        words = path.relative_to(_PROJECT).with_suffix("").parts
        names[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return names


def _bundle(folder: Path, names: dict[str, Path], found: dict[str, Any]) -> None:
    """One file with all the code, for start.py: the length of its head, the head, code after code."""
    modules: dict[str, tuple[str, int, int]] = {}
    offset, codes = 0, []
    for name, path in sorted(names.items()):
        inside = _inside(path)
        code = b""  # of an extension, and of a namespace package
        if path.suffix == ".py":
            try:
                code = (folder / _name(inside)).read_bytes()[16:]
            except FileNotFoundError:  # it could not be compiled
                continue
        modules[name] = (inside, offset, len(code))
        codes.append(code)
        offset += len(code)
    path = [_inside(Path(each)) for each in found["path"]]
    head = {"modules": modules, "absent": found["absent"], "path": path, "imported": list(_IMPORTED)}
    data = marshal.dumps(head)
    (folder / _BUNDLE).write_bytes(b"".join([len(data).to_bytes(8, "little"), data, *codes]))


def _python(arguments: list[str], given: str = "") -> str:
    env = {"PATH": os.defpath, "PYTHONPATH": str(_PROJECT), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    argv = [sys.executable, "-B", *arguments]
    done = subprocess.run(argv, input=given, env=env, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"the project's modules could not be compiled: {done.stderr.strip()[-500:]}")
    return done.stdout


def _inside(path: Path) -> str:
    for inside, outside in reversed(_folders().items()):  # an environment may lie in the project
        if path.is_relative_to(outside):
            return f"{inside}/{path.relative_to(outside)}"
    return str(path)


def _outside(inside: str) -> Path:
    for above, outside in _folders().items():
        if inside.startswith(f"{above}/"):
            return outside / inside.removeprefix(f"{above}/")
    return Path(inside)


def _name(inside: str) -> str:
    """As PYTHONPYCACHEPREFIX has it."""
    path = Path(inside)
    return f"{str(path.parent).lstrip('/')}/{path.stem}.{sys.implementation.cache_tag}.pyc"


def _hash(path: Path) -> bytes:
    return importlib.util.source_hash(path.read_bytes())


def _newest(above: Path) -> Path | None:
    found = [path for path in above.iterdir() if (path / _LIST).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _clean(above: Path, kept: Path) -> None:
    for path in above.iterdir():
        with contextlib.suppress(OSError):
            if path != kept and time.time() - path.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(path)


def _compile(jobs: Iterable[tuple[str, str, str]]) -> None:
    for source, target, inside in jobs:
        with contextlib.suppress(
            py_compile.PyCompileError
        ):  # such as a template: whoever imports it will hear
            py_compile.compile(
                source,
                target,
                inside,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


if __name__ == "__main__":
    _compile(json.load(sys.stdin))
