"""`enforcer portal`: the whole portal in one command, over a demo ledger or one's own, to look at and to try."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket as sockets
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from zoneinfo import ZoneInfo

import click

DEMO_PASSWORD = "look around"  # on the loopback only; elsewhere each start makes one


class Problem(click.ClickException):
    exit_code = 2


@click.command(short_help="Run the registry's portal alone, with a demo in it.")
@click.option(
    "--database",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the ledger; made and filled with the demo when absent; accounts and key lie beside it  [default: a temporary one]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="0: any that is free"
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="the address to listen on")
@click.option(
    "--texts",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="a folder of more languages",
)
@click.option(
    "--certificate",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False),
    help="files of a TLS chain and its key",
)
def portal(
    database: Path | None, port: int, bind: str, texts: Path | None, certificate: tuple[str, str] | None
) -> None:
    """Run the registry's portal alone, with people and registrations in it, until Ctrl-C."""
    from enforcer.registry.serving import CannotListen, listen

    try:
        is_local = ip_address(bind).is_loopback
        socket = listen(bind, port)
    except CannotListen as error:
        raise Problem(str(error)) from error
    except ValueError as error:
        raise Problem(f"--bind {bind}: {error}; write an address such as 127.0.0.1") from error
    password = DEMO_PASSWORD if is_local else secrets.token_urlsafe(9)
    with contextlib.closing(socket), _folder(database) as file:
        try:
            _serve(file, socket, password, texts, certificate)
        except (sqlite3.DatabaseError, ValueError, OSError) as error:
            raise Problem(f"{file}: {error}") from error


@contextlib.contextmanager
def _folder(database: Path | None) -> Iterator[Path]:
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        yield database
        return
    with tempfile.TemporaryDirectory(prefix="portal-") as folder:
        yield Path(folder) / "ledger.sqlite"


def _serve(
    file: Path, socket: sockets.socket, password: str, texts: Path | None, certificate: tuple[str, str] | None
) -> None:
    from enforcer.registry.desk import Desk, Tokens
    from enforcer.registry.ledger import Ledger
    from enforcer.registry.portal import portal as application
    from enforcer.registry.serving import serve
    from enforcer.registry.signing import SigningKeys
    from enforcer.registry.timekeeper import keep_time
    from enforcer.registry.web import demo
    from enforcer.registry.web.accounts import Accounts
    from enforcer.registry.web.office import Office, Settings

    is_new = not file.exists()
    accounts = Accounts(str(file.with_suffix(".accounts.sqlite")))
    ledger = Ledger(str(file), demo.RULES)
    try:
        if is_new:
            demo.fill(ledger, accounts, password)
        tokens = Tokens(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        desk = Desk(ledger, SigningKeys(file.with_suffix(".key")), tokens, accounts)
        office = Office(desk, settings=Settings(is_demo=True), zone=ZoneInfo(demo.ZONE), texts=texts)

        def greet() -> None:
            address, port = socket.getsockname()[:2]
            where = f"[{address}]" if ":" in address else address
            if is_new:
                click.echo(demo.introduction(password))
            click.echo(f"portal: http{'s' if certificate else ''}://{where}:{port}/")
            sys.stdout.flush()

        async def run() -> None:
            keeper = asyncio.create_task(keep_time(ledger, desk.feed.wake))
            try:
                await serve(application(desk, office), [socket], desk, greet, certificate=certificate)
            finally:
                keeper.cancel()

        asyncio.run(run())
    finally:
        ledger.close()
        accounts.close()
