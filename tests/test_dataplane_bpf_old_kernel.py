"""The classifier and the verifier of an older kernel: the lab's own, Linux 6.1, which has no JIT compiler and so cannot run it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from enforcer.dataplanes.bpf import _no_load
from enforcer.dataplanes.bpf_source import compiled
from enforcer.policy import load_policy
from testbed.world.uml.machine import VirtualTime, open_machine
from testbed.world.uml.store import NoKernel, current

POLICIES = sorted(Path("enforcer/policies").glob("*.policy.yaml"))
_INSIDE = "/run/allowlab/run"  # /tmp is the lab's own there
_NOT_JITED = "callbacks are not allowed in non-JITed programs"


def load_and_tell(path: str) -> None:
    """Inside: loads the object and prints what the verifier says of each program that fails."""
    from enforcer.dataplanes.bpf_library import Library, Object

    library = Library()
    libc = ctypes.CDLL(None)

    def say(level: int, form: bytes, arguments: int) -> int:
        text = ctypes.create_string_buffer(1 << 20)
        libc.vsnprintf(text, ctypes.c_size_t(len(text)), form, ctypes.c_void_p(arguments))
        if level < 2:
            print(text.value.decode(errors="replace")[-3000:], flush=True)
        return 0

    saying = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(say)
    library.c.libbpf_set_print.argtypes = [ctypes.c_void_p]
    library.c.libbpf_set_print(ctypes.cast(saying, ctypes.c_void_p))
    try:
        Object(library, Path(path)).load()
    except OSError as error:
        print(error, flush=True)
    else:
        print("loaded", flush=True)


@pytest.mark.nightly
@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.name.partition(".")[0])
def test_the_verifier_of_linux_6_1_has_nothing_against_it_but_the_missing_jit(policy, tmp_path):
    """Before Linux 6.8 the verifier does not follow from "not 0" that a size is at least 1."""
    try:
        kernel = current().path
    except NoKernel as error:
        pytest.skip(str(error))
    wanted = load_policy(policy)
    if wanted.action in ("reject", "police"):
        pytest.skip("the bpf dataplane does not offer it")
    argv = [
        sys.executable,
        "-B",
        "-m",
        "tests.test_dataplane_bpf_old_kernel",
        f"{_INSIDE}/{compiled(wanted, tmp_path).name}",
    ]
    log = tmp_path / "log"
    with open_machine(
        kernel, argv, folders={_INSIDE: tmp_path}, log=log, virtual=VirtualTime(1_731_232_800 * 10**9, 1)
    ) as machine:
        said = "\n".join(machine.lines())
        assert machine.wait() == 0, log.read_text(errors="replace")
    assert _NOT_JITED in said, said
    assert "Invalid argument" in said.splitlines()[-1] and "invalid access" not in said


def test_a_kernel_without_a_jit_is_told_from_a_verifier_that_refuses(tmp_path):
    invalid, refused, forbidden = (OSError(number, f"bpf_object__load: {number}") for number in (22, 13, 1))
    on, off = tmp_path / "on", tmp_path / "off"
    on.write_text("1\n")
    off.write_text("0\n")
    for jit in (off, tmp_path / "none"):
        assert "without a JIT compiler" in _no_load(invalid, jit)
    assert "verifier refuses" in _no_load(invalid, on)
    assert "verifier refuses" in _no_load(refused, tmp_path / "none")
    assert "does not let this user" in _no_load(forbidden, on)


if __name__ == "__main__":
    load_and_tell(sys.argv[1])
