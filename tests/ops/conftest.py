"""A relay's command line on a directory that no relay serves, and relays as processes."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests.acceptance.relay import Relay
from tests.cli.runner import Runner


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Runner]:
    """Runs commands in this process; the data directory is not there yet. Logging is as before at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Runner(tmp_path / "data")
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def new_relay(tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Makes relays that are not started yet. Whatever runs at the end is killed."""
    relays: list[Relay] = []

    def new(name: str = "data", **settings: object) -> Relay:
        relays.append(Relay(tmp_path / name, **settings))
        return relays[-1]

    yield new
    for relay in relays:
        relay.kill()
