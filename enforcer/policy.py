"""The policy: which traffic is VPN, how a flow is matched to the allowlist, what happens to the rest, and what to do when
something breaks. Files are *.policy.yaml (docs/policy-files.md); inside the program a policy is the frozen `Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from enforcer.filemodel import Duration, FileModel, Prefix, Rate, Ratio, validate
from enforcer.units import render_duration, render_rate, render_ratio
from enforcer.yamlfile import Document, FileError, parse, read

Mode = Literal["enforce", "observe"]
Match = Literal["subscriber", "endpoint", "subscriber+endpoint"]
Action = Literal["drop", "reject", "police", "observe"]
Fallback = Literal["keep", "allow", "block", "accept"]
GovernedProtocol = Literal[
    "wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "esp", "ah", "l2tp", "pptp", "openconnect"
]


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """Endpoints whose every flow counts as VPN of this protocol: the only way to govern TLS VPNs. Empty ports mean any."""

    protocol: str
    prefixes: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exemption:
    """VPN traffic that passes without a registration, and why. Empty tuples mean any."""

    name: str
    reason: str
    protocols: tuple[str, ...]
    endpoint_prefixes: tuple[str, ...]
    endpoint_ports: tuple[int, ...]
    subscriber_prefixes: tuple[str, ...]


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

    def to_json(self) -> dict[str, Any]:
        """The policy document as plain data: written as JSON it is a valid policy file. from_json(to_json()) == self."""
        return _document(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Policy:
        """Raises FileError when the data is not a valid policy document."""
        return _checked(Document("policy", data))


def load_policy(path: str | Path, file: str | None = None) -> Policy:
    """The policy in a file; `file` is how problems name it. Raises FileError with every problem."""
    return _checked(read(Path(path), file))


def parse_policy(text: str, file: str = "policy") -> Policy:
    """The policy in a text (YAML or JSON). Raises FileError with every problem."""
    return _checked(parse(text, file))


def check_policy(document: Document) -> Policy | None:
    """The policy in a document; None when it has problems, which are then noted in the document."""
    model = validate(document, PolicyFile)
    if model is None:
        return None
    _cross_check(document, model)
    return None if document.problems else _policy(model)


Port = Annotated[int, Field(ge=1, le=65535)]
RecogniseBy = Literal["ports", "first-packets"]


class NamedEndpointFile(FileModel):
    protocol: GovernedProtocol
    """The VPN protocol spoken there."""
    endpoints: list[Prefix] = Field(min_length=1)
    """Addresses or prefixes of the servers."""
    ports: list[Port] = []
    """Ports of the servers; empty means any."""


class ExemptionFile(FileModel):
    name: str
    """A word for reports and audits."""
    reason: str
    """Why this passes without a registration."""
    protocols: list[GovernedProtocol] = []
    """VPN protocols; empty means any."""
    endpoints: list[Prefix] = []
    """Addresses or prefixes of the servers; empty means any."""
    ports: list[Port] = []
    """Ports of the servers; empty means any."""
    subscribers: list[Prefix] = []
    """Addresses or prefixes of the subscribers; empty means any."""


class UnregisteredFile(FileModel):
    action: Action
    """drop, reject (with an ICMP error or TCP reset), police (slow down to rate) or observe (let pass, and record)."""
    rate: Rate | None = None
    """Rate per flow for action police."""


class RevocationFile(FileModel):
    live_flows: Literal["cut", "let-finish"]
    """What a revocation does to a flow that is under way."""
    within: Duration | None = None
    """With let-finish: how long a flow may go on."""


class KeepAllowBlockFile(FileModel):
    do: Literal["keep", "allow", "block"]
    """keep the last good allowlist, allow every VPN flow, or block every VPN flow."""


class AllowBlockFile(FileModel):
    do: Literal["allow", "block"]
    """allow every VPN flow, or block every VPN flow."""


class TimedFallbackFile(FileModel):
    after: Duration
    """How long the condition lasts before it counts."""
    do: Literal["keep", "allow", "block"]
    """keep the last good allowlist, allow every VPN flow, or block every VPN flow."""


class ShrinkFile(FileModel):
    by_more_than: Ratio
    """The share of entries one update may remove."""
    do: Literal["keep", "accept", "allow", "block"]
    """keep the last good allowlist, accept the update after all, allow or block every VPN flow."""


class OnFailureFile(FileModel):
    no_allowlist_yet: AllowBlockFile
    """The enforcer has started and has never had a good allowlist."""
    registry_unreachable: TimedFallbackFile
    """No answer from the registry."""
    feed_stale: TimedFallbackFile
    """The registry answers, but its newest message was issued long ago."""
    feed_shrinks: ShrinkFile
    """One update removes more than a share of the entries."""
    signature_wrong: KeepAllowBlockFile
    """A message's signature does not fit the key."""
    serial_wrong: KeepAllowBlockFile
    """A message's serial goes back, or does not follow."""
    table_full: KeepAllowBlockFile
    """The allowlist does not fit the dataplane's table."""
    dataplane_dead: KeepAllowBlockFile
    """The dataplane's rules are gone or cannot be changed."""
    agent_dead: TimedFallbackFile
    """The program that follows the feed has stopped."""
    queue_full: AllowBlockFile = AllowBlockFile(do="block")
    """More packets wait for a decision than the kernel keeps (nfqueue only): those without room pass, or are dropped."""
    disk_full: KeepAllowBlockFile = KeepAllowBlockFile(do="keep")
    """The audit or the state cannot be written."""
    clock_jumped: KeepAllowBlockFile = KeepAllowBlockFile(do="keep")
    """The wall clock was set, until a signed message shows that it agrees with the registry's."""


