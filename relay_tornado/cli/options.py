"""The types of options, the options that commands share, and those that are generated from the server's settings.

Every flag has a variable: `RELAY_<SETTING>` for a setting, the same one everywhere for `--data`, `--json` and
`--public-url`, and `RELAY_<COMMAND>_<FLAG>` for a command's own flags, so `relay bucket create --retention-age` has
`RELAY_BUCKET_RETENTION_AGE`. A flag on the command line overrides its variable.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from relay_tornado.cli.errors import REMOTE, near_only
from relay_tornado.errors import Invalid
from relay_tornado.model import DAY
from relay_tornado.proxy_trust import parse_ranges
from relay_tornado.settings import Settings, flag, parse_duration, parse_size, variable

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")

F = TypeVar("F", bound=Callable[..., Any])


class _Off(enum.Enum):
    NONE = "none"


NONE: Final = _Off.NONE
"""The value of an option that switches a limit off; None means that the option was not given."""

PREFIX: Final = "RELAY_"
_TOLD: Final = ("RELAY_EVENT_", "RELAY_HEADER_")
"""Prefixes of the variables that `relay listen --exec` sets for its command, which may run `relay`."""
_MAY_BE_ZERO = frozenset({"port", "metrics_port", "reserve", "tail", "page_cache", "retention_grace", "drain_timeout"})


def options_of(command: str) -> Callable[..., Callable[[Any], Any]]:
    """Returns a decorator like click.option that adds the variable: `--dry-run` of "APPLY" has RELAY_APPLY_DRY_RUN."""

    def option(name: str, *names: str, **attributes: Any) -> Callable[[Any], Any]:
        first = name.split("/", maxsplit=1)[0].removeprefix("--")
        envvar = f"RELAY_{command}_" + first.replace("-", "_").upper()
        if "/" in name or attributes.get("is_flag"):
            attributes["type"] = Switch()
        return click.option(name, *names, envvar=envvar, show_envvar=True, **attributes)

    return option


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combines options into one decorator, in the order of the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class Read(click.ParamType[Any]):
    """A type that reads text; a value that is not a text was read already."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.read(value) if isinstance(value, str) else value

    def read(self, value: str) -> Any:
        """Parses the text. Raises BadParameter, to which click adds the option's name."""
        return value


class _Quantity(Read):
    """A number with a unit; 0 is allowed only if it has a meaning."""

    parse: Callable[[str], float]

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def read(self, value: str) -> Any:
        try:
            quantity = self.parse(value)
        except Invalid as error:
            self.fail(str(error))
        if quantity == 0 and not self._zero:
            self.fail("must be above 0")
        return quantity


class Number(click.IntRange):
    """A whole number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number{self._bounds()}", param, ctx)

    def _bounds(self) -> str:
        if self.max is None:
            return "" if self.min is None else f" of at least {self.min}"
        return f" from {self.min} to {self.max}"


class Switch(click.types.BoolParamType):
    """On or off: the value of the variable of a flag."""

    name = "switch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        switched = self.str_to_bool(value)
        if switched is None:
            self.fail(f"{value!r} is neither 1 nor 0", param, ctx)
        return switched


class Size(_Quantity):
    """Bytes: 1048576, 250KB, 3MiB."""

    name = "size"
    parse = staticmethod(parse_size)


class Duration(_Quantity):
    """Seconds: 90, 30s, 10m, 24h, 30d."""

    name = "time"
    parse = staticmethod(parse_duration)


def date_time(text: str) -> float:
    """Unix seconds of an ISO date with or without a time, in UTC if it names no zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def unix_time(text: str, span: Callable[[str], float]) -> float:
    """Unix seconds of a text: unix seconds, a duration that `span` reads, or an ISO date. Raises ValueError."""
    if _NUMBER.fullmatch(text):  # also with a fraction, as `received_at` has one
        if math.isinf(seconds := float(text)):
            raise ValueError
        return seconds
    with suppress(Invalid):
        return time.time() + span(text)
    return date_time(text)


