"""Which RELAY_ variables mean something, and which of those that are set were perhaps mistyped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

import click

PREFIX: Final = "RELAY_"
_TOLD: Final = ("RELAY_EVENT_", "RELAY_HEADER_")
"""What `relay listen --exec` sets for its command, which may run a relay."""


def unknown_variables(environment: Mapping[str, str], group: click.Group) -> dict[str, str | None]:
    """The variables that look like the relay's and that none of its commands reads, each with what was perhaps meant.
    The commands are imported only where there is one that the settings do not have."""
    from relay_tornado.cli.options import settings_variables

    given = [name for name in environment if name.startswith(PREFIX) and not name.startswith(_TOLD)]
    if settings_variables().issuperset(given):
        return {}
    known = set(_variables(group)) | settings_variables()
    return {name: _nearest(name, known) for name in sorted(given) if name not in known}


def _variables(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option.envvar, str):
            yield option.envvar
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _variables(found)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    plain = {each.removeprefix(PREFIX).replace("_", ""): each for each in known}
    found = get_close_matches(name.removeprefix(PREFIX).replace("_", ""), plain, 1, 0.8)
    return plain[found[0]] if found else None
