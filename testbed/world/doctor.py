"""The doctor: what this machine offers a lab, by trying; what is missing, what that means, and how to get it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from testbed.world.capabilities import FEATURES, Capabilities
from testbed.world.programs import PROGRAMS
from testbed.world.refusal import explain
from testbed.world.world import WorldError, open_world

_PROBING_TIMEOUT_S = 20.0
_NOBODY = 65534
_CLONE_NEWUSER = 0x10000000  # sched.h

Status = Literal["ok", "missing", "substituted", "optional"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's answer. status "missing" makes a lab impossible; text is for people, "" when ok."""

    name: str
    status: Status
    title: str
    text: str


def probe() -> Capabilities:
    """Try everything in a throw-away world (about 0.4 s). Raises WorldError when no world can be opened."""
    argv = [sys.executable, "-m", "testbed.world.probes"]
    with open_world(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as world:
        try:
            out, err = world.process.communicate(timeout=_PROBING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise WorldError(
                f"the kernel's features could not be probed within {_PROBING_TIMEOUT_S:.0f} s"
            ) from None
        code = world.wait()
    if code:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise WorldError(f"the kernel's features could not be probed: {last or f'exit code {code}'}")
    found = json.loads(out)
    failures = found["failures"] | {"user_namespaces": _user_namespaces()}
    return Capabilities(
        kernel=platform.release(),
        machine=platform.machine(),
        is_root=os.geteuid() == 0,
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        programs=found["programs"],
        reasons={name: why for name, why in failures.items() if why},
        **{feature.name: not failures[feature.name] for feature in FEATURES},  # type: ignore[arg-type]
    )


def findings(capabilities: Capabilities) -> list[Finding]:
    """Every feature and program, in the order of the tables."""
    return [*_feature_findings(capabilities), *_program_findings(capabilities)]


def can_run(capabilities: Capabilities) -> bool:
    return all(finding.status != "missing" for finding in findings(capabilities))


def lines(capabilities: Capabilities) -> list[str]:
    """The answer for people: one line for what is there, one or two for each thing that is not."""
    found = findings(capabilities)
    who = "root" if capabilities.is_root else "an ordinary user (user namespace)"
    gib = capabilities.memory_bytes / 2**30
    head = f"Linux {capabilities.kernel} on {capabilities.machine}, {capabilities.cpus} CPUs, {gib:.1f} GiB, as {who}"
    words = {"missing": "MISSING", "substituted": "replaced", "optional": "absent"}
    text = [head, "works: " + ", ".join(finding.title for finding in found if finding.status == "ok")]
    text += [f"{words[f.status]:9}{f.title}: {f.text}" for f in found if f.status != "ok"]
    verdict = (
        "labs run here" if can_run(capabilities) else "no lab runs here until what is MISSING has been added"
    )
    return [*text, verdict]


def _feature_findings(capabilities: Capabilities) -> list[Finding]:
    has_substitute = capabilities.iptables_nfqueue and capabilities.nfqueue
    result = []
    for feature in FEATURES:
        status: Status = "ok"
        text = ""
        if not getattr(capabilities, feature.name):
            status = "missing" if feature.need == "required" else feature.need
            # NFQUEUE is only needed where netem is not there, and netem only where NFQUEUE is not.
            if feature.name in ("netem", "iptables_nfqueue", "nfqueue") and not (
                capabilities.netem or has_substitute
            ):
                status = "missing"
            elif feature.name in ("iptables_nfqueue", "nfqueue"):
                status = "optional"
            reason = capabilities.reasons.get(feature.name, "")
            text = f"{feature.without}; get it: {feature.get}" + (f" [{reason}]" if reason else "")
        result.append(Finding(feature.name, status, feature.title, text))
    return result


def _program_findings(capabilities: Capabilities) -> list[Finding]:
    result = []
    for program in PROGRAMS:
        version = capabilities.programs.get(program.name)
        is_needed = program.is_required and not (
            program.name == "wireguard-go" and capabilities.kernel_wireguard
        )
        if version is not None:
            result.append(Finding(program.name, "ok", f"{program.name} {version}".strip(), ""))
        else:
            text = f"{program.need}; get it: sudo apt-get install {program.package}"
            result.append(Finding(program.name, "missing" if is_needed else "optional", program.name, text))
    return result


def _user_namespaces() -> str:
    """Whether an ordinary user may open a world: tried as this user, or as nobody when this is root."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            libc = ctypes.CDLL(None, use_errno=True)
            # A user namespace alone may be allowed and be worth nothing (Ubuntu 24.04): a network namespace needs its rights.
            os._exit(
                0
                if libc.unshare(_CLONE_NEWUSER) == 0 and libc.unshare(0x40000000) == 0
                else ctypes.get_errno()
            )
        except OSError as error:
            os._exit(error.errno or 255)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return explain("userns", "EPERM", os.strerror(number), "") if number else ""
