"""Options for the settings of `relay serve`, and the variables that nobody reads."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeVar

import click

from relay_tornado.cli.options import (
    NONE,
    Duration,
    NoneOr,
    Number,
    PathType,
    PublicUrl,
    Ranges,
    Size,
    Switch,
    format_duration,
    format_size,
)
from relay_tornado.model import MAX_COUNT
from relay_tornado.settings import Settings, flag, variable

F = TypeVar("F", bound=Callable[..., Any])

PREFIX: Final = "RELAY_"
_TOLD: Final = ("RELAY_EVENT_", "RELAY_HEADER_")
"""Prefixes of the variables that `relay listen --exec` sets for its command, which may run `relay`."""
_MAY_BE_ZERO = frozenset({"port", "metrics_port", "reserve", "tail", "page_cache", "retention_grace", "drain_timeout"})


def settings_options(function: F) -> F:
    """Gives a command one option and one variable for each field of `Settings`; `settings_from` reads them."""
    hints = typing.get_type_hints(Settings)
    for field in reversed(dataclasses.fields(Settings)):
        shape: dict[str, Any] = {"is_flag": True, "type": Switch(), "default": field.default}
        if hints[field.name] is not bool:
            shape = {"type": _type_of(field, hints[field.name]), "default": format_default(field), "show_default": True}
        option = click.option(
            flag(field), field.name, envvar=variable(field), show_envvar=True, help=field.metadata["help"], **shape
        )
        function = option(function)
    return function


def settings_from(params: Mapping[str, Any]) -> Settings:
    """The settings from the parameters of a command with `settings_options`; other parameters are ignored.

    Raises UsageError if two settings contradict each other.
    """
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        value = params[field.name]
        given[field.name] = None if value is NONE else value
    settings = Settings(**given)
    _check_buffer(settings)
    return settings


def _check_buffer(settings: Settings) -> None:
    """Raises UsageError if the ingest buffer can't hold the largest body, which would be answered with 503 for ever."""
    for name, size in (("--max-body", settings.max_body), ("--large-max-body", settings.large_max_body)):
        if size > settings.ingest_buffer:
            raise click.UsageError(
                f"{name} {format_size(size)} is over --ingest-buffer {format_size(settings.ingest_buffer)}, what the "
                f"relay holds of all bodies on their way in: raise --ingest-buffer, or lower {name}"
            )


def settings_from_environment(data: Path) -> Settings:
    """The settings that `relay serve` would have on this directory, for commands without it. Raises UsageError."""
    command = click.Command("serve")
    settings_options(command)
    with command.make_context("relay", ["--data", str(data)]) as context:
        return settings_from(context.params)


def format_default(field: dataclasses.Field[Any]) -> str:
    """A setting's default as it is written on the command line."""
    value: Any = field.default
    if value is None:
        return NONE.value
    if isinstance(value, bool):
        return str(value).lower()
    if field.metadata["unit"] == "bytes":
        return format_size(value)
    if field.metadata["unit"] == "seconds":
        return format_duration(value)
    return str(value)


def _type_of(field: dataclasses.Field[Any], hint: Any) -> click.ParamType[Any]:
    if isinstance(hint, UnionType):
        inner = next(each for each in typing.get_args(hint) if each is not type(None))
        return NoneOr(_type_of(field, inner))
    zero = field.name in _MAY_BE_ZERO
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if field.metadata["unit"] == "bytes":
        return Size(zero=zero)
    if field.metadata["unit"] == "seconds":
        return Duration(zero=zero)
    if field.name in ("port", "metrics_port"):
        return Number(0, 65_535)
    if field.name == "retention_events":
        return Number(1, MAX_COUNT)
    if hint is int:
        return Number(min=0 if zero else 1)
    if hint is Path:
        return PathType()
    return {"public_url": PublicUrl(), "proxy_trust": Ranges(), "forward_allow": Ranges()}.get(field.name, click.STRING)


def unknown_variables(environment: Mapping[str, str], group: click.Group) -> dict[str, str | None]:
    """The variables that look like the relay's and that no command reads, each with the one that was perhaps meant. The
    commands are imported only if there is one that is not of a setting."""
    settings = {variable(field) for field in dataclasses.fields(Settings)}
    given = [name for name in environment if name.startswith(PREFIX) and not name.startswith(_TOLD)]
    if settings.issuperset(given):
        return {}
    known = set(_variables(group)) | settings
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
    from difflib import get_close_matches  # here, so that commands start faster

    plain = {each.removeprefix(PREFIX).replace("_", ""): each for each in known}
    found = get_close_matches(name.removeprefix(PREFIX).replace("_", ""), plain, 1, 0.8)
    return plain[found[0]] if found else None
