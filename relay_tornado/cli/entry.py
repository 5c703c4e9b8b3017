"""The group of all commands. Each is imported when it is used; every error becomes one line and an exit code.

Exit codes: 0 done; 1 the relay refused or failed (the line on stderr says why); 2 the command line is wrong;
130 stopped by Ctrl-C; 143 by SIGTERM. While the command is being loaded, and where it has nothing to tidy up, these
signals end it themselves, which a shell reports as the same codes.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import relay_tornado
from relay_tornado.cli import interrupts
from relay_tornado.cli.errors import (
    ASKED_URL,
    NO_MEMORY,
    REMOTE,
    STDOUT,
    Failure,
    drop_output,
    file_words,
    is_printing,
    near_only,
)
from relay_tornado.cli.flags import in_flags
from relay_tornado.cli.lazy_imports import import_uncollected, structlog_alone
from relay_tornado.cli.streams import escape_unknown, open_closed
from relay_tornado.errors import NO_THREAD, RelayError
from relay_tornado.model import printable

_COMMANDS: Final = {
    "GET /v1/buckets lists": "`relay bucket list` shows",
    "GET /v1/tokens lists": "`relay token list` shows",
}
"""Hints in the relay's errors for clients of REST, and what replaces them in commands."""

_NOT_MAPPED: Final = "failed to map segment from shared object"
"""glibc's message if there is no memory for a library; for other reasons it has more words."""

_ODD: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors that a document which is not a relay's causes, as with a list in place of a text."""

_REASON: Final = 200
"""The most characters of such an error that are shown."""

_BEHIND: Final = {"--data": " PATH", "--json": "", "--public-url": " URL"}
"""Options of nearly every command, which have to come after the command."""

_BEFORE: Final = frozenset({"--url", "--secret", "--secret-file"})
"""Options of `relay` itself, which have to come before the command: they say where the relay is."""

_KEY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The form of a token's key, which a secret does not have."""


