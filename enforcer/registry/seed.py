"""Registrations from before: a list of them, each with the state it is in, becomes a ledger with a history for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from enforcer.registry.form import Application, BadApplication, application
from enforcer.registry.ledger import Ledger
from enforcer.registry.states import State

# How a registration comes into each state.
HISTORIES: dict[State, tuple[str, ...]] = {
    "pending": (),
    "active": ("approve",),
    "suspended": ("approve", "suspend"),
    "expired": ("approve", "expire"),
    "revoked": ("approve", "revoke"),
    "rejected": ("reject",),
    "withdrawn": ("withdraw",),
}
FORM_FIELDS = set(Application.__dataclass_fields__)


Moment = Annotated[int, Field(ge=0, le=2**63 - 1)]  # Unix ns; SQLite's integers have 64 bits


class SeedRegistration(BaseModel):
    """A registration from before. `at_ns` (Unix) dates its events; `token` lets its applicant use the portal.

    What `export --as registrations` writes besides is taken too: token_sha256 in the place of a token; its number only says
    which line is meant, for numbers run from 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    registrant: str
    subscriber_prefixes: list[str]
    endpoint_prefixes: list[str]
    endpoint_ports: list[int] = []
    protocols: list[str] = []
    category: str = "company"
    purpose: str = ""
    documents: list[str | dict[str, str]] = []
    provider: str = ""
    subscriber_id: str = ""
    contact: str = ""
    state: State
    is_verified: bool | None = None
    at_ns: Moment | None = None
    token: str | None = None
    token_sha256: str = ""
    number: int | None = None
    valid_from_ns: Moment | None = None
    valid_until_ns: Moment | None = None
    new_prefixes: list[str] = []


class Seed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    registrations: list[SeedRegistration]


class BadSeed(ValueError):
    """`problems`: (position from 0, what is wrong with a field and what to write) of every registration."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"registrations[{position}].{told}" for position, told in problems))
        self.problems = problems


def plant(ledger: Ledger, seeds: Iterable[SeedRegistration]) -> int:
    """Puts registrations into the ledger, each with a full history, all or none; returns how many. Raises BadSeed.

    The rules' papers are not asked for: what is there already was taken as it was.
    """
    problems: list[tuple[int, str]] = []
    count = 0
    rules, ledger.rules = ledger.rules, replace(ledger.rules, requires_documents=False)
    try:
        with ledger.batch():
            for position, seed in enumerate(seeds):
                try:
                    _plant_one(ledger, seed)
                except BadApplication as error:
                    problems += [(position, each) for each in error.problems]
                count += 1
            if problems:
                raise BadSeed(problems)
    finally:
        ledger.rules = rules
    return count


def _plant_one(ledger: Ledger, seed: SeedRegistration) -> None:
    form = application(
        seed.model_dump(include=FORM_FIELDS), accepts_private=ledger.rules.accepts_private_addresses
    )
    digest = hashlib.sha256(seed.token.encode()).hexdigest() if seed.token else seed.token_sha256
    at_ns = seed.at_ns if seed.at_ns is not None else seed.valid_from_ns
    number = ledger.apply(form, token_sha256=digest, at_ns=at_ns).number
    actions = HISTORIES[seed.state]
    # Whoever was approved had been verified; whoever is only waiting may not have been.
    is_verified = True if "approve" in actions else seed.is_verified
    if is_verified is not None:
        ledger.verify(number, is_verified, at_ns=at_ns)
    for action in actions:
        if action == "withdraw":
            ledger.withdraw(number, "seed", at_ns)
        elif action == "approve":
            ledger.decide(number, action, "officer", "seed", at_ns, valid_until_ns=seed.valid_until_ns)
        else:
            ledger.decide(number, action, "system" if action == "expire" else "officer", "seed", at_ns)
    if seed.new_prefixes and seed.state == "active" and ledger.rules.on_address_change == "keep":
        try:
            ledger.change_address(number, seed.new_prefixes, at_ns=at_ns)
        except BadApplication as error:
            told = [each.replace("subscriber_prefixes", "new_prefixes", 1) for each in error.problems]
            raise BadApplication(told) from error
