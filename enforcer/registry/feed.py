"""The feed: signed snapshots and deltas of the allowlist by serial number. Signing for the registry, checking for enforcers.

Wire format: docs/architecture.md "The registry". Ed25519 signs the body's UTF-8 bytes, so both sides agree on bytes and not
on a way of writing JSON.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from enforcer.allowlist import Allowlist, Delta, Entry, Removal

SCHEMA = "allowlab.feed/1"
_LONG = 1 << 20  # bytes


class FeedError(ValueError):
    """An update that must change nothing. `word` names the kind for audits and policies."""

    word = "bad"


class Truncated(FeedError):
    """Not a whole message: cut off, or not JSON at all."""

    word = "truncated"


class BadSignature(FeedError):
    """Not signed by the registry's key."""

    word = "bad-signature"


class WrongSchema(FeedError):
    """Signed and whole, but not what this version understands."""

    word = "wrong-schema"


class OlderSerial(FeedError):
    """Older than what is enforced already, or a delta that does not start where the enforcer stands."""

    word = "older-serial"


class EmptyUpdate(FeedError):
    """No content: an empty message, a snapshot without entries after serial 0, or a delta without changes."""

    word = "empty"


class Diverged(OlderSerial):
    """The registry's list at our serial is not ours: its ledger was restored from before, and went another way since."""

    word = "diverged"


class Signer(Protocol):
    """What signs the feed: one private key, or enforcer.registry.signing.SigningKeys."""

    def sign(self, data: bytes, /) -> bytes: ...

    def public_key(self) -> Ed25519PublicKey: ...


Keys = Ed25519PublicKey | Iterable[Ed25519PublicKey]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole allowlist at its serial. issued_ns: Unix ns by the registry's clock. mark: which history led to the serial."""

    allowlist: Allowlist
    issued_ns: int
    mark: str = ""

    @property
    def serial(self) -> int:
        return self.allowlist.serial


@dataclass(frozen=True, slots=True)
class SignedDelta:
    """The changes from one serial to another. issued_ns: Unix ns by the registry's clock. The marks: of both serials."""

    delta: Delta
    issued_ns: int
    from_mark: str = ""
    mark: str = ""

    @property
    def serial(self) -> int:
        return self.delta.serial


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the registry stands: a small message that shows it alive when nothing has changed."""

    serial: int
    issued_ns: int
    mark: str = ""


def verify(
    message: bytes | str,
    key: Keys,
    newest_serial: int | None = None,
    allow_empty: bool = False,
) -> Snapshot | SignedDelta:
    """The update inside a signed message, checked in this order: whole, signed, understood, not empty, not older.

    key: the registry's, or all that are trusted now. newest_serial: what the enforcer enforces now (None: nothing yet). A snapshot must not be older than it; a delta must
    start exactly there. allow_empty: accept a snapshot without entries (everybody revoked is possible, and rare).
    Raises Truncated, BadSignature, WrongSchema, EmptyUpdate or OlderSerial; all are FeedError.
    """
    update = _parse(signed_body(message, key))
    if isinstance(update, Standing):
        raise WrongSchema("kind is 'serial' where a snapshot or a delta was asked for")
    if isinstance(update, Snapshot):
        if not update.allowlist.entries and update.serial > 0 and not allow_empty:
            raise EmptyUpdate(f"the snapshot of serial {update.serial} has no entries")
        if newest_serial is not None and update.serial < newest_serial:
            raise OlderSerial(f"the snapshot has serial {update.serial}; {newest_serial} is enforced already")
        return update
    if not update.delta.add and not update.delta.remove:
        raise EmptyUpdate(f"the delta to serial {update.serial} changes nothing")
    if update.serial <= update.delta.from_serial:
        raise OlderSerial(f"the delta goes back, from serial {update.delta.from_serial} to {update.serial}")
    if newest_serial is not None and update.delta.from_serial != newest_serial:
        raise OlderSerial(
            f"the delta starts at serial {update.delta.from_serial}; {newest_serial} is enforced"
        )
    return update


def verify_standing(message: bytes | str, key: Keys) -> Standing:
    """Raises Truncated, BadSignature, WrongSchema, EmptyUpdate."""
    found = _parse(signed_body(message, key))
    if not isinstance(found, Standing):
        raise WrongSchema("a snapshot or a delta came where kind 'serial' was asked for")
    return found


def snapshot_body(allowlist: Allowlist, issued_ns: int, mark: str = "") -> str:
    """The body of a snapshot, entries by number."""
    entries = [entry.to_json() for _, entry in sorted(allowlist.entries.items())]
    rest = {"mark": mark} if mark else {}
    return _body("snapshot", allowlist.serial, issued_ns, rest | {"entries": entries})


def snapshot_tag(serial: int, mark: str) -> str:
    """The entity tag of a snapshot (weak: its signature may be fresher), which an enforcer can make from what it holds."""
    return f'W/"{serial}-{mark}"'


def standing_body(standing: Standing) -> str:
    """The body of a message that says where the registry stands."""
    return _body("serial", standing.serial, standing.issued_ns, {"mark": standing.mark})


def delta_body(delta: Delta, issued_ns: int, from_mark: str = "", mark: str = "") -> str:
    """The body of a delta."""
    changes = {
        "from_serial": delta.from_serial,
        "add": [entry.to_json() for entry in delta.add],
        "remove": [{"registration": gone.registration, "state": gone.state} for gone in delta.remove],
    }
    marks = {"from_mark": from_mark, "mark": mark} if mark else {}
    return _body("delta", delta.serial, issued_ns, marks | changes)


def sign(body: str, key: Signer) -> str:
    """The signed message that carries the body."""
    signature = base64.b64encode(key.sign(body.encode())).decode()
    return json.dumps({"body": body, "signature": signature})


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The registry's key (32 bytes in hexadecimal), made if the file is absent; the public key goes to PATH with ".pub".

    Raises ValueError when the file holds something else.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")
    key = Ed25519PrivateKey.from_private_bytes(_hex32(path))
    public = path.with_suffix(".pub")
    text = public_hex(key.public_key()) + "\n"
    if not public.exists() or public.read_text() != text:
        public.write_text(text)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The registry's public key from a file (32 bytes in hexadecimal). Raises ValueError, OSError."""
    return Ed25519PublicKey.from_public_bytes(_hex32(path))


