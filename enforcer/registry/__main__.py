"""`python -m enforcer.registry`: serve the portal and the feed; look into a ledger."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from enforcer.registry import feed
from enforcer.registry.ledger import Ledger, UnknownSerial


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
    from enforcer.registry.portal import Desk, Tokens, portal

    try:
        config = load_config(config_file)
        key = feed.load_or_create_key(config.key)
        config.database.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(str(config.database), config.rules.rules())
        if config.seed is not None:
            seed_ledger(ledger, config.seed)
    except (BadConfig, ValueError, OSError, sqlite3.DatabaseError) as error:
        raise _Problem(str(error) if isinstance(error, BadConfig) else f"{config_file}: {error}") from error
    sockets = [_listen(str(address), config.port) for address in config.bind]
    desk = Desk(ledger, key, Tokens(config.tokens.isp, config.tokens.officer))
    try:
        asyncio.run(_serve(portal(desk), sockets, desk))
    finally:
        ledger.close()


@main.command()
@click.argument("database", type=click.Path(exists=True, dir_okay=False))
@click.option("--registration", type=int, help="only this one")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def log(database: str, registration: int | None, as_json: bool) -> None:
    """Print the ledger's events, oldest first."""
    ledger = _open(database)
    for event in ledger.events(registration):
        event.data.pop("token_sha256", None)
        if as_json:
            click.echo(json.dumps(asdict(event), separators=(",", ":")))
        else:
            data = json.dumps(event.data) if event.data else ""
            click.echo(
                f"{event.sequence:>6}  {event.at_ns}  #{event.registration:<6} {event.action:<15} {event.actor:<10} "
                f"{event.reason} {data}".rstrip()
            )


@main.command()
@click.argument("database", type=click.Path(exists=True, dir_okay=False))
@click.option("--serial", type=int, help="the allowlist as it was at this serial (default: the newest)")
def export(database: str, serial: int | None) -> None:
    """Print the allowlist (a snapshot's body, not signed)."""
    ledger = _open(database)
    try:
        allowlist = ledger.allowlist() if serial is None else ledger.allowlist_at(serial)
    except UnknownSerial as error:
        raise _Problem(str(error)) from error
    click.echo(feed.snapshot_body(allowlist, 0))


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def key(file: Path) -> None:
    """Make the feed's key if FILE is absent, and print the public one."""
    try:
        click.echo(feed.public_hex(feed.load_or_create_key(file).public_key()))
    except (ValueError, OSError) as error:
        raise _Problem(str(error)) from error


class _Problem(click.ClickException):
    exit_code = 2


def _open(database: str) -> Ledger:
    try:
        return Ledger(database)
    except sqlite3.DatabaseError as error:
        raise _Problem(f"{database}: not a ledger: {error}") from error


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        raise _Problem(
            f"cannot listen on {address} port {port}: {error.strerror}; write another bind or port"
        ) from error
    # A national deadline brings everybody at once; the kernel caps this at net.core.somaxconn.
    listener.listen(4096)
    listener.setblocking(False)
    return listener


async def _serve(application: Any, sockets: list[socket.socket], desk: Any) -> None:
    import uvicorn

    # A waiting delta request would hold the shutdown up for its whole wait; the desk lets them go first.
    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            desk.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        application,
        http="h11",
        loop="asyncio",
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets))
    while not server.started and not task.done():
        await asyncio.sleep(0.005)
    where = ", ".join(f"{name[0]} port {name[1]}" for name in (each.getsockname() for each in sockets))
    click.echo(f"registry: serving on {where}; serial {desk.ledger.serial}")
    sys.stdout.flush()
    await task


if __name__ == "__main__":
    main()
