"""The policy: which traffic is VPN, how a flow is matched to the allowlist, what happens to the rest, and what to do when
something breaks. Files are *.policy.yaml (docs/policy-files.md); inside the program a policy is the frozen `Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enforcer import policy_check
from enforcer.allowlist import Entry
from enforcer.filemodel import validate
from enforcer.policy_file import AT_ONCE, Action, Addresses, Fallback, Match, Mode, PolicyFile
from enforcer.units import render_duration, render_rate, render_ratio
from enforcer.yamlfile import Document, FileError, Problem, parse, read

NOT_NAMED = "not named"  # the owner of an exemption in a stored policy that is older than owners


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """Endpoints whose every flow counts as VPN of this protocol: the only way to govern TLS VPNs. Empty ports mean any."""

    protocol: str
    prefixes: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exemption:
    """VPN traffic that passes without a registration, why, and who answers for it. Empty tuples mean any.

    review: the day (ISO 8601) by which the owner has to say again that it is needed; it ends nothing by itself.
    """

    name: str
    reason: str
    protocols: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...]
    subscriber_prefixes: tuple[str, ...]
    owner: str = NOT_NAMED
    review: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRules:
    """How the audit writes the addresses of stopped packets (enforcer.privacy); prefix lengths count only with "prefix"."""

    addresses: Addresses = "full"
    ipv4_prefix: int = 24
    ipv6_prefix: int = 48


@dataclass(frozen=True, slots=True)
class OnFailure:
    """What to do when something breaks, in these words.

    "keep": go on with the last good allowlist as it is loaded; "allow": every VPN flow passes, registered or not;
    "block": no VPN flow passes, registered or not (exempt ones do); "accept": take the shrunken update after all.
    Traffic that is not VPN is never affected. after_ns: how long the condition lasts before it counts.
    """

    no_allowlist_yet: Fallback
    registry_unreachable: Fallback
    registry_unreachable_after_ns: int
    feed_stale: Fallback
    feed_stale_after_ns: int
    feed_shrinks: Fallback
    feed_shrinks_more_than_ratio: float
    signature_wrong: Fallback
    serial_wrong: Fallback
    table_full: Fallback
    dataplane_dead: Fallback
    agent_dead: Fallback
    agent_dead_after_ns: int
    queue_full: Fallback = "block"
    disk_full: Fallback = "keep"
    clock_jumped: Fallback = "keep"


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy.

    governs: the VPN protocols (enforcer.protocols) it applies to; others pass like any traffic. police_bps: per flow, only
    with action "police", else None. live_flows: what a revocation does to a live flow; let_finish_ns bounds "let-finish",
    None with "cut". recognise_by: "ports", "first-packets" or both. mode "observe" decides and records everything and stops nothing.
    categories: only registrations of these count (`counts`); empty: all do. purpose and hurts are sentences for people.
    """

    name: str
    title: str
    mode: Mode
    governs: tuple[str, ...]
    named_endpoints: tuple[NamedEndpoint, ...]
    match: Match
    action: Action
    police_bps: int | None
    live_flows: Literal["cut", "let-finish"]
    let_finish_ns: int | None
    exempt: tuple[Exemption, ...]
    on_failure: OnFailure
    recognise_by: tuple[str, ...] = ("ports", "first-packets")
    categories: tuple[str, ...] = ()
    audit: AuditRules = AuditRules()
    purpose: str = ""
    hurts: tuple[str, ...] = ()

    def counts(self, entry: Entry) -> bool:
        """Whether a registration of this category counts. Whoever makes entries ready for lookups leaves the others out."""
        return not self.categories or entry.category in self.categories

    def to_json(self) -> dict[str, Any]:
        """The policy document as plain data: written as JSON it is a valid policy file. from_json(to_json()) == self."""
        return _document(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Policy:
        """Raises FileError when the data is not a valid policy document. Documents stored by earlier versions are."""
        return _checked(Document("policy", _as_of_now(data)))


def load_policy(path: str | Path, file: str | None = None) -> Policy:
    """The policy in a file; `file` is how problems name it. Raises FileError with every problem."""
    path = Path(path)
    document = read(path, file)
    fix = renamed(path)
    if fix and not path.exists():
        raise FileError([Problem(document.file, 1, 1, "", "there is no such file any more", fix)])
    return _checked(document)


def parse_policy(text: str, file: str = "policy") -> Policy:
    """The policy in a text (YAML or JSON). Raises FileError with every problem."""
    return _checked(parse(text, file))


def renamed(path: Path, folder: Path = Path()) -> str | None:
    """What to write instead of the file name of a policy that was shipped under another; None when that is not there either.

    folder: where relative paths start.
    """
    old = path.name.removesuffix(".policy.yaml")
    if old == path.name or old not in _RENAMED:
        return None
    new = path.with_name(_RENAMED[old] + ".policy.yaml")
    return f"{old!r} is called {_RENAMED[old]!r} now: write {new}" if (folder / new).is_file() else None


def doubts(path: Path, today: str) -> list[Problem]:
    """What a good policy file says and probably does not mean. today: ISO 8601."""
    document = read(path)
    model = validate(document, PolicyFile)
    return [] if model is None or document.problems else policy_check.doubts(document, model, today)


def check_policy(document: Document) -> Policy | None:
    """The policy in a document; None when it has problems, which are then noted in the document."""
    model = validate(document, PolicyFile)
    if model is None:
        return None
    policy_check.cross_check(document, model)
    return None if document.problems else _policy(model)


_RENAMED = {
    "strict": "registered-pairs",
    "by-subscriber": "registered-subscribers",
    "observe": "observe-only",
}
# What earlier versions left unsaid, and did.
_UNSAID = {"queue-full": {"do": "block"}, "disk-full": {"do": "keep"}, "clock-jumped": {"do": "keep"}}


def _as_of_now(data: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    if isinstance(data.get("on-failure"), dict):
        data["on-failure"] = _UNSAID | data["on-failure"]
    if isinstance(data.get("exempt"), list):
        data["exempt"] = [
            {"owner": NOT_NAMED} | item if isinstance(item, dict) else item for item in data["exempt"]
        ]
    return data


def _checked(document: Document) -> Policy:
    policy = check_policy(document)
    if document.problems or policy is None:
        raise FileError(document.problems)
    return policy


def _policy(model: PolicyFile) -> Policy:
    failure = model.on_failure
    return Policy(
        name=model.policy,
        title=model.title,
        mode=model.mode,
        governs=tuple(model.governs),
        named_endpoints=tuple(
            NamedEndpoint(item.protocol, tuple(item.endpoints), tuple(item.ports))
            for item in model.named_endpoints
        ),
        match=model.match,
        action=model.unregistered.action,
        police_bps=model.unregistered.rate,
        live_flows=model.revocation.live_flows,
        let_finish_ns=model.revocation.within,
        exempt=tuple(
            Exemption(
                item.name,
                item.reason,
                tuple(item.protocols),
                tuple(item.endpoints),
                tuple(item.ports),
                tuple(item.subscribers),
                item.owner,
                item.review,
            )
            for item in model.exempt
        ),
        on_failure=OnFailure(
            registry_unreachable=failure.registry_unreachable.do,
            registry_unreachable_after_ns=failure.registry_unreachable.after,
            feed_stale=failure.feed_stale.do,
            feed_stale_after_ns=failure.feed_stale.after,
            feed_shrinks=failure.feed_shrinks.do,
            feed_shrinks_more_than_ratio=failure.feed_shrinks.by_more_than,
            agent_dead=failure.agent_dead.do,
            agent_dead_after_ns=failure.agent_dead.after,
            **{name: getattr(failure, name).do for name in AT_ONCE},
        ),
        recognise_by=tuple(model.recognise_by),
        categories=tuple(model.registrations.categories) if model.registrations else (),
        audit=AuditRules(model.audit.addresses, model.audit.ipv4_prefix, model.audit.ipv6_prefix),
        purpose=model.purpose,
        hurts=tuple(model.hurts),
    )


def _document(policy: Policy) -> dict[str, Any]:
    unregistered: dict[str, Any] = {"action": policy.action}
    if policy.police_bps is not None:
        unregistered["rate"] = render_rate(policy.police_bps)
    revocation: dict[str, Any] = {"live-flows": policy.live_flows}
    if policy.let_finish_ns is not None:
        revocation["within"] = render_duration(policy.let_finish_ns)
    audit: dict[str, Any] = {"addresses": policy.audit.addresses}
    if policy.audit.addresses == "prefix":
        audit |= {"ipv4-prefix": policy.audit.ipv4_prefix, "ipv6-prefix": policy.audit.ipv6_prefix}
    failure = policy.on_failure
    return {
        "policy": policy.name,
        "title": policy.title,
        "purpose": policy.purpose,
        "hurts": list(policy.hurts),
        "mode": policy.mode,
        "governs": list(policy.governs),
        "recognise-by": list(policy.recognise_by),
        "named-endpoints": [
            {"protocol": item.protocol, "endpoints": list(item.prefixes), "ports": list(item.ports)}
            for item in policy.named_endpoints
        ],
        "match": policy.match,
        **({"registrations": {"categories": list(policy.categories)}} if policy.categories else {}),
        "unregistered": unregistered,
        "revocation": revocation,
        "exempt": [
            {
                "name": item.name,
                "reason": item.reason,
                "protocols": list(item.protocols),
                "endpoints": list(item.endpoint_prefixes),
                "ports": list(item.endpoint_ports),
                "subscribers": list(item.subscriber_prefixes),
                "owner": item.owner,
                **({"review": item.review} if item.review else {}),
            }
            for item in policy.exempt
        ],
        "audit": audit,
        "on-failure": {
            "registry-unreachable": {
                "after": render_duration(failure.registry_unreachable_after_ns),
                "do": failure.registry_unreachable,
            },
            "feed-stale": {"after": render_duration(failure.feed_stale_after_ns), "do": failure.feed_stale},
            "feed-shrinks": {
                "by-more-than": render_ratio(failure.feed_shrinks_more_than_ratio),
                "do": failure.feed_shrinks,
            },
            "agent-dead": {"after": render_duration(failure.agent_dead_after_ns), "do": failure.agent_dead},
            **{name.replace("_", "-"): {"do": getattr(failure, name)} for name in AT_ONCE},
        },
    }
