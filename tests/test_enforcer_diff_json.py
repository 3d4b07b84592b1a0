"""`enforcer diff --json`: long lists of exceptions stand once, so that a change of the match key on a long allowlist can be written."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from click.testing import CliRunner

from enforcer.allowlist import Entry
from enforcer.cli import main
from enforcer.difference import as_json
from enforcer.difference.as_json import written
from enforcer.difference.changes import Difference, difference
from enforcer.difference.prefixes import text
from enforcer.difference.sides import Side
from enforcer.difference.source import Listed
from enforcer.difference.summary import summary
from enforcer.policy import load_policy

ROOT = Path(__file__).resolve().parents[1]
POLICIES = [
    ROOT / f"enforcer/policies/registered-{each}.policy.yaml" for each in ("subscribers", "endpoints")
]


def entries(count: int) -> dict[int, Entry]:
    return {
        number: Entry(
            number,
            f'"r" {number}',
            (f"10.0.{number >> 8}.{number & 255}/32",),
            (f"198.18.{number >> 8}.{number & 255}/32",),
            () if number % 5 == 0 else (51820,),
            ("wireguard",),
        )
        for number in range(1, count + 1)
    }


def document(found: Difference, is_split: bool = False) -> dict:
    listed = Listed("list.json", 1, dict(found.old.entries))
    return json.loads("".join(written(found, summary(found), [], 0, (listed, listed), is_split)))


def from_lines_to_endpoints(count: int, is_led: bool = True) -> Difference:
    some = entries(count)
    old, new = (Side(load_policy(path), some) for path in POLICIES)
    return difference(old, new, is_led)


def test_exceptions_with_their_lists_are_those_of_the_difference():
    found = from_lines_to_endpoints(30, is_led=False)

    data = document(found)

    def listed(value):
        return data["lists"][value] if isinstance(value, int) else value

    def texts(prefixes, version):
        return [text(each, version) for each in prefixes]

    assert len(data["changes"]) == len(found.changes)
    by_index = 0
    for change, wrote in zip(found.changes, data["changes"], strict=True):
        for less, its in zip(change.exceptions, wrote["except"], strict=True):
            by_index += isinstance(its["subscribers"], int) + isinstance(its["endpoints"], int)
            assert listed(its["subscribers"]) == texts(less.subscribers, change.version)
            assert listed(its["endpoints"]) == texts(less.endpoints, change.version)
    assert by_index > 30
    assert all(len(each) >= 8 for each in data["lists"])
    schema = json.loads(CliRunner().invoke(main, ["diff", "--schema"]).output)
    validator = jsonschema_rs.validator_for(schema)
    assert [error.message for error in validator.iter_errors(data)] == []
    assert not validator.is_valid(data | {"lists": [1]})  # control


def test_registrations_that_change_alike_are_a_group_with_their_prefixes_place_by_place():
    found = from_lines_to_endpoints(30)

    data = document(found)

    def listed(value):
        return data["lists"][value] if isinstance(value, int) else value

    grouped = [
        (change, wrote) for change, wrote in zip(found.changes, data["changes"], strict=True) if change.each
    ]
    assert len(grouped) > 3 and sorted({*sum(data["groups"], [])}) == list(range(1, 31))
    for change, wrote in grouped:
        numbers = data["groups"][wrote["group"]]
        for side, its in (("subscribers", change.subscribers), ("endpoints", change.endpoints)):
            assert len(listed(wrote[side])) == len(its) and len(its) in (1, len(numbers))
        for place, single in enumerate(change.singles()):
            assert numbers[place] in (single.before.by, single.after.by)
            entry = entries(30)[numbers[place]]
            named = {*entry.subscriber_prefixes, *entry.endpoint_prefixes}
            own = [
                listed(wrote[side])[place]
                for side in ("subscribers", "endpoints")
                if len(listed(wrote[side])) > 1
            ]
            assert own and set(own) <= named
    schema = json.loads(CliRunner().invoke(main, ["diff", "--schema"]).output)
    assert jsonschema_rs.validator_for(schema).is_valid(data)


def test_the_document_grows_with_the_entries_and_not_with_their_square(monkeypatch):
    def ratio() -> float:
        sizes = [
            len(json.dumps(document(from_lines_to_endpoints(count, is_led=False)))) for count in (50, 200)
        ]
        return sizes[1] / sizes[0]

    assert ratio() < 5

    monkeypatch.setattr(as_json, "_LONG", 1000)  # control: every list where it is used
    assert ratio() > 8


def test_split_needs_no_lists():
    data = document(from_lines_to_endpoints(10), is_split=True)

    assert data["lists"] == [] and len(data["changes"]) > 20
    assert all(each["except"] == [] for each in data["changes"])


@pytest.mark.parametrize("most, code", [(10**6, 1), (100, 2)])
def test_split_is_refused_where_it_would_not_end(most, code, tmp_path, monkeypatch):
    monkeypatch.setattr(as_json, "MOST_SPLIT", most)
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(each.to_json()) + "\n" for each in entries(12).values()))

    words = ["diff", "--json", "--split", "--allowlist", str(path), *map(str, POLICIES)]
    result = CliRunner().invoke(main, words)

    assert result.exit_code == code, result.output[:300]
    assert ("pairs of prefixes are to be cut" in result.output and "leave --split out" in result.output) == (
        code == 2
    )