def public_hex(key: Ed25519PublicKey) -> str:
    """The public key as GET /feed/key and the .pub file write it."""
    return key.public_bytes_raw().hex()


def _hex32(path: Path) -> bytes:
    try:
        raw = bytes.fromhex(path.read_text().strip())
    except (ValueError, UnicodeDecodeError):
        raw = b""
    if len(raw) != 32:
        raise ValueError(f"{path}: not a key; it must hold 64 hexadecimal digits (an Ed25519 key)")
    return raw


def _body(kind: str, serial: int, issued_ns: int, rest: dict[str, Any]) -> str:
    head = {"schema": SCHEMA, "kind": kind, "serial": serial, "issued_ns": issued_ns}
    return json.dumps({**head, **rest}, separators=(",", ":"))


def signed_body(message: bytes | str, key: Keys) -> str:
    """The body of a message that one of the keys has signed. Raises EmptyUpdate, Truncated, WrongSchema, BadSignature."""
    if not message.strip():
        raise EmptyUpdate("the message is empty")
    try:
        envelope = _long_envelope(message) if len(message) > _LONG else json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Truncated(f"the message is not whole JSON: {error}") from error
    body = envelope.get("body") if isinstance(envelope, dict) else None
    signature = envelope.get("signature") if isinstance(envelope, dict) else None
    if not isinstance(body, str) or not isinstance(signature, str):
        raise WrongSchema("the message has no body and signature")
    if not body:
        raise EmptyUpdate("the message's body is empty")
    try:
        signed, raw = base64.b64decode(signature, validate=True), body.encode()
    except ValueError as error:
        raise BadSignature("the message is not signed by the registry's key") from error
    for each in (key,) if isinstance(key, Ed25519PublicKey) else key:
        try:
            each.verify(signed, raw)
        except InvalidSignature:
            continue
        return body
    raise BadSignature("the message is not signed by the registry's key")


def _long_envelope(message: bytes | str) -> Any:
    """As json.loads, in pieces of the body's text: reading hundreds of megabytes in one call would stop every thread for a second."""
    raw = message.encode() if isinstance(message, str) else message
    head = re.match(rb'\s*\{\s*"body"\s*:\s*"', raw)
    tail = re.search(rb'"\s*,\s*"signature"\s*:\s*"[A-Za-z0-9+/=]{0,200}"\s*\}\s*\Z', raw[-1000:])
    if head is None or tail is None:  # written in another way
        return json.loads(raw)
    at, end, parts = head.end(), len(raw) - min(1000, len(raw)) + tail.start(), []
    while at < end:
        cut = raw.find(b"},", at + _LONG, end)  # no escape of JSON ends in a brace
        cut = end if cut < 0 else cut + 1
        parts.append(json.loads(b'"' + raw[at:cut] + b'"'))
        at = cut
    return {"body": "".join(parts)} | json.loads(b"{" + raw[end:].partition(b",")[2])


def _parse(body: str) -> Snapshot | SignedDelta | Standing:
    try:
        # Entry by entry through Python, so that other threads get their turn while a long list is read.
        shared: dict[Any, Any] = {}
        data = json.loads(body, object_hook=lambda each: _entry_or_object(each, shared))
        if data["schema"] != SCHEMA:
            raise WrongSchema(f"schema is {data['schema']!r}; this enforcer understands {SCHEMA!r}")
        serial, issued_ns = _count(data["serial"]), _count(data["issued_ns"])
        mark, from_mark = _word(data, "mark"), _word(data, "from_mark")
        if data["kind"] == "serial":
            return Standing(serial, issued_ns, mark)
        if data["kind"] == "snapshot":
            return Snapshot(Allowlist(serial, _by_number(data["entries"])), issued_ns, mark)
        if data["kind"] == "delta":
            add = _by_number(data["add"])
            remove = tuple(
                Removal(_count(gone["registration"]), str(gone["state"])) for gone in data["remove"]
            )
            delta = Delta(_count(data["from_serial"]), serial, tuple(add.values()), remove)
            return SignedDelta(delta, issued_ns, from_mark, mark)
    except WrongSchema:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WrongSchema(f"the body is not a feed message: {type(error).__name__}: {error}") from error
    raise WrongSchema(f"kind is {data['kind']!r}; it must be 'snapshot', 'delta' or 'serial'")


def _entry_or_object(data: dict[str, Any], shared: dict[Any, Any]) -> Any:
    return Entry.from_json(data, shared) if "subscriber_prefixes" in data else data


def _word(data: dict[str, Any], key: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}; it must be text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0")
    return value


def _by_number(entries: Iterable[Entry]) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for entry in entries:
        if not isinstance(entry, Entry):
            raise ValueError(f"not an allowlist entry: {entry!r}"[:200])
        if entry.registration in found:
            raise ValueError(f"registration {entry.registration} is there twice")
        found[entry.registration] = entry
    return found
