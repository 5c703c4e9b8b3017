"""The types of options, and the options that commands share; cli/settings_options.py has those for the settings.

Every flag has a variable: `RELAY_<SETTING>` for a setting, the same one everywhere for `--data`, `--json` and
`--public-url`, and `RELAY_<COMMAND>_<FLAG>` for a command's own flags, so `relay bucket create --retention-age` has
`RELAY_BUCKET_RETENTION_AGE`. A flag on the command line overrides its variable.
"""

from __future__ import annotations

import enum
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from relay_tornado.cli.errors import REMOTE, near_only
from relay_tornado.errors import Invalid
from relay_tornado.model import DAY, MAX_COUNT, MAX_SECONDS
from relay_tornado.proxy_trust import parse_ranges
from relay_tornado.settings import Settings, parse_duration, parse_size

Decorator: TypeAlias = Callable[[Any], Any]
"""Adds options to a command."""
OptionOf: TypeAlias = Callable[..., Decorator]
"""Like click.option, for the options of one command (see `options_of`)."""

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class _Off(enum.Enum):
    NONE = "none"


NONE: Final = _Off.NONE
"""The value of an option that switches a limit off; None means that the option was not given."""


def options_of(command: str) -> OptionOf:
    """Returns a decorator like click.option that adds the variable: `--dry-run` of "APPLY" has RELAY_APPLY_DRY_RUN."""

    def option(name: str, *names: str, **attributes: Any) -> Decorator:
        first = name.split("/", maxsplit=1)[0].removeprefix("--")
        envvar = f"RELAY_{command}_" + first.replace("-", "_").upper()
        if "/" in name or attributes.get("is_flag"):
            attributes["type"] = Switch()
        return click.option(name, *names, envvar=envvar, show_envvar=True, **attributes)

    return option


def together(*options: Decorator) -> Decorator:
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
    """A number with a unit, as large as REST takes it; 0 is allowed only if it has a meaning."""

    parse: Callable[[str], float]
    most: float
    """The largest quantity; `largest` says what it is."""
    largest: str

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def read(self, value: str) -> Any:
        try:
            quantity = self.parse(value)
        except Invalid as error:
            self.fail(str(error))
        if quantity == 0 and not self._zero:
            self.fail("must be above 0")
        if quantity > self.most:
            self.fail(f"must be at most {self.largest}")
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
    most, largest = MAX_COUNT, f"{MAX_COUNT} bytes"


class Duration(_Quantity):
    """Seconds: 90, 30s, 10m, 24h, 30d."""

    name = "time"
    parse = staticmethod(parse_duration)
    most, largest = MAX_SECONDS, f"{MAX_SECONDS // DAY}d"


def date_time(text: str) -> float:
    """Unix seconds of an ISO date with or without a time, in UTC if it names no zone. Raises ValueError."""
    moment = datetime.fromisoformat(text.upper())  # which reads no small z
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


class PublicUrl(Url):
    """A URL that paths are appended to, as those of inputs."""

    def read(self, value: str) -> str:
        if "?" in value or "#" in value:
            self.fail('it holds a "?" or a "#", behind which no path can follow: leave out what begins there')
        return super().read(value)


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


def _near(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuses RELAY_URL for a command that works on this machine only, unless --data is on the command line."""
    root = context.find_root()
    given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    if root.params.get("url") and root.invoked_subcommand not in REMOTE and not given:
        raise click.UsageError(near_only(root.invoked_subcommand, "RELAY_URL") + "; unset it, or name --data", context)
    return value


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
    type=NoneOr(PublicUrl()),
    callback=lambda _context, _option, value: None if value is NONE else value,
    envvar="RELAY_PUBLIC_URL",
    show_envvar=True,
    help="URL under which senders reach the relay, for printing whole URLs. Default: the running relay's.",
)

relay_options = together(data_option, json_option)
"""The options of a command that asks a relay and prints its answer."""

sender_options = together(data_option, url_option, json_option)
"""The same, for an answer that shows the URL for senders."""
