"""A "technical glitch": the gateway stops honouring the allowlist while its agent believes that all is well.

The kernel's lookups of registrations are stepped over by one rule at the head of each, and the gateway forgets its
connections, so that live tunnels are judged anew. Sets and maps stay as the agent knows them: its updates go on working,
its counters and its serial look right, and each block it reports says "unregistered".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import FaultLab, Site, enforcers_at, run

TABLE = "allowlist"  # enforcer.dataplanes.nft
_LOOKUPS = "allow-"  # its chains that look registrations up, one per kind of VPN
_COMMENT = "fault: allowlist-ignored"


@contextmanager
def allowlist_ignored(site: Site, node: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Raises RuntimeError when the enforcer's table has no lookups to step over (another dataplane, or not started)."""
    enforcers_at(site, node)
    lab = site.lab
    chains = _lookups(lab, node)
    if not chains:
        raise RuntimeError(
            f"{node}: table inet {TABLE} has no chain {_LOOKUPS}*; this fault needs the nft dataplane, applied"
        )
    commands = "; ".join(f'insert rule inet {TABLE} {chain} return comment "{_COMMENT}"' for chain in chains)
    try:
        run(lab, node, ["nft", commands])
        run(lab, node, ["conntrack", "-F"])
        yield
    finally:
        _heal(lab, node)


def _heal(lab: FaultLab, node: str) -> None:
    """Take our rules out again; a table the agent has rebuilt meanwhile has none."""
    handles = [
        (entry["chain"], entry["handle"])
        for entry in _table(lab, node, "rule")
        if entry.get("comment") == _COMMENT
    ]
    if handles:
        commands = "; ".join(f"delete rule inet {TABLE} {chain} handle {handle}" for chain, handle in handles)
        run(lab, node, ["nft", commands])


def _lookups(lab: FaultLab, node: str) -> list[str]:
    return [entry["name"] for entry in _table(lab, node, "chain") if entry["name"].startswith(_LOOKUPS)]


def _table(lab: FaultLab, node: str, kind: str) -> list[dict[str, Any]]:
    """The table's objects of one kind; -t leaves the elements out, which would take seconds for a large allowlist."""
    listed = json.loads(run(lab, node, ["nft", "-j", "-t", "-a", "list", "table", "inet", TABLE]))
    return [entry[kind] for entry in listed["nftables"] if kind in entry]
