"""Accounts from the command line: offices' accounts are made by whoever runs the registry, never by a page."""

from __future__ import annotations

import sqlite3
import sys

import click

from enforcer.registry.web.accounts import ROLES, AccountExists, Accounts, BadAccount


class Problem(click.ClickException):
    exit_code = 2


_new_file = click.argument("file", type=click.Path(dir_okay=False))
_file = click.argument("file", type=click.Path(exists=True, dir_okay=False))


@click.group()
def account() -> None:
    """Accounts of the portal (FILE: accounts.sqlite beside the ledger)."""


@account.command()
@_new_file
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--provider", default="", help="with --role provider: its name, as applicants write it")
def add(file: str, name: str, role: str, provider: str) -> None:
    """Make an account. The password is asked for, or read from standard input."""
    from enforcer.registry.web.passwords import hashed

    password = _password(name)
    try:
        made = _open(file).add(name, hashed(password), role, provider)  # type: ignore[arg-type]
    except (AccountExists, BadAccount) as error:
        raise Problem(str(error)) from error
    click.echo(f"account {made.name}: {made.role}{f' of {made.provider}' if made.provider else ''}")


@account.command()
@_file
@click.argument("name")
def password(file: str, name: str) -> None:
    """Set a new password; ends the account's sessions and tokens."""
    from enforcer.registry.web.passwords import hashed

    accounts = _open(file)
    _known(accounts, name)
    accounts.set_password(name, hashed(_password(name)))
    click.echo(f"account {name}: new password; its sessions are ended")


@account.command()
@_file
@click.argument("name")
@click.option("--enable", is_flag=True, help="let it in again")
def disable(file: str, name: str, enable: bool) -> None:
    """Let nobody in with it; what it did stays in the ledger."""
    accounts = _open(file)
    _known(accounts, name)
    accounts.disable(name, not enable)
    click.echo(f"account {name}: {'enabled' if enable else 'disabled; its sessions are ended'}")


@account.command("list")
@_file
def list_accounts(file: str) -> None:
    """All accounts: name, role, provider."""
    for each in _open(file).all():
        click.echo(
            f"{each.name:<32} {each.role:<10} {each.provider}{' disabled' if each.is_disabled else ''}".rstrip()
        )


def _open(file: str) -> Accounts:
    try:
        return Accounts(file)
    except (sqlite3.DatabaseError, OSError) as error:
        raise Problem(f"{file}: not a file of accounts: {error}") from error


def _known(accounts: Accounts, name: str) -> None:
    if accounts.find(name) is None:
        raise Problem(f"there is no account {name}")


def _password(name: str) -> str:
    from enforcer.registry.web.passwords import MAX_LENGTH, MIN_LENGTH, weakness

    if sys.stdin.isatty():
        found = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        found = sys.stdin.readline().rstrip("\n")
    wrong = weakness(found, name)
    if wrong:
        raise Problem(
            f"the password will not do ({wrong}): write {MIN_LENGTH} to {MAX_LENGTH} characters that are hard to guess"
        )
    return found
