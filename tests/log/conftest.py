"""An engine for each test: in memory, on SQLite, and on SQLite with next to nothing kept in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.log.consumers import Consumers
from tests.log.stores import store_of
from tests.log.worlds import MemoryWorld, SqliteWorld, World
from tests.storage.faults import Faults


@pytest.fixture(params=["memory", "sqlite", "sqlite-cold"])
def world(request: pytest.FixtureRequest, io_loop: IOLoop, tmp_path: Path) -> Iterator[World]:
    cold = {"tail": 0, "page_cache": 0} if request.param == "sqlite-cold" else {}

    async def open_it() -> World:
        return MemoryWorld() if request.param == "memory" else await SqliteWorld.open(tmp_path, **cold)

    made = io_loop.run_sync(open_it)
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def disk(io_loop: IOLoop, tmp_path: Path) -> Iterator[SqliteWorld]:
    made = io_loop.run_sync(lambda: SqliteWorld.open(tmp_path))
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def faulty(io_loop: IOLoop, tmp_path: Path, faults: Faults) -> Iterator[SqliteWorld]:
    """A log whose database fails as told."""

    made = io_loop.run_sync(lambda: SqliteWorld.open(tmp_path, faults.factory))
    yield made
    faults.heal()
    io_loop.run_sync(made.close)


@pytest.fixture
def consumers(world: World, io_loop: IOLoop) -> Iterator[Consumers]:
    """The store beside the log of `world`."""
    store = store_of(world)
    yield store
    io_loop.run_sync(store.close)
