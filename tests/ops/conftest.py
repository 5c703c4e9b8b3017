"""A relay's command line on a directory that no relay serves, and relays as processes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.acceptance.conftest import new_relay as new_relay
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
