"""How a command ends when the user, or the machine, is at fault."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from testbed import cli_told


class Mistake(click.ClickException):
    """Something the user can put right in a file or on the command line: exit code 2, no traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


class Impossible(Mistake):
    """It cannot be done on this machine as it is: exit code 3."""

    exit_code = 3


@contextmanager
def mistakes(as_json: bool = False) -> Iterator[None]:
    """The one place where what a user can cause becomes a message and an exit code; as_json: mistakes as an object."""
    try:
        with _messages():
            yield
    except Mistake as error:
        if not as_json or error.exit_code != Mistake.exit_code:
            raise
        click.echo(json.dumps(cli_told.mistake(error.message, error.__cause__)))
        sys.exit(error.exit_code)


@contextmanager
def _messages() -> Iterator[None]:
    from enforcer.yamlfile import FileError

    try:
        yield
    except FileError as error:
        raise Mistake(str(error)) from error
    except ValueError as error:
        raise Mistake(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Impossible(f"{where}{error.strerror or error}") from None
    except Exception as error:
        _known(error)
        raise


def _known(error: Exception) -> None:
    """The errors of modules that are imported only when used; raises its message if it is one of them."""
    modules = sys.modules
    folder = modules.get("testbed.session_folder")
    if folder is not None and isinstance(error, folder.FolderError):
        raise Mistake(str(error)) from None
    world = modules.get("testbed.world")
    if world is not None and isinstance(error, world.WorldError):
        raise Impossible(str(error)) from None
    interactive = modules.get("testbed.lab.interactive")
    if interactive is not None and isinstance(error, interactive.InteractiveError):
        raise Impossible("\n  ".join([str(error), *error.details])) from None  # type: ignore[attr-defined]
