"""The group of all commands: each is imported when it is asked for, and every error becomes one line and an exit code.

Exit codes: 0 done; 1 the relay refused or failed (the line on stderr says why); 2 the command line is wrong;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
from typing import Any, ClassVar

import click

import relay_tornado
from relay_tornado.errors import RelayError


class Failure(click.ClickException):
    """An error as a command shows it: `relay: …` on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"relay: {self.format_message()}", file=file, err=True)


class Commands(click.Group):
    """Imports a command's module when it is used, so that `relay` starts fast."""

    places: ClassVar[dict[str, tuple[str, str]]] = {
        "serve": ("relay_tornado.cli.serve:serve", "Run the relay."),
        "bucket": ("relay_tornado.cli.bucket:bucket", "Make, change, show and delete buckets."),
        "input": ("relay_tornado.cli.input:inputs", "Change inputs and what they answer."),
        "token": ("relay_tornado.cli.token:token", "Make, list and revoke tokens."),
        "migrate": ("relay_tornado.cli.migrate:command", "Bring a data directory to this relay's schema."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            return None
        module, name = self.places[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in self.places.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelayError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output left; click ends quietly then
            raise Failure(str(error)) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo("relay: stopped", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relay_tornado.__version__, prog_name="relay", message="%(prog)s %(version)s")
def main() -> None:
    """A self-hosted webhook relay: public inputs, a durable log per bucket, WebSockets that miss nothing."""
