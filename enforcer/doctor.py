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

from enforcer import kernel_counts, privileges
from enforcer.allowlist import Allowlist, Entry
from enforcer.dataplanes import Dataplane, DataplaneError
from enforcer.policy import Policy, parse_policy

ACTIONS = ("drop", "reject", "police", "observe")
_KINDS = {
    "nft": "an nftables table, in the kernel; the default",
    "bpf": "an eBPF program at the inside interfaces, the fastest; for root only",
    "nfqueue": "first packets in Python by NFQUEUE; portable, slow, for comparison",
}


def probe() -> dict[str, Any]:
    """The findings. The host's network is not touched: the trying happens in a namespace made for it, by a child process."""
    argv = [sys.executable, "-m", "enforcer.doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    findings: dict[str, Any] = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "agent": agent_notes(),
    }
    if done.returncode != 0:
        findings["problem"] = (
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the probe died"
        )
        return findings
    return findings | json.loads(done.stdout)


def render(findings: dict[str, Any]) -> str:
    """A table of what works, then what to know of each dataplane before one is chosen."""
    lines = [f"kernel {findings['kernel']}, Python {findings['python']}"]
    lines += [f"agent: {note}" for note in findings.get("agent", ())]
    if "problem" in findings:
        return "\n".join([*lines, f"nothing could be tried: {findings['problem']}"])
    lines[0] += "; each was tried in a network namespace of its own, and nothing is left of it"
    lines += ["", ("dataplane  works  " + "".join(f"{action:9}" for action in ACTIONS)).rstrip()]
    for name, each in findings["dataplanes"].items():
        cells = [f"{name:10} {_yes(each['works']):6}"]
        cells += [f"{_yes(each['actions'].get(action) is None and each['works']):8}" for action in ACTIONS]
        lines.append(" ".join(cells).rstrip())
    for name, each in findings["dataplanes"].items():
        refused = [why for why in each["actions"].values() if why]
        lines += ["", f"{name}: {_KINDS[name]}", *(f"  - {line}" for line in (*refused, *each["notes"]))]
    return "\n".join(lines)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def agent_notes() -> list[str]:
    """What the agent meets here whatever its dataplane: its privileges, and the kernel's table of connections."""
    has = privileges.held()
    notes = []
    for dataplane, needed in privileges.STARTING.items():
        missing = [name for name in needed if name not in has and name != "CAP_SETPCAP"]
        notes.append(
            f"{dataplane} can be started by this user"
            if not missing
            else f"{dataplane} needs {', '.join(missing)}, which this user lacks: start it as root, or by systemd (enforcer/systemd)"
        )
    room = kernel_counts.conntrack_room()
    if room is not None:
        notes.append(
            f"the kernel tracks at most {room[1]} connections, {room[0]} now; past that it drops new flows, VPN or not (nf_conntrack_max)"
        )
    return notes


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


def _try(make: Callable[[Policy], Dataplane], knows: Callable[[], list[str]]) -> dict[str, Any]:
    """Load a list under each action. actions: None, or why it is refused; drop and observe are what every policy may need."""
    policy = parse_policy(
        (files("enforcer") / "policies" / "registered-pairs.policy.yaml").read_text("utf-8")
    )
    entry = Entry(1, "doctor", ("192.0.2.1/32", "2001:db8::/64"), ("198.51.100.0/24", "2001:db8:1::1/128"))
    actions: dict[str, str | None] = {}
    for action in ACTIONS:
        tried = replace(policy, action=action, police_bps=64_000 if action == "police" else None)
        actions[action] = None
        try:
            dataplane = make(tried)
            try:
                dataplane.load(Allowlist(1, {1: entry}))
                dataplane.counters()
            finally:
                dataplane.close(remove=True)
        except (DataplaneError, OSError) as error:
            actions[action] = str(error).splitlines()[0]
    works = actions["drop"] is None and actions["observe"] is None
    if not works:
        reasons = dict.fromkeys(why for why in actions.values() if why)
        return {"works": False, "actions": {}, "notes": list(reasons)}
    return {"works": True, "actions": actions, "notes": knows()}


def _nft() -> dict[str, Any]:
    from enforcer.dataplanes.libnft import Nft
    from enforcer.dataplanes.nft import NftDataplane

    def knows() -> list[str]:
        way = Nft().way
        faster = "" if way == "libnftables" else " (install libnftables1 for faster ones)"
        return [
            f"changes go through {way}{faster}",
            "the conntrack mark must be its own: no other rule may set it",
        ]

    return _try(NftDataplane, knows)


def _bpf() -> dict[str, Any]:
    from enforcer.dataplanes.bpf import SHORTCOMINGS, BpfDataplane

    return _try(
        lambda policy: BpfDataplane(policy, ("lo",), most_cells=1000, most_flows=1000),
        lambda: [each for each in SHORTCOMINGS if not each.startswith("actions ")],
    )


def _nfqueue() -> dict[str, Any]:
    from enforcer.dataplanes.nfqueue import SHORTCOMINGS, NfqueueDataplane

    return _try(NfqueueDataplane, lambda: list(SHORTCOMINGS))


def main() -> None:
    try:
        _own_namespace()
    except PermissionError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"dataplanes": {"nft": _nft(), "bpf": _bpf(), "nfqueue": _nfqueue()}}))


if __name__ == "__main__":
    main()
