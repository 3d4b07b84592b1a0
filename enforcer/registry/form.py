"""The form: what an applicant gives, and what is wrong with it. Pure.

Which documents each category names comes from the portal's FAQ as collected in the project's notes (docs/registry.md, "Categories"); documents are named and
never stored. Whether they are asked for at all is a rule (`Rules.requires_documents`): a lab's registrants have no papers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Literal, get_args

from enforcer.allowlist import Category
from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.addresses import refusal

DocumentKind = Literal[
    "identity", "incorporation", "tax", "employment", "certificate", "licence", "organisation"
]
CATEGORIES: tuple[Category, ...] = get_args(Category)

# What a document is, for whoever must bring it.
DOCUMENTS: Mapping[DocumentKind, str] = {
    "identity": "identity card (CNIC), both sides",
    "incorporation": "letter of incorporation",
    "tax": "proof of being an active taxpayer",
    "employment": "letter of authentication from an employer or client, or an e-mail that proves the project",
    "certificate": "PSEB call-centre certificate",
    "licence": "licence of the regulator (for providers: Class Licence for Data)",
    "organisation": "letter of the organisation",
}

# Each inner tuple is one thing to bring; several kinds in it are alternatives. Source: the portal's FAQ (company, freelancer,
# call centre, and "video conference" for bank and other); the licensing regime of 2024/25 for provider.
REQUIRED_DOCUMENTS: Mapping[Category, tuple[tuple[DocumentKind, ...], ...]] = {
    "company": (("identity",), ("incorporation", "tax")),
    "freelancer": (("identity",), ("employment",)),
    "call-centre": (("identity",), ("incorporation", "tax"), ("certificate",)),
    "bank": (("identity",), ("incorporation", "organisation")),
    "provider": (("identity",), ("licence",)),
    "other": (("identity",), ("incorporation", "organisation")),
}
# A host's name (RFC 1123 2.1), whose last label is not a number; with what is around it in a URL.
_NAME = re.compile(
    r"(?:[a-z]+://)?((?:[a-z0-9-]{1,63}\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)\.?(?::\d+)?(?:/\S*)?",
    re.IGNORECASE,
)
_TEXTS = {"category": 40, "purpose": 2000, "provider": 200, "subscriber_id": 200, "contact": 200}


class BadApplication(ValueError):
    """The form is wrong; `problems` names each field, what is wrong with it and what to write."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Document:
    """A paper the applicant names: its kind, and where it is known by (a number, a date). Never the paper itself."""

    kind: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Application:
    """The form. Prefixes are CIDR without host bits; no ports means any port, no protocols any VPN protocol.

    provider and subscriber_id: whose line it is, by the ISP's own records; the ISP is asked about them.
    """

    registrant: str
    subscriber_prefixes: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    category: str = "company"
    purpose: str = ""
    documents: tuple[Document, ...] = field(default=())
    provider: str = ""
    subscriber_id: str = ""
    contact: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the ledger keeps it: lists for tuples; what nobody filled in is left out."""
        data: dict[str, Any] = {
            "registrant": self.registrant,
            "subscriber_prefixes": list(self.subscriber_prefixes),
            "endpoint_prefixes": list(self.endpoint_prefixes),
            "endpoint_ports": list(self.endpoint_ports),
            "protocols": list(self.protocols),
            "category": self.category,
        }
        if self.documents:
            data["documents"] = [{"kind": each.kind, "reference": each.reference} for each in self.documents]
        texts = {key: getattr(self, key) for key in ("purpose", "provider", "subscriber_id", "contact")}
        return data | {key: value for key, value in texts.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Application:
        """What `to_json` wrote, unchecked: it was checked when it was applied for (see `application`)."""
        return cls(
            data["registrant"],
            tuple(data["subscriber_prefixes"]),
            tuple(data["endpoint_prefixes"]),
            tuple(data.get("endpoint_ports", ())),
            tuple(data.get("protocols", ())),
            data.get("category", "company"),
            data.get("purpose", ""),
            tuple(Document(each["kind"], each["reference"]) for each in data.get("documents", ())),
            data.get("provider", ""),
            data.get("subscriber_id", ""),
            data.get("contact", ""),
        )


def application(
    form: Mapping[str, Any], requires_documents: bool = False, accepts_private: bool = True
) -> Application:
    """The checked form. A document is {"kind": …, "reference": …} or the kind alone. Raises BadApplication with every problem at once.

    accepts_private: addresses of own networks are taken (`Rules.accepts_private_addresses`).
    """
    problems: list[str] = []
    known = set(Application.__dataclass_fields__)
    problems += [
        f"{key}: unknown; write one of {', '.join(sorted(known))}" for key in form if key not in known
    ]
    registrant = form.get("registrant")
    if not isinstance(registrant, str) or not 1 <= len(registrant.strip()) <= 200:
        problems.append("registrant: write the name of the person or company (1 to 200 characters)")
    subscriber = _prefixes("subscriber_prefixes", form.get("subscriber_prefixes"), problems, accepts_private)
    endpoint = _prefixes("endpoint_prefixes", form.get("endpoint_prefixes"), problems, accepts_private)
    ports = _sequence("endpoint_ports", form.get("endpoint_ports", ()), problems)
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            problems.append(f"endpoint_ports: {port!r} is not a port; write a number from 1 to 65535")
    protocols = _sequence("protocols", form.get("protocols", ()), problems)
    for protocol in protocols:
        if protocol not in VPN_PROTOCOLS:
            problems.append(f"protocols: {protocol!r} is unknown; write one of {', '.join(VPN_PROTOCOLS)}")
    texts = {key: form.get(key, "company" if key == "category" else "") for key in _TEXTS}
    problems += [
        f"{key}: write text of at most {_TEXTS[key]} characters"
        for key, value in texts.items()
        if not isinstance(value, str) or len(value) > _TEXTS[key]
    ]
    category = texts["category"]
    if isinstance(category, str) and category not in CATEGORIES:
        problems.append(f"category: {category[:40]!r} is unknown; write one of {', '.join(CATEGORIES)}")
    documents = _documents(form.get("documents", ()), problems)
    if requires_documents and category in REQUIRED_DOCUMENTS:
        problems += [
            f"documents: {missing}" for missing in missing_documents(category, (d.kind for d in documents))
        ]
    if problems:
        raise BadApplication(problems)
    assert isinstance(registrant, str)
    return Application(
        registrant.strip(),
        subscriber,
        endpoint,
        tuple(ports),
        tuple(protocols),
        texts["category"],
        texts["purpose"],
        documents,
        texts["provider"].strip(),
        texts["subscriber_id"].strip(),
        texts["contact"].strip(),
    )


def missing_documents(category: str, kinds: Iterable[str]) -> list[str]:
    """A sentence for each paper that the category needs and is not named; none when all are."""
    has = set(kinds)
    return [
        f"{category} needs one of: " + "; ".join(f"{kind} ({DOCUMENTS[kind]})" for kind in alternatives)
        if len(alternatives) > 1
        else f"{category} needs {alternatives[0]} ({DOCUMENTS[alternatives[0]]})"
        for alternatives in REQUIRED_DOCUMENTS.get(category, ())  # pyright: ignore[reportCallIssue, reportArgumentType]
        if not has & set(alternatives)
    ]


def checked_prefixes(value: Any, accepts_private: bool = True) -> tuple[str, ...]:
    """subscriber_prefixes of a change of address, checked. Raises BadApplication."""
    problems: list[str] = []
    prefixes = _prefixes("subscriber_prefixes", value, problems, accepts_private)
    if problems:
        raise BadApplication(problems)
    return prefixes


def server_name(text: str) -> str:
    """The host's name, when that is what was written in the place of an address, as it is or in a URL; else "". Never looked up."""
    found = _NAME.fullmatch(text.strip())
    return found[1] if found else ""


