"""`enforcer-registry key`: make the feed's key, and roll it over to a new one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from enforcer.registry import feed
from enforcer.registry.signing import SigningKeys
from enforcer.units import parse_duration


class _Problem(click.ClickException):
    exit_code = 2


class _MakeByDefault(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_MakeByDefault, short_help="Make the feed's key, or roll it over.")
def key() -> None:
    """Make the feed's key if FILE is absent, and print the public one: key FILE. Or roll it over: key roll FILE."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def make(file: Path) -> None:
    """Make the feed's key if FILE is absent, and print the public one."""
    try:
        click.echo(feed.public_hex(feed.load_or_create_key(file).public_key()))
    except (ValueError, OSError) as error:
        raise _Problem(str(error)) from error


@key.command(short_help="Make a new key that takes over from the one in force.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--in", "begins_in", default="1h", show_default=True, help="when the new key begins to sign")
@click.option(
    "--overlap", default="7d", show_default=True, help="how long the old one is accepted after that"
)
def roll(file: Path, begins_in: str, overlap: str) -> None:
    """Make a new key; the one in force names it, signed, to every enforcer that asks until the overlap ends.

    The registry may go on running. What an enforcer is set up with from now on is the new public key, printed here.
    """
    try:
        keys = SigningKeys(file)
        begins_ns = time.time_ns() + _duration("--in", begins_in)
        made = keys.roll(begins_ns, begins_ns + _duration("--overlap", overlap))
    except (ValueError, OSError) as error:
        raise _Problem(str(error)) from error
    click.echo(made.key)
    click.echo(
        f"signs from {_when(made.not_before_ns)}; the old key is refused from {_when(made.old_until_ns)}",
        err=True,
    )


def _duration(option: str, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _when(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}"
