"""Fixtures of an administration over each kind of engine, also for tests of other directories."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.admin.world import OpenWorld, World, memory_world, sqlite_world
from tests.contexts import held_open


@pytest.fixture(params=["memory", "sqlite"])
def open_world(request: pytest.FixtureRequest, tmp_path: Path) -> OpenWorld:
    """`async with open_world(max_body=5) as world:` over one of the engines, with these settings."""
    return partial(memory_world if request.param == "memory" else sqlite_world, tmp_path / "data")


@pytest.fixture
def world(open_world: OpenWorld, io_loop: IOLoop) -> Iterator[World]:
    """One of these, with the usual settings."""
    yield from held_open(io_loop, open_world())


@pytest.fixture
def open_memory(tmp_path: Path) -> OpenWorld:
    """The same over memory alone, for what does not reach the engine."""
    return partial(memory_world, tmp_path / "data")
