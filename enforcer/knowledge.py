"""What the agent knows about an address: registrations that cover it, and those that did. For audits and explanations."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from enforcer.allowlist import Entry
from enforcer.cells import PORTLESS, Index
from enforcer.dataplanes import Stop
from enforcer.decide import Lookup
from enforcer.policy import Match

_MOST_ENDED = 100_000  # the oldest are forgotten first
_EVERY_KIND = ("wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "l2tp", "pptp", "openconnect")


@dataclass(frozen=True, slots=True)
class Ended:
    """A registration that stopped being active: state says why ("revoked", "suspended", "expired", "changed", "not-yet-valid")."""

    entry: Entry
    state: str
    since_ns: int


class Knowledge:
    """Registrations that ended, found by the flows they would have covered."""

    def __init__(self, match: Match) -> None:
        self._index = Index(match)
        self._ended: dict[int, Ended] = {}

    def end(self, entry: Entry, state: str, since_ns: int) -> None:
        self.revive(entry.registration)
        self._ended[entry.registration] = Ended(entry, state, since_ns)
        self._index.add(entry)
        if len(self._ended) > _MOST_ENDED:
            self.revive(next(iter(self._ended)))

    def revive(self, registration: int) -> None:
        if self._ended.pop(registration, None) is not None:
            self._index.remove(registration)

    def about(self, stop: Stop) -> dict[str, Any]:
        """registration and registration_state of a stopped packet; both None when none ever covered it."""
        ended = self._find(stop)
        if ended is None:
            return {"registration": None, "registration_state": None}
        return {"registration": ended.entry.registration, "registration_state": ended.state}

    def ended(self) -> list[Ended]:
        return list(self._ended.values())

    def _find(self, stop: Stop) -> Ended | None:
        entry = covering(self._index, stop)
        return None if entry is None else self._ended[entry.registration]


def covering(index: Lookup, stop: Stop) -> Entry | None:
    """The entry whose ends and protocol are those of a stopped packet, whatever its validity; None without one."""
    src, dst = ip_address(stop.src or "0.0.0.0"), ip_address(stop.dst or "0.0.0.0")
    if stop.protocol is not None:
        kinds = {"l2tp": ("l2tp", "l2tp-ip"), "pptp": ("pptp", "gre")}.get(stop.protocol, (stop.protocol,))
    else:
        kinds = _EVERY_KIND if stop.transport in ("udp", "tcp") else PORTLESS
    for kind in kinds:
        entry = index.find(src.version, kind, int(src), stop.src_port, int(dst), stop.dst_port, None)
        if entry is not None:
            return entry
    return None
