"""The documents name every setting, command, option and exit code."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from relay_tornado.cli import main
from relay_tornado.cli.errors import REMOTE
from relay_tornado.cli.settings_options import format_default
from relay_tornado.settings import Settings, flag, variable

DOCS = Path(__file__).parent.parent.parent / "docs"
SHARED = {"data", "as_json", "public_url"}
SETTINGS = {field.name for field in dataclasses.fields(Settings)}


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command


COMMANDS = dict(commands(main, "relay"))


def section(name: str) -> str:
    """What docs/commands.md says under the heading of a command."""
    text = (DOCS / "commands.md").read_text()
    match = re.search(rf"^## {name}( [A-Z]+)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"docs/commands.md has no section {name}"
    return match[0]


def options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field: "dataclasses.Field[object]") -> None:
    """docs/settings.md has a row with its flag, variable, default, unit and meaning."""
    rows = [line for line in (DOCS / "settings.md").read_text().splitlines() if line.startswith(f"| `{flag(field)}` |")]
    assert len(rows) == 1, f"docs/settings.md has {len(rows)} rows for {flag(field)}"
    _, _, its_variable, default, unit, meaning = rows[0].removesuffix(" |").split("| ", 5)
    assert its_variable.strip() == f"`{variable(field)}`"
    assert default.strip() == f"`{format_default(field)}`"
    assert (field.metadata["unit"] or "") in unit
    assert meaning.strip() == field.metadata["help"]


def test_no_setting_is_documented_that_is_not_there() -> None:
    """A row of docs/settings.md is about a setting."""
    rows = re.findall(r"^\| `(--[a-z-]+)` ", (DOCS / "settings.md").read_text(), re.MULTILINE)
    assert set(rows) == {flag(field) for field in dataclasses.fields(Settings)}


def test_settings_that_take_zero_are_named() -> None:
    """docs/settings.md lists them, and no other one takes it."""
    said = re.search(r"^- 0 is allowed for (.*);", (DOCS / "settings.md").read_text(), re.MULTILINE)
    assert said is not None
    serve, taken = COMMANDS["relay serve"], set()
    for option in options(serve):
        if option.name in SETTINGS and not option.is_flag:
            with contextlib.suppress(click.BadParameter):
                value = option.type.convert("0", option, click.Context(serve))
                taken |= {option.name} if isinstance(value, int | float) else set()
    assert set(re.findall("`([a-z_]+)`", said[1])) == taken


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    """Its section, or another that it names, has each of its own options, and its arguments; where it has a table of
    such, there is an example. Of a switch and its --no- form one is enough."""
    command, own = COMMANDS[name], section(name)
    others = re.findall(r"(?:as\s+for|those\s+of)\s+`(relay [a-z ]+)`", own, re.IGNORECASE)
    text = own + "".join(map(section, others))
    for option in options(command):
        if option.name in SHARED or (option.name in SETTINGS and name == "relay serve"):
            continue
        told = [f"`{each}" in text for each in (*option.opts, *option.secondary_opts)]
        opposite = f"--no-{option.opts[0].removeprefix('--')}" in option.secondary_opts
        assert any(told) if opposite else all(told), f"{option.opts} is not in the section {name}, nor in {others}"
    if "\n| options |" in own:
        assert re.search(rf"^```\n(.*\n)*{name}.*\n(.*\n)*```$", own, re.MULTILINE), "there is no example"
    for argument in command.params:
        if isinstance(argument, click.Argument):
            assert argument.human_readable_name in text


def test_shared_options_are_documented() -> None:
    """What several commands take alike stands in one table, which says which of them do."""
    text = (DOCS / "commands.md").read_text()
    own = {name: {each.opts[0] for each in options(command)} for name, command in COMMANDS.items()}
    for name, its_variable in (
        ("--data", "RELAY_DATA"),
        ("--json", "RELAY_JSON"),
        ("--public-url", "RELAY_PUBLIC_URL"),
    ):
        row = re.search(rf"^\| `{name}[^|]*\| `{its_variable}` \| (.*)$", text, re.MULTILINE)
        assert row is not None
        named = re.findall(r"`(relay [a-z ]+)`", row[1]) or ["relay"]
        for command in set(COMMANDS) - {"relay serve"}:
            takes = any(f"{command} ".startswith(f"{each} ") for each in named)
            takes = takes and not ("but `delete`" in row[1] and command.endswith(" delete"))
            assert (name in own[command]) == takes, command


def test_no_command_or_option_is_documented_that_is_not_there() -> None:
    """Every heading is a command's, and every flag some command's."""
    text = (DOCS / "commands.md").read_text()
    assert set(re.findall(r"^## (relay(?: [a-z-]+)*)", text, re.MULTILINE)) == set(COMMANDS)
    known = {each for command in COMMANDS.values() for option in options(command) for each in option.opts}
    known |= {each for command in COMMANDS.values() for option in options(command) for each in option.secondary_opts}
    known |= {each for option in options(main) for each in option.opts}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known | {"--help", "--version"}
    every = (main, *COMMANDS.values())
    variables = {str(option.envvar) for command in every for option in options(command)}
    assert set(re.findall(r"`(RELAY_[A-Z_]+)`", text)) <= variables


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_variable(name: str) -> None:
    """It follows the scheme, one variable means one thing, and what prints has --json."""
    own = f"RELAY_{name.split()[1].upper()}_"
    for option in options(COMMANDS[name]):
        assert option.envvar, f"{option.opts} of {name} has no variable"
        expected = option.opts[0].removeprefix("--").replace("-", "_").upper()
        if option.name in SHARED or (name == "relay serve" and option.name in SETTINGS):
            assert option.envvar == f"RELAY_{expected}"
        else:
            assert option.envvar == own + expected
    if name != "relay serve":
        assert "--json" in {each for option in options(COMMANDS[name]) for each in option.opts}


def test_the_groups_own_options_are_documented() -> None:
    """Each of `relay` itself, with its variable."""
    text = (DOCS / "commands.md").read_text()
    for option in options(main):
        if option.envvar:
            assert re.search(rf"^\| `{option.opts[0]} [A-Z]+` \| `{option.envvar}` \|", text, re.MULTILINE)


def test_the_commands_for_another_machine_are_documented() -> None:
    """Each that takes --url is named where that is told."""
    told = (DOCS / "commands.md").read_text().partition("## A relay on another machine\n")[2].partition("\n| flag")[0]
    assert {f"`{name}`" for name in REMOTE} <= set(re.findall("`[a-z]+`", told))


def test_exit_codes_are_documented() -> None:
    """Those of cli/entry.py."""
    text = (DOCS / "commands.md").read_text()
    for code in (0, 1, 2, 130):
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE)
