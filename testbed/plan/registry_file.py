"""What a scenario file may say of the registry: the regulations, the providers' desks, the officer's desk."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from enforcer import units
from enforcer.filemodel import Duration, FileModel, Ratio, refuse
from enforcer.registry.rules_file import CalendarConfig
from testbed.plan.names import Names

_PROMISE = re.compile(r"[1-9]\d* working (hour|day)s?")


def _whole_seconds(value: object) -> int:
    try:
        ns = units.parse_duration(value)
    except units.UnitError as error:
        raise refuse(error.what, error.fix) from error
    if ns == 0 or ns % units.NS_PER_S:
        raise refuse(
            f"{value!r} is not possible here", "write whole seconds, such as '2s': the registry counts them"
        )
    return ns


def _promise(value: object) -> str:
    if isinstance(value, str) and _PROMISE.fullmatch(value):
        return value
    if isinstance(value, str) and "working" in value:
        raise refuse(f"{value!r} is no promise", "write '10 working hours', '3 working days' or '8s'")
    return f"{_whole_seconds(value) // units.NS_PER_S}s"


WholeSeconds = Annotated[
    int,
    PlainValidator(_whole_seconds),
    WithJsonSchema(
        {"type": "string", "pattern": units.DURATION_PATTERN, "description": "whole seconds: 8s, 2h"}
    ),
]
Promise = Annotated[
    str,
    PlainValidator(_promise),
    WithJsonSchema({"type": "string", "description": "8s, 10 working hours, 3 working days"}),
]


class RulesFile(FileModel):
    """What the authority's regulations leave open (docs/registry.md, Configuration)."""

    requires_verification: bool = True
    """The provider confirms subscriber and address before an officer may approve."""
    on_address_change: Literal["remove", "keep"] = "remove"
    """What becomes of an active registration whose address is changed on the form."""
    validity: WholeSeconds | None = None
    """How long an approval or renewal holds; left out: for ever."""
    grace: WholeSeconds | None = None
    """How long it stays on the allowlist after that."""
    renewal_window: WholeSeconds | None = None
    """A renewal is granted from so long before the end; left out: at any time."""
    reminders: list[WholeSeconds] = []
    """So long before the end the registrant is reminded."""
    verification_within: Promise | None = None
    """Until when the provider's answer is promised, from the application on."""
    on_silence: Literal["wait", "remind", "refuse", "approve"] = "wait"
    """What a provider that has not answered by then comes to."""
    decision_within: Promise | None = None
    """Until when the officer's decision is promised, from the provider's answer on."""
    appeal_within: Promise | None = None
    """Until when the officer's answer to an appeal is promised; what is late is reminded of."""
    calendar: CalendarConfig | None = None
    """The offices' working time by the clock; only in virtual time, whose clock starts at `starts-at`."""


class OpenFile(FileModel):
    """A time in which a desk works."""

    from_: Duration = 0
    until: Duration | None = None
    """Left out: to the end."""


class ProviderFile(FileModel):
    """How an ISP's desk answers the registry's question whether subscriber, line and address belong together."""

    isp: Names
    answers_after: Duration = 0
    """How much of its working time an answer takes."""
    spread: Duration = 0
    """Mean of an exponentially distributed time on top, drawn for each question."""
    wrong: Ratio = 0.0
    """Share of the answers that are the opposite of what is so."""
    silent: Ratio = 0.0
    """Share of the questions that are never answered."""
    works: Annotated[list[OpenFile], Field(min_length=1)] | None = None
    """When it works; left out: by the rules' calendar, or all the time."""


class OfficerFile(FileModel):
    """How the authority's officer decides by themselves, beside what the timeline has them do."""

    decides_after: Duration
    """How much of their working time a decision takes, from the provider's answer on."""
    after_refusal: Literal["wait", "reject"] = "wait"
    """What they do when the provider says no."""
    works: Annotated[list[OpenFile], Field(min_length=1)] | None = None
    """When they work; left out: by the rules' calendar, or all the time."""
