"""A registry with people in it, to look at: accounts of every role, registrations in every state, each with its history.

All names are made up; all addresses are documentation's (RFC 5737, RFC 3849).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from enforcer.registry.desk import owner
from enforcer.registry.form import application
from enforcer.registry.ledger import Ledger
from enforcer.registry.rules import Rules
from enforcer.registry.web import reports
from enforcer.registry.web.accounts import Accounts, Role
from enforcer.registry.web.listcheck import Report
from enforcer.registry.web.passwords import hashed
from enforcer.registry.worktime import PAKISTAN

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
ZONE = "Asia/Karachi"
# Ten working hours for an officer and two working days for an answer are what such portals promise (docs/registry.md).
RULES = Rules(
    validity_ns=365 * DAY_NS,
    requires_documents=True,
    reminders_ns=(30 * DAY_NS,),
    calendar=PAKISTAN,
    verification_ns=16 * HOUR_NS,
    on_silence="remind",
    decision_ns=10 * HOUR_NS,
    appeal_ns=16 * HOUR_NS,
)
ACCOUNTS: tuple[tuple[str, Role, str], ...] = (
    ("sana", "registrant", ""),
    ("indus.software", "registrant", ""),
    ("officer.khan", "officer", ""),
    ("northern.fibre", "provider", "Northern Fibre"),
    ("auditor.rao", "auditor", ""),
)


@dataclass(frozen=True, slots=True)
class _Past:
    """One registration: whose, what, and what was done so many days ago, oldest first ("no:why" is a provider's no)."""

    account: str
    registrant: str
    category: str
    documents: tuple[str, ...]
    line: str
    server: str
    protocol: str
    port: int
    acts: tuple[tuple[float, str], ...]
    provider: str = "Northern Fibre"
    purpose: str = "work for clients abroad"


_COMPANY, _FREE, _OTHER = (
    ("identity", "incorporation"),
    ("identity", "employment"),
    ("identity", "organisation"),
)
_PAST = (
    _Past("sana", "Sana Malik", "freelancer", _FREE, "203.0.113.7", "198.51.100.4", "wireguard", 51820, ((40, "apply"), (38, "yes"), (37, "approve"))),
    _Past("sana", "Sana Malik", "freelancer", _FREE, "203.0.113.7", "198.51.100.77", "openvpn-udp", 1149, ((0.4, "apply"), (0.2, "correct")), purpose="second client, in Singapore"),
    _Past("indus.software", "Indus Software (Pvt) Ltd", "company", _COMPANY, "203.0.113.16/28", "198.51.100.32/28", "ikev2", 4500, ((350, "apply"), (348, "yes"), (347, "approve"), (2, "ask-renewal"))),
    _Past("indus.software", "Indus Software (Pvt) Ltd", "company", _COMPANY, "2001:db8:70::/48", "2001:db8:900::/48", "wireguard", 51820, ((3, "apply"), (1, "yes"))),
    _Past("indus.software", "Indus Software (Pvt) Ltd", "company", _COMPANY, "203.0.113.32/28", "198.51.100.90", "openvpn-tcp", 443, ((20, "apply"), (18, "yes"), (17, "reject"), (4, "appeal"))),
    _Past("", "Ravi Bank", "bank", _OTHER, "192.0.2.0/26", "198.51.100.128/26", "ikev2", 500, ((90, "apply"), (88, "yes"), (87, "approve"), (0.2, "blocked"))),
    _Past("", "Chenab Call Centre", "call-centre", (*_COMPANY, "certificate"), "192.0.2.64/27", "198.51.100.200", "ikev2", 4500, ((120, "apply"), (119, "yes"), (118, "approve"), (6, "suspend")), "Southern Mobile"),
    _Past("", "Hilltop Hospital", "other", _OTHER, "192.0.2.100", "198.51.100.210", "openvpn-udp", 1194, ((5, "apply"), (2, "no:wrong-address"))),
    _Past("", "Harbour Traders", "company", _COMPANY, "192.0.2.110", "198.51.100.220", "l2tp", 1701, ((380, "apply"), (379, "yes"), (378, "approve"), (13, "expire"))),
    _Past("", "Quick Proxies", "provider", ("identity", "licence"), "192.0.2.120/30", "198.51.100.230", "openvpn-tcp", 443, ((60, "apply"), (58, "yes"), (57, "approve"), (10, "revoke")), "Southern Mobile"),
    _Past("", "Delta Studio", "freelancer", _FREE, "192.0.2.130", "198.51.100.240", "wireguard", 51820, ((30, "apply"), (29, "withdraw"))),
    _Past("", "Plains Relief", "other", _OTHER, "192.0.2.140", "198.51.100.250", "wireguard", 51820, ((6, "apply"),)),
)  # fmt: skip
_REASONS = {
    "approve": "papers are in order",
    "reject": "the server's address belongs to a public VPN service",
    "suspend": "certificate of the call centre ran out",
    "revoke": "traffic of third persons was carried",
}


def fill(ledger: Ledger, accounts: Accounts, password: str, now_ns: int | None = None) -> None:
    """Accounts with one password, and the registrations, into an empty ledger."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    kept = hashed(password)
    for name, role, provider in ACCOUNTS:
        accounts.add(name, kept, role, provider)
    # As it was lived, whoever's registration it is about: the ledger's times only grow.
    acts = sorted(
        (now_ns - int(days * DAY_NS), number, act)
        for number, past in enumerate(_PAST)
        for days, act in past.acts
    )
    numbers: dict[int, int] = {}
    with ledger.batch():
        for at_ns, position, act in acts:
            past = _PAST[position]
            if act == "apply":
                numbers[position] = _apply(ledger, past, at_ns)
            else:
                _act(ledger, numbers[position], act, past, at_ns)


def introduction(password: str) -> str:
    """What somebody needs to look around, for the terminal."""
    lines = [f"demo accounts, each with the password {password!r}:"]
    lines += [
        f"  {name:<16} {role}{f' ({provider})' if provider else ''}" for name, role, provider in ACCOUNTS
    ]
    return "\n".join(lines)


def _apply(ledger: Ledger, past: _Past, at_ns: int) -> int:
    form = application(
        {
            "registrant": past.registrant,
            "category": past.category,
            "documents": list(past.documents),
            "subscriber_prefixes": [past.line],
            "endpoint_prefixes": [past.server],
            "protocols": [past.protocol],
            "endpoint_ports": [past.port],
            "provider": past.provider,
            "subscriber_id": f"{''.join(word[0] for word in past.provider.split())}-{abs(hash_of(past.registrant)) % 9000 + 1000}",
            "purpose": past.purpose,
        }
    )
    held = owner(past.account) if past.account else ""
    return ledger.apply(form, token_sha256=held, at_ns=at_ns, by=past.account).number


def hash_of(text: str) -> int:
    """The same number for a text in each run, unlike hash()."""
    return sum(position * ord(letter) for position, letter in enumerate(text, start=1))


def _act(ledger: Ledger, number: int, act: str, past: _Past, at_ns: int) -> None:
    if act == "yes" or act.startswith("no:"):
        why = act.removeprefix("no:") if act != "yes" else ""
        ledger.verify(number, act == "yes", at_ns=at_ns, why=why, by=past.provider.lower().replace(" ", "."))
    elif act == "correct":
        form = ledger.registration(number).application
        ledger.correct(number, replace(form, endpoint_ports=(1194,)), at_ns, past.account)
    elif act == "ask-renewal":
        ledger.ask_renewal(number, at_ns, past.account)
    elif act == "withdraw":
        ledger.withdraw(number, "not needed any more", at_ns, past.account)
    elif act == "appeal":
        text = "The address is our own server in Frankfurt; the contract with the data centre is attached to our letter."
        ledger.appeal(number, "rejection", text, at_ns, past.account)
    elif act == "blocked":
        report = Report(
            at_ns - HOUR_NS,
            past.line.split("/")[0].rsplit(".", 1)[0] + ".20",
            "198.51.100.130",
            past.protocol,
            past.port,
        )
        text = reports.written(report, "Card terminals of four branches are offline since the morning.")
        ledger.appeal(number, "false-block", text, at_ns, past.account)
    elif act == "expire":
        ledger.decide(number, act, "system", "validity ran out", at_ns)
    else:
        ledger.decide(number, act, "officer", _REASONS[act], at_ns, "officer.khan")
