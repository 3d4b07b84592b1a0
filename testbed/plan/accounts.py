"""Published accounts of the event a scenario plays, put on the scenario's clock."""

from __future__ import annotations

import datetime

from testbed.plan.people import Resolving
from testbed.plan.plan import Account
from testbed.plan.scenario_file import AccountFile


def resolve_accounts(resolving: Resolving, files: list[AccountFile]) -> tuple[Account, ...]:
    """The accounts in the file's order; notes a problem for each whose times contradict each other."""
    try:
        start = datetime.datetime.fromisoformat(resolving.scenario.starts_at)
    except ValueError:
        return ()
    if start.tzinfo is None:  # has been noted
        return ()
    found = []
    for file in files:
        began, ended = (None if each is None else _ns(each - start) for each in (file.from_, file.until))
        if began is not None and ended is not None and began >= ended:
            resolving.add((*file.place, "until"), "it ended before it began", "write an 'until' after 'from'")
            continue
        least, most = file.lasted or (None, None)
        if file.lasted is None and began is not None and ended is not None:
            least = most = ended - began
        sources = tuple(file.source)
        found.append(
            Account(file.by, file.says, began, ended, least, most, file.hit or "", sources, file.contested)
        )
    return tuple(found)


def _ns(span: datetime.timedelta) -> int:
    return round(span.total_seconds()) * 10**9
