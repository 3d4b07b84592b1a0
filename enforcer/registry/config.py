"""The registry's configuration file and its seed of earlier registrations: YAML (JSON is YAML too), checked in full."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from enforcer.registry.ledger import Ledger
from enforcer.registry.states import AddressChange, BadApplication, Rules, application
from enforcer.registry.web.settings import PortalConfig

_Anything = TypeVar("_Anything", bound=BaseModel)
_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


class BadConfig(ValueError):
    """The file cannot be used; the message has one line a problem, each with file, place and what to write."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokensConfig(_Model):
    isp: str = Field(min_length=1)
    officer: str = Field(min_length=1)


class RulesConfig(_Model):
    requires_verification: bool = True
    on_address_change: AddressChange = "remove"
    validity: str | None = None

    @field_validator("validity")
    @classmethod
    def _has_a_unit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*[smhd]", value):
            raise ValueError(f"{value!r} is not a time; write a number with s, m, h or d, such as '365d'")
        return value

    def rules(self) -> Rules:
        ns = None if self.validity is None else int(self.validity[:-1]) * _UNITS_NS[self.validity[-1]]
        return Rules(self.requires_verification, self.on_address_change, ns)


class Config(_Model):
    """`database`, `key` and `seed` are paths; relative ones start at the configuration file's folder."""

    database: Path
    key: Path
    bind: list[IPvAnyAddress] = Field(min_length=1)
    port: int = Field(ge=0, le=65535)
    tokens: TokensConfig
    seed: Path | None = None
    rules: RulesConfig = RulesConfig()
    portal: PortalConfig = PortalConfig()


class SeedRegistration(_Model):
    """A registration from before. `at_ns` (Unix) dates its events; `token` lets its applicant use the portal."""

    registrant: str
    subscriber_prefixes: list[str]
    endpoint_prefixes: list[str]
    endpoint_ports: list[int] = []
    protocols: list[str] = []
    category: str = "company"
    purpose: str = ""
    state: Literal["pending", "active", "suspended", "expired", "revoked", "rejected"]
    is_verified: bool | None = None
    at_ns: int | None = None
    token: str | None = None


class Seed(_Model):
    registrations: list[SeedRegistration]


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
    if next(ledger.events(), None) is not None:
        return 0
    seeds = _load(path, Seed).registrations
    with ledger.batch():
        for position, seed in enumerate(seeds):
            try:
                _seed_one(ledger, seed)
            except BadApplication as error:
                raise BadConfig(
                    "\n".join(f"{path}: registrations[{position}].{each}" for each in error.problems)
                ) from error
    return len(seeds)


# How a registration comes into each state.
_HISTORIES: dict[str, tuple[str, ...]] = {
    "pending": (),
    "active": ("approve",),
    "suspended": ("approve", "suspend"),
    "expired": ("approve", "expire"),
    "revoked": ("approve", "revoke"),
    "rejected": ("reject",),
}


def _seed_one(ledger: Ledger, seed: SeedRegistration) -> None:
    from enforcer.registry.desk import token_sha256

    keys = (
        "registrant",
        "subscriber_prefixes",
        "endpoint_prefixes",
        "endpoint_ports",
        "protocols",
        "category",
        "purpose",
    )
    form = application({key: getattr(seed, key) for key in keys})
    digest = token_sha256(seed.token) if seed.token else ""
    number = ledger.apply(form, token_sha256=digest, at_ns=seed.at_ns).number
    actions = _HISTORIES[seed.state]
    # Whoever was approved had been verified; whoever is only waiting may not have been.
    is_verified = True if "approve" in actions else seed.is_verified
    if is_verified is not None:
        ledger.verify(number, is_verified, at_ns=seed.at_ns)
    for action in actions:
        ledger.decide(number, action, "system" if action == "expire" else "officer", "seed", seed.at_ns)


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
