"""What a *.policy.yaml file may say: the models behind its JSON Schema and its messages (docs/policy-files.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from enforcer.allowlist import Category
from enforcer.filemodel import Date, Duration, FileModel, Prefix, Rate, Ratio

Mode = Literal["enforce", "observe"]
Match = Literal["subscriber", "endpoint", "subscriber+endpoint"]
Action = Literal["drop", "reject", "police", "observe"]
Fallback = Literal["keep", "allow", "block", "accept"]
GovernedProtocol = Literal[
    "wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "esp", "ah", "l2tp", "pptp", "openconnect"
]
Addresses = Literal["full", "prefix", "keyed-hash"]
Port = Annotated[int, Field(ge=1, le=65535)]
Sentence = Annotated[str, Field(min_length=1)]
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
    reason: Sentence
    """Why this passes without a registration."""
    owner: Sentence
    """Who asked for it and answers for it: an office or a person."""
    review: Date | None = None
    """The day by which the owner says again that it is needed (2027-06-30); `enforcer check` warns when it is past."""
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


class RegistrationsFile(FileModel):
    categories: list[Category] = Field(min_length=1)
    """Only registrations of these categories count; a registration without a category is none of them."""


class AuditFile(FileModel):
    addresses: Addresses = "full"
    """How the audit writes the addresses of stopped packets: full, prefix (their networks) or keyed-hash (a word only the key's holder can tell)."""
    ipv4_prefix: Annotated[int, Field(ge=0, le=32)] = 24
    """With prefix: how many bits of an IPv4 address are written."""
    ipv6_prefix: Annotated[int, Field(ge=0, le=128)] = 48
    """With prefix: how many bits of an IPv6 address are written."""


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
    queue_full: AllowBlockFile
    """More packets wait for a decision than the kernel keeps (nfqueue only): those without room pass, or are dropped."""
    disk_full: KeepAllowBlockFile
    """The audit or the state cannot be written."""
    clock_jumped: KeepAllowBlockFile
    """The wall clock was set, until a signed message shows that it agrees with the registry's."""


class PolicyFile(FileModel):
    """A *.policy.yaml file: what counts as VPN, who may use it, what happens to the rest, and to what breaks."""

    policy: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    """The policy's name: small letters, digits and '-'."""
    title: str
    """One sentence for people."""
    purpose: str = ""
    """What it is for."""
    hurts: list[Sentence] = []
    """Whom it hurts: people who are entitled to what it stops, and why."""
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
    registrations: RegistrationsFile | None = None
    """Which registrations count; all when left out."""
    unregistered: UnregisteredFile
    """What happens to VPN flows without a matching registration."""
    revocation: RevocationFile
    """What a revocation does to live flows."""
    exempt: list[ExemptionFile] = []
    """VPN traffic that passes without a registration."""
    audit: AuditFile = AuditFile()
    """What the audit says about people."""
    on_failure: OnFailureFile
    """What to do on each kind of failure; nothing is implicit."""


# Failures that count when they begin: they have a behaviour and nothing else.
AT_ONCE = [
    name
    for name, field in OnFailureFile.model_fields.items()
    if field.annotation in (KeepAllowBlockFile, AllowBlockFile)
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    schema = PolicyFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "allowlab.policy/1", **schema}
