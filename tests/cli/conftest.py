"""`relay` on a fresh data directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.runner import Runner, logging_as_before


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Runner]:
    """Runs commands in this process; the data directory is not there yet."""
    with logging_as_before():
        yield Runner(tmp_path / "data")
