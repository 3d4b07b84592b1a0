"""`enforcer-registry export`, `import`, `migrate`: ledgers and applications as text, in and out."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import click

from enforcer.registry import feed
from enforcer.registry.bulk import apply_all
from enforcer.registry.exchange import (
    BadFile,
    event_line,
    forms_csv,
    read_events,
    read_forms,
    registration_json,
)
from enforcer.registry.ledger import BadLedger
from enforcer.registry.ledger_commands import (
    AT_SERIAL,
    AT_TIME,
    LEDGER,
    Problem,
    check_folder,
    not_a_ledger,
    opened,
    past,
)
from enforcer.registry.seed_lines import plant_lines, read_seed_lines
from enforcer.registry.transfer import BadEvent, import_events
from enforcer.registry.transfer import migrate as migrate_ledger

MOST_TOLD = 100  # wrong rows; what a terminal can be scrolled back over


@click.command(short_help="Print the allowlist, the events or the registrations.")
@LEDGER
@AT_SERIAL
@AT_TIME
@click.option(
    "--as", "form", type=click.Choice(["allowlist", "events", "registrations", "csv"]), default="allowlist",
    show_default=True,
    help="a snapshot's body; the events as JSON Lines; registrations as JSON Lines; applications as CSV",
)  # fmt: skip
def export(database: str, serial: int | None, at: str | None, form: str) -> None:
    """Print the allowlist (a snapshot's body, not signed), the events, the registrations or the applications; now, or as it was.

    Events and registrations hold what the ledger knows of applicants' tokens: treat them like the ledger.
    """
    with closing(opened(database)) as ledger:
        then = past(ledger, serial, at)
        if form == "allowlist":
            click.echo(feed.snapshot_body(then.allowlist(), 0))
        elif form == "events":
            for event in ledger.events(before=then.sequence + 1):
                click.echo(event_line(event))
        elif form == "registrations":
            for registration in then.registrations():
                click.echo(json.dumps(registration_json(registration), separators=(",", ":")))
        else:
            for line in forms_csv(registration.application for registration in then.registrations()):
                click.echo(line, nl=False)


@click.command(name="import")
@click.argument("database", metavar="LEDGER", type=click.Path(dir_okay=False))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--as", "form", type=click.Choice(["events", "registrations", "applications"]), required=True,
    help="events: what export printed, into a new ledger, with the same hashes; registrations: each in its state; "
    "applications: CSV or JSON Lines, pending",
)  # fmt: skip
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="the registry's, for its rules",
)
@click.option("--by", default="", help="whose act it is, for the ledger")
@click.option("--trial", is_flag=True, help="applications: only say what is wrong")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="applications: a CSV with a line for each row",
)
def import_(
    database: str, file: Path, form: str, config_file: Path | None, by: str, trial: bool, report: Path | None
) -> None:
    """Take a file into a ledger: all of it, or nothing of it. Every problem is told with its line and column."""
    is_new = not Path(database).exists()
    try:
        _import(database, file, form, config_file, by, trial, report)
    except UnicodeDecodeError as error:
        raise Problem(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
    except (BadFile, BadEvent, BadLedger, OSError, sqlite3.DatabaseError) as error:
        raise Problem(str(error) if isinstance(error, BadFile | BadLedger) else f"{file}: {error}") from error
    else:
        is_new = is_new and trial
    finally:
        if is_new:  # nothing of it was taken: nor is a ledger made
            for end in ("", "-wal", "-shm"):
                Path(f"{database}{end}").unlink(missing_ok=True)


def _import(
    database: str, file: Path, form: str, config_file: Path | None, by: str, trial: bool, report: Path | None
) -> None:
    check_folder(Path(database))
    if form == "events":
        with file.open(encoding="utf-8") as lines:
            count = import_events(database, read_events(str(file), lines))
        click.echo(f"{database}: {count} events")
    elif form == "registrations":
        lines = read_seed_lines(str(file), file.read_text(encoding="utf-8"))
        if not lines:
            raise BadFile([f"{file}: there is nothing in it; write one JSON object a line"])
        with closing(opened(database, is_read_only=False)) as ledger:
            _take_rules(ledger, config_file)
            click.echo(f"{database}: {plant_lines(ledger, str(file), lines)} registrations")
    else:
        _applications(database, file, config_file, by, trial, report)


@click.command(short_help="Write a ledger from before the hash chain into a new file.")
@click.argument("old", type=click.Path(exists=True, dir_okay=False))
@click.argument("new", type=click.Path(dir_okay=False))
def migrate(old: str, new: str) -> None:
    """Write a ledger from before the hash chain, OLD, into a new file, NEW, that has one. OLD stays as it is."""
    check_folder(Path(new))
    try:
        click.echo(f"{new}: {migrate_ledger(old, new)} events")
    except sqlite3.DatabaseError as error:
        raise Problem(not_a_ledger(old, error)) from error
    except (BadLedger, BadEvent) as error:
        raise Problem(str(error)) from error


def _applications(
    database: str, file: Path, config_file: Path | None, by: str, trial: bool, report: Path | None
) -> None:
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise BadFile([f"{file}: name it *.csv or *.jsonl; the ending says how it is read"])
    rows = read_forms(str(file), file.read_text(encoding="utf-8"))
    if not rows:
        raise BadFile([f"{file}: there are no applications in it; write one a line"])
    if report is not None:
        _begin(report)  # before anything is taken: it could not be told afterwards
    with closing(opened(database, is_read_only=False)) as ledger:
        _take_rules(ledger, config_file)
        done = apply_all(ledger, rows, str(file), by=by, is_trial=trial)
    if report is not None:
        lines = ["row,line,registration,problems", *(
            f'{row.row},{row.line},{row.registration or ""},"{"; ".join(row.problems).replace(chr(34), chr(34) * 2)}"' for row in done.rows
        )]  # fmt: skip
        report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if done.wrong:
        told = [problem for row in done.wrong[:MOST_TOLD] for problem in row.problems]
        if len(done.wrong) > MOST_TOLD:
            told.append(
                f"{len(done.wrong) - MOST_TOLD} more rows are not shown here; --report FILE writes all of them"
            )
        raise Problem(
            "\n".join(
                [
                    *told,
                    f"{len(done.wrong)} of {len(rows)} row{'s' * (len(rows) != 1)} {'is' if len(done.wrong) == 1 else 'are'} wrong; nothing was taken",
                ]
            )
        )
    numbers = [row.registration for row in done.rows if row.registration is not None]
    which = f": numbers {numbers[0]} to {numbers[-1]}" if numbers else ""
    if len(numbers) == 1:
        which = f": number {numbers[0]}"
    click.echo(
        f"{database}: {len(rows)} application{'s' * (len(rows) != 1)} {'would be taken' if trial else 'taken'}{which}"
    )


def _begin(report: Path) -> None:
    check_folder(report)
    try:
        report.write_text("", encoding="utf-8")
    except OSError as error:
        raise Problem(f"--report {report}: cannot be written: {error.strerror or error}") from error


def _take_rules(ledger, config_file: Path | None) -> None:
    from enforcer.registry.config import BadConfig, load_config

    if config_file is not None:
        try:
            ledger.rules = load_config(config_file).rules.rules()
        except BadConfig as error:
            raise Problem(str(error)) from error
