"""A "technical glitch": the gateway stops honouring the allowlist while its agent believes that all is well.

The kernel's lookups of registrations are stepped over by one rule at the head of each, and the gateway forgets its
connections, so that live tunnels are judged anew. Sets and maps stay as the agent knows them: its updates go on working,
its counters and its serial look right, and each block it reports says "unregistered".
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import FaultLab, Site, enforcers_at, run

TABLE = "allowlist"  # enforcer.dataplanes.nft
_LOOKUPS = "allow-"  # its chains that look registrations up, one per kind of VPN
_COMMENT = "fault: allowlist-ignored"
_WATCH_S = 0.2  # one listing costs 6 ms (nft, terse)


@contextmanager
def allowlist_ignored(site: Site, node: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Raises RuntimeError when the enforcer's table has no lookups to step over (another dataplane, or not started)."""
    enforcers_at(site, node)
    lab = site.lab
    if not _step_over(lab, node):
        raise RuntimeError(
            f"{node}: table inet {TABLE} has no chain {_LOOKUPS}*; this fault needs the nft dataplane, applied"
        )
    healed = threading.Event()
    watch = threading.Thread(target=_watch, args=(lab, node, healed), name=f"fault-{node}", daemon=True)
    try:
        watch.start()
        yield
    finally:
        healed.set()
        watch.join()
        _heal(lab, node)


def _watch(lab: FaultLab, node: str, healed: threading.Event) -> None:
    """The agent writes its lookups anew when an update brings a new kind of entry: the glitch must outlast that."""
    while not healed.wait(_WATCH_S):
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):  # it may be writing them just now
            _step_over(lab, node)


def _step_over(lab: FaultLab, node: str) -> int:
    """Put the rule at the head of each lookup that lacks it; returns how many lookups there are."""
    objects = _table(lab, node)
    lookups = [each["chain"]["name"] for each in objects if "chain" in each]
    lookups = [name for name in lookups if name.startswith(_LOOKUPS)]
    done = {chain for chain, _handle in _ours(objects)}
    missing = [name for name in lookups if name not in done]
    if missing:
        commands = [f'insert rule inet {TABLE} {name} return comment "{_COMMENT}"' for name in missing]
        run(lab, node, ["nft", "; ".join(commands)])
        run(lab, node, ["conntrack", "-F"])
    return len(lookups)


def _heal(lab: FaultLab, node: str) -> None:
    """Take our rules out again; a table the agent has rebuilt meanwhile has none."""
    rules = _ours(_table(lab, node))
    if rules:
        commands = [f"delete rule inet {TABLE} {chain} handle {handle}" for chain, handle in rules]
        run(lab, node, ["nft", "; ".join(commands)])


def _ours(objects: list[dict[str, Any]]) -> list[tuple[str, int]]:
    rules = [each["rule"] for each in objects if "rule" in each]
    return [(rule["chain"], rule["handle"]) for rule in rules if rule.get("comment") == _COMMENT]


def _table(lab: FaultLab, node: str) -> list[dict[str, Any]]:
    """The table's objects, none when there is no table; -t leaves the elements out, which would take seconds."""
    done = lab.cmd(node, ["nft", "-j", "-t", "-a", "list", "table", "inet", TABLE])
    if done.returncode != 0:
        if "No such file or directory" in done.stderr:
            return []
        raise RuntimeError(f"{node}: cannot list table inet {TABLE}: {done.stderr.strip()}")
    return json.loads(done.stdout)["nftables"]
