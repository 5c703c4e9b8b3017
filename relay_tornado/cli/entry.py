"""The group of all commands: each is imported when it is asked for, and every error becomes one line and an exit code.

Exit codes: 0 done; 1 the relay refused or failed (the line on stderr says why); 2 the command line is wrong;
130 stopped by Ctrl-C; 143, as the first process of a container, ended by SIGTERM before it was at work.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
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
from relay_tornado.cli.lazy_imports import structlog_alone
from relay_tornado.cli.streams import escape_unknown, open_closed
from relay_tornado.errors import NO_THREAD, RelayError

_COMMANDS: Final = {
    "GET /v1/buckets lists": "`relay bucket list` shows",
    "GET /v1/tokens lists": "`relay token list` shows",
}
"""What the relay's errors name to those who speak REST, and what it is here."""

_NOT_MAPPED: Final = "failed to map segment from shared object"
"""What glibc says where there is no memory for a library; for any other reason it says more."""

_ODD: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of a document that is none of a relay's, where a list stands for a text, or nothing."""

_TERMINATED: Final = 128 + signal.SIGTERM
"""The exit code of a process that this signal has ended, as a shell tells it."""

_REASON: Final = 200
"""Characters of such an error that are shown."""

_BEHIND: Final = {"--data": " PATH", "--json": "", "--public-url": " URL"}
"""Options of nearly every command, which none of them is before its command."""

_BEFORE: Final = frozenset({"--url", "--secret", "--secret-file"})
"""Options of `relay` itself, which say where every command's relay is."""

_KEY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What a token's key looks like, and a secret does not."""


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
        "export": ("relay_tornado.cli.transfer:export", "Export a bucket's events as lines of JSON."),
        "import": ("relay_tornado.cli.transfer:import_", "Import exported events into a bucket."),
        "stats": ("relay_tornado.cli.stats:command", "Show disk usage, and which clients lag behind."),
        "check": ("relay_tornado.cli.backup:check", "Check the data, or a backup, for damage."),
        "doctor": ("relay_tornado.cli.doctor:doctor", "Diagnose a deployment."),
        "migrate": ("relay_tornado.cli.migrate:command", "Migrate a data directory to this relay's schema."),
    }

    def main(self, *args: Any, **extra: Any) -> Any:
        open_closed()
        escape_unknown()
        if os.getpid() == 1:
            # The kernel ends the first process of a container by no signal that it does not handle itself.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(_TERMINATED))
        try:
            return super().main(*args, **extra)
        finally:
            drop_output(sys.stderr)  # with it, Python would have an exit code of its own

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
        if cmd_name == "serve":
            structlog_alone()
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.places:
            import difflib

            # click knows of no command that is not imported yet.
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
                # It may be a secret, and is not shown.
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
        except (KeyboardInterrupt, click.Abort):
            with suppress(OSError):
                click.echo("relay: stopped", err=True)
            raise click.exceptions.Exit(130) from None
        except _ODD as error:
            # Without a relay elsewhere it is a fault of this program.
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
def _told() -> Iterator[None]:
    """Says what is wrong, where that can be written, as click does: there its exit code would be that of the disk."""
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
    """The line for an error of the system. Raises it where whoever read our output left; click ends quietly then."""
    if error.errno == errno.EPIPE:
        raise error
    printing = is_printing(error)
    if (drop_output() or printing) and error.filename is None:
        error.filename = STDOUT
    return Failure(file_words(error))


def _is_text(argument: str) -> bool:
    """Whether it can be written as UTF-8: bytes that are none have come as surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misplaced(error: click.NoSuchOption, context: click.Context) -> click.UsageError:
    """The error where an option stands on the wrong side of the command."""
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
    """The error where a bucket stands as an argument, as other commands have it, and this one has an option for it."""
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
    help="File with the token's secret, for --url.",
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
        from relay_tornado.cli.client import Place
        from relay_tornado.cli.options import Url

        base = Url().read(url).removesuffix("/v1")
        context.obj = Place(base, said, cache(partial(_secret, base, secret, secret_file)))


def _secret(url: str, secret: str | None, file: Path | None) -> str:
    """What goes to the relay at this URL. Raises UsageError."""
    from relay_tornado.cli.printing import note
    from relay_tornado.cli.secret import read_secret
    from relay_tornado.client.address import parse_address

    try:
        address = parse_address(url)
    except ValueError as error:
        raise click.UsageError(f"--url: {error}") from None
    # A variable may have the line end of the file that it was made from.
    found = (read_secret("secret", secret, file) or "").strip()
    if not found:
        raise click.UsageError("--url needs a token's secret: --secret, --secret-file or RELAY_SECRET")
    if not (found.isascii() and found.isprintable()):
        raise click.UsageError("the secret holds what none does: a token's has signs of ASCII alone")
    if _KEY.fullmatch(found):
        note("this secret looks like a token's key: the secret stood beside it when it was made, as sk-rly_…")
    if not (address.secure or address.local):
        note(f"the secret goes to {urlsplit(url).hostname} without TLS: use https where you can")
    return found
