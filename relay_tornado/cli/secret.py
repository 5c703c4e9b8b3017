"""Reads secrets for options from where nobody else sees them: a file, standard input, or a hidden prompt."""

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
    """Raises Failure if stdout can't be written, before a secret is created that is shown only once. Not every error is
    known before; `unless_seen` handles the others."""
    try:
        if is_closed("stdout"):
            raise Failure(f"{STDOUT} is closed{_NOTHING_MADE}")
        os.write(_STDOUT, b"")
        if stat.S_ISREG(os.fstat(_STDOUT).st_mode) and (disk := os.fstatvfs(_STDOUT)).f_bfree == 0 < disk.f_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise Failure(f"{STDOUT}: {file_words(error)}{_NOTHING_MADE}") from error


def read_secret(name: str, value: str | None, file: Path | None) -> str | None:
    """The secret from `--name` (the value itself, or "-" for standard input) or `--name-file`; None without both.

    It is the first line of standard input, or the whole file without a line end at its end. Raises UsageError.
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
