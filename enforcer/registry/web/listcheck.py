"""What the allowlist said about a reported block: pure. Each thing that must fit, what was reported, what is registered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from enforcer.registry.states import LedgerEvent, Registration, after


@dataclass(frozen=True, slots=True)
class Report:
    """Somebody is registered and was blocked: when (Unix ns), from and to which address, with what. port None: not known."""

    at_ns: int
    line: str
    destination: str
    protocol: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """what: "state", "line", "destination", "protocol" or "port". listed is empty where anything goes, or nothing does."""

    what: str
    asked: str | int
    listed: tuple[str | int, ...]
    fits: bool


@dataclass(frozen=True, slots=True)
class Finding:
    rows: tuple[Row, ...]

    @property
    def is_covered(self) -> bool:
        """It should have passed: whatever stopped it did not follow the list."""
        return all(row.fits for row in self.rows)


def check(events: Iterable[LedgerEvent], report: Report) -> Finding:
    """events: the registration's own, oldest first; what came after the reported moment is left out."""
    then = as_of(events, report.at_ns)
    state = then.state if then else "pending"
    is_valid = (
        then is not None
        and state == "active"
        and (then.valid_until_ns is None or report.at_ns < then.valid_until_ns)
    )
    rows = [Row("state", "active", (state if is_valid or state != "active" else "expired",), is_valid)]
    if then is None:
        return Finding(tuple(rows))
    form = then.application
    rows += [
        Row("line", report.line, form.subscriber_prefixes, covers(form.subscriber_prefixes, report.line)),
        Row(
            "destination",
            report.destination,
            form.endpoint_prefixes,
            covers(form.endpoint_prefixes, report.destination),
        ),
        Row(
            "protocol",
            report.protocol,
            form.protocols,
            not form.protocols or report.protocol in form.protocols,
        ),
    ]
    if report.port is not None:
        ports = form.endpoint_ports
        rows.append(Row("port", report.port, ports, not ports or report.port in ports))
    return Finding(tuple(rows))


def as_of(events: Iterable[LedgerEvent], at_ns: int) -> Registration | None:
    """The registration as it stood at a moment; None before it was applied for."""
    found: Registration | None = None
    for event in events:
        if event.at_ns > at_ns:
            break
        found = after(found, event)
    return found


def covers(prefixes: Iterable[str], address: str) -> bool:
    """Whether an address is in one of the prefixes."""
    parsed = ip_address(address)
    return any(
        parsed.version == network.version and parsed in network for network in map(ip_network, prefixes)
    )
