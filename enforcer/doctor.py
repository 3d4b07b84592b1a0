"""Which dataplane can do what on this machine: tried in the kernel, in a network namespace of its own where that is permitted."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any

from enforcer.allowlist import Allowlist, Entry
from enforcer.dataplanes import Dataplane, DataplaneError
from enforcer.policy import Policy, parse_policy


def probe() -> dict[str, Any]:
    """The findings. The host's network is not touched: the trying happens in a namespace made for it, by a child process."""
    argv = [sys.executable, "-m", "enforcer.doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    findings: dict[str, Any] = {"kernel": platform.release(), "python": platform.python_version()}
    if done.returncode != 0:
        findings["problem"] = (
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the probe died"
        )
        return findings
    return findings | json.loads(done.stdout)


def render(findings: dict[str, Any]) -> str:
    lines = [f"kernel {findings['kernel']}, Python {findings['python']}"]
    if "problem" in findings:
        return "\n".join([*lines, f"nothing could be tried: {findings['problem']}"])
    for name, each in findings["dataplanes"].items():
        lines.append(f"{name}: {'works' if each['works'] else 'does not work here'}")
        lines += [f"  {line}" for line in each["notes"]]
    return "\n".join(lines)


def _own_namespace() -> None:
    """Raises PermissionError with what forbids it."""
    library = ctypes.CDLL(None, use_errno=True)
    new_user, new_net = 0x10000000, 0x40000000  # linux/sched.h
    flags = new_net if os.geteuid() == 0 else new_net | new_user
    if library.unshare(flags) != 0:
        error = os.strerror(ctypes.get_errno())
        raise PermissionError(
            f"no network namespace can be made ({error}); run it as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
        )


def _try(make: Callable[[Policy], Dataplane]) -> tuple[bool, list[str]]:
    """Load a list under each action; whether all that every policy needs works, and a line for each."""
    policy = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text("utf-8"))
    entry = Entry(1, "doctor", ("192.0.2.1/32", "2001:db8::/64"), ("198.51.100.0/24", "2001:db8:1::1/128"))
    works, notes = True, []
    for action in ("drop", "reject", "police", "observe"):
        tried = replace(policy, action=action, police_bps=64_000 if action == "police" else None)
        try:
            dataplane = make(tried)
        except DataplaneError as error:
            return False, [str(error)]
        try:
            dataplane.load(Allowlist(1, {1: entry}))
            dataplane.counters()
            notes.append(f"action {action}: yes")
        except (DataplaneError, OSError) as error:
            works = works and action in ("police", "reject")
            notes.append(f"action {action}: no ({str(error).splitlines()[0]})")
        dataplane.close(remove=action == "observe" and works)
    return works, notes


def _nft() -> dict[str, Any]:
    from enforcer.dataplanes.libnft import Nft
    from enforcer.dataplanes.nft import NftDataplane

    works, notes = _try(NftDataplane)
    if works:
        way = Nft().way
        notes.insert(
            0,
            f"changes go through {way}"
            + (" (install libnftables1 for faster ones)" if way != "libnftables" else ""),
        )
    return {"works": works, "notes": [*notes, "the conntrack mark must be its own"]}


def _nfqueue() -> dict[str, Any]:
    from enforcer.dataplanes.nfqueue import SHORTCOMINGS, NfqueueDataplane

    works, notes = _try(NfqueueDataplane)
    return {"works": works, "notes": [*notes, *(SHORTCOMINGS if works else ())]}


def _bpf() -> dict[str, Any]:
    from enforcer.dataplanes.bpf import SHORTCOMINGS, BpfDataplane

    policy = parse_policy((files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text("utf-8"))
    notes = []
    for action in ("drop", "reject", "police", "observe"):
        tried = replace(policy, action=action, police_bps=64_000 if action == "police" else None)
        try:
            dataplane = BpfDataplane(tried, ("lo",), most_cells=1000, most_flows=1000)
            dataplane.load(Allowlist(1))
            dataplane.counters()
            dataplane.close(remove=True)
            notes.append(f"action {action}: yes")
        except (DataplaneError, OSError) as error:
            if action in ("drop", "observe"):
                return {"works": False, "notes": [str(error)]}
            notes.append(f"action {action}: no ({error})")
    return {"works": True, "notes": [*notes, *SHORTCOMINGS]}


def main() -> None:
    try:
        _own_namespace()
    except PermissionError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"dataplanes": {"nft": _nft(), "nfqueue": _nfqueue(), "bpf": _bpf()}}))


if __name__ == "__main__":
    main()
