"""An administration over each kind of engine."""

from functools import partial
from pathlib import Path

import pytest

from tests.admin.logs_world import OpenLogs, memory_logs, sqlite_logs
from tests.admin.world import OpenWorld, memory_world, sqlite_world


@pytest.fixture(params=["memory", "sqlite"])
def open_world(request: pytest.FixtureRequest, tmp_path: Path) -> OpenWorld:
    """`async with open_world(max_body=5) as world:` over one of the engines, with these settings."""
    return partial(memory_world if request.param == "memory" else sqlite_world, tmp_path / "data")


@pytest.fixture
def open_memory(tmp_path: Path) -> OpenWorld:
    """The same over memory alone, for what does not reach the engine."""
    return partial(memory_world, tmp_path / "data")


@pytest.fixture(params=["memory", "sqlite"])
def open_logs(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLogs:
    """The same of a world of logs."""
    return partial(memory_logs if request.param == "memory" else sqlite_logs, tmp_path / "data")