class PolicyFile(FileModel):
    """A *.policy.yaml file: what counts as VPN, who may use it, what happens to the rest, and to what breaks."""

    policy: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    """The policy's name: small letters, digits and '-'."""
    title: str
    """One sentence for people."""
    mode: Mode
    """enforce, or observe: decide and record everything, stop nothing."""
    governs: list[GovernedProtocol] = Field(min_length=1)
    """The VPN protocols this policy applies to."""
    recognise_by: list[RecogniseBy] = Field(default=["ports", "first-packets"], min_length=1)
    """What shows a VPN: documented ports, or on any port the first message of a documented protocol (IP protocol numbers always do)."""
    named_endpoints: list[NamedEndpointFile] = []
    """Endpoints whose every flow counts as VPN (TLS VPNs cannot be recognised by their headers)."""
    match: Match
    """What a flow is compared with: the registered line, the registered endpoint, or both."""
    unregistered: UnregisteredFile
    """What happens to VPN flows without a matching registration."""
    revocation: RevocationFile
    """What a revocation does to live flows."""
    exempt: list[ExemptionFile] = []
    """VPN traffic that passes without a registration."""
    on_failure: OnFailureFile
    """What to do on each kind of failure; nothing is implicit."""


def _checked(document: Document) -> Policy:
    policy = check_policy(document)
    if document.problems or policy is None:
        raise FileError(document.problems)
    return policy


def _cross_check(document: Document, model: PolicyFile) -> None:
    # A required key may be None here: its absence is noted already.
    if model.unregistered and model.unregistered.action == "police" and model.unregistered.rate is None:
        document.add(("unregistered",), "action police has no rate", "add 'rate: 64kbit'")
    if model.unregistered and model.unregistered.action != "police" and model.unregistered.rate is not None:
        document.add(
            ("unregistered", "rate"),
            "only action police has a rate",
            "remove it, or write 'action: police'",
            True,
        )
    if model.revocation and model.revocation.live_flows == "let-finish" and model.revocation.within is None:
        document.add(("revocation",), "let-finish has no bound", "add 'within: 30s'")
    if model.revocation and model.revocation.live_flows == "cut" and model.revocation.within is not None:
        document.add(
            ("revocation", "within"), "cut is at once", "remove it, or write 'live-flows: let-finish'", True
        )
    named = {endpoint.protocol for endpoint in model.named_endpoints}
    for index, protocol in enumerate(model.governs or []):
        if protocol in model.governs[:index]:
            document.add(("governs", index), f"{protocol!r} is there twice", "keep one of them")
        if protocol == "openconnect" and protocol not in named:
            document.add(
                ("governs", index),
                "'openconnect' cannot be told from HTTPS by its headers (not classifiable on the wire)",
                "leave it out, or name its servers under named-endpoints",
            )
    for index, endpoint in enumerate(model.named_endpoints):
        if model.governs and endpoint.protocol not in model.governs:
            document.add(
                ("named-endpoints", index, "protocol"),
                f"{endpoint.protocol!r} is not governed",
                "add it to governs",
            )
    names = [exemption.name for exemption in model.exempt]
    for index, exemption in enumerate(model.exempt):
        if exemption.name in names[:index]:
            document.add(
                ("exempt", index, "name"),
                f"{exemption.name!r} is there twice",
                "give each exemption its own name",
            )
        if exemption.is_whole and not (
            exemption.protocols or exemption.endpoints or exemption.ports or exemption.subscribers
        ):
            document.add(
                ("exempt", index),
                "it exempts everything",
                "say which protocols, endpoints, ports or subscribers",
            )


# Failures that count when they begin: they have a behaviour and nothing else.
_AT_ONCE = [
    name
    for name, field in OnFailureFile.model_fields.items()
    if field.annotation in (KeepAllowBlockFile, AllowBlockFile)
]


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
            **{name: getattr(failure, name).do for name in _AT_ONCE},
        ),
        recognise_by=tuple(model.recognise_by),
    )


def _document(policy: Policy) -> dict[str, Any]:
    unregistered: dict[str, Any] = {"action": policy.action}
    if policy.police_bps is not None:
        unregistered["rate"] = render_rate(policy.police_bps)
    revocation: dict[str, Any] = {"live-flows": policy.live_flows}
    if policy.let_finish_ns is not None:
        revocation["within"] = render_duration(policy.let_finish_ns)
    failure = policy.on_failure
    return {
        "policy": policy.name,
        "title": policy.title,
        "mode": policy.mode,
        "governs": list(policy.governs),
        "recognise-by": list(policy.recognise_by),
        "named-endpoints": [
            {"protocol": item.protocol, "endpoints": list(item.prefixes), "ports": list(item.ports)}
            for item in policy.named_endpoints
        ],
        "match": policy.match,
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
            }
            for item in policy.exempt
        ],
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
            **{name.replace("_", "-"): {"do": getattr(failure, name)} for name in _AT_ONCE},
        },
    }
