"""Secrets for options, from where they are seen by nobody else: a file, standard input, or a hidden prompt."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

import click

from relay_tornado.cli.errors import STDOUT, Failure, file_words, text_of
from relay_tornado.cli.streams import is_closed

_STDOUT: Final = 1
_NOTHING_MADE: Final = ", so nobody would see the secret: nothing was made"


def must_be_seen() -> None:
    """Raises Failure where what is printed is seen by nobody: before a secret is made that is shown once. Not all that
    can fail is known before: `unless_seen` is for the rest."""
    try:
        if is_closed("stdout"):
            raise Failure(f"{STDOUT} is closed{_NOTHING_MADE}")
        os.write(_STDOUT, b"")
        if stat.S_ISREG(os.fstat(_STDOUT).st_mode) and (disk := os.fstatvfs(_STDOUT)).f_bfree == 0 < disk.f_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise Failure(f"{STDOUT}: {file_words(error)}{_NOTHING_MADE}") from error


def read_secret(name: str, value: str | None, file: Path | None) -> str | None:
    """The secret that `--name` (the value itself, or "-" for standard input) or `--name-file` gave; None for neither.

    Of standard input it is the first line, of a file everything but the closing line end. Raises UsageError.
    """
    if value is not None and file is not None:
        raise click.UsageError(f"--{name} and --{name}-file both give the {name}: leave one of them out")
    if file is not None:
        try:
            return text_of(file, file.read_bytes).removesuffix("\n").removesuffix("\r")
        except ValueError as error:
            raise click.UsageError(f"--{name}-file: {error}") from None
    if value != "-":
        return value
    if sys.stdin.isatty():
        entered: str = click.prompt(name.capitalize(), hide_input=True, err=True)
        return entered
    return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
