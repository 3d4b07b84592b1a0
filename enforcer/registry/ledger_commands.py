"""`enforcer-registry log`, `head`, `verify`, `state`, `due`, `backup`: look into a ledger, and copy it."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from enforcer.registry import feed
from enforcer.registry.chain import HEAD_SCHEMA, Head
from enforcer.registry.ledger import BadLedger, Ledger, UnknownRegistration, UnknownSerial
from enforcer.registry.past import StateAt
from enforcer.registry.reading import CannotRead, ReadConnection, open_to_read
from enforcer.registry.standing import due as dues
from enforcer.registry.tables import open_tables
from enforcer.registry.verification import Verified, Witness, verify_chain, verify_derived

LEDGER = click.argument("database", metavar="LEDGER", type=click.Path(exists=True, dir_okay=False))
# SQLite's integers have 64 bits.
NUMBER = click.IntRange(min=1, max=2**63 - 1)
AT_SERIAL = click.option(
    "--serial", type=click.IntRange(min=0, max=2**63 - 1), help="as it was at this serial of the allowlist"
)
AT_TIME = click.option(
    "--at", "at", help="as it was then: 2026-11-10T08:00:00Z (UTC when it names no zone), or Unix ns"
)


class Problem(click.ClickException):
    """A mistake on the command line or in a file."""

    exit_code = 2


class BadChain(click.ClickException):
    """The ledger is not what was written."""

    exit_code = 1


@click.command()
@LEDGER
@click.option("--registration", type=NUMBER, help="only this one")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def log(database: str, registration: int | None, as_json: bool) -> None:
    """Print the ledger's events, oldest first."""
    with closing(opened(database)) as ledger:
        for event in ledger.events(registration):
            event.data.pop("token_sha256", None)
            if as_json:
                click.echo(json.dumps(asdict(event), separators=(",", ":")))
                continue
            data = json.dumps(event.data) if event.data else ""
            click.echo(
                f"{event.sequence:>6}  {event.at_ns}  #{event.registration:<6} {event.action:<15} {event.actor:<10} "
                f"{event.reason} {data}".rstrip()
            )


@click.command()
@LEDGER
def head(database: str) -> None:
    """Print where the ledger stands: events, serial, hash. Kept elsewhere, it shows later that nothing was changed or cut off."""
    with closing(opened(database)) as ledger:
        click.echo(json.dumps(ledger.head().to_json()))


@click.command(short_help="Recompute the hash chain and name the first wrong event.")
@LEDGER
@click.option(
    "--head", "head_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="what 'enforcer-registry head' printed before, or a signed message of the feed (with --key)",
)  # fmt: skip
@click.option(
    "--key", "key_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="the feed's public key, when --head is a message of the feed",
)  # fmt: skip
@click.option("--chain-only", is_flag=True, help="the hashes only, not what is derived from the events")
def verify(database: str, head_file: Path | None, key_file: Path | None, chain_only: bool) -> None:
    """Recompute the chain from the first event on and name the first that does not fit; replay everything that is derived.

    A file whose end was cut off, or which was rewritten with all its hashes, is whole in itself: --head tells. Exit code 1: it does not fit.
    """
    witnesses = (_witness(head_file, key_file),) if head_file else ()
    try:
        # Without the check of the newest events that opening makes: this command is the one that names what does not fit.
        with closing(open_tables(database, is_read_only=True, checks_tail=False)) as file:
            found = verify_chain(file, witnesses, _progress)
            if found.is_whole and not chain_only:
                found = verify_derived(file, found.head, _progress)
            if isinstance(file, ReadConnection) and file.has_changed:
                raise CannotRead(f"{database}: was written to while it was read; ask again")
    except (sqlite3.DatabaseError, BadLedger) as error:
        raise Problem(not_a_ledger(database, error)) from error
    _tell(database, found)


@click.command(short_help="Print how many registrations were in each state, and when.")
@LEDGER
@AT_SERIAL
@AT_TIME
@click.option("--registration", type=NUMBER, help="this one, whole")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def state(database: str, serial: int | None, at: str | None, registration: int | None, as_json: bool) -> None:
    """Print how many registrations were in each state at a serial or a time (default: now), or one registration."""
    from enforcer.registry.exchange import registration_json

    with closing(opened(database)) as ledger:
        then = past(ledger, serial, at)
        if registration is not None:
            found = then.registration(registration)
            if found is None:
                raise Problem(f"registration {registration} was not there after event {then.sequence}")
            click.echo(json.dumps(registration_json(found, has_owner=False), indent=None if as_json else 2))
        elif as_json:
            counts = {"serial": then.serial, "events": then.sequence, "registrations": len(then)}
            click.echo(json.dumps(counts | {"states": then.counts()}))
        else:
            click.echo(
                f"serial {then.serial}, after event {then.sequence}: {len(then)} registration{'s' * (len(then) != 1)}"
            )
            for name, count in then.counts().items():
                click.echo(f"{count:>9}  {name}")


