"""What the authority's regulations leave open, and the clocks that follow from it. Pure.

A rule acts when an event is written and its effect is written with it (`terms`), so changing a rule rewrites nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from enforcer.registry.worktime import ALWAYS, WorkCalendar, add_working

AddressChange = Literal["remove", "keep"]
OnSilence = Literal["wait", "remind", "refuse", "approve"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the authority's regulations leave open.

    requires_verification: the ISP confirms subscriber and address before an officer may approve (the portal's FAQ: facts §1.2).
    on_address_change: "remove" (default, for any change of IP assignment was a ground for de-listing in the 2019/20
    regulations): an active registration goes back to pending and needs the ISP and the officer again; "keep": the old
    address stays allowed until the ISP has verified the new one.
    validity_ns: how long an approval or renewal holds; None has no end. grace_ns: how long it stays on the allowlist after that.
    requires_documents: the form must name the papers of its category.
    accepts_private_addresses: RFC 1918's and fc00::/7 may be registered, for a lab or an own network; a country's border never sees them.
    renewal_window_ns: a renewal can be asked for and granted from so long before the end; None: at any time.
    reminders_ns: so long before the end the registrant is reminded, each once.
    calendar: whose working time the next three count in; None has no such clock. verification_ns: for the provider to answer,
    and on_silence what it comes to if it does not: "wait" nothing, "remind" an event, "refuse" or "approve" the system
    answers in its place. decision_ns and appeal_ns: for the officer; what is late is reminded of, nothing more.
    """

    requires_verification: bool = True
    on_address_change: AddressChange = "remove"
    validity_ns: int | None = None
    requires_documents: bool = False
    renewal_window_ns: int | None = None
    grace_ns: int = 0
    reminders_ns: tuple[int, ...] = ()
    calendar: WorkCalendar = ALWAYS
    verification_ns: int | None = None
    on_silence: OnSilence = "wait"
    decision_ns: int | None = None
    appeal_ns: int | None = None
    accepts_private_addresses: bool = False


_ASKING = ("apply", "correct", "change-address")  # what a provider is asked about


def terms(rules: Rules, action: str, at_ns: int) -> dict[str, Any]:
    """What of the rules goes into an event's data, so that replay needs no rules. What does not apply is left out."""
    found: dict[str, Any] = {}
    if action in ("approve", "renew", "correct"):
        found["requires_verification"] = rules.requires_verification
    if action in ("approve", "renew"):
        found["validity_ns"] = rules.validity_ns
        if rules.validity_ns is not None:
            found |= {"grace_ns": rules.grace_ns} if rules.grace_ns else {}
            found |= {"reminders_ns": sorted(rules.reminders_ns, reverse=True)} if rules.reminders_ns else {}
    if action in ("renew", "ask-renewal") and rules.renewal_window_ns is not None:
        found["window_ns"] = rules.renewal_window_ns
    if action == "change-address":
        found["rule"] = rules.on_address_change
    if action in _ASKING and rules.requires_verification:
        found |= _due(rules, "verification_due_ns", at_ns, rules.verification_ns)
        if "verification_due_ns" in found:
            found["on_silence"] = rules.on_silence
    # The officer's clock starts when the last thing it waits for is there. A correction may be one for the officer alone, so it
    # has both: which of them begins follows from what was corrected (states.py).
    if action in ("verify", "answer-appeal", "correct") or (
        action in _ASKING and not rules.requires_verification
    ):
        found |= _due(rules, "decision_due_ns", at_ns, rules.decision_ns)
    if action == "appeal":
        found |= _due(rules, "due_ns", at_ns, rules.appeal_ns)
    return found


def _due(rules: Rules, name: str, at_ns: int, working_ns: int | None) -> dict[str, int]:
    return {} if working_ns is None else {name: add_working(rules.calendar, at_ns, working_ns)}
