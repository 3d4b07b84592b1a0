"""What a *.scenario.yaml file may say. testbed/plan/resolve.py turns it, on a topology, into a plan."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from enforcer import units
from enforcer.allowlist import Category
from enforcer.filemodel import Duration, FileModel, Rate, Ratio, refuse
from testbed.plan.figures import FIGURES
from testbed.plan.names import Names
from testbed.plan.plan import ProbeKind
from testbed.plan.registry_file import OfficerFile, ProviderFile, RulesFile


def _bound(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse(f"'{value}' is not a bound", "write '5%', '150ms', '2Mbit', a whole number or a word")
    return value


def _moment(value: object) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise refuse(f"{str(value)!r} is not a time with its zone", "write '2024-11-10T16:00:00+05:00'")
    return moment


def _lasted(value: object) -> tuple[int, int]:
    items = value if isinstance(value, list) else [value, value]
    if len(items) != 2:
        raise refuse(
            f"{value!r} is no length of time", "write '6h', or [30m, 60m] for one of 30 to 60 minutes"
        )
    try:
        least, most = (units.parse_duration(item) for item in items)
    except units.UnitError as error:
        raise refuse(error.what, error.fix) from error
    if least > most:
        raise refuse("the longer time is written first", f"write [{items[1]}, {items[0]}]")
    return least, most


Bound = Annotated[
    Any,
    PlainValidator(_bound),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "with its unit: 5%, 150ms, 2Mbit"}
    ),
]
Moment = Annotated[
    datetime.datetime,
    PlainValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "2024-11-10T16:00:00+05:00"}),
]
_A_DURATION = {"type": "string", "pattern": units.DURATION_PATTERN}
Lasted = Annotated[
    tuple[int, int],
    PlainValidator(_lasted),
    WithJsonSchema(
        {
            "anyOf": [_A_DURATION, {"type": "array", "items": _A_DURATION, "minItems": 2, "maxItems": 2}],
            "description": "how long: 6h, or at least and at most: [30m, 60m]",
        }
    ),
]
Family = Literal[4, 6]
# When a scenario that does not say so starts; tools that show local times leave them out then.
STARTS_AT = "2024-11-12T10:00:00+05:00"


class SelectorFile(FileModel):
    """Subscribers by what they are; every key given must fit."""

    kind: Names | None = None
    """company, freelancer, call-centre, bank, hospital, ngo, household"""
    isp: Names | None = None
    address: Names | None = None
    """static, dynamic, nat"""
    except_: Names | None = None
    """Subscribers to leave out."""


class PeopleFile(FileModel):
    """Who: `who` names subscribers, `whoever` selects them."""

    who: Names | None = None
    """Subscribers by name."""
    whoever: SelectorFile | None = None
    """Subscribers by what they are; {} means everybody."""


class RegistrationFile(PeopleFile):
    """Registrations the ledger has before the scenario starts (or, without a state, what the form will say)."""

    server: Names
    """VPN servers (or handshake services) the registration is for."""
    state: Literal["pending", "active", "suspended", "expired", "revoked", "rejected"] | None = None
    """State when the scenario starts; left out: nothing yet, an apply event will come."""
    addresses: Names | None = None
    """Addresses on the form, when not the line's own (a mistake on the form)."""
    category: Category | None = None
    """The registry's category on the form; left out: the subscriber's kind, or `other`. A `provider` registers for its customers."""


class TunnelFile(PeopleFile):
    """VPN sessions; each is named SUBSCRIBER-SERVER."""

    server: Names
    from_: Duration = 0
    """When the client starts."""
    until: Duration | None = None
    """When it stops; left out: at the end."""
    family: Family = 4
    """4 or 6: what the tunnel's own packets travel over."""


class TrafficFile(PeopleFile):
    """Flow attempts on a fixed schedule, whatever became of the earlier ones."""

    group: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    """A word for reports."""
    probe: ProbeKind
    """dns, https, voice, icmp, handshake (first packet of a VPN) or tunnel-echo (through a tunnel)."""
    to: Names | None = None
    """Services; for tunnel-echo: tunnels, left out: all tunnels of these subscribers."""
    every: Duration
    """Time between two attempts of one subscriber to one target."""
    from_: Duration = 0
    until: Duration | None = None
    """No attempt starts then or later; left out: when the last one can still be completed."""
    family: Family | None = None
    """4 or 6; left out: 4 (for tunnel-echo the tunnel's own)."""
    deadline: Duration | None = None
    """An attempt not complete by then has failed; left out: 1s (https, handshake 2s)."""
    packets: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """For voice: packets of one attempt; left out: 10."""
    spacing: Duration | None = None
    """For voice: time between two packets; left out: 20ms."""
    payload: Annotated[int, Field(ge=16, le=65_000)] | None = None
    """Bytes of a packet; left out: 64 (voice 172: 20 ms of G.711 in RTP)."""


class BulkFile(PeopleFile):
    """A download or upload by iperf3."""

    service: str
    """A bulk service."""
    through: str | None = None
    """VPN server whose tunnel it goes through; left out: no tunnel."""
    at: Duration
    for_: Duration
    direction: Literal["down", "up"] = "down"


