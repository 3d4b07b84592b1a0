"""How a command ends when the user, or the machine, is at fault."""

from __future__ import annotations

from typing import Any

import click


class Mistake(click.ClickException):
    """Something the user can put right in a file or on the command line: exit code 2, no traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


class Impossible(Mistake):
    """It cannot be done on this machine as it is: exit code 3."""

    exit_code = 3
