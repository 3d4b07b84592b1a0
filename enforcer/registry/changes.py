"""What was changed about an application after it was made: field by field, for whoever decides. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from enforcer.registry.form import Application
from enforcer.registry.states import PROVIDER_CHECKS, LedgerEvent, Registration, after


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field of the form (Application), what it said, and what it says from then on."""

    field: str
    before: Any
    now: Any


@dataclass(frozen=True, slots=True)
class FormChange:
    """A correction or a change of address: one event, its moment (Unix ns), the fields in the form's order."""

    sequence: int
    at_ns: int
    fields: tuple[FieldChange, ...]

    @property
    def asks_provider(self) -> bool:
        """Whether the provider had to compare again."""
        return any(each.field in PROVIDER_CHECKS for each in self.fields)


def form_changes(events: Iterable[LedgerEvent]) -> tuple[FormChange, ...]:
    """One registration's, from all of its events, oldest first."""
    found = []
    before: Registration | None = None
    for event in events:
        if before is not None and event.action == "correct":
            found.append(_difference(event, before.application, Application.from_json(event.data["form"])))
        elif before is not None and event.action == "change-address":
            new = tuple(event.data["subscriber_prefixes"])
            change = FieldChange("subscriber_prefixes", before.application.subscriber_prefixes, new)
            found.append(FormChange(event.sequence, event.at_ns, (change,)))
        before = after(before, event)
    return tuple(found)


def _difference(event: LedgerEvent, one: Application, other: Application) -> FormChange:
    fields = (
        FieldChange(name, getattr(one, name), getattr(other, name))
        for name in Application.__dataclass_fields__
    )
    return FormChange(event.sequence, event.at_ns, tuple(each for each in fields if each.before != each.now))
