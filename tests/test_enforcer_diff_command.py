"""`enforcer diff` on the command line: what it says of the shipped examples, its JSON, and its errors on wrong files."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema_rs
import pytest
from click.testing import CliRunner

from enforcer.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "enforcer/difference/examples"
PAGE = ROOT / "docs/diff.md"
BORDER, NEXT = EXAMPLES / "border.policy.yaml", EXAMPLES / "border-next.policy.yaml"
BEFORE, AFTER = EXAMPLES / "before.json", EXAMPLES / "after.json"
AT = "2024-11-24T00:00:00Z"


def diff(*words: object):
    return CliRunner().invoke(main, ["diff", *map(str, words)])


def played() -> list[tuple[str, str]]:
    """Each command of the page with the output below it."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    found = []
    for block in blocks:
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.rstrip("\n")))
    return found


def test_the_page_has_commands_to_play():
    assert len(played()) >= 3


@pytest.mark.parametrize("command, output", played(), ids=lambda text: text[:60])
def test_the_page_shows_what_the_commands_say(command, output, monkeypatch):
    monkeypatch.chdir(ROOT)

    result = CliRunner().invoke(main, shlex.split(command)[1:])

    assert result.output.rstrip("\n") == output


def test_help_and_page_name_the_same_options():
    text = diff("--help").output

    assert sorted(set(re.findall(r"--[a-z][a-z-]*", text)) - {"--help"}) == sorted(
        set(re.findall(r"--[a-z][a-z-]*", PAGE.read_text())) - {"--help", "--entries"}
    )


def test_the_same_list_twice_is_no_difference():
    result = diff("--at", AT, "--policy", BORDER, BEFORE, BEFORE)

    assert result.exit_code == 0 and "No verdict changes" in result.output
    assert "OLD and NEW are one and the same file" in result.output
    assert diff("--at", AT, "--policy", BORDER, BEFORE, AFTER).exit_code == 1  # control


