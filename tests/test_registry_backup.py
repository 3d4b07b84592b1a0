"""The ledger's file alone is the ledger once a registry has ended; before that, `backup` copies all of it, and reading writes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enforcer.registry import ledger_commands
from enforcer.registry.__main__ import main
from enforcer.registry.reading import open_to_read
from tests.test_registry_chain import FORM, tampered, written
from tests.test_registry_portal import Registry

READING = ("log", "state", "due", "head", "verify", "export")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_registry_that_was_ended_leaves_everything_in_its_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    registry = Registry(tmp_path)
    registry.approved()
    registry.http.get("/sign-in")  # opens a session: the accounts' file is written to
    files = [tmp_path / "ledger.sqlite", tmp_path / "ledger.accounts.sqlite"]
    served = run("verify", files[0])
    plain = tmp_path / "plain.sqlite"
    shutil.copy(files[0], plain)
    assert (
        run("verify", plain).exit_code == 2
    )  # control: while it is served, the file alone is not the ledger
    registry.process.send_signal(number)
    assert registry.process.wait(10) == 0
    assert registry.stop() == 0
    assert not any(Path(f"{each}-wal").exists() for each in files)
    shutil.copy(files[0], tmp_path / "copy.sqlite")
    alone = run("verify", tmp_path / "copy.sqlite")
    assert alone.exit_code == 0 and "3 events fit, serial 1" in alone.output
    assert alone.output.split()[-1] == served.output.split()[-1]


def test_a_served_ledger_is_backed_up_whole_and_never_over_another_file(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    try:
        registry.approved()
        copy = tmp_path / "copy.sqlite"
        told = run("backup", tmp_path / "ledger.sqlite", copy)
        assert told.exit_code == 0, told.output
        assert json.loads(told.output)["events"] == 3
        assert run("head", copy).output == told.output
        assert "3 events fit" in run("verify", copy).output
        again = run("backup", tmp_path / "ledger.sqlite", copy)
        assert again.exit_code == 2 and "is there already" in again.output
    finally:
        registry.stop()


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("kind", ["empty", "no tables", "other tables", "text"])
def test_reading_refuses_what_is_no_ledger_and_writes_nothing(
    tmp_path: Path, kind: str, command: str
) -> None:
    file = tmp_path / "x.sqlite"
    with sqlite3.connect(file) as database:
        if kind == "no tables":
            database.execute("PRAGMA journal_mode = WAL")
        if kind == "other tables":
            database.execute("CREATE TABLE accounts (name TEXT)")
    database.close()
    if kind == "text":
        file.write_text("nothing of the kind\n" * 300)
    before = file.read_bytes()
    found = run(command, file)
    assert found.exit_code == 2 and "not a ledger" in found.output, found.output
    assert ("'enforcer-registry backup ORIGINAL" in found.output) is (kind in ("empty", "no tables"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", READING)
def test_reading_a_ledger_leaves_its_file_as_it_is(tmp_path: Path, command: str) -> None:
    file = written(tmp_path, 3)
    before = file.read_bytes()
    assert run(command, file).exit_code == 0
    assert file.read_bytes() == before


def test_the_ledger_does_not_settle_in_a_file_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "accounts.sqlite") as database:
        database.execute("CREATE TABLE accounts (name TEXT)")
    database.close()
    (tmp_path / "rows.jsonl").write_text(json.dumps(FORM.to_json()) + "\n")
    found = run("import", tmp_path / "accounts.sqlite", tmp_path / "rows.jsonl", "--as", "applications")
    assert found.exit_code == 2 and "it has the tables accounts" in found.output


def test_a_head_that_is_none_and_a_changed_event_are_told_once(tmp_path: Path) -> None:
    file = written(tmp_path, 3)
    (tmp_path / "seed.yaml").write_text("registrations: []\n")
    found = run("verify", file, "--head", tmp_path / "seed.yaml")
    assert (
        found.exit_code == 2
        and "seed.yaml:1:1: not JSON; write a file that 'enforcer-registry head' printed" in found.output
    )
    tampered(file, "UPDATE events SET reason = 'x' WHERE sequence = 2")
    found = run("verify", file)
    assert found.exit_code == 1 and found.output.count("event 2") == 1


def test_a_ledger_that_changed_while_it_was_copied_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where SQLite takes no locks (a place that cannot be written to) is it looked for: as if it had been opened there."""

    def opened(path: str):
        database = open_to_read(path)
        database.still = (0,)
        return database

    source = written(tmp_path)
    copy = tmp_path / "copy.sqlite"
    assert run("backup", source, tmp_path / "control.sqlite").exit_code == 0
    monkeypatch.setattr(ledger_commands, "open_to_read", opened)
    told = run("backup", source, copy)
    assert told.exit_code == 2 and "was written to while it was copied; try again" in told.output
    assert "cannot be written" not in told.output and not list(tmp_path.glob("copy*"))
