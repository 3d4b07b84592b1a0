"""The allowlist: what follows from the ledger at one serial number. Pure data; the feed carries it, dataplanes load it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from enforcer.protocols import VPN_PROTOCOLS

# What kinds of registrants there are: on the form, in an entry, and in a policy that counts some of them only.
Category = Literal["company", "freelancer", "call-centre", "bank", "provider", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One active registration.

    registration is its number (1..2**31-1; it is also the conntrack mark of its flows). Prefixes are CIDR strings of both
    families without host bits. Empty endpoint_ports means any port; empty protocols means any VPN protocol.
    Validity is in nanoseconds since the Unix epoch; valid_until_ns None has no end. category is the application's (a Category);
    "" in lists from before there were any.
    """

    registration: int
    registrant: str
    subscriber_prefixes: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    valid_from_ns: int = 0
    valid_until_ns: int | None = None
    category: str = ""

    def to_json(self) -> dict[str, Any]:
        """The entry as the feed writes it: lists for tuples, the same keys; category only when there is one."""
        return {
            "registration": self.registration,
            "registrant": self.registrant,
            "subscriber_prefixes": list(self.subscriber_prefixes),
            "endpoint_prefixes": list(self.endpoint_prefixes),
            "endpoint_ports": list(self.endpoint_ports),
            "protocols": list(self.protocols),
            "valid_from_ns": self.valid_from_ns,
            "valid_until_ns": self.valid_until_ns,
            **({"category": self.category} if self.category else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], shared: dict[Any, Any] | None = None) -> Entry:
        """Raises ValueError when a key is missing or holds something else, a protocol unknown, or a number out of range.

        The prefixes themselves are checked by `cells.check_prefixes`. shared: entries that are read with the same dict have one
        object for equal registrants, endpoints, ports and protocols; a list of a million takes a third less memory so.
        """
        share = {}.setdefault if shared is None else shared.setdefault
        try:
            registrant = str(data["registrant"])
            endpoints, protocols = _words(data["endpoint_prefixes"]), _words(data["protocols"])
            ports = tuple(int(port) for port in data["endpoint_ports"])
            entry = cls(
                registration=int(data["registration"]),
                registrant=share(registrant, registrant),
                subscriber_prefixes=_words(data["subscriber_prefixes"]),
                endpoint_prefixes=share(endpoints, endpoints),
                endpoint_ports=share(ports, ports),
                protocols=share(protocols, protocols),
                valid_from_ns=int(data["valid_from_ns"]),
                valid_until_ns=None if data["valid_until_ns"] is None else int(data["valid_until_ns"]),
                category=_word(data.get("category", "")),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an allowlist entry: {error}") from error
        if not 1 <= entry.registration < 2**31:
            raise ValueError(f"registration {entry.registration} is out of range (1 to 2147483647)")
        for port in entry.endpoint_ports:
            if not 1 <= port <= 65535:
                raise ValueError(
                    f"registration {entry.registration}: port {port} is out of range (1 to 65535)"
                )
        unknown = set(entry.protocols) - set(VPN_PROTOCOLS)
        if unknown:
            raise ValueError(f"registration {entry.registration}: unknown protocol {sorted(unknown)[0]!r}")
        return entry


@dataclass(frozen=True, slots=True)
class Removal:
    """A registration that stopped being active: state says why ("revoked", "suspended", "expired", "changed")."""

    registration: int
    state: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed between two serials. An entry that changed (new address) is in `add` again under the same number."""

    from_serial: int
    serial: int
    add: tuple[Entry, ...] = ()
    remove: tuple[Removal, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowlist:
    """All entries at one serial, by registration number."""

    serial: int
    entries: dict[int, Entry] = field(default_factory=dict)

    def after(self, delta: Delta) -> Allowlist:
        """The allowlist with the delta applied. Raises ValueError if the delta does not start at this serial or goes back."""
        if delta.from_serial != self.serial:
            raise ValueError(f"delta starts at serial {delta.from_serial}, not at {self.serial}")
        if delta.serial <= self.serial:
            raise ValueError(f"delta ends at serial {delta.serial}, not after {self.serial}")
        entries = dict(self.entries)
        for removal in delta.remove:
            entries.pop(removal.registration, None)
        for entry in delta.add:
            entries[entry.registration] = entry
        return Allowlist(delta.serial, entries)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a word")
    return value


def _words(values: Any) -> tuple[str, ...]:
    """A list of strings; a bare string would be taken for a list of letters."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} is not a list of strings")
    return tuple(values)
