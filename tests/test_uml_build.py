"""Building the lab's kernel, with a source so small that it takes a moment: what is kept, what is said when something fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from testbed.world.uml import build, store

_MAKEFILE = """\
tinyconfig: ; @touch $(O)/.config
olddefconfig: ; @true
linux:
\t@echo '  CC      one.o'
\t@{compile}
\t@mkdir -p $(O)/include/config && echo 6.1.1 >$(O)/include/config/kernel.release && cp /bin/true $(O)/linux
"""
_MERGE = '#!/bin/sh\ncat "$5" >>"$4"\n'
_PATCH = "--- a/greeting\n+++ b/greeting\n@@ -1 +1 @@\n-hello\n+hello lab\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The (empty) kernel cache; the source's compilation does nothing, successfully."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, text in (("CONFIG", "CONFIG_NET=y\n"), ("PATCH", _PATCH)):
        path = tmp_path / f"kernel.{name.lower()}"
        path.write_text(text, encoding="ascii")
        monkeypatch.setattr(store, name, path)
    monkeypatch.setattr(build, "source_version", lambda: "6.1.1-1")
    compiles(tmp_path, monkeypatch, "true")
    return tmp_path / "cache" / "allowlab" / "kernel"


def compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    tree = tmp_path / "linux-source"
    merge = tree / "scripts" / "kconfig" / "merge_config.sh"
    merge.parent.mkdir(parents=True, exist_ok=True)
    merge.write_text(_MERGE, encoding="ascii")
    merge.chmod(0o755)
    (tree / "Makefile").write_text(_MAKEFILE.format(compile=command), encoding="ascii")
    (tree / "greeting").write_text("hello\n", encoding="ascii")
    with tarfile.open(tmp_path / "linux.tar.xz", "w:xz") as tar:
        tar.add(tree, tree.name)
    monkeypatch.setattr(store, "SOURCES", (tmp_path / "linux.tar.xz",))


def make(said: list[str] | None = None) -> store.Kernel:
    return build.build(
        lambda step, share: (said if said is not None else []).append(step), lambda kernel: {"veth": True}
    )


def left(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)).partition("/")[2] for path in cache.rglob("*") if path.is_file()}


def test_a_whole_build_is_kept_and_is_the_current_kernel(cache):
    said: list[str] = []
    kernel = make(said)
    assert store.current() == kernel
    assert (kernel.release, kernel.capabilities, kernel.source) == ("6.1.1", {"veth": True}, "6.1.1-1")
    assert left(cache) == {"linux", "kernel.json", "build.log"}
    assert list(dict.fromkeys(said)) == [
        "check the source", "unpack", "patch", "configure", "compile", "strip", "boot",
    ]  # fmt: skip


def test_a_failing_compiler_is_quoted_and_its_log_kept(cache, tmp_path, monkeypatch):
    compiles(tmp_path, monkeypatch, "echo 'one.c:1: error: no such thing'; exit 1")
    with pytest.raises(
        build.BuildFailed, match=r"compile failed .*one\.c:1: error: no such thing; .*build\.log"
    ):
        make()
    assert left(cache) == {"build.log"}
    compiles(tmp_path, monkeypatch, "true")
    assert make() == store.current()


def test_a_patch_that_does_not_apply_says_what_it_is_for(cache):
    store.PATCH.write_text(_PATCH.replace("-hello", "-good morning"), encoding="ascii")
    with pytest.raises(build.BuildFailed, match=r"patch failed .*made for linux-source-6\.1 of Debian 12"):
        make()


def test_a_failed_boot_keeps_no_kernel(cache):
    def refuse(kernel: Path) -> dict[str, object]:
        raise RuntimeError("it does not boot")

    with pytest.raises(RuntimeError, match="does not boot"):
        build.build(lambda step, share: None, refuse)
    assert left(cache) == {"build.log"} and not store.kernels()


def test_a_full_disk_is_named_before_and_meanwhile(cache, tmp_path, monkeypatch):
    compiles(tmp_path, monkeypatch, "echo 'cc1: fatal error: a.o: No space left on device'; exit 1")
    with pytest.raises(build.BuildFailed, match=r"the disk is full; a build needs \d+ MiB.*XDG_CACHE_HOME"):
        make()
    little = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    with pytest.raises(build.BuildFailed, match=r"1 MiB are free, a build needs \d+"):
        make()


def test_an_interrupted_build_leaves_nothing_and_ends_its_compilers(cache, tmp_path, monkeypatch):
    compiles(tmp_path, monkeypatch, f"echo $$$$ >{tmp_path}/compiler; echo '  CC      two.o'; sleep 1000")

    def interrupt(step: str, share: float) -> None:
        if (tmp_path / "compiler").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(interrupt, lambda kernel: {})
    assert list(cache.iterdir()) == []
    compiler = Path(f"/proc/{(tmp_path / 'compiler').read_text().strip()}/exe")
    with pytest.raises(OSError):  # gone, or dead and not yet waited for
        compiler.readlink()


def test_an_interrupted_rebuild_leaves_the_kernel_that_was_there(cache):
    kernel = make()

    def interrupt(step: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build(interrupt, lambda kernel: {})
    assert store.current() == kernel


def test_one_build_at_a_time_and_none_taken_away_meanwhile(cache):
    cache.mkdir(parents=True)
    other = os.open(cache, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(build.BuildFailed, match="another build is going on"):
        make()
    with pytest.raises(BlockingIOError):
        store.remove()
    os.close(other)
    (cache / ".building-killed").mkdir()
    make()
    assert left(cache) == {"linux", "kernel.json", "build.log"}
    assert not (cache / ".building-killed").exists()


def test_a_source_that_is_not_the_packages_is_refused(cache, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dpkg").write_text(
        f"#!/bin/sh\necho '??5??????   {store.SOURCES[0]}'\nexit 1\n", encoding="ascii"
    )
    (tools / "dpkg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(
        build.BuildFailed, match=r"is not the file that linux-source-6\.1 installed.*--reinstall"
    ):
        make()


def test_what_is_not_unpacked_is_neither_kconfig_nor_makefile(tmp_path):
    tree = tmp_path / "linux-source-6.1"
    wanted = [
        "arch/arm/crypto/Kconfig",
        "arch/x86/um/ptrace_64.c",
        "drivers/gpu/drm/Makefile",
        "drivers/net/tun.c",
        "sound/Kconfig",
    ]
    dropped = [
        "arch/arm/kernel/head.S",
        "drivers/gpu/drm/amd/a.c",
        "sound/core/b.h",
        "Documentation/x86/c.rst",
    ]
    for name in wanted + dropped:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    subprocess.run(["tar", "cf", "a.tar", tree.name], cwd=tmp_path, check=True)
    out = tmp_path / "out"
    out.mkdir()
    excluded = [f"--exclude={pattern}" for pattern in build._NEVER]
    subprocess.run(
        ["tar", "xf", "a.tar", "--strip-components=1", "-C", str(out), *excluded], cwd=tmp_path, check=True
    )
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(wanted)


def test_an_interrupted_second_build_says_that_the_first_kernel_stays(cache, monkeypatch) -> None:
    from click.testing import CliRunner

    from testbed import cli_kernel

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    made = build.build
    monkeypatch.setattr(build, "build", interrupted)
    monkeypatch.setattr(build, "missing_packages", list)
    monkeypatch.setattr(cli_kernel, "_STOPPING", ())
    told = CliRunner().invoke(cli_kernel.kernel, ["build", "--again"]).output
    assert told.endswith("stopped; nothing of it is kept\n")
    there = made(lambda *_: None, lambda kernel: {})
    told = CliRunner().invoke(cli_kernel.kernel, ["build", "--again"]).output
    assert f"nothing of it is kept; the kernel built {there.built} stays: {there.path}" in told
