"""The rules as the configuration file writes them: durations with units, promises in working time, a calendar."""

from __future__ import annotations

import re
from datetime import date
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from enforcer.registry.rules import AddressChange, OnSilence, Rules
from enforcer.registry.worktime import DAYS, WorkCalendar

_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_PROMISE = re.compile(r"([1-9]\d*) working (hour|day)s?|([1-9]\d*)([smh])")


class CalendarConfig(BaseModel):
    """When an office works. Left out: around the clock. Asia/Karachi, Monday to Friday, 09:00-17:00 are Pakistan's federal offices."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    zone: str = "Asia/Karachi"
    days: list[Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]] = Field(
        default=["monday", "tuesday", "wednesday", "thursday", "friday"], min_length=1
    )
    hours: str = "09:00-17:00"
    holidays: list[date] = []

    @field_validator("zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; write one such as Asia/Karachi") from None
        return value

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, value: str) -> str:
        first, last = _hours(value)
        if not 0 <= first < last <= 1440:
            raise ValueError(f"{value!r}: it closes before it opens; write such as 09:00-17:00")
        return value

    def calendar(self) -> WorkCalendar:
        opens, closes = _hours(self.hours)
        days = frozenset(DAYS.index(day) for day in self.days)
        return WorkCalendar(self.zone, days, opens, closes, frozenset(self.holidays))


class RulesConfig(BaseModel):
    """`enforcer.registry.rules.Rules`, in words. A promise is "10 working hours" or "3 working days" of the calendar."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    requires_verification: bool = True
    on_address_change: AddressChange = "remove"
    validity: str | None = None
    requires_documents: bool = False
    renewal_window: str | None = None
    grace: str | None = None
    reminders: list[str] = []
    calendar: CalendarConfig | None = None
    verification_within: str | None = None
    on_silence: OnSilence = "wait"
    decision_within: str | None = None
    appeal_within: str | None = None
    accepts_private_addresses: bool = False

    @field_validator("validity", "renewal_window", "grace", "reminders")
    @classmethod
    def _has_a_unit(cls, value: str | list[str] | None) -> str | list[str] | None:
        for each in value if isinstance(value, list) else [value]:
            if each is not None and not re.fullmatch(r"[1-9]\d*[smhd]", each):
                raise ValueError(f"{each!r} is not a time; write a number with s, m, h or d, such as '365d'")
        return value

    @field_validator("verification_within", "decision_within", "appeal_within")
    @classmethod
    def _is_a_promise(cls, value: str | None) -> str | None:
        if value is not None and not _PROMISE.fullmatch(value):
            raise ValueError(f"{value!r} is no promise; write such as '10 working hours' or '3 working days'")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> RulesConfig:
        if self.validity is None and (self.renewal_window or self.grace or self.reminders):
            raise ValueError(
                "renewal_window, grace and reminders are about the end of an approval; add validity"
            )
        if self.on_silence != "wait" and self.verification_within is None:
            raise ValueError(
                f"on_silence {self.on_silence!r} needs verification_within, such as '3 working days'"
            )
        return self

    def rules(self) -> Rules:
        calendar = self.calendar.calendar() if self.calendar else WorkCalendar()
        return Rules(
            self.requires_verification,
            self.on_address_change,
            _ns(self.validity),
            self.requires_documents,
            _ns(self.renewal_window),
            _ns(self.grace) or 0,
            tuple(filter(None, map(_ns, self.reminders))),
            calendar,
            promise_ns(self.verification_within, calendar),
            self.on_silence,
            promise_ns(self.decision_within, calendar),
            promise_ns(self.appeal_within, calendar),
            self.accepts_private_addresses,
        )


def promise_ns(text: str | None, calendar: WorkCalendar) -> int | None:
    """The working time that is promised: a working day is as long as the calendar's."""
    found = _PROMISE.fullmatch(text or "")
    if found is None:
        return None
    if found[2]:
        return int(found[1]) * (calendar.day_ns if found[2] == "day" else _UNITS_NS["h"])
    return int(found[3]) * _UNITS_NS[found[4]]


def duration_ns(text: str) -> int:
    """Of a number with s, m, h or d. Raises ValueError."""
    if not re.fullmatch(r"\d+[smhd]", text):
        raise ValueError(f"{text!r} is not a time; write a number with s, m, h or d, such as '2h'")
    return int(text[:-1]) * _UNITS_NS[text[-1]]


def _ns(text: str | None) -> int | None:
    return None if text is None else duration_ns(text)


def _hours(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)", text)
    if found is None:
        raise ValueError(f"{text!r} are no hours; write such as 09:00-17:00")
    numbers = [int(each) for each in found.groups()]
    return numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
