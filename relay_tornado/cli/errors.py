"""Errors as commands print them: the relay's errors, and the system's errors about files, each as one line."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from relay_tornado.errors import NO_DESCRIPTOR
from relay_tornado.model import printable

REMOTE = ("bucket", "input", "output", "token", "logs", "search", "apply", "listen", "forward", "replay", "consumer")
"""The commands that also work with a relay on another machine."""

ASKED_URL: Final = "relay_tornado.asked"
"""The key in the context's `meta` of the URL of the relay elsewhere that a command uses."""

STDOUT: Final = "standard output"

NO_MEMORY: Final = "there is too little memory: close what takes it, or raise the limit (`ulimit -v`)"

_RIGHTS: Final = "this user may not use it: run this as its owner or as root, or change its rights"
_WORDS: Final[Mapping[int, str]] = {
    errno.ENOENT: "there is no such file or directory: is the name right?",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOSPC: "the disk is full: free some space, or name a file on another one",
    errno.EDQUOT: "the quota is used up: free some space, or name a file on another disk",
    errno.EFBIG: "the file is as large as it may be: raise the limit (ulimit -f), or name one on another file system",
    errno.EEXIST: "it is there already: name another one",
    errno.EISDIR: "it is a directory: name a file",
    errno.ENOTDIR: "a part of the path is a file: name a directory there",
    errno.EROFS: "the file system is read-only: mount it read-write, or name a file on another one",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOMEM: NO_MEMORY,
    errno.EMFILE: NO_DESCRIPTOR,
    errno.ENFILE: NO_DESCRIPTOR,
    errno.EIO: "the disk failed: look at it, and use another one",
}


class Failure(click.ClickException):
    """An error that a command prints as `relay: …` on stderr, with exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        # It may quote a file, or a relay elsewhere.
        click.echo(f"relay: {printable(self.format_message())}", file=file, err=True)


def near_only(command: str | None, source: str) -> str:
    """The message if a relay elsewhere was named (by `source`) for a command that works on this machine only."""
    return f"{command} works on the relay's own machine only; with {source}: {', '.join(REMOTE)}"


def file_words(error: OSError) -> str:
    """The message for an error of the system."""
    names = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, str | bytes)]
    if not isinstance(error.errno, int):
        return str(error)
    words = _WORDS.get(error.errno, f"{os.strerror(error.errno).lower()}: look at the path and the disk")
    return f"{' to '.join(names)}: {words}" if names else words


def drop_output(stream: IO[str] | None = None) -> bool:
    """Flushes the stream (stdout). If that fails, drops the output and returns True: otherwise Python would try again
    at its end, print an error of its own, and exit with 120."""
    stream = stream or sys.stdout
    try:
        stream.flush()
    except OSError:
        silence_output(stream)
        return True
    return False


def silence_output(stream: IO[str] | None = None) -> None:
    """Redirects the stream (stdout) to /dev/null, including what could not be written before."""
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), (stream or sys.stdout).fileno())


def output_words(error: OSError) -> str:
    """The reason why output could not be written."""
    return "the program that read it has ended" if error.errno == errno.EPIPE else file_words(error)


@contextmanager
def unless_seen(done: str) -> Iterator[None]:
    """If the output of the block can't be written, raises Failure that says what was done, and what to do now."""
    try:
        yield
    except OSError as error:
        drop_output()
        raise Failure(f"{STDOUT}: {output_words(error)}; {done}") from error


def is_printing(error: OSError) -> bool:
    """Whether printing raised the error. If output is not buffered, `drop_output` finds nothing."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") in (click.echo.__module__, "rich.console")


def text_of(name: Path | str, read: Callable[[], bytes]) -> str:
    """Decodes what is read as UTF-8, and keeps line ends. Raises ValueError with the reason if that fails."""
    try:
        return read().decode()
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except ValueError:
        reason = "a name has no NUL"
    raise ValueError(f"{name} can't be read: {reason}")


@contextmanager
def about(file: Path | str) -> Iterator[None]:
    """Adds the file's name to errors of reads and writes, which lack it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise
