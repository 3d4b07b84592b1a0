"""The registry's configuration file and its seed of earlier registrations: YAML (JSON is YAML too), checked in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import Provider
from enforcer.registry.rules_file import CalendarConfig, RulesConfig, duration_ns
from enforcer.registry.seed import BadSeed, Seed, plant
from enforcer.registry.web.settings import PortalConfig
from enforcer.registry.worktime import WorkCalendar

_Anything = TypeVar("_Anything", bound=BaseModel)


class BadConfig(ValueError):
    """The file cannot be used; the message has one line a problem, each with file, place and what to write."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokensConfig(_Model):
    isp: str = Field(min_length=1)
    officer: str = Field(min_length=1)


class ProviderConfig(_Model):
    """A simulated provider (enforcer.registry.providers.Provider), for labs; `lines`: prefixes by subscriber number."""

    name: str = Field(min_length=1)
    delay: str = "0s"
    spread: str = "0s"
    wrong: float = Field(default=0.0, ge=0, le=1)
    silent: float = Field(default=0.0, ge=0, le=1)
    works: CalendarConfig | None = None
    lines: dict[str, list[str]] | None = None

    @field_validator("delay", "spread")
    @classmethod
    def _has_a_unit(cls, value: str) -> str:
        duration_ns(value)
        return value

    def provider(self) -> Provider:
        lines = None if self.lines is None else {key: tuple(value) for key, value in self.lines.items()}
        calendar = self.works.calendar() if self.works else WorkCalendar()
        delay_ns, spread_ns = duration_ns(self.delay), duration_ns(self.spread)
        return Provider(self.name, delay_ns, spread_ns, self.wrong, self.silent, calendar, lines)


class Config(_Model):
    """`database`, `key` and `seed` are paths; relative ones start at the configuration file's folder."""

    database: Path
    key: Path
    bind: list[IPvAnyAddress] = Field(min_length=1)
    port: int = Field(ge=0, le=65535)
    tokens: TokensConfig
    seed: Path | None = None
    rules: RulesConfig = RulesConfig()
    providers: list[ProviderConfig] = []
    providers_seed: int = 0
    portal: PortalConfig = PortalConfig()


def load_config(path: Path) -> Config:
    """Raises BadConfig."""
    config = _load(path, Config)
    folder = path.resolve().parent
    paths = {name: folder / value for name in ("database", "key", "seed") if (value := getattr(config, name))}
    portal = config.portal.model_copy(
        update={
            name: folder / value for name in ("accounts", "texts") if (value := getattr(config.portal, name))
        }
    )
    return config.model_copy(update={**paths, "portal": portal})


def seed_ledger(ledger: Ledger, path: Path) -> int:
    """Puts the seed's registrations, each with a full history, into an empty ledger; returns how many.

    A ledger that has events already is left as it is (the registry was restarted). Raises BadConfig.
    """
    if ledger.head().events:
        return 0
    try:
        return plant(ledger, _load(path, Seed).registrations)
    except BadSeed as error:
        lines = [f"{path}: registrations[{position}].{told}" for position, told in error.problems]
        raise BadConfig("\n".join(lines)) from error


def _load(path: Path, model: type[_Anything]) -> _Anything:
    try:
        data: Any = YAML(typ="safe", pure=True).load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}") from error
    except YAMLError as error:
        raise BadConfig(f"{path}: not YAML: {error}") from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors()
        ]
        raise BadConfig("\n".join(lines)) from error
