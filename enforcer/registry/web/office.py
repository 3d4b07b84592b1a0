"""What the pages and calls share: desk, accounts, languages, limits, clock, settings. Made once, passed everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from functools import cached_property
from pathlib import Path

from enforcer.registry.desk import Desk
from enforcer.registry.web.accounts import Accounts
from enforcer.registry.web.limits import Limiter
from enforcer.registry.web.passwords import Cost
from enforcer.registry.web.texts import Languages, load_languages


@dataclass(frozen=True, slots=True)
class Settings:
    """is_demo: each page says that nothing here is real. password_cost: of new passwords."""

    is_demo: bool = False
    password_cost: Cost = field(default_factory=Cost)


@dataclass
class Office:
    """clock: Unix nanoseconds. zone: in which times are shown, the authority's own. texts: a folder of more languages."""

    desk: Desk
    limiter: Limiter = field(default_factory=Limiter)
    settings: Settings = field(default_factory=Settings)
    clock: Callable[[], int] = time.time_ns
    zone: tzinfo = UTC
    texts: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError when a file of `texts` is wrong."""
        if self.texts is not None:
            _ = self.languages  # a mistake is told at the start, not to the first visitor

    @property
    def accounts(self) -> Accounts:
        return self.desk.accounts

    @cached_property
    def languages(self) -> Languages:
        """Read when the first page is asked for: a registry that serves enforcers only starts without them."""
        return load_languages(self.texts) if self.texts else load_languages()