class Commands(click.Group):
    """Imports a command's module when it is used, so that `relay` starts fast."""

    places: ClassVar[dict[str, tuple[str, str]]] = {
        "serve": ("relay_tornado.cli.serve:serve", "Run the relay."),
        "bucket": ("relay_tornado.cli.bucket:bucket", "Create, change, show and delete buckets."),
        "input": ("relay_tornado.cli.input:inputs", "Create, change, show and delete inputs."),
        "output": ("relay_tornado.cli.output:output", "Create, change, show and delete outputs."),
        "logs": ("relay_tornado.cli.logs:logs", "List, show and resend events."),
        "search": ("relay_tornado.cli.search:search", "Find events by their content."),
        "consumer": ("relay_tornado.cli.consumer:consumer", "Show and move consumers, and handle dead letters."),
        "listen": ("relay_tornado.cli.listen:listen", "Print events as they come, or run a command for each."),
        "forward": ("relay_tornado.cli.forward:forward", "Forward a bucket's events to an HTTP server."),
        "replay": ("relay_tornado.cli.replay:replay", "Send a range of stored events again."),
        "apply": ("relay_tornado.cli.apply:apply", "Apply a file of buckets, inputs and outputs."),
        "ui": ("relay_tornado.cli.ui:ui", "Print a link that signs in to the relay's page."),
        "token": ("relay_tornado.cli.token:token", "Create, list, change and revoke tokens."),
        "backup": ("relay_tornado.cli.backup:backup", "Copy the data to a file, whether the relay runs or not."),
        "restore": ("relay_tornado.cli.backup:restore", "Restore a backup into a new data directory."),
        "export": ("relay_tornado.cli.export_import:export", "Export a bucket's events as lines of JSON."),
        "import": ("relay_tornado.cli.export_import:import_", "Import exported events into a bucket."),
        "stats": ("relay_tornado.cli.stats:command", "Show disk usage, and which clients lag behind."),
        "check": ("relay_tornado.cli.backup:check", "Check the data, or a backup, for damage."),
        "doctor": ("relay_tornado.cli.doctor:doctor", "Diagnose a deployment."),
        "migrate": ("relay_tornado.cli.migrate:command", "Migrate a data directory to this relay's schema."),
    }

    def main(self, *args: Any, **extra: Any) -> Any:
        interrupts.end_silently()
        open_closed()
        escape_unknown()
        interrupts.end_by_sigterm()
        interrupts.unblock()
        try:
            return super().main(*args, **extra)
        finally:
            interrupts.raise_again()
            drop_output(sys.stderr)  # otherwise Python would change the exit code

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _told():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return self._carry_out(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            return None
        module, name = self.places[cmd_name][0].split(":")
        with _loading(cmd_name):
            command: click.Command = getattr(import_uncollected(module), name)
        interrupts.raise_again()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.places:
            import difflib

            # click does not know commands that are not imported yet.
            near = difflib.get_close_matches(args[0], self.places, 1)
            if near:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in self.places.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for number, each in enumerate(args, 1):
            if not _is_text(each):
                # The argument may be a secret, so it is not shown.
                raise click.UsageError(f"argument {number} is no UTF-8: write it, or rename the file, in UTF-8", ctx)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _misplaced(error, ctx) from None
        except OSError as error:
            raise _failed(error) from error

    def _carry_out(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _misplaced(error, error.ctx or ctx) from None
        except click.UsageError as error:
            raise _superfluous(error, error.ctx or ctx) from None
        except RelayError as error:
            raise Failure(in_flags(ctx.invoked_subcommand, _in_commands(str(error)))) from error
        except OSError as error:
            raise _failed(error) from error
        except MemoryError as error:
            raise Failure(NO_MEMORY) from error
        except ImportError as error:
            if not str(error).endswith(_NOT_MAPPED):
                raise
            raise Failure(NO_MEMORY) from error
        except (KeyboardInterrupt, click.Abort) as error:
            left = str(error)
            with suppress(OSError):
                click.echo(f"relay: stopped: {printable(left)}" if left else "relay: stopped", err=True)
            raise click.exceptions.Exit(interrupts.exit_code()) from None
        except _ODD as error:
            # Unless a relay elsewhere answered, this is a fault of this program.
            url = ctx.meta.get(ASKED_URL)
            if url is None:
                raise
            raise Failure(
                f"what {url} answers is not understood: is it a relay, and of a version near to this program's, "
                f"which is {relay_tornado.__version__}? ({type(error).__name__}: {str(error)[:_REASON]})"
            ) from error
        except RuntimeError as error:
            if str(error) != "can't start new thread":
                raise
            raise Failure(NO_THREAD) from error
        except Exception as error:
            sqlite3 = sys.modules.get("sqlite3")  # not imported here: most commands do without
            if sqlite3 is None or not isinstance(error, sqlite3.Error):
                raise
            raise Failure(f"the relay's file can't be read ({error}): `relay check` says what is damaged") from error


@contextmanager
def _loading(command: str) -> Iterator[None]:
    if command != "serve":
        yield
        return
    from relay_tornado.cli.slow_steps import loading_reported

    with loading_reported():
        structlog_alone()
        yield


@contextmanager
def _told() -> Iterator[None]:
    """Prints errors like click, but keeps their exit code if stderr can't be written."""
    try:
        yield
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        raise click.exceptions.Exit(error.exit_code) from error


def _in_commands(text: str) -> str:
    for said, command in _COMMANDS.items():
        text = text.replace(said, command)
    return text


def _failed(error: OSError) -> Failure:
    """The failure for an error of the system. Raises EPIPE itself: if the reader of our output left, click ends
    quietly."""
    if error.errno == errno.EPIPE:
        raise error
    printing = is_printing(error)
    if (drop_output() or printing) and error.filename is None:
        error.filename = STDOUT
    return Failure(file_words(error))


def _is_text(argument: str) -> bool:
    """Whether the argument was UTF-8: other bytes arrive as surrogates, which can't be encoded."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misplaced(error: click.NoSuchOption, context: click.Context) -> click.UsageError:
    """The error for an option on the wrong side of the command."""
    name = error.option_name
    if isinstance(context.command, click.Group):
        if name in _BEHIND:
            example = f"relay bucket list {name}{_BEHIND[name]}"
            return click.UsageError(f"{name} stands behind the command, as in `{example}`", context)
    elif name in _BEFORE:
        command = context.find_root().invoked_subcommand
        if command not in REMOTE:
            return click.UsageError(near_only(command, name), context)
        example = f"relay --url URL --secret-file FILE {command} …"
        return click.UsageError(f"{name} stands before the command, as in `{example}`", context)
    return error


def _superfluous(error: click.UsageError, context: click.Context) -> click.UsageError:
    """The error for a bucket as an argument, as in other commands, if this command has an option for it."""
    named = any("--bucket" in each.opts for each in context.command.params)
    if named and error.message.startswith("Got unexpected extra argument"):
        return click.UsageError(f"{error.message}: a bucket is named with --bucket", context)
    return error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url", envvar="RELAY_URL", show_envvar=True, help="Talk to the relay at this URL instead of one on this machine."
)
@click.option(
    "--secret",
    envvar="RELAY_SECRET",
    show_envvar=True,
    help='Token\'s secret, for --url; "-" reads it from standard input.',
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    envvar="RELAY_SECRET_FILE",
    show_envvar=True,
    help="File with the token's secret, for --url; or what `relay token create --json` printed.",
)
@click.version_option(relay_tornado.__version__, prog_name="relay", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, url: str | None, secret: str | None, secret_file: Path | None) -> None:
    """A self-hosted webhook relay: public inputs, a durable log per bucket, WebSockets that miss nothing."""
    if url is None:
        return
    said = context.get_parameter_source("url") is ParameterSource.COMMANDLINE
    if said and context.invoked_subcommand not in REMOTE:
        raise click.UsageError(near_only(context.invoked_subcommand, "--url"))
    if context.invoked_subcommand in REMOTE:
        from relay_tornado.cli.client import RemoteRelay
        from relay_tornado.cli.options import Url

        base = Url().read(url).removesuffix("/v1")
        options = ["--url", base] if said else []
        if context.get_parameter_source("secret_file") is ParameterSource.COMMANDLINE:
            options += ["--secret-file", str(secret_file)]
        elif context.get_parameter_source("secret") is ParameterSource.COMMANDLINE:
            options += ["--secret", "-"]
        context.obj = RemoteRelay(base, said, cache(partial(_secret, base, secret, secret_file)), tuple(options))


def _secret(url: str, secret: str | None, file: Path | None) -> str:
    """The secret for the relay at this URL. Raises UsageError."""
    from relay_tornado.cli.printing import note
    from relay_tornado.cli.secret import read_secret
    from relay_tornado.client.address import parse_address

    try:
        address = parse_address(url)
    except ValueError as error:
        raise click.UsageError(f"--url: {error}") from None
    # A variable may end with the line end of the file from which it was read.
    found = (read_secret("secret", secret, file) or "").strip()
    if found.startswith("{"):
        import json

        with suppress(ValueError, LookupError, RecursionError):
            found = str(json.loads(found)["secret"])
    if not found:
        raise click.UsageError("--url needs a token's secret: --secret, --secret-file or RELAY_SECRET")
    if not (found.isascii() and found.isprintable()):
        raise click.UsageError(
            "the secret holds a character that is not printable ASCII, like a line end: give the secret alone, or what "
            "`relay token create --json` printed"
        )
    if _KEY.fullmatch(found):
        note("this looks like a token's key: its secret was shown beside it, and begins with sk-rly_")
    if not (address.secure or address.local):
        note(f"the secret goes to {urlsplit(url).hostname} without TLS: use https where you can")
    return found