class Moment(Read):
    """A future time, as unix seconds: 30d from now, 1790000000, 2026-12-31 or 2026-12-31T12:00+01:00; or none."""

    name = "time"

    def read(self, value: str) -> Any:
        text = value.strip()
        if text.lower() == NONE.value:
            return NONE
        try:
            moment = unix_time(text, parse_duration)
        except ValueError:
            self.fail(f"{value!r} is not a time like 30d, 2026-12-31 or 1790000000")
        if moment <= time.time():
            self.fail(f"{value!r} lies in the past; a time from now on is written with its unit, like 30d")
        return moment


class NoneOr(click.ParamType[Any]):
    """A value of another type, or "none", which is read as NONE."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self._inner = inner
        self.name = f"{inner.name}|none"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"{self._inner.name.upper()}|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.strip().lower() == NONE.value:
            return NONE
        return self._inner.convert(value, param, ctx)


class Url(Read):
    """An http or https URL; a slash at its end is removed."""

    name = "url"

    def read(self, value: str) -> str:
        if not _is_url(value):
            self.fail(f"{value!r} is not a URL like https://relay.example.org")
        return value.rstrip("/")


def _is_url(text: str) -> bool:
    """Whether the URL names a possible host, with or without a port."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and port != 0 and text.isprintable() and " " not in text


class PathType(click.Path):
    """A file or directory; an empty path is refused, as it would mean the current directory."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail('it is empty: name a path, or "." for the current directory', param, ctx)
        return super().convert(value, param, ctx)


class Ranges(Read):
    """Addresses and ranges of addresses, separated by commas or blanks."""

    name = "ranges"

    def read(self, value: str) -> str:
        try:
            parse_ranges(value)
        except Invalid as error:
            self.fail(str(error))
        return value


class Lines(Read):
    """Text of an option that repeats: its variable has one value per line."""

    name = "text"
    envvar_list_splitter = "\n"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [each.strip() for each in rv.split(self.envvar_list_splitter) if each.strip()]


def format_size(size: int) -> str:
    """3MiB for 3145728: the largest binary unit without a remainder."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def format_duration(seconds: float) -> str:
    """30d for 2592000: the largest unit without a remainder; up to 120 seconds in seconds."""
    for unit, factor in (("d", DAY), ("h", 3600), ("m", 60)):
        if seconds and seconds % factor == 0:
            return f"{seconds / factor:.0f}{unit}"
    return f"{seconds:.15g}s"


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


def _near(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuses RELAY_URL for a command that works on this machine only, unless --data is on the command line."""
    root = context.find_root()
    given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    if root.params.get("url") and root.invoked_subcommand not in REMOTE and not given:
        raise click.UsageError(near_only(root.invoked_subcommand, "RELAY_URL") + "; unset it, or name --data", context)
    return value


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
    if hint is int:
        return Number(min=0 if zero else 1)
    if hint is Path:
        return PathType()
    return {"public_url": Url(), "proxy_trust": Ranges(), "forward_allow": Ranges()}.get(field.name, click.STRING)


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


data_option = click.option(
    "--data",
    type=PathType(),
    default=Settings().data,
    show_default=True,
    callback=_near,
    envvar="RELAY_DATA",
    show_envvar=True,
    help="The relay's data directory; also used to find a running relay.",
)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    type=Switch(),
    envvar="RELAY_JSON",
    show_envvar=True,
    help="Print JSON instead of text.",
)

url_option = click.option(
    "--public-url",
    type=NoneOr(Url()),
    callback=lambda _context, _option, value: None if value is NONE else value,
    envvar="RELAY_PUBLIC_URL",
    show_envvar=True,
    help="URL under which senders reach the relay, for printing whole URLs. Default: the running relay's.",
)

relay_options = together(data_option, json_option)
"""The options of a command that asks a relay and prints its answer."""

sender_options = together(data_option, url_option, json_option)
"""The same, for an answer that shows the URL for senders."""
