"""The bpf dataplane: a classifier on clsact of the inside interfaces, compiled on first use; maps hold cells, flows, counters."""

from __future__ import annotations

from enforcer.dataplanes import DataplaneError
from enforcer.policy import Policy


class BpfDataplane:
    """Not offered yet: making one says so."""

    name = "bpf"

    def __init__(self, policy: Policy, inside: tuple[str, ...]) -> None:
        raise DataplaneError("the bpf dataplane is not complete in this version; use dataplane: nft")
