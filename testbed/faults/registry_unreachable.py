"""The registry cannot be reached: its port is silent to the network, as in an outage of its hosting. It goes on running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.faults.site import Site, run

TABLE = "inet fault_registry_unreachable"


@contextmanager
def registry_unreachable(site: Site, node: str, _arguments: Mapping[str, Any]) -> Iterator[None]:
    """Drops, without a word, what goes to and comes from the registry's port; officers on the node itself still reach it."""
    authority = site.lab.plan.authority
    if authority is None or authority.node != node:
        raise ValueError(f"the registry does not run on '{node}'")
    port = authority.port
    rules = (
        f"table {TABLE} {{ "
        f"chain in {{ type filter hook input priority raw; iifname != lo tcp dport {port} drop; }}; "
        f"chain out {{ type filter hook output priority raw; oifname != lo tcp sport {port} drop; }}; }}"
    )
    try:
        run(site.lab, node, ["nft", rules])
        yield
    finally:
        run(site.lab, node, ["nft", f"add table {TABLE}; delete table {TABLE}"])
