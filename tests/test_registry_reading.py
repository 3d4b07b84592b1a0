"""Reading a ledger leaves nothing beside it, needs no place that can be written to, sees the newest event, and is in nobody's way."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enforcer.registry import reading
from enforcer.registry.__main__ import main
from enforcer.registry.ledger import Ledger
from enforcer.registry.reading import CannotRead, open_to_read
from enforcer.registry.states import Rules
from tests.test_registry_chain import FORM

COMMANDS = ("log", "state", "due", "head", "verify", "export")
# Root without its capabilities may write no more than a file's mode says.
PLAIN = """
import json, sys
from click.testing import CliRunner
from enforcer import privileges
from enforcer.registry.__main__ import main
privileges.only(())
found = [CliRunner().invoke(main, each) for each in json.loads(sys.argv[1])]
print(json.dumps([[each.exit_code, each.output] for each in found]))
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def run_plain(*calls: list[object]) -> list[list[int | str]]:
    """Exit code and output of each."""
    asked = json.dumps([[str(each) for each in call] for call in calls])
    done = subprocess.run([sys.executable, "-c", PLAIN, asked], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def there(folder: Path) -> dict[str, bytes]:
    """What lies in it; of -shm only that it does, for every reader notes its locks there."""
    return {file.name: b"" if file.name.endswith("-shm") else file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def sealed(tmp_path: Path):
    """Takes away everybody's right to write in a folder."""
    folders = []

    def seal(folder: Path) -> None:
        folders.append(folder)
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)

    yield seal
    for folder in folders:
        folder.chmod(0o755)


def folder_of(tmp_path: Path) -> Path:
    """A ledger that nobody has open, alone in its folder."""
    file = tmp_path / "office" / "ledger.sqlite"
    file.parent.mkdir()
    with closing(Ledger(str(file), Rules(requires_verification=False))) as ledger:
        for _ in range(3):
            ledger.decide(ledger.apply(FORM).number, "approve")
    return file


def test_sqlites_own_way_to_read_leaves_files(tmp_path: Path) -> None:
    """The control of all below."""
    file = folder_of(tmp_path)
    database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    database.execute("SELECT count(*) FROM events").fetchone()
    database.close()
    assert len(there(file.parent)) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_reading_leaves_nothing_beside_the_ledger(tmp_path: Path, command: str) -> None:
    file = folder_of(tmp_path)
    before = there(file.parent)
    assert len(before) == 1 and run(command, file).exit_code == 0
    assert there(file.parent) == before


def test_where_nothing_can_be_written_every_command_reads(tmp_path: Path, sealed) -> None:
    file = folder_of(tmp_path)
    told = {command: run(command, file).output for command in COMMANDS}
    before = there(file.parent)
    sealed(file.parent)
    (tmp_path / "row.jsonl").write_text(json.dumps(FORM.to_json()) + "\n")
    *found, backup, written_to = run_plain(
        *([command, file] for command in COMMANDS),
        ["backup", file, tmp_path / "copy.sqlite"],
        ["import", file, tmp_path / "row.jsonl", "--as", "applications"],
    )
    assert found == [[0, told[command]] for command in COMMANDS]
    assert backup == [0, told["head"]]
    assert written_to[0] == 2 and "readonly" in str(written_to[1])  # control: it is not to be written to
    assert there(file.parent) == before


def test_what_a_running_registry_wrote_last_is_read_also_by_who_may_not_write(tmp_path: Path, sealed) -> None:
    file = folder_of(tmp_path)
    ledger = Ledger(str(file))
    for number in range(5):
        ledger.apply(FORM)
        assert json.loads(run("head", file).output) == ledger.head().to_json()
        assert Path(f"{file}-wal").stat().st_size > 0
        if number == 2:
            sealed(file.parent)
        if number in (1, 4):
            assert run_plain(["head", file]) == [[0, run("head", file).output]]
    file.parent.chmod(0o755)
    ledger.close()
    assert list(there(file.parent)) == [file.name]


def test_a_killed_registrys_last_events_are_read_and_left_where_they_are(tmp_path: Path, sealed) -> None:
    file = folder_of(tmp_path)
    ledger = Ledger(str(file))
    ledger.apply(FORM)
    head, left = ledger.head().to_json(), tmp_path / "left"
    shutil.copytree(file.parent, left)
    ledger.close()
    before = there(left)
    assert set(before) == {file.name, f"{file.name}-wal", f"{file.name}-shm"}
    assert json.loads(run("head", left / file.name).output) == head
    assert "events fit" in run("verify", left / file.name).output
    assert there(left) == before
    sealed(left)
    assert run_plain(["head", left / file.name]) == [[0, json.dumps(head) + "\n"]]
    left.chmod(0o755)
    (left / f"{file.name}-shm").unlink()
    left.chmod(0o555)
    [[code, output]] = run_plain(["head", left / file.name])
    assert code == 2 and f"copy {file.name} and {file.name}-wal to a folder" in str(output)


def test_readers_and_a_writer_are_not_in_each_others_way(tmp_path: Path) -> None:
    file = folder_of(tmp_path)
    seen: list[int] = []
    errors: list[BaseException] = []
    kept, is_over = [0], threading.Event()

    def read() -> None:
        try:
            while not is_over.is_set():
                known = kept[0]
                ledger = Ledger(str(file), is_read_only=True)
                found = ledger.head().events
                assert found >= known  # never older than what was there when it began
                assert len(list(ledger.events())) >= found
                ledger.close()
                seen.append(found)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    ledger = Ledger(str(file))
    for reader in readers:
        reader.start()
    try:
        for _ in range(300):
            ledger.apply(FORM)
            kept[0] = ledger.head().events
            while not errors and len(seen) < kept[0] // 30:
                pass
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    assert not errors, errors
    assert len(set(seen)) > 3
    ledger.close()
    run("head", file)
    assert list(there(file.parent)) == [file.name]


def test_who_begins_to_write_where_nobody_was_expected_to_is_noticed(tmp_path: Path, monkeypatch) -> None:
    file = folder_of(tmp_path)
    monkeypatch.setattr(reading.os, "access", lambda *_: False)
    asked, listed = Ledger(str(file), is_read_only=True), Ledger(str(file), is_read_only=True)
    quiet = Ledger(str(file), is_read_only=True)
    old, events = asked.head(), listed.events()
    next(events)
    quiet.close()  # control: nobody wrote
    writer = Ledger(str(file))
    writer.apply(FORM)
    assert asked.head() == writer.head() != old
    with pytest.raises(CannotRead, match="ask again"):
        listed.close()
    asked.close()
    writer.close()


def test_no_reader_can_write(tmp_path: Path) -> None:
    file = folder_of(tmp_path)
    for _ in range(2):
        database = open_to_read(file)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database.execute("INSERT INTO checkpoints VALUES (1, x'00')")
        database.close()
        file.parent.chmod(0o555)
    file.parent.chmod(0o755)