@click.command(short_help="Print what the clock will do, soonest first.")
@LEDGER
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def due(database: str, as_json: bool) -> None:
    """Print what the clock will do, soonest first: expiry, reminders, answers that are promised and not given."""
    with closing(opened(database)) as ledger:
        found = [
            (each, registration.number)
            for registration in ledger.with_clocks()
            for each in dues(registration)
        ]
    for each, number in sorted(found, key=lambda pair: (pair[0].at_ns, pair[1])):
        if as_json:
            click.echo(json.dumps({"registration": number, **asdict(each)}))
        else:
            click.echo(f"{_when(each.at_ns)}  #{number:<6} {each.about}: {each.act}")


@click.command(short_help="Write a whole copy of a ledger, also while it is served.")
@LEDGER
@click.argument("copy", type=click.Path(path_type=Path))
def backup(database: str, copy: Path) -> None:
    """Write a whole copy of a ledger into one new file, COPY, while it is served or not; print its head.

    Copying the file itself while it is served leaves out what is still in the -wal file beside it.
    """
    check_folder(copy)
    if copy.exists():
        raise Problem(f"{copy}: is there already; write the name of a new file")
    opened(database).close()  # a ledger, whose newest events fit
    part = copy.with_name(f"{copy.name}.part")
    try:
        with (
            closing(open_to_read(database)) as source,
            closing(sqlite3.connect(part)) as target,
        ):
            source.backup(target)  # in one step: what it copies is one moment's
            if source.has_changed:
                raise CannotRead(f"{database}: was written to while it was copied; try again")
        part.rename(copy)
    except CannotRead as error:
        part.unlink(missing_ok=True)
        raise Problem(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise Problem(f"{copy}: cannot be written: {error}") from error
    with closing(opened(str(copy))) as ledger:
        click.echo(json.dumps(ledger.head().to_json()))


def opened(database: str, is_read_only: bool = True) -> Ledger:
    """The ledger; read-only, it must be one already. Raises Problem."""
    check_folder(Path(database))
    try:
        return _Opened(database, is_read_only=is_read_only)
    except (sqlite3.DatabaseError, BadLedger) as error:
        raise Problem(not_a_ledger(database, error)) from error


class _Opened(Ledger):
    def close(self) -> None:
        try:
            super().close()
        except CannotRead as error:
            raise Problem(str(error)) from error


def check_folder(file: Path) -> None:
    """Whether a file can be where it is to be. Raises Problem."""
    if not file.absolute().parent.is_dir():
        raise Problem(f"{file}: there is no folder {file.parent}; make it, or write another")


def not_a_ledger(database: str, error: Exception) -> str:
    if isinstance(error, BadLedger | CannotRead):
        return str(error)
    if "locked" in str(error):
        return f"{database}: somebody holds it locked; try again"
    return f"{database}: not a ledger ({error}); write the ledger's file, which registry.yaml names after 'database'"


def past(ledger: Ledger, serial: int | None, at: str | None) -> StateAt:
    """The state that --serial or --at mean; the newest without either. Raises Problem."""
    if serial is not None and at is not None:
        raise Problem("--serial and --at: write one of them")
    try:
        if at is not None:
            return ledger.state_at_time(_moment(at))
        return ledger.state_at(ledger.serial if serial is None else serial)
    except (UnknownSerial, UnknownRegistration) as error:
        raise Problem(str(error)) from error


def _moment(text: str) -> int:
    if text.isdecimal() and text.isascii() and int(text) < 2**63:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Problem(f"--at: {text!r} is no time; write such as 2026-11-10T08:00:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6) * 1000


def _witness(file: Path, key: Path | None) -> Witness:
    try:
        text = file.read_text(encoding="utf-8")
        data = json.loads(text)
    except ValueError as error:
        line, column = (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else (1, 1)
        raise Problem(
            f"{file}:{line}:{column}: not JSON; write a file that 'enforcer-registry head' printed, or a signed message of the feed"
        ) from error
    try:
        if isinstance(data, dict) and data.get("schema") == HEAD_SCHEMA:
            noted = Head.from_json(data)
            return Witness(noted.hash, events=noted.events)
        if key is None:
            raise ValueError(
                "not what 'enforcer-registry head' prints; a signed message of the feed needs --key feed.pub"
            )
        body = json.loads(feed.signed_body(text, feed.load_public_key(key)))
        return Witness(str(body["mark"]), serial=int(body["serial"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(f"{file}: {error}") from error


def _tell(database: str, found: Verified) -> None:
    if not found.is_whole:
        event = f"event {found.sequence}"
        where = "" if found.differs.startswith(event) else f"{event}: "
        raise BadChain(f"{database}: {where}{found.differs}; everything before it fits")
    click.echo(
        f"{database}: {found.head.events} events fit, serial {found.head.serial}, head {found.head.hash}"
    )


def _progress(done: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} events", nl=False, err=True)


def _when(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
