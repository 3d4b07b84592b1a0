"""The registry's configuration file and its seed of earlier registrations: YAML (JSON is YAML too), checked in full."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError, field_validator

from enforcer.filemodel import note_errors
from enforcer.registry.ledger import Ledger
from enforcer.registry.providers import Provider
from enforcer.registry.rules_file import CalendarConfig, RulesConfig, duration_ns
from enforcer.registry.seed import BadSeed, Seed, plant
from enforcer.registry.web.settings import PortalConfig
from enforcer.registry.worktime import WorkCalendar
from enforcer.yamlfile import Document, FileError, read

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
    """`database`, `key` and `seed` are paths; relative ones start at the configuration file's folder.

    look: how often to look whether another process has written something into the ledger that will be due.
    """

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
    look: str = "1s"

    @field_validator("look")
    @classmethod
    def _is_a_while(cls, value: str) -> str:
        if duration_ns(value) <= 0:
            raise ValueError("not a while; write how often to look, such as '1s'")
        return value


def load_config(path: Path) -> Config:
    """Raises BadConfig."""
    config, _ = _load(path, Config)
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
    seed, document = _load(path, Seed)
    try:
        return plant(ledger, seed.registrations)
    except BadSeed as error:
        for position, told in error.problems:
            name, _, rest = told.partition(": ")
            what, _, fix = rest.rpartition("; ")
            document.add(("registrations", position, name), what or fix, fix if what else "write another")
    _raise_problems(document)
    raise AssertionError  # a BadSeed has problems


def _load(path: Path, model: type[_Anything]) -> tuple[_Anything, Document]:
    # A program's seed may have many thousand registrations, which JSON reads a hundred times faster; mistakes need their places.
    if path.suffix == ".json":
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return model.model_validate(json.loads(path.read_text(encoding="utf-8"))), Document(str(path))
    document = read(path)
    found: _Anything | None = None
    if isinstance(document.data, dict):
        try:
            found = model.model_validate(document.data)
        except ValidationError as error:
            note_errors(document, model, error)
    _raise_problems(document)
    assert found is not None  # without data there was a problem
    return found, document


def _raise_problems(document: Document) -> None:
    if document.problems:
        raise BadConfig(str(FileError(document.problems)))
