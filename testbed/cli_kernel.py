"""`allowlab kernel`: the lab's own kernel, for virtual time and for hosts whose kernel lacks something."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import click

from testbed.cli_errors import Impossible, Mistake

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.group(short_help="The lab's own kernel, for virtual time: build, status, remove.")
def kernel() -> None:
    """The lab's own kernel: runs in virtual time (`run --clock virtual`), and where the host's kernel lacks something."""


@kernel.command(short_help="Build it from the distribution's kernel source (5 minutes).")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="Compilers at the same time; all processors otherwise."
)
@click.option("--again", is_flag=True, help="Build even if the kernel of this version is there.")
@click.option("--yes", is_flag=True, help="Install missing packages without asking.")
@click.option("--quiet", is_flag=True, help="No progress.")
def build(jobs: int | None, again: bool, yes: bool, quiet: bool) -> None:
    """Build it from the distribution's kernel source (about 5 minutes on two processors, 0.6 GiB for the time being)."""
    from testbed.world.uml import build as building
    from testbed.world.uml.store import NoKernel, current
    from testbed.world.uml.verify import NotVerified, verify
    from testbed.world.world import WorldError

    if not again:
        try:
            there = current()
        except NoKernel as error:
            if "x86-64" in str(error):
                raise Impossible(str(error)) from None
        else:
            click.echo(f"it is there already, built {there.built}: {there.path}")
            return
    _install(building.missing_packages(), building.PACKAGES, yes)
    show = _Progress(quiet)
    for number in _STOPPING:  # also where a shell made it deaf to Ctrl-C
        signal.signal(number, _stop)
    try:
        built = building.build(show.say, verify, jobs)
    except (building.BuildFailed, NotVerified, WorldError) as error:
        raise Impossible(str(error)) from None
    except OSError as error:
        raise Impossible(f"{error.filename or 'the cache folder'}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        show.close()
        click.echo(f"stopped; nothing of it is kept{_still_there()}", err=True)
        sys.exit(130)
    finally:
        show.close()
    size = built.size_bytes / 2**20
    click.echo(
        f"Linux {built.release} ({built.source}), {size:.1f} MiB, built and booted in {built.took_s:.0f} s"
    )
    click.echo(f"{built.path}")


@kernel.command(short_help="Say which kernels are kept and whether one fits.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(as_json: bool) -> None:
    """Say which kernels are kept and whether one fits this version; exit code 3 without one."""
    from testbed.world.uml.store import NoKernel, cache_folder, current, kernels

    found = kernels()
    try:
        fitting, why = current(), ""
    except NoKernel as error:
        fitting, why = None, str(error)
    if as_json:
        kept = [each.to_json() for each in found]
        click.echo(
            json.dumps(
                {"folder": str(cache_folder()), "current": fitting and fitting.key, "kernels": kept}, indent=1
            )
        )
        sys.exit(0 if fitting else 3)
    for each in found:
        mark = "fits" if fitting is not None and each.key == fitting.key else "of another version"
        size = each.size_bytes / 2**20
        click.echo(
            f"{each.key}  Linux {each.release} ({each.source}), {size:.1f} MiB, built {each.built} in {each.took_s:.0f} s: {mark}"
        )
    if fitting is None:
        raise Impossible(why)
    lacks = sorted(name for name, value in fitting.capabilities.items() if value is False)
    click.echo(f"it lacks: {', '.join(lacks)}" if lacks else "it has all that a lab can use")
    click.echo(str(fitting.path))


@kernel.command()
def remove() -> None:
    """Take the kept kernels away, and what an interrupted build left."""
    from testbed.world.uml.store import cache_folder, remove

    try:
        gone = remove()
    except BlockingIOError:
        raise Impossible(f"a build is going on in {cache_folder()}; stop it first") from None
    except OSError as error:
        raise Impossible(f"{error.filename or cache_folder()}: {error.strerror}") from None
    click.echo(f"removed {len(gone)} from {cache_folder()}" if gone else "there is none")


def _still_there() -> str:
    """That the kernel from before stays, when there is one."""
    from testbed.world.uml.store import NoKernel, current

    try:
        there = current()
    except NoKernel:
        return ""
    return f"; the kernel built {there.built} stays: {there.path}"


def _install(missing: list[str], why: dict[str, str], yes: bool) -> None:
    if not missing:
        return
    words = ", ".join(f"{name} ({why[name]})" for name in missing)
    line = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if shutil.which("apt-get") is None:
        raise Impossible(
            f"building needs {words}; there is no apt-get here: install their equivalents and call this again"
        )
    is_root = os.geteuid() == 0
    if not is_root and shutil.which("sudo") is None:
        raise Impossible(f"building needs {words}; ask somebody who may to call: {' '.join(line)}")
    click.echo(f"building needs {words}: installed now with apt-get (without recommended ones)", err=True)
    typed = " ".join(line) if is_root else "sudo " + " ".join(line)
    is_asked = sys.stdin.isatty() and not yes
    if is_asked and not click.confirm(f"{typed} now?", default=True, err=True):
        raise Mistake(f"nothing was done; call this again after: {typed}")
    if not is_root and not yes and not sys.stdin.isatty():
        raise Impossible(f"install them first: {typed}")
    if not _apt_get(line[1:], is_root):
        click.echo("updating the package lists and trying again", err=True)
        _apt_get(["-q", "update"], is_root)
        if not _apt_get(line[1:], is_root):
            raise Impossible(
                f"apt-get could not install them (its words are above): {typed}; a distribution without a package "
                "of that name cannot build this kernel: it is made from Debian 12's source"
            )


def _apt_get(arguments: list[str], is_root: bool) -> bool:
    argv = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "apt-get", *arguments]
    return subprocess.run(argv if is_root else ["sudo", *argv], stdout=sys.stderr).returncode == 0


def _stop(_number: int, _frame: object) -> None:
    """Once: what is unfinished is being taken away then."""
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Progress:
    """One moving line on a terminal, elsewhere a line each step and each tenth of the compilation, with the time since the beginning."""

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet, self._last, self._tenth = is_quiet, "", -1
        self._moves = sys.stderr.isatty()
        self._began_s = time.monotonic()

    def say(self, step: str, share: float) -> None:
        if self._is_quiet:
            return
        tenth = int(share * 10)
        text = f"[{time.monotonic() - self._began_s:4.0f} s] {step}" + f" {share:.0%}" * (step == "compile")
        if self._moves:
            click.echo(f"\r\033[K{text}", err=True, nl=False)
        elif step != self._last or (step == "compile" and tenth != self._tenth):
            click.echo(text, err=True)
        self._last, self._tenth = step, tenth

    def close(self) -> None:
        if self._moves and self._last:
            click.echo("\r\033[K", err=True, nl=False)
