"""`enforcer check` and `enforcer schema`: what is wrong with files, and what may stand in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command(short_help="Check policies and configurations; folders are searched.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(paths: tuple[Path, ...]) -> None:
    """Check policies (*.policy.yaml) and configurations (other *.yaml); folders are searched. Needs no privileges.

    Mistakes end it with exit code 2. Warnings, about what is allowed and probably not meant, do not.
    """
    from enforcer.checking import check_files

    checked = check_files(paths)
    for problem in checked.problems:
        click.echo(str(problem), err=True)
    for doubt in checked.doubts:
        click.echo(f"warning: {doubt}", err=True)
    if checked.problems:
        sys.exit(2)
    count = checked.count
    found = f"no problems, {len(checked.doubts)} warning{'s' * (len(checked.doubts) != 1)}"
    click.echo(f"{count} file{'s' * (count != 1)} checked, {found if checked.doubts else 'no problems'}")


@click.command(short_help="Print the JSON Schema of policies or configurations.")
@click.argument("kind", type=click.Choice(["policy", "config"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of policies (*.policy.yaml) or configurations, for an editor."""
    from enforcer import config, policy_file

    found = policy_file.json_schema() if kind == "policy" else config.json_schema()
    click.echo(json.dumps(found, indent=1))
