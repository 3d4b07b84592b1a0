"""What decides at an enforcer, for questions to it: from its configuration (what it keeps, and says when it runs), or from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from enforcer.allowlist import Allowlist, Entry
from enforcer.config import load_config
from enforcer.control import NobodyListens, ask
from enforcer.decide import Fallback
from enforcer.policy import Policy, load_policy
from enforcer.privacy import load_key
from enforcer.registry.feed import load_public_key
from enforcer.registry.roll import KeyRing
from enforcer.store import Kept, Store


@dataclass(frozen=True, slots=True)
class Known:
    """source: where the list is from, for people. is_running: whether an enforcer answered; then lasting and fallback are its own.

    audit and audit_key: the enforcer's, when there is a configuration that names them. history: the lists it keeps, oldest first.
    is_of_then and remarks: of a question about another time (enforcer.explain_then): whether the list is that time's.
    """

    policy: Policy
    allowlist: Allowlist
    source: str
    is_running: bool = False
    lasting: dict[str, str] = field(default_factory=dict)
    fallback: Fallback = "keep"
    audit: Path | None = None
    audit_key: bytes | None = None
    history: Callable[[], Iterable[Kept]] | None = None
    is_of_then: bool | None = None
    remarks: tuple[str, ...] = ()


def from_config(config_file: Path) -> Known:
    """What the enforcer of this configuration keeps. Raises FileError, ValueError, OSError."""
    config = load_config(config_file)
    store, key = Store(config.state), load_public_key(config.feed_key)
    keys = KeyRing(key, store.rolls()).all
    kept = store.load(keys)
    known = Known(
        load_policy(config.policy),
        kept.allowlist if kept else Allowlist(0),
        f"the list kept in {config.state}" if kept else f"no list is kept in {config.state}",
        audit=config.audit,
        audit_key=load_key(config.audit_key) if config.audit_key else None,
        history=lambda: store.history(keys),
    )
    try:
        status = ask(config.control, "status")
    except (NobodyListens, TimeoutError, OSError):
        return known
    return replace(known, is_running=True, lasting=status["failures"], fallback=status["fallback"])


def from_files(policy_file: Path, snapshot_file: Path | None) -> Known:
    """A policy and a feed snapshot, signed (the signature is not looked at) or not. Raises FileError, ValueError, OSError."""
    policy = load_policy(policy_file)
    if snapshot_file is None:
        return Known(policy, Allowlist(0), "no list was given (--snapshot)")
    return Known(policy, _snapshot(snapshot_file), f"the list in {snapshot_file}")


def _snapshot(path: Path) -> Allowlist:
    try:
        data = json.loads(path.read_text("utf-8"))
        if "body" in data:
            data = json.loads(data["body"])
        entries = [Entry.from_json(entry) for entry in data["entries"]]
        serial = int(data.get("serial", 0))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a snapshot; it has no entries") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a snapshot: {error}") from error
    return Allowlist(serial, {entry.registration: entry for entry in entries})
