"""Options: how sizes, times and limits are written, and that every setting has its flag and variable."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from relay_tornado.cli import main
from relay_tornado.cli.options import Switch, format_duration, format_size
from relay_tornado.cli.settings_options import (
    format_default,
    settings_from,
    settings_from_environment,
    settings_options,
    unknown_variables,
)
from relay_tornado.errors import Invalid
from relay_tornado.model import DAY
from relay_tornado.settings import Settings, flag, parse_duration, parse_size, variable
from tests.cli.runner import Runner


def parsed(*arguments: str, **variables: str) -> Settings:
    """The settings of a command that was called like this. Raises click.UsageError."""
    found: list[Settings] = []

    @click.command()
    @settings_options
    @click.option("--other")
    def command(other: str | None, **params: Any) -> None:
        found.append(settings_from(params))

    result = CliRunner(env=variables).invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_defaults_are_the_settings_own() -> None:
    """Without flags and variables a command gets `Settings()`."""
    assert parsed() == Settings()


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_a_flag_and_a_variable(field: Any) -> None:
    """Both set the same field, in its unit, and the flag wins."""
    if isinstance(field.default, bool):
        assert getattr(parsed(flag(field)), field.name) is True
        assert getattr(parsed(**{variable(field): "1"}), field.name) is True
        assert getattr(parsed(flag(field), **{variable(field): "0"}), field.name) is True
        return
    samples = {"bytes": ("20MiB", 20 << 20), "seconds": ("2h", 7200.0), None: ("77", 77)}
    text, value = samples[field.metadata["unit"]]
    words = {
        "public_url": "https://a.example",
        "proxy_trust": "10.0.0.0/8, ::1",
        "forward_allow": "10.0.0.0/8, fd00::/8",
        "log_format": "json",
        "log_level": "error",
        "transport": "tornado",
        **dict.fromkeys(("host", "metrics_host"), "elsewhere"),
        **dict.fromkeys(("data", "backup_dir", "tls_cert", "tls_key"), Path("elsewhere")),
    }
    if field.name in words:
        value = words[field.name]  # type: ignore[assignment]
        text = str(value)
    assert getattr(parsed(flag(field), text), field.name) == value
    assert getattr(parsed(**{variable(field): text}), field.name) == value
    both = parsed(flag(field), text, **{variable(field): "nonsense" if field.metadata["unit"] else text})
    assert getattr(both, field.name) == value


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_help_says_flag_variable_default_and_meaning(field: Any) -> None:
    """`relay serve --help` would tell all four."""

    @click.command(context_settings={"max_content_width": 500, "terminal_width": 500})
    @settings_options
    def command(**params: Any) -> None: ...

    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    _, _, mine = text.partition(f" {flag(field)} ")
    default = "" if isinstance(field.default, bool) else f"; default: {format_default(field)}"
    words = f"{field.metadata['help']} [env var: {variable(field)}{default}"
    assert words in mine
    assert " --" not in mine[: mine.index(words)]


def test_none_switches_a_limit_off() -> None:
    """Where a field may be None, "none" says so, in any case; where it may not, it is refused."""
    off = parsed(
        "--retention-age", "none", "--retention-bytes=NONE", "--public-url", "none", RELAY_MAX_CONNECTIONS="None"
    )
    assert (off.retention_age, off.retention_bytes, off.public_url, off.max_connections) == (None, None, None, None)
    with pytest.raises(click.UsageError):
        parsed("--max-body", "none")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-body", "3 apples"),
        ("--max-body", "-1"),
        ("--max-body", "0"),
        ("--max-body", "9" * 400),
        ("--ping-interval", "0"),
        ("--drain-timeout", "36501d"),
        ("--retention-age", "36501d"),
        ("--retention-events", str(2**53)),
        ("--retention-bytes", "9007199254740992"),
        ("--ping-interval", "soon"),
        ("--retention-age", "0"),
        ("--retention-events", "0"),
        ("--commit-events", "1.5"),
        ("--port", "65536"),
        ("--port", "-1"),
        ("--proxy-trust", "10.0.0.1/8"),
        ("--log-level", "loud"),
        ("--public-url", "relay.example.org"),
        ("--public-url", "ftp://relay.example.org"),
        ("--public-url", "https://"),
        ("--public-url", "https://a b"),
    ],
)
def test_nonsense_is_refused(arguments: tuple[str, str]) -> None:
    """By a flag and by a variable, with the flag's or the variable's name."""
    with pytest.raises(click.UsageError) as caught:
        parsed(*arguments)
    assert arguments[0] in caught.value.format_message()
    name = "RELAY_" + arguments[0].removeprefix("--").replace("-", "_").upper()
    with pytest.raises(click.UsageError) as caught:
        parsed(**{name: arguments[1]})
    assert arguments[0] in caught.value.format_message() or name in caught.value.format_message()


@pytest.mark.parametrize("name", ["--max-body", "--large-max-body"])
def test_a_body_that_the_buffer_can_not_hold(name: str) -> None:
    """It would get a 503 each time, so such settings are refused, by flags and by variables; just as large is good."""
    with pytest.raises(click.UsageError, match=f"{name} 20MiB is over --ingest-buffer 10MiB"):
        parsed(name, "20MiB", "--ingest-buffer", "10MiB")
    with pytest.raises(click.UsageError, match=f"{name} 200MiB is over --ingest-buffer 128MiB"):
        parsed(**{"RELAY_" + name.removeprefix("--").replace("-", "_").upper(): "200MiB"})
    assert parsed(name, "128MiB").ingest_buffer == 128 << 20


def test_zero_where_it_means_something() -> None:
    """A free port, no reserve, no memory for old events, no grace, no drain."""
    names = ("port", "metrics_port", "reserve", "tail", "page_cache", "retention_grace", "drain_timeout")
    settings = parsed(*(f"--{name.replace('_', '-')}=0" for name in names))
    assert [getattr(settings, name) for name in names] == [0] * 7


@pytest.mark.parametrize("size", [1, 1000, 1024, 1536, 3 << 20, 10 << 30, 5 << 40, 250_000])
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """What is printed can be given back."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("seconds", [0.5, 1, 59, 60, 90, 3600, 5400, DAY, 30 * DAY, 100_000, 1_234_567, 0.1])
def test_times_are_written_as_they_are_read(seconds: float) -> None:
    """What is printed can be given back."""
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1048576", 1 << 20), ("7b", 7), ("1.5k", 1536), ("3M", 3 << 20), ("2g", 2 << 30), (" 250 KB ", 250_000)),
        *(("5mb", 5 * 10**6), ("2GB", 2 * 10**9), ("1TB", 10**12)),
        *(("4KiB", 4 << 10), ("3MiB", 3 << 20), ("10GiB", 10 << 30), ("1TiB", 1 << 40)),
    ],
)
def test_units_of_sizes(text: str, size: int) -> None:
    """Of 1,000 and of 1,024, in any case."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("1.5m", 90), ("24h", DAY), ("30D", 30 * DAY), ("2 w", 14 * DAY), (" 7 ", 7)],
)
def test_units_of_times(text: str, seconds: float) -> None:
    """From seconds to weeks."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "3 parsecs", "3 4", "9" * 400])
