"""What README and documents tell somebody to type can be typed, and every file of a run folder is in README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# A command of allowlab without ./ before it (the prompt "allowlab>" and file names are none).
_BARE = re.compile(rf"(?<![\w./-])allowlab (?:{'|'.join([*main.commands, 'COMMAND'])})\b")
_CALL = re.compile(r"\./allowlab ([a-z]+)")


def test_a_bare_command_would_be_found() -> None:
    assert _BARE.search("see `allowlab run FILE`") and not _BARE.search("see `./allowlab run FILE`")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_one_a_user_can_type(path: Path) -> None:
    text = path.read_text()

    assert _BARE.findall(text) == []
    assert [name for name in _CALL.findall(text) if name not in main.commands] == []


def test_the_readme_names_every_file_of_a_run_folder() -> None:
    text = (ROOT / "README.md").read_text()
    written = re.findall(
        r'"([a-z]+\.(?:json|jsonl|jsonl\.gz|html|md|xml|sqlite))"',
        "".join(
            path.read_text()
            for folder in ("timeline", "report", "score", ".")
            for path in sorted((ROOT / "testbed" / folder).glob("*.py"))
        ),
    )

    assert "flows.jsonl.gz" in written and "run.json" in written  # control
    inside = {
        "registry.json",
        "seed.json",
        "accounts.sqlite",
    }  # the registry's own, in a folder inside the world
    inside |= {"health.json"}  # of a kept lab
    assert sorted({name for name in written if f"`{name}`" not in text} - inside) == []


def test_the_readme_leads_to_every_document_and_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in DOCUMENTS[1:] if f"(docs/{path.name}" not in text] == []
    commands = text.split("## More commands")[1].split("##")[0] + "`run`"
    assert [name for name in main.commands if not re.search(rf"`(?:\./allowlab )?{name}`", commands)] == []


def test_the_registrys_program_has_one_name() -> None:
    """Each page says `enforcer-registry`; README and the registry's own page say once what that is in a checkout."""
    named = {path.name: path.read_text().count("python -m enforcer.registry") for path in DOCUMENTS}
    assert {name: count for name, count in named.items() if count} == {"README.md": 1, "registry.md": 1}
