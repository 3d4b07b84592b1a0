"""`enforcer-registry`, in a checkout `python -m enforcer.registry`: serve the portal and the feed; look into a ledger."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from enforcer import thrifty
from enforcer.registry.key_commands import key
from enforcer.registry.ledger import Ledger
from enforcer.registry.ledger_commands import backup, due, head, log, state, verify
from enforcer.registry.signing import SigningKeys
from enforcer.registry.transfer_commands import export, import_, migrate
from enforcer.registry.web.commands import account


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The registry of VPN use: ledger, portal, signed feed."""


@main.command()
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    help="YAML; see docs/registry.md",
)
def serve(config_file: Path) -> None:
    """Serve until SIGTERM or Ctrl-C. Prints one line when it accepts connections."""
    from enforcer.registry.config import BadConfig, load_config, seed_ledger
    from enforcer.registry.desk import Desk, Tokens
    from enforcer.registry.portal import portal
    from enforcer.registry.providers import SimulatedProviders
    from enforcer.registry.rules_file import duration_ns
    from enforcer.registry.serving import CannotListen, listen
    from enforcer.registry.serving import serve as serve_until_stopped
    from enforcer.registry.timekeeper import keep_time
    from enforcer.registry.web.accounts import Accounts
    from enforcer.registry.web.limits import Limiter
    from enforcer.registry.web.office import Office

    try:
        config = load_config(config_file)
        keys = SigningKeys(config.key)
        config.database.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(str(config.database), config.rules.rules())
        if config.seed is not None:
            seed_ledger(ledger, config.seed)
    except (BadConfig, ValueError, OSError, sqlite3.DatabaseError) as error:
        raise _Problem(str(error) if isinstance(error, BadConfig) else f"{config_file}: {error}") from error
    try:
        sockets = [listen(str(address), config.port) for address in config.bind]
    except CannotListen as error:
        raise _Problem(str(error)) from error
    tokens = Tokens(config.tokens.isp, config.tokens.officer)
    try:
        accounts = Accounts(str(config.portal.accounts_file(config.database)))
        names = [each.name for each in config.providers]
        desk = Desk(ledger, keys, tokens, accounts, providers=names)
        office = Office(
            desk,
            Limiter(config.portal.all_limits()),
            zone=ZoneInfo(config.portal.zone),
            texts=config.portal.texts,
        )
    except (ValueError, OSError, sqlite3.DatabaseError) as error:
        raise _Problem(f"{config_file}: portal: {error}") from error
    tls, proxies = config.portal.tls, [str(each) for each in config.portal.proxies]
    folder = config_file.resolve().parent
    certificate = (str(folder / tls.certificate), str(folder / tls.key)) if tls else None

    def greet() -> None:
        where = ", ".join(f"{name[0]} port {name[1]}" for name in (each.getsockname() for each in sockets))
        click.echo(f"registry: serving on {where}; serial {ledger.serial}")
        sys.stdout.flush()

    look_s = desk.feed.look_s = duration_ns(config.look) / 1e9
    providers = tuple(each.provider() for each in config.providers)

    async def run() -> None:
        simulated = SimulatedProviders(ledger, providers, config.providers_seed) if providers else None
        until_changed = desk.feed.changed if look_s > 1 else asyncio.sleep
        keeping = keep_time(ledger, desk.feed.wake, simulated, look_s=look_s, until_changed=until_changed)
        keeper = asyncio.create_task(keeping)
        try:
            await serve_until_stopped(portal(desk, office), sockets, desk, greet, proxies, certificate)
        finally:
            keeper.cancel()

    try:
        thrifty.run(run(), is_thrifty=look_s > 1)
    finally:
        ledger.close()
        accounts.close()


for command in (log, head, verify, state, due, backup, export, import_, migrate):
    main.add_command(command)
main.add_command(key)
main.add_command(account)


class _Problem(click.ClickException):
    exit_code = 2


if __name__ == "__main__":
    main(prog_name="enforcer-registry")