def test_what_is_no_quantity(text: str) -> None:
    """It says what one is like."""
    with pytest.raises(Invalid, match="is not a size like 1048576, 250KB"):
        parse_size(text)
    with pytest.raises(Invalid, match="is not a time like 90, 30s"):
        parse_duration(text)


def test_a_public_url_has_no_closing_slash() -> None:
    """So that a path can be put behind it."""
    assert parsed("--public-url", "https://relay.example.org/hooks/").public_url == "https://relay.example.org/hooks"


@pytest.mark.parametrize(
    ("arguments", "name", "flag_name"),
    [
        (("serve",), "RELAY_NO_UI", "--no-ui"),
        (("stats",), "RELAY_JSON", "--json"),
        (("bucket", "set", "x"), "RELAY_BUCKET_EPHEMERAL", "--ephemeral"),
        (("apply", "x"), "RELAY_APPLY_PRUNE", "--prune"),
        (("export", "x"), "RELAY_EXPORT_APPEND", "--append"),
    ],
)
def test_a_switch_is_on_or_off(relay: Runner, arguments: tuple[str, ...], name: str, flag_name: str) -> None:
    """What its variable takes is said in two words."""
    said = " ".join(relay.misused(*arguments, **{name: "maybe"}).split())
    assert said.endswith(f"Invalid value for '{flag_name}' (env var: '{name}'): 'maybe' is neither 1 nor 0")


def test_every_flag_without_a_value_is_a_switch() -> None:
    """None has words of its own for what is neither on nor off."""

    def options(command: click.Command) -> Iterator[click.Option]:
        yield from (each for each in command.params if isinstance(each, click.Option))
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                yield from options(found)

    plain = [each.opts for each in options(main) if each.is_flag and each.envvar and not isinstance(each.type, Switch)]
    assert plain == []


def test_variables_that_nobody_reads() -> None:
    """They are named with what was perhaps meant; what a command has, or tells another program, is none of them."""
    known = dict.fromkeys(("RELAY_PORT", "RELAY_URL", "RELAY_JSON", "RELAY_BUCKET_AUTH", "RELAY_SERVE_DEMO"), "")
    assert unknown_variables(known, main) == {}
    assert unknown_variables({"RELAY_EVENT_ID": "", "RELAY_HEADER_HOST": "", "MAXBODY": ""}, main) == {}
    typed = {**known, "RELAY_MAXBODY": "1", "RELAY_RETENTON_AGE": "7d", "RELAY_STARSHIP": "x"}
    assert unknown_variables(typed, main) == {
        "RELAY_MAXBODY": "RELAY_MAX_BODY",
        "RELAY_RETENTON_AGE": "RELAY_RETENTION_AGE",
        "RELAY_STARSHIP": None,
    }


def test_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a server would run with is known without one; a bad variable is named."""
    monkeypatch.setenv("RELAY_RETENTION_EVENTS", "7")
    monkeypatch.setenv("RELAY_DATA", "elsewhere")
    settings = settings_from_environment(tmp_path)
    assert (settings.retention_events, settings.data) == (7, tmp_path)
    monkeypatch.setenv("RELAY_PORT", "many")
    with pytest.raises(click.UsageError) as caught:
        settings_from_environment(tmp_path)
    assert "--port" in caught.value.format_message()
