"""Secrets for options, from where they are seen by nobody else: a file, standard input, or a hidden prompt."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from relay_tornado.cli.errors import Failure
from relay_tornado.cli.streams import is_closed


def must_be_seen() -> None:
    """Raises Failure where what is printed is seen by nobody: before a secret is made that is shown once."""
    if is_closed("stdout"):
        raise Failure("standard output is closed, so nobody would see the secret: nothing was made")


def read_secret(name: str, value: str | None, file: Path | None) -> str | None:
    """The secret that `--name` (the value itself, or "-" for standard input) or `--name-file` gave; None for neither.

    Of standard input it is the first line, of a file everything but the closing line end. Raises UsageError.
    """
    if value is not None and file is not None:
        raise click.UsageError(f"--{name} and --{name}-file both give the {name}: leave one of them out")
    if file is not None:
        try:
            return file.read_bytes().decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise click.UsageError(f"--{name}-file: {file} can't be read: {reason}") from None
    if value != "-":
        return value
    if sys.stdin.isatty():
        entered: str = click.prompt(name.capitalize(), hide_input=True, err=True)
        return entered
    return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
