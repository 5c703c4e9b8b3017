"""Shared code of commands: groups, options that make one field, confirmations before something is deleted."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import call
from relay_tornado.cli.errors import Failure, file_words, text_of
from relay_tornado.cli.lookup import find_part
from relay_tornado.cli.options import NONE, Decorator, Duration, Lines, NoneOr, Number, OptionOf, together
from relay_tornado.cli.printing import Document, own_answer, print_answer
from relay_tornado.model import printable

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a long-running command."""
_WHOLE: Final = 1000
"""A limit in characters that no sentence reaches."""


class Group(click.Group):
    """A group of commands whose help shows the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, each.get_short_help_str(_WHOLE)) for name, each in sorted(self.commands.items())]
            )


def program() -> str:
    """`relay` if the shell finds it under that name, otherwise a command that does the same."""
    path = Path(sys.argv[0])
    found = shutil.which("relay")
    if path.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay_tornado"
    if found is not None and path.exists() and path.samefile(found):
        return "relay"
    return shlex.quote(str(path.absolute()))


def given(values: Mapping[str, Any]) -> Document:
    """The given options as fields of the REST interface: null for "none"."""
    return {name: None if value is NONE else value for name, value in values.items() if value is not None}


def header_options(option: OptionOf, what: str) -> Decorator:
    """Adds `--header` and `--no-headers` to a command; `what` describes such a header in their help."""
    words = f"{what}, instead of all that were set; may be repeated. One per line in the variable."
    return together(
        option("--header", "headers", multiple=True, type=Lines(), metavar="NAME: VALUE", help=words),
        option("--no-headers", is_flag=True, help="Remove all headers that were set."),
    )


def headers_given(lines: Sequence[str], none: bool) -> dict[str, list[str]] | None:
    """The headers from `--header` and `--no-headers`; None if neither was given. Raises UsageError."""
    if lines and none:
        raise click.UsageError("--header sets headers and --no-headers removes them: leave one of them out")
    if not lines and not none:
        return None
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise click.UsageError(f'--header: {line!r} has no colon: write it like "Content-Type: text/plain"')
        headers.setdefault(name.strip(), []).append(value.strip())
    return headers


def rate_options(option: OptionOf) -> Decorator:
    """Adds `--rate-limit` and `--rate-interval` to a command."""
    return together(
        option(
            "--rate-limit", type=NoneOr(Number(min=1)), help="Events per --rate-interval; beyond it senders get 429."
        ),
        option("--rate-interval", type=Duration(), help="The interval of --rate-limit (1s)."),
    )


def rate_given(rate: Any, interval: float | None) -> Document:
    """The field `rate_limit` from `--rate-limit` and `--rate-interval`."""
    if rate is NONE:
        if interval is not None:
            raise click.UsageError("--rate-interval does nothing with --rate-limit none: leave one of them out")
        return {"rate_limit": None}
    limit = given({"events": rate, "interval": interval})
    return {"rate_limit": limit} if limit else {}


def header_rows(document: Document) -> list[tuple[str, str]]:
    """The headers of an input, an output or an event for `print_fields`."""
    return [("header", f"{name}: {value}") for name, values in document["headers"].items() for value in values]


def read_text(option: str, file: Path) -> str:
    """The text of a file, or of standard input for "-". Raises UsageError."""
    try:
        return text_of(file, sys.stdin.buffer.read if str(file) == "-" else file.read_bytes)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def ask(yes: bool, question: str, what: str = "it", otherwise: str = "nothing was deleted") -> None:
    """Returns if the answer is yes. Raises UsageError if nobody can be asked, and Failure if the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"without a terminal nobody can be asked whether to delete {what}: say --yes")
    if not click.confirm(printable(question), err=True):
        raise Failure(otherwise)


@contextmanager
def held(checkpoint: Path, in_use: str) -> Iterator[None]:
    """Locks the checkpoint for this process. Raises Failure, with `in_use` after the number of the process that has
    it."""
    from relay_tornado.agent.state import Holder, InUse

    try:
        holder = Holder(checkpoint)
    except InUse as error:
        raise Failure(f"process {error} {in_use}") from None
    except OSError as error:
        raise Failure(f"the checkpoint can't be kept: {file_words(error)}; or name another with --checkpoint") from None
    with closing(holder):
        yield


def delete_part(data: Path, kind: str, reference: str, bucket: str | None, *, yes: bool, as_json: bool) -> None:
    """Deletes an input or output (`kind` as for `find_part`) after a confirmation, and prints that. Raises Failure,
    NotFound and NotClear."""
    owner, found = find_part(call(data, "bucket.list"), kind, reference, bucket)
    asking = [each["name"] for each in owner["inputs"] if each["response_from_output"] == found["id"]]
    then = f" The {own_answer(asking)}." if asking else ""
    ask(yes, f"Delete the {kind} {found['name']!r} of the bucket {owner['name']!r}?{then}")
    answer = call(data, f"{kind}.delete", bucket=owner["id"], **{kind: found["id"]})
    print_answer(answer, f"Deleted the {kind} {found['name']} ({found['id']}).", as_json)
