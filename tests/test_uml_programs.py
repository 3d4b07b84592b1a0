"""What programs must not notice of the lab's kernel: registers that stay in the host's process, pages given before they are asked for.

Two programs in C, compiled here, look at their own registers and memory and print "ok" (kernel.patch; docs/virtual-clock.md).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.world.uml import store
from testbed.world.uml.machine import VirtualTime, open_machine, quietest_cpu

_INSIDE = "/run/program"  # the private /tmp inside would hide it


@pytest.fixture(scope="module", params=["uml_registers", "uml_memory"])
def program(request, tmp_path_factory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not here, to compile the program")
    path = tmp_path_factory.mktemp("program") / request.param
    source = Path(__file__).with_name(f"{request.param}.c")
    subprocess.run(["gcc", "-O1", "-pthread", "-o", str(path), str(source)], check=True)
    return path


def test_the_labs_kernel_keeps_registers_and_memory(program, tmp_path):
    try:
        kernel = store.current()
    except store.NoKernel as error:
        pytest.skip(str(error))
    with open_machine(
        kernel.path,
        [f"{_INSIDE}/{program.name}", "/tmp/file"],
        folders={_INSIDE: program.parent},
        log=tmp_path / "log",
        virtual=VirtualTime(1_731_232_800 * 10**9, 1),
        cpu=quietest_cpu(),
    ) as machine:
        lines = list(machine.lines())
        code = machine.wait()
    assert (code, lines) == (0, ["ok"]), (tmp_path / "log").read_text(encoding="utf-8", errors="replace")


def test_the_program_is_right_about_the_hosts_own_kernel(program, tmp_path):
    done = subprocess.run([str(program), str(tmp_path / "file")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ok\n")