def test_a_copy_is_no_difference_and_not_the_same_file(tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_bytes(BEFORE.read_bytes())

    result = diff("--at", AT, "--policy", BORDER, BEFORE, copy)

    assert result.exit_code == 0 and "same file" not in result.output


@pytest.mark.parametrize(
    "words", [(BEFORE, AFTER, "--policy", BORDER), (BORDER, NEXT, "--allowlist", BEFORE)]
)
@pytest.mark.parametrize("split", [(), ("--split",)])
def test_json_fits_its_schema_whatever_the_limit(words, split):
    schema = json.loads(diff("--schema").output)
    validator = jsonschema_rs.validator_for(schema)

    result = diff("--at", AT, "--json", "--limit", 1, *split, *words)
    data = json.loads(result.output)

    assert [error.message for error in validator.iter_errors(data)] == []
    assert len(data["changes"]) > 5 or not split
    assert not split or all(
        len(each["subscribers"]) == 1 and each["except"] == [] for each in data["changes"]
    )
    assert not validator.is_valid(data | {"changes": [{}]})  # control


def test_validity_counts_at_the_time_and_is_told_within_the_horizon():
    early = diff("--at", "2023-01-01", "--policy", BORDER, BEFORE, AFTER, "--horizon", "1h")
    assert early.exit_code == 0 and "0 of 7 entries count" in early.output

    later = diff("--at", AT, "--policy", BORDER, AFTER, AFTER, "--horizon", "60d")
    assert "2024-11-28T00:00:00Z  #21 medlab (company) ends" in later.output
    assert "#22 campus" not in diff("--at", AT, "--policy", BORDER, AFTER, AFTER, "--horizon", "7d").output
    assert "#22 campus (other) ends" in later.output


def test_json_lines_and_signed_messages_are_allowlists_too(tmp_path):
    data = json.loads(AFTER.read_text())
    lines, signed = tmp_path / "after.jsonl", tmp_path / "signed.json"
    lines.write_text("".join(json.dumps(each) + "\n" for each in data["entries"]))
    signed.write_text(json.dumps({"body": json.dumps(data), "signature": "AA=="}))

    assert diff("--at", AT, "--policy", BORDER, AFTER, lines).exit_code == 0
    assert diff("--at", AT, "--policy", BORDER, AFTER, signed).exit_code == 0
    assert diff("--at", AT, "--policy", BORDER, BEFORE, lines).exit_code == 1  # control


def broken(tmp_path: Path) -> list[Path]:
    """The list after with two wrong entries: as a snapshot, signed, and as lines."""
    data = json.loads(AFTER.read_text())
    data["entries"][1]["subscriber_prefixes"] = ["203.0.113.64/24"]
    data["entries"][3]["registrant"] = "Ünal 🚲"
    data["entries"][4]["protocols"] = ["quic"]
    snapshot, signed, lines = tmp_path / "snapshot.json", tmp_path / "signed.json", tmp_path / "lines.jsonl"
    snapshot.write_text(json.dumps(data, indent=1))
    signed.write_text(json.dumps({"body": json.dumps(data, ensure_ascii=False), "signature": ""}))
    lines.write_text("".join(json.dumps(each) + "\n" for each in data["entries"]))
    return [snapshot, signed, lines]


@pytest.mark.parametrize("which", range(3))
def test_every_wrong_entry_is_told_with_its_place(which, tmp_path):
    path = broken(tmp_path)[which]

    result = diff("--policy", BORDER, BEFORE, path)

    assert result.exit_code == 2
    places = re.findall(rf"{re.escape(str(path))}:(\d+):(\d+): (.*)", result.output)
    assert len(places) == 2
    assert "'203.0.113.64/24' has bits set after its prefix length" in places[0][2]
    assert "unknown protocol 'quic'" in places[1][2]
    for (line, column, _), key in zip(places, ("subscriber_prefixes", "protocols"), strict=True):
        there = path.read_text().split("\n")[int(line) - 1][int(column) - 1 :]
        assert there.replace("\\", "").startswith(f'"{key}"')


def test_what_is_no_number_is_told_in_the_files_words(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(BEFORE.read_text().replace('"registration": 9', '"registration": "nine"'))
    assert path.read_text() != BEFORE.read_text()

    result = diff("--policy", BORDER, BEFORE, path)

    assert result.exit_code == 2 and "registration: nine: a whole number is needed here" in result.output


def test_the_problems_of_all_files_are_told_at_once(tmp_path):
    policy = tmp_path / "bad.policy.yaml"
    policy.write_text(BORDER.read_text().replace("mode: enforce", "mode: enforced"))
    snapshot = broken(tmp_path)[0]

    result = diff("--policy", policy, BEFORE, snapshot)

    assert result.exit_code == 2
    assert f"{policy}:4:7: mode" in result.output and f"{snapshot}:" in result.output
    assert all(
        line.startswith(str(tmp_path)) for line in result.output.splitlines()
    )  # each with its place, and no "Error: "


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "the file is empty"),
        (b"SQLite format 3\0....", "seems to be a registry's ledger"),
        (b"\xd4\xc3\xb2\xa1\2\0\4\0", "seems to be a capture of packets"),
        (b"policy: border\ntitle: x\n", "seems to be a policy"),
        (b"dataplane: nft\nfeed: {}\n", "seems to be an enforcer's configuration"),
        (b"a,b\n1,2\n", "seems to be CSV"),
        (b"ab" * 32, "seems to be a key"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b'{"schema": "allowlab.feed/1", "kind": "delta", "add": []}', "seems to be a delta"),
        (b'{"flows": 3}', "seems to be JSON with the keys flows"),
        (b'{"entries": [', "1:14: not JSON: Expecting value (the file ends in the middle)"),
    ],
)
def test_a_file_of_another_kind_says_what_it_seems_to_be(content, says, tmp_path):
    path = tmp_path / "list"
    path.write_bytes(content)

    result = diff("--policy", BORDER, "--old-allowlist", BEFORE, "--new-allowlist", path)

    assert result.exit_code == 2 and says in result.output, result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "nothing to compare: write `enforcer diff OLD NEW --policy POLICY`"),
        ((BEFORE, AFTER), "no old policy: write --policy FILE"),
        ((BORDER, NEXT), "no old allowlist: write --allowlist FILE"),
        ((BORDER, AFTER), "write two of a kind"),
        ((BORDER,), "OLD without NEW"),
        ((BORDER, NEXT, "--old-policy", BORDER, "--allowlist", BEFORE), "the old policy is there twice"),
        ((BEFORE, AFTER, "--policy", BORDER, "--at", "soon"), "--at: 'soon' is not a time"),
        ((BEFORE, AFTER, "--policy", BORDER, "--horizon", "7"), "--horizon: '7' has no unit; write 7d"),
        ((BEFORE, AFTER, "--policy", AFTER), "a policy is needed here, and this seems to be an allowlist"),
        ((BEFORE, AFTER, "--policy", BORDER, "--split"), "--split is for --json"),
    ],
)
def test_mistakes_on_the_command_line_say_what_to_write(words, says):
    result = diff(*words)

    assert result.exit_code == 2 and says in result.output, result.output
