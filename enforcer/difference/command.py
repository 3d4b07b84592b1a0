"""`enforcer diff`: the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from enforcer.allowlist import Entry
from enforcer.cells import is_valid
from enforcer.mistake import Mistake
from enforcer.policy import Policy
from enforcer.units import UnitError, parse_duration
from enforcer.yamlfile import FileError, Problem

T = TypeVar("T")
_file = click.Path(path_type=Path)


@click.command(short_help="Say whose traffic gets another verdict when something changes.")
@click.argument("old", required=False, type=_file)
@click.argument("new", required=False, type=_file)
@click.option("--policy", type=_file, help="the policy of both sides")
@click.option("--allowlist", type=_file, help="the allowlist of both sides")
@click.option("--old-policy", type=_file, help="the policy before")
@click.option("--new-policy", type=_file, help="the policy after")
@click.option("--old-allowlist", type=_file, help="the allowlist before")
@click.option("--new-allowlist", type=_file, help="the allowlist after")
@click.option("--at", help="as of this time: 2026-11-24T16:00:00Z  [default: now]")
@click.option("--horizon", default="7d", show_default=True, help="list what begins or ends within this time")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(0), help="lines shown; 0 shows all"
)
@click.option("--json", "as_json", is_flag=True, help="everything, as one JSON document (docs/diff.md)")
@click.option("--split", is_flag=True, help="with --json: pairs of disjoint prefixes, without 'except'")
@click.option("--schema", is_flag=True, help="print the JSON Schema of --json")
def diff(old: Path | None, new: Path | None, at: str | None, horizon: str, **options: Any) -> None:
    """Say exactly whose traffic gets another verdict when a policy, an allowlist or both change.

    OLD and NEW are two policies (then --allowlist says who is registered) or two allowlists (then --policy says what that
    means). Allowlists are feed snapshots, signed or not, or JSON lines of entries.

    Ends with 0 when no verdict changes, 1 when some do, 2 for a mistake in a file or on the command line.
    """
    if options.pop("schema"):
        click.echo(Path(__file__).with_name("diff.schema.json").read_text("utf-8"), nl=False)
        return
    if options["split"] and not options["as_json"]:
        raise Mistake("--split is for --json: add it")
    at_ns = _time(at)
    try:
        horizon_ns = parse_duration(horizon)
    except UnitError as error:
        raise Mistake(f"--horizon: {error.what}; write 7d, 12h or 30m") from error
    from enforcer.difference.source import without_collecting

    sides = {
        key: options.pop(key)
        for key in ("policy", "allowlist", "old_policy", "new_policy", "old_allowlist", "new_allowlist")
    }
    try:
        inputs = _inputs(old, new, sides)
        with without_collecting():
            is_different = _compare(inputs, at_ns, horizon_ns, horizon, **options)
    except FileError as error:
        raise Mistake(error) from error
    sys.exit(1 if is_different else 0)


def _compare(
    inputs: dict[str, Any], at_ns: int, horizon_ns: int, horizon: str, limit: int, as_json: bool, split: bool
) -> bool:
    from enforcer.difference.as_json import MOST_SPLIT, split_size, written
    from enforcer.difference.changes import difference
    from enforcer.difference.sides import Side
    from enforcer.difference.summary import moments, summary
    from enforcer.difference.words import told

    lists = inputs["old_allowlist"], inputs["new_allowlist"]
    sides = (
        Side(inputs["old_policy"], _valid(lists[0].entries, at_ns)),
        Side(inputs["new_policy"], _valid(lists[1].entries, at_ns)),
    )
    result = difference(*sides)
    if split and (size := split_size(result.changes)) > MOST_SPLIT:
        raise Mistake(
            f"--split: {size:,} pairs of prefixes are to be cut out of others, and {MOST_SPLIT:,} is the most; leave --split "
            "out (the same without loss: 'except' names long lists by their index in 'lists'), or compare parts of the allowlist"
        )
    means = summary(result)
    coming = moments(lists[1].entries.values(), at_ns, at_ns + horizon_ns)
    if as_json:
        for piece in written(result, means, coming, at_ns, lists, split):
            sys.stdout.write(piece)
    else:
        click.echo(told(result, means, coming, at_ns, lists, horizon, limit))
    return bool(result.changes)


def _valid(entries: dict[int, Entry], at_ns: int) -> dict[int, Entry]:
    return {number: entry for number, entry in entries.items() if is_valid(entry, at_ns)}


def _inputs(old: Path | None, new: Path | None, named: dict[str, Path | None]) -> dict[str, Any]:
    """Old and new policy and allowlist. Raises FileError with the problems of all files, Mistake for what does not go together."""
    from enforcer.difference.source import read_allowlist, read_either, read_policy

    problems: list[Problem] = []
    read: dict[object, Any] = {}

    def tried(reader: Callable[[Path], T], path: Path) -> T | None:
        key = (path.resolve(), reader)
        try:
            if key not in read:
                read[key] = reader(path)
        except FileError as error:
            read[key] = None
            problems.extend(each for each in error.problems if each not in problems)
        return read[key]

    if (old is None) != (new is None):
        raise Mistake("OLD without NEW: write two policies, or two allowlists")
    if old is None and not any(named.values()):
        raise Mistake(
            "nothing to compare: write `enforcer diff OLD NEW --policy POLICY` for two allowlists, or "
            "`enforcer diff OLD NEW --allowlist LIST` for two policies"
        )
    found: dict[str, Any] = {}
    if old is not None and new is not None:
        pair = tried(read_either, old), tried(read_either, new)
        kinds = ["policy" if isinstance(each, Policy) else "allowlist" for each in pair]
        if not problems and kinds[0] != kinds[1]:
            raise Mistake(
                f"{old} is {_article(kinds[0])}, {new} {_article(kinds[1])}: write two of a kind, or use --old-policy, "
                "--new-policy, --old-allowlist and --new-allowlist"
            )
        for side, value in zip(("old", "new"), pair, strict=True):
            found[f"{side}_{kinds[0]}"] = value
    for kind, reader in (("policy", read_policy), ("allowlist", read_allowlist)):
        both = named[kind]
        for side in ("old", "new"):
            key = f"{side}_{kind}"
            path = named[key]
            given = [each for each in (path, both) if each is not None]
            if len(given) > 1 or (given and key in found):
                raise Mistake(f"the {side} {kind} is there twice: write it once")
            if given:
                found[key] = tried(reader, given[0])
    if problems:
        raise FileError(problems)
    missing = [
        key for key in ("old_policy", "new_policy", "old_allowlist", "new_allowlist") if key not in found
    ]
    if missing:
        kind = missing[0].partition("_")[2]
        needs = "say what being registered means" if kind == "policy" else "say who is registered"
        raise Mistake(f"no {missing[0].replace('_', ' ')}: write --{kind} FILE to {needs}")
    return found


def _article(kind: str) -> str:
    return "an allowlist" if kind == "allowlist" else "a policy"


def _time(at: str | None) -> int:
    if at is None:
        return time.time_ns()
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise Mistake(f"--at: {at!r} is not a time; write 2026-11-24T16:00:00Z") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp()) * 1_000_000_000
