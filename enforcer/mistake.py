"""A mistake of the user's, as a command line ends with it: exit code 2, no traceback."""

from __future__ import annotations

from typing import IO, Any

import click

from enforcer.yamlfile import FileError, Problem


class Mistake(click.ClickException):
    """A sentence is printed after "Error: "; problems of files, each of which begins with its place, as they are."""

    exit_code = 2

    def __init__(self, cause: str | Exception) -> None:
        super().__init__(str(cause))
        self._is_placed = isinstance(cause, FileError)

    def show(self, file: IO[Any] | None = None) -> None:
        if not self._is_placed:
            super().show(file)
            return
        click.echo(self.format_message(), file=file, err=file is None)


def unreadable(error: OSError) -> FileError | None:
    """The problem of a file that cannot be read; None when the error names no file."""
    if error.filename is None:
        return None
    what = f"cannot be read ({error.strerror})"
    return FileError([Problem(str(error.filename), 1, 1, "", what, "give the path of a readable file")])