def not_a_prefix(value: Any, error: ValueError) -> str:
    """What is wrong with what should be a prefix, and what to write."""
    host = server_name(value) if isinstance(value, str) else ""
    if host:
        return f"{host!r} is a name; write its address ('nslookup {host}' tells it; when it changes, apply for the new one)"
    # ipaddress speaks of networks "that do not appear to be" one.
    what = str(error) if "host bits" in str(error) else f"{value!r} is no address or prefix"
    return f"{what}; write a prefix such as 203.0.113.7/32 or 2001:db8::/48"


def _documents(value: Any, problems: list[str]) -> tuple[Document, ...]:
    found = []
    for item in _sequence("documents", value, problems):
        if isinstance(item, Document):
            item = {"kind": item.kind, "reference": item.reference}
        given = {"kind": item} if isinstance(item, str) else item
        kind = given.get("kind") if isinstance(given, Mapping) else None
        reference = given.get("reference", "") if isinstance(given, Mapping) else ""
        if not isinstance(kind, str) or kind not in DOCUMENTS:
            problems.append(f"documents: {kind!r} is unknown; write one of {', '.join(DOCUMENTS)}")
        elif not isinstance(reference, str) or len(reference) > 200:
            problems.append(
                f"documents: reference of {kind}: write its number or date, at most 200 characters"
            )
        else:
            found.append(Document(kind, reference.strip()))
    return tuple(found)


def _sequence(name: str, value: Any, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        problems.append(f"{name}: write a list")
        return ()
    return tuple(value)


def _prefixes(name: str, value: Any, problems: list[str], accepts_private: bool) -> tuple[str, ...]:
    values = _sequence(name, value, problems)
    if isinstance(value, (list, tuple)) and not 1 <= len(values) <= 1024:
        problems.append(f"{name}: write 1 to 1024 prefixes, such as 203.0.113.7/32")
    good: list[str] = []
    for item in values:
        try:
            network = ip_network(item if isinstance(item, str) else repr(item))
        except ValueError as error:
            problems.append(f"{name}: {not_a_prefix(item, error)}")
            continue
        if refused := refusal(name, network, accepts_private):
            problems.append(f"{name}: {refused}")
        else:
            good.append(str(network))
    return tuple(good)
