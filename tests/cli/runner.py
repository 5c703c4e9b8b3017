"""Runs `relay …` inside the test's process, for what needs no process of its own."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, patch

import structlog
from click.testing import CliRunner, Result

from relay_tornado.cli import main

_NEW = re.compile(r"(relay: made a new data directory [^\n]*\n)?")


@contextmanager
def logging_as_before() -> Iterator[None]:
    """At its end, whatever a relay or a command in this process made of it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


class Runner:
    """`relay` on one data directory, without the environment's own RELAY_ variables."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self, *arguments: object, input: str | None = None, **variables: str) -> Result:
        """Runs `relay ARGUMENTS` with RELAY_ variables and this standard input (which is no terminal)."""
        cleared: dict[str, str | None] = {name: None for name in os.environ if name.startswith("RELAY_")}
        state = str(self.data.with_name("state-home"))
        environment = {**cleared, "RELAY_DATA": str(self.data), "XDG_STATE_HOME": state, **variables}
        # The test's process stays as urgent as it is, and hears signals as before.
        with (
            patch("os.nice"),
            patch.multiple("relay_tornado.cli.interrupts", handle_stops=DEFAULT, end_at_once=DEFAULT),
        ):
            result = CliRunner(env=environment).invoke(main, [str(each) for each in arguments], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: object, input: str | None = None, **variables: str) -> Any:
        """What it printed with --json; fails where it failed."""
        result = self(*arguments, "--json", input=input, **variables)
        assert result.exit_code == 0, result.output
        assert _NEW.fullmatch(result.stderr)
        return json.loads(result.stdout)

    def refused(self, *arguments: object, input: str | None = None, **variables: str) -> str:
        """The one line on stderr of a command that the relay refuses."""
        result = self(*arguments, input=input, **variables)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr.startswith("relay: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("relay: ").rstrip("\n")

    def misused(self, *arguments: object, input: str | None = None, **variables: str) -> str:
        """What stderr says of a command line that is wrong."""
        result = self(*arguments, input=input, **variables)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return result.stderr
