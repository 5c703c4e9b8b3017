"""A log in a file, and an index that waits for nothing."""

from __future__ import annotations

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.search import index, pacing
from tests.log.conftest import disk as disk
from tests.log.worlds import SqliteWorld


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that waits for no more to come."""
    monkeypatch.setattr(index, "_SETTLE", 0.005)
    monkeypatch.setattr(index, "_AGAIN", 0.01)
    monkeypatch.setattr(pacing, "_RESTS", (0.0, 0.0))


@pytest.fixture
def world(disk: SqliteWorld, io_loop: IOLoop) -> SqliteWorld:
    """A log in a file, of one bucket."""
    io_loop.run_sync(lambda: disk.log.create("b", "aaaaaaaaaaaa"))
    return disk
