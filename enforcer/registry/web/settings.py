"""The configuration's part `portal:`: where accounts lie, who is believed about addresses, limits, TLS, the zone of shown times."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, field_validator

from enforcer.registry.web.limits import LIMITS, Limit


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitConfig(_Model):
    burst: int = Field(ge=1)
    per_minute: float = Field(gt=0)


class TlsConfig(_Model):
    certificate: Path
    key: Path


class PortalConfig(_Model):
    """Paths start at the configuration file's folder."""

    accounts: Path | None = Field(
        default=None, description="accounts and sessions; default: beside the ledger"
    )
    texts: Path | None = Field(default=None, description="a folder of more languages")
    zone: str = Field(default="UTC", description="in which times are shown, such as Asia/Karachi")
    proxies: list[IPvAnyNetwork] = Field(
        default=[], description="whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    tls: TlsConfig | None = None
    limits: dict[str, LimitConfig] = Field(
        default={}, description="instead of limits.py's, by the same names"
    )

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{value!r} is not a time zone; write one such as Asia/Karachi or UTC") from None
        return value

    @field_validator("limits")
    @classmethod
    def _are_limits(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(value) - set(LIMITS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no limit; write one of {', '.join(LIMITS)}")
        return value

    def all_limits(self) -> dict[str, Limit]:
        return {**LIMITS, **{name: Limit(each.burst, each.per_minute) for name, each in self.limits.items()}}

    def accounts_file(self, database: Path) -> Path:
        return self.accounts or database.with_suffix(".accounts.sqlite")
