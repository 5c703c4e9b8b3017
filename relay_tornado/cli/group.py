"""A group of commands, which lists each with its whole first sentence."""

from __future__ import annotations

from typing import Final

import click

_WHOLE: Final = 1000
"""Characters of a sentence: none is so long."""


class Group(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(_WHOLE)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
