"""What a lab kernel starts: `python -B -I -S start.py FOLDER MODULE ARGUMENT…` runs MODULE as `python -m` would, its modules and those of the programs it will start
already loaded.

FOLDER is modules.py's: its one file has all the code, so that importing asks no directory, and makes the same system calls
wherever and however the project is installed. The programs are forked from here (testbed/lab/preloaded.py).
"""

from __future__ import annotations

import importlib
import marshal
import os
import runpy
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from typing import Any


class Bundle:
    """A finder of sys.meta_path. Modules that were looked for in vain when the bundle was made are not looked for again."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        contents = marshal.loads(os.pread(self._fd, length, 8))
        self.path: list[str] = contents["path"]
        self.imported: list[str] = contents["imported"]
        self._modules: dict[str, tuple[str, int, int]] = contents["modules"]
        self._absent = frozenset(contents["absent"])
        self._start = 8 + length

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        found = self._modules.get(name)
        if found is None:
            if name in self._absent:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None
        origin, offset, length = found
        if not origin.endswith((".py", ".so")):  # a namespace package: its folder
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [origin]
            return spec
        kind = _Code if length else ExtensionFileLoader
        loader: Any = kind(name, origin)
        if length:
            loader.bundle, loader.place = self, (offset, length)
        return spec_from_file_location(name, origin, loader=loader)

    def code(self, place: tuple[int, int]) -> Any:
        offset, length = place
        return marshal.loads(os.pread(self._fd, length, self._start + offset))


class _Code(SourceFileLoader):
    bundle: Bundle
    place: tuple[int, int]

    def get_code(self, fullname: str) -> Any:
        return self.bundle.code(self.place)


def main() -> None:
    bundle = Bundle(f"{sys.argv[1]}/bundle")
    sys.path[:] = bundle.path
    sys.meta_path.insert(0, bundle)
    for name in bundle.imported:
        importlib.import_module(name)
    from testbed.lab import preloaded

    module, arguments = preloaded.begin(sys.argv[2], sys.argv[3:])
    sys.argv[:] = ["-m", *arguments]
    for name in (module, f"{module}.__main__"):
        sys.modules.pop(name, None)  # it becomes __main__
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