class FaultFile(FileModel):
    """Something breaks, and heals by itself."""

    kind: str
    at: Names
    """The gateways, links or authority it strikes."""
    for_: Duration
    """How long it lasts."""
    rate: Rate | None = None
    delay: Duration | None = None
    """One-way."""
    jitter: Duration | None = None
    loss: Ratio | None = None


class SetLinkFile(FileModel):
    """A link changes for good."""

    link: str
    rate: Rate | None = None
    delay: Duration | None = None
    """One-way."""
    jitter: Duration | None = None
    loss: Ratio | None = None


class EventFile(FileModel):
    """One moment of the script: a time and one thing that happens. Registrations are named SUBSCRIBER/SERVER."""

    at: Duration
    apply: Names | None = None
    """The subscriber applies at the portal."""
    verify: Names | None = None
    """The ISP confirms subscriber and address."""
    refuse_verify: Names | None = None
    """The ISP says that they do not match."""
    approve: Names | None = None
    reject: Names | None = None
    revoke: Names | None = None
    suspend: Names | None = None
    renew: Names | None = None
    change_address: Names | None = None
    """A dynamic line gets its next address."""
    change_address_form: Names | None = None
    """The subscriber reports the new address at the portal."""
    complain: Names | None = None
    """The subscriber tells the portal: registered, and blocked all the same (an appeal). Changes nothing by itself."""
    grant_appeal: Names | None = None
    """The officer answers it: the block is false. What is done about it is another event."""
    deny_appeal: Names | None = None
    ask_renewal: Names | None = None
    """The subscriber asks for the renewal of an approval that ends; then nobody reminds them of it."""
    connect: Names | None = None
    """A tunnel's client starts (again)."""
    disconnect: Names | None = None
    fault: FaultFile | None = None
    set_link: SetLinkFile | None = None


class WhereFile(FileModel):
    """Which attempts count; every key given must fit."""

    subscriber: Names | None = None
    kind: Names | None = None
    isp: Names | None = None
    stream: Names | None = None
    group: Names | None = None
    protocol: Names | None = None
    server: Names | None = None


class ExpectationFile(FileModel):
    """A claim the run is judged by."""

    figure: Literal[tuple(FIGURES)]  # pyright: ignore[reportInvalidTypeForm]
    """What is measured: see docs/scenario-files.md."""
    outcome: str | None = None
    """For outcome_count: which outcome."""
    where: WhereFile = WhereFile.model_construct()
    from_: Duration = 0
    until: Duration | None = None
    """Attempts scheduled from `from` to before `until` count; left out: the whole scenario."""
    at_most: Bound | None = None
    at_least: Bound | None = None
    equals: Bound | None = None


class AccountFile(FileModel):
    """What somebody published about the event the scenario plays. The report sets it beside what was measured; nothing is judged by it."""

    by: str = Field(min_length=1)
    """Who says so: the regulator, the press, a measurement project."""
    says: str = Field(min_length=1)
    """What they say, in a sentence."""
    from_: Moment | None = None
    """When it began, as published."""
    until: Moment | None = None
    """When it ended, as published."""
    lasted: Lasted | None = None
    """How long it lasted; left out: from `from` to `until`, where both are there."""
    hit: str | None = None
    """Who was hit, in words."""
    source: Names
    """Where it was published."""
    contested: bool = False
    """Whether others say otherwise."""


class ScenarioFile(FileModel):
    """A *.scenario.yaml file: people, traffic and events on a topology under a policy, and what is expected of them."""

    title: str
    """One sentence for people."""
    description: str
    """What happens, which real event it echoes (figure and source), and what it shows."""
    tags: list[str] = []
    """Words to select scenarios by; pytest markers."""
    topology: str
    """Path of the *.topology.yaml file, from this file."""
    policy: str | None = None
    """Path of the *.policy.yaml file, from this file; left out: no enforcer."""
    enforcers: Names | None = None
    """Gateways or ISPs that have an enforcer; left out: every gateway."""
    seed: int = 1
    """All randomness follows from it."""
    starts_at: str = STARTS_AT
    """Date and time the scenario starts at, with its time zone; for readers, and what the lab's clocks say in virtual time."""
    clock: Literal["real", "virtual"] = "real"
    """real, or virtual: idle time costs nothing, reruns are equal byte for byte (needs `allowlab kernel build`)."""
    duration: Duration
    """How long it lasts, in real-world time."""
    rules: RulesFile | None = None
    """What the regulations leave open; left out: an approval has no end, and nobody's answer is promised."""
    providers: list[ProviderFile] = []
    """ISPs whose desks answer the registry by themselves; those of the others say what the timeline has them say."""
    officer: OfficerFile | None = None
    """The officer's desk decides by itself; left out: what the timeline says."""
    registrations: list[RegistrationFile] = []
    tunnels: list[TunnelFile] = []
    traffic: list[TrafficFile] = []
    bulk: list[BulkFile] = []
    timeline: list[EventFile] = []
    accounts: list[AccountFile] = []
    """What was published about the event this plays: the report sets it beside what was measured."""
    expect: list[ExpectationFile] = Field(min_length=1)
