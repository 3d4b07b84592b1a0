"""Published accounts of the event a scenario plays, beside what was measured: when, how long, who, and at what cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from testbed.plan.plan import Account, Plan
from testbed.records import EventRecord
from testbed.score.harm import Outage, person_ns
from testbed.score.outcomes import Judged
from testbed.score.truth import Truth

# What was published is rounded: a time and a length agree within this share of the claimed length, and within twice the time
# between two attempts, before which nothing can be seen.
SLACK_RATIO = 0.05


def told_and_measured(
    plan: Plan, truth: Truth, judged: Sequence[Judged], found: Iterable[Outage], events: Iterable[EventRecord]
) -> dict[str, Any] | None:
    """{"measured": …, "claims": […]} as plain data; None when the scenario names no account.

    A claim's began, ended and lasted are true where it agrees with what was measured, false where not, None where it says nothing.
    """
    if not plan.accounts:
        return None
    measured = _measured(plan, truth, judged, found, events)
    slack_ns = 2 * measured["spacing_ns"]
    return {"measured": measured, "claims": [_claim(each, measured, slack_ns) for each in plan.accounts]}


def _measured(
    plan: Plan, truth: Truth, judged: Sequence[Judged], found: Iterable[Outage], events: Iterable[EventRecord]
) -> dict[str, Any]:
    blocks = [each for each in judged if each.outcome == "false_block"]
    vpn = [each for each in blocks if each.stream.registration is not None]
    first, last = (min(blocks, key=_when), max(blocks, key=_when)) if blocks else (None, None)
    registrants = {
        each.subscriber
        for each in plan.registrations
        if any(change.state == "active" for change in truth.changes[each.name])
    }
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"hit": 0, "of": 0})
    hit = {each.subscriber.name for each in vpn}
    for person in plan.subscribers:
        if person.name in registrants:
            kinds[person.kind]["of"] += 1
            kinds[person.kind]["hit"] += person.name in hit
    others = [each for each in judged if each.stream.registration is None and each.is_entitled]
    complaints = [each for each in events if each.kind == "ledger" and each.data.get("action") == "appeal"]
    return {
        "first_block_ns": first and _when(first),
        "last_block_ns": last and _when(last),
        "lasted_ns": _when(last) - _when(first) if first and last else 0,
        "spacing_ns": _spacing_ns(plan, registrants),
        "registrants": len(registrants),
        "registrants_hit": len(hit & registrants),
        "by_kind": {kind: kinds[kind] for kind in sorted(kinds)},
        "vpn_blocks": len(vpn),
        "other_blocks": len(blocks) - len(vpn),
        "other_attempts": len(others),
        "person_ns_lost": person_ns(outage for outage in found if outage.outcome == "false_block"),
        "complaints": [
            {"registration": each.data["registration"], "at_ns": each.t_ns} for each in complaints
        ],
    }


def _claim(account: Account, measured: dict[str, Any], slack_ns: int) -> dict[str, Any]:
    slack_ns = max(slack_ns, round(SLACK_RATIO * (account.most_ns or 0)))
    first, last = measured["first_block_ns"], measured["last_block_ns"]
    lasted = None
    if account.least_ns is not None and account.most_ns is not None:
        seen_ns = measured["lasted_ns"]
        lasted = first is not None and account.least_ns - slack_ns <= seen_ns <= account.most_ns + slack_ns
    return {
        **asdict(account),
        "sources": list(account.sources),
        "began": _near(account.from_ns, first, slack_ns),
        "ended": _near(account.until_ns, last, slack_ns),
        "lasted": lasted,
        "slack_ns": slack_ns,
    }


def _near(claimed_ns: int | None, seen_ns: int | None, slack_ns: int) -> bool | None:
    if claimed_ns is None:
        return None
    return seen_ns is not None and abs(seen_ns - claimed_ns) <= slack_ns


def _when(each: Judged) -> int:
    return each.flow.scheduled_ns


def _spacing_ns(plan: Plan, registrants: set[str]) -> int:
    """The longest time between two attempts of one stream of a registrant's VPN traffic."""
    gaps = [
        later - earlier
        for stream in plan.streams
        if stream.registration is not None and stream.subscriber in registrants
        for earlier, later in zip(stream.at_ns, stream.at_ns[1:], strict=False)
    ]
    return max(gaps, default=0)
