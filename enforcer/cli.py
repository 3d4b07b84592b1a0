"""The enforcer's command line: run, status, explain, replay and more. Thin: each command is one module's work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from enforcer.difference.command import diff
from enforcer.explain_command import explain
from enforcer.mistake import Mistake
from enforcer.policy_commands import check, schema
from enforcer.registry.web.portal_command import portal
from enforcer.replay.command import replay
from enforcer.yamlfile import FileError


class Broken(click.ClickException):
    """Something does not work here: exit code 3."""

    exit_code = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """A VPN allowlist in the path of traffic: follows the registry's feed, drives a dataplane, keeps an audit."""


main.add_command(replay)
main.add_command(check)
main.add_command(explain)
main.add_command(schema)

_config = click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    help="enforcer.yaml; see docs/enforcer.md",
)


@main.command()
@_config
def run(config_file: Path) -> None:
    """Enforce until SIGTERM. SIGHUP loads the whole list into the kernel again."""
    from enforcer.daemon import run_agent
    from enforcer.dataplanes import DataplaneError

    try:
        run_agent(config_file)
    except (FileError, ValueError) as error:
        raise Mistake(error) from error
    except (DataplaneError, OSError) as error:
        raise Broken(str(error)) from error


@main.command(short_help="Say which serial is enforced, how old it is, what is broken.")
@_config
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def status(config_file: Path, as_json: bool) -> None:
    """Which serial the running enforcer enforces, how old it is, and what is broken."""
    answer = _ask(config_file, "status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    from enforcer.status import render

    click.echo(render(answer))


@main.command(short_help="Print the running enforcer's metrics in Prometheus' format.")
@_config
def metrics(config_file: Path) -> None:
    """The running enforcer's metrics in Prometheus' text format; see `metrics` in the configuration to serve them."""
    click.echo(_ask(config_file, "metrics"), nl=False)


@main.command()
@_config
def reload(config_file: Path) -> None:
    """Load the whole list into the kernel again."""
    click.echo(f"loaded again: serial {_ask(config_file, 'reload')['serial']}")


@main.command(short_help="Say which dataplane can do what on this machine.")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def doctor(as_json: bool) -> None:
    """Say which dataplane can do what on this machine, and what each absence means."""
    from enforcer.doctor import probe, render

    findings = probe()
    click.echo(json.dumps(findings, indent=2) if as_json else render(findings))


main.add_command(diff)
main.add_command(portal)


def _ask(config_file: Path, command: str) -> Any:
    from enforcer.config import load_config
    from enforcer.control import NobodyListens, ask

    try:
        return ask(load_config(config_file).control, command)
    except FileError as error:
        raise Mistake(error) from error
    except (NobodyListens, TimeoutError, ValueError, OSError) as error:
        raise Broken(str(error)) from error
